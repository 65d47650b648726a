"""Candidates of one request: what may be shown, who proposes what, and why something of the caller's is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranker.affinity import Affinities, affinities, disliked_kinds
from ranker.catalogue import Catalogue
from ranker.filters import Filters, in_region
from ranker.inputs import ItemsView, Rows, UserView
from ranker.request import RankQuery
from ranker.retrieval import CandidateSet, Explore, Met, Query, Source, caller_candidates, retrieve, unite
from ranker.retrieval.source import Proposal
from ranker.seen import SeenItems, SeenPolicy, seen_items
from ranker.user_states import UserState


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What the rest of a request works on.

    Attributes
    ----------
    candidates
        Allowed candidates with provenance.
    affinity, seen
        Of the user.
    met
        Items that met the user's newest liked ones.
    not_ranked
        Item id and reason, for the caller's own candidates that are left out.
    """

    candidates: CandidateSet
    affinity: Affinities
    seen: SeenItems
    met: Met
    not_ranked: Sequence[tuple[str, str]]


def gather(
    query: RankQuery,
    user: UserView,
    catalogue: Catalogue,
    *,
    as_of_ms: int,
    state: UserState,
    sources: Sequence[Source],
    filters: Filters,
    seen_policy: SeenPolicy,
    disliked_after: int,
    limit: int,
    seed: int = 0,
    n_explore: int = 0,
) -> Gathered:
    """Collect candidates; call with the catalogue's lock held.

    Parameters
    ----------
    query, user, catalogue
        The request.
    as_of_ms
        Instant for which values are read.
    state
        The user's, with its quotas.
    sources
        In order of precedence; the last one fills what is missing.
    filters
        Kept between requests.
    seen_policy
        What is excluded besides dismissed items.
    disliked_after
        Rejections in a row after which a category is left out; 0 = never. The caller's own candidates are not touched.
    limit
        Most candidates.
    seed
        Of the request.
    n_explore
        Candidates of the source ``explore``.
    """
    table = catalogue.table
    affinity = affinities(user, table, as_of_ms)
    seen = seen_items(user, table)
    allowed = filters.allowed(table, query.filter, query.context.region, catalogue.revision)
    excluded = np.array([table.rows[item] for item in query.exclude if item in table.rows], dtype=np.int32)
    hidden = seen.excluded(seen_policy)
    allowed[excluded] = False
    allowed[hidden] = False
    if not query.candidates:
        allowed = without_disliked(allowed, affinity, table, disliked_after, query.k)
    asked = Query(
        user=user,
        affinity=affinity,
        table=table,
        as_of_ms=as_of_ms,
        allowed=allowed,
        seed=seed,
        surface=query.surface,
    )
    if not query.candidates:
        candidates = retrieve(sources, asked, {**state.quotas, Explore.name: n_explore}, limit)
        return Gathered(candidates=candidates, affinity=affinity, seen=seen, met=asked.met, not_ranked=())
    given = caller_candidates(query.candidates, table)
    kept = allowed[given.rows]
    reasons = [(item_id, "unknown") for item_id in given.unknown]
    reasons += [
        (table.ids[row], _reason(row, query, catalogue, excluded, hidden, seen)) for row in given.rows[~kept].tolist()
    ]
    proposal = Proposal(given.rows[kept], given.scores[kept])
    by_score = np.argsort(-proposal.scores, kind="stable")
    candidates = unite(
        {"caller": Proposal(proposal.rows[by_score], proposal.scores[by_score])}, {}, len(table), len(given.rows)
    )
    return Gathered(candidates=candidates, affinity=affinity, seen=seen, met=asked.met, not_ranked=reasons)


def _reason(row: int, query: RankQuery, catalogue: Catalogue, excluded: Rows, hidden: Rows, seen: SeenItems) -> str:
    """Why a known candidate may not be shown."""
    table = catalogue.table
    if row in excluded:
        return "excluded"
    if not table.available[row]:
        return "unavailable"
    if row in hidden:
        return "dismissed" if row in seen.rows[seen.dismissed] else "seen"
    if query.context.region and not bool(in_region(table, query.context.region)[row]):
        return "region"
    return "filter"


def without_disliked(
    allowed: NDArray[np.bool_], affinity: Affinities, table: ItemsView, in_a_row: int, k: int
) -> NDArray[np.bool_]:
    """The allowed rows without disliked categories; all of them where fewer than `k` would be left."""
    kinds = disliked_kinds(affinity, table, in_a_row)
    if not len(kinds):
        return allowed
    kept = allowed & ~np.isin(table.categories[: len(table), 0], kinds)
    return kept if int(kept.sum()) >= k else allowed


def times_shown(gathered: Gathered, n_rows: int) -> NDArray[np.int32]:
    """How often each candidate was shown to the user since their last click on it."""
    return gathered.seen.times_shown(gathered.candidates.rows, n_rows)
