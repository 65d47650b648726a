"""The lowest rungs: the user's last slate again, or popular items under the same hard rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranker import degrade
from ranker.affinity import affinities
from ranker.answer import Answer
from ranker.catalogue import Catalogue
from ranker.decisions import Shown, Trace
from ranker.filters import Filters
from ranker.inputs import Rows
from ranker.request import RankQuery
from ranker.retrieval import Query, Source, caller_candidates
from ranker.rules import ListRules, slate_rules
from ranker.stages import Stages
from ranker.users import NOBODY


@dataclass(frozen=True)
class FallbackSlate:
    """Items in slot order, the catalogue versions shown, and the rung that made them."""

    item_ids: Sequence[str]
    versions: NDArray[np.int64]
    rung: str


def fallback_slate(
    query: RankQuery,
    catalogue: Catalogue,
    popular: Source,
    kept: degrade.KeptSlate | None,
    filters: Filters,
    rules: ListRules,
    as_of_ms: int,
) -> FallbackSlate:
    """A slate without a model; call with the catalogue's lock held. About 0.3 ms.

    The caller's own candidates keep the caller's order. Items that may not be shown (unavailable, excluded, filtered)
    are left out at every rung.
    """
    table = catalogue.table
    allowed = filters.allowed(table, query.filter, query.context.region, catalogue.revision)
    allowed[[table.rows[item] for item in query.exclude if item in table.rows]] = False
    if query.candidates:
        given = caller_candidates(query.candidates, table)
        rows = given.rows[allowed[given.rows]]
        return _slate(catalogue, rows[np.argsort(-given.scores[allowed[given.rows]], kind="stable")], query.k, "caller")
    if kept is not None:
        rows = np.array([table.rows[item] for item in kept.item_ids if item in table.rows], dtype=np.int32)
        rows = rows[allowed[rows]]
        if len(rows) >= query.k:
            return _slate(catalogue, rows, query.k, degrade.CACHED)
    asked = Query(
        user=NOBODY, affinity=affinities(NOBODY, table, as_of_ms), table=table, as_of_ms=as_of_ms, allowed=allowed
    )
    rows = popular.propose(asked, max(10 * query.k, 100)).rows
    feasible = slate_rules(table, rows, query.k, rules)
    order: list[int] = []
    while len(order) < query.k:
        mask = feasible.mask(order)
        if not mask.any():
            break
        order.append(int(mask.argmax()))
    return _slate(catalogue, rows[order], query.k, degrade.POPULAR)


def _slate(catalogue: Catalogue, rows: Rows, k: int, rung: str) -> FallbackSlate:
    rows = rows[:k]
    table = catalogue.table
    return FallbackSlate([table.ids[row] for row in rows.tolist()], table.version[rows], rung)


def fallback_answer(slate: FallbackSlate, now_ms: int, stages: Stages, rungs: Sequence[str]) -> Answer:
    """The answer of a slate that nothing drew and no model scored."""
    n = len(slate.item_ids)
    none = np.zeros((n, 0))
    trace = Trace(
        decided_ts_ms=now_ms,
        as_of_ms=now_ms,
        policy="none",
        arm="",
        seed=0,
        n_draws=0,
        floor=0.0,
        cap=0.0,
        greedy_slots=n,
        model_id="",
        heads=(),
        head_weights=(),
        snapshot_id="",
        feasible_ids=(),
        rungs=[*rungs, slate.rung],
        stage_ms=stages.ms,
        newest_event_ts_ms=0,
        drawn=False,
        space="",
        user_state="",
        feature_ages_ms={},
        k=n,
    )
    shown = Shown(
        item_ids=slate.item_ids,
        versions=slate.versions,
        propensity=np.ones(n),
        pinned=np.ones(n, dtype=np.bool_),
        explored=np.zeros(n, dtype=np.bool_),
        effective_floor=np.zeros(n),
        score=np.zeros(n),
        p_shown=none,
        p_first=none,
        phi=np.zeros((n, 0), dtype=np.float32),
        posterior_mean=np.zeros(n),
        posterior_sd=np.zeros(n),
        features=np.zeros((n, 0), dtype=np.float32),
        sources=[[slate.rung]] * n,
        n_feasible=np.zeros(n, dtype=np.int64),
        greedy_score=np.zeros(n),
        budgeted=np.zeros(n, dtype=np.bool_),
    )
    return Answer(
        trace=trace,
        shown=shown,
        policy_name="none",
        gathered=None,
        scored=None,
        drawn=None,
        model=None,
        snapshot=None,
        posterior_newest_ms=0,
    )
