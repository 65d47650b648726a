"""One candidate set from several sources, with who proposed what kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from liverank.errors import LiverankError
from ranker.inputs import Floats, Rows
from ranker.retrieval.source import NO_ROWS, Proposal, Query, Source


@dataclass(frozen=True, kw_only=True)
class CandidateSet:
    """Unique candidates and their provenance.

    Attributes
    ----------
    rows
        Rows of the table, shape ``(n,)``, each once, in the order of first proposal.
    found_by
        Which source proposed which candidate, shape ``(n, n_sources)``.
    scores
        Score by source, shape ``(n,)`` each; 0 where the source did not propose.
    relevance
        Reciprocal-rank fusion of the sources, scaled to [0, 1], shape ``(n,)``: how retrieval alone would order.
    sources
        Names of the sources, in the order of the columns of `found_by`.
    counts
        Proposals per source, and ``union``.
    failed
        Source -> error text, for those that could not answer.
    """

    rows: Rows
    found_by: NDArray[np.bool_]
    scores: Mapping[str, Floats]
    relevance: Floats
    sources: tuple[str, ...]
    counts: Mapping[str, int]
    failed: Mapping[str, str] = field(default_factory=dict)

    def names(self, at: int) -> list[str]:
        """Sources of one candidate."""
        return [name for name, found in zip(self.sources, self.found_by[at], strict=True) if found]


def retrieve(sources: Sequence[Source], query: Query, quotas: Mapping[str, int], limit: int) -> CandidateSet:
    """Ask every source, take the allowed ones, each once, until `limit`.

    A source that raises `LiverankError` removes only itself. The last source (a popular list over the whole catalogue)
    is asked for as much as is still missing, so that `limit` is met whenever so many allowed items exist.

    Parameters
    ----------
    sources
        In order of precedence.
    query
        The request.
    quotas
        Candidates by source name; a source without one, or with 0, is not asked (but the last always is).
    limit
        Most candidates.
    """
    proposals: dict[str, Proposal] = {}
    failed: dict[str, str] = {}
    for source in sources[:-1]:
        quota = quotas.get(source.name, 0)
        if quota > 0:
            _ask(source, query, quota, proposals, failed)
    if sources:
        taken = len(np.unique(np.concatenate([NO_ROWS, *(p.rows for p in proposals.values())])))
        last = sources[-1]
        _ask(last, query, max(quotas.get(last.name, 0), 0) + max(limit - taken, 0) + taken, proposals, failed)
        if last.name in proposals:
            proposals[last.name] = _trimmed(proposals, last.name, quotas.get(last.name, 0), limit)
    return unite(proposals, failed, len(query.table), limit)


def _ask(source: Source, query: Query, quota: int, into: dict[str, Proposal], failed: dict[str, str]) -> None:
    try:
        found = source.propose(query, quota)
    except LiverankError as error:
        failed[source.name] = str(error)
        return
    keep = query.allowed[found.rows]
    into[source.name] = found if keep.all() else Proposal(found.rows[keep], found.scores[keep])


def _trimmed(proposals: Mapping[str, Proposal], name: str, quota: int, limit: int) -> Proposal:
    """The last source's own quota, and as many more of its list as fill the union up to `limit`."""
    found = proposals[name]
    others = np.unique(np.concatenate([NO_ROWS, *(p.rows for key, p in proposals.items() if key != name)]))
    new = ~np.isin(found.rows, others)
    n_new = np.cumsum(new)
    missing = limit - len(others)
    within = (np.arange(len(found)) < quota) | (n_new <= missing)
    return Proposal(found.rows[within], found.scores[within])


def unite(proposals: Mapping[str, Proposal], failed: Mapping[str, str], n_rows: int, limit: int) -> CandidateSet:
    """Union of proposals; where there are more than `limit`, the best by reciprocal-rank fusion stay.

    Parameters
    ----------
    proposals
        By source name.
    failed
        Sources that could not answer.
    n_rows
        Rows of the table.
    limit
        Most candidates.
    """
    names = tuple(proposals)
    everything = np.concatenate([NO_ROWS, *(proposal.rows for proposal in proposals.values())])
    place = np.full(n_rows, -1, dtype=np.int32)
    _, first = np.unique(everything, return_index=True)
    rows = everything[np.sort(first)]
    place[rows] = np.arange(len(rows), dtype=np.int32)
    found_by = np.zeros((len(rows), len(names)), dtype=np.bool_)
    scores = {name: np.zeros(len(rows), dtype=np.float32) for name in names}
    fusion = np.zeros(len(rows))
    for column, (name, proposal) in enumerate(proposals.items()):
        at = place[proposal.rows]
        found_by[at, column] = True
        scores[name][at] = proposal.scores
        fusion[at] += 1.0 / (60.0 + np.arange(len(proposal)))
    counts = {name: len(proposal) for name, proposal in proposals.items()} | {"union": len(rows)}
    if len(rows) > limit:
        keep = np.sort(np.argsort(-fusion, kind="stable")[:limit])
        rows, found_by, fusion = rows[keep], found_by[keep], fusion[keep]
        scores = {name: values[keep] for name, values in scores.items()}
    top = float(fusion.max()) if len(fusion) else 1.0
    return CandidateSet(
        rows=rows.astype(np.int32),
        found_by=found_by,
        scores=scores,
        relevance=(fusion / top).astype(np.float32),
        sources=names,
        counts=counts,
        failed=dict(failed),
    )
