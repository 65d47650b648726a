"""Retrieval: sources, union, provenance, the vector index."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ranker_world import NOW_MS, MemoryTable, MemoryUser, sources_of

from liverank.errors import UnavailableError
from liverank.v1 import personalization_pb2 as pb
from liverank.v1.event_pb2 import Context
from ranker.affinity import affinities
from ranker.columns import INDEX, build
from ranker.retrieval import (
    Again,
    CoOccurrence,
    IndexSettings,
    Proposal,
    Query,
    SemanticNeighbours,
    UserVectors,
    VectorIndex,
    caller_candidates,
    demand,
    popular,
    retrieve,
    trending,
)
from ranker.user_states import DEFAULT_STATES


def query_of(table: MemoryTable, user: MemoryUser, allowed: np.ndarray | None = None) -> Query:
    return Query(
        user=user,
        affinity=affinities(user, table, NOW_MS),
        table=table,
        as_of_ms=NOW_MS,
        allowed=table.available.copy() if allowed is None else allowed,
    )


@pytest.fixture(scope="module")
def table() -> MemoryTable:
    return MemoryTable(3000)


@pytest.fixture
def user(table: MemoryTable) -> MemoryUser:
    return MemoryUser([("i0", 2, 1.0), ("i7", 4, 2.0), ("i13", 10, -2.0)], table=table)


class Broken:
    name = "trending"

    def propose(self, query: Query, quota: int) -> Proposal:
        raise UnavailableError("the list is away")


def test_RET_1_thousand_unique_candidates_each_with_sources_and_scores(table: MemoryTable, user: MemoryUser) -> None:
    warm = DEFAULT_STATES[-1]
    found = retrieve(sources_of(VectorIndex()), query_of(table, user), warm.quotas, warm.n_candidates)
    assert len(found.rows) == 1000
    assert len(set(found.rows.tolist())) == 1000
    assert found.found_by.any(axis=1).all()
    for name in ("vector", "co_occurrence", "semantic", "demand", "trending", "fresh", "popular"):
        column = found.sources.index(name)
        proposed = found.found_by[:, column]
        assert proposed.any(), name
        assert found.counts[name] >= proposed.sum()
        assert (found.scores[name][~proposed] == 0).all()
    assert found.names(0) == ["co_occurrence", *found.names(0)[1:]]


def test_RET_1_failing_source_removes_only_itself(table: MemoryTable, user: MemoryUser) -> None:
    index = VectorIndex()
    query, warm = query_of(table, user), DEFAULT_STATES[-1]
    whole = retrieve(sources_of(index), query, warm.quotas, 1000)
    broken = [Broken() if source.name == "trending" else source for source in sources_of(index)]
    rest = retrieve(broken, query, warm.quotas, 1000)
    assert rest.failed == {"trending": "the list is away"}
    assert len(rest.rows) == 1000
    for name in rest.sources:
        if name != "popular":  # it fills what trending left
            of_whole = set(whole.rows[whole.found_by[:, whole.sources.index(name)]].tolist())
            assert of_whole == set(rest.rows[rest.found_by[:, rest.sources.index(name)]].tolist())


def test_popular_fills_until_limit_or_catalogue_ends(table: MemoryTable) -> None:
    allowed = np.zeros(len(table), dtype=np.bool_)
    allowed[np.arange(0, 3000, 100)] = True
    found = retrieve(sources_of(VectorIndex()), query_of(table, MemoryUser(), allowed), {"popular": 10}, 1000)
    assert sorted(found.rows.tolist()) == list(range(0, 3000, 100))


def test_co_occurrence_reads_liked_items_only(table: MemoryTable) -> None:
    user = MemoryUser([("i0", 2, 1.0), ("i1", 10, -2.0)], table=table)
    found = CoOccurrence().propose(query_of(table, user), 100)
    assert found.rows.tolist() == [6, 12, 18]
    assert (np.diff(found.scores) <= 0).all()


def test_vector_and_semantic_find_the_kind_that_was_liked(table: MemoryTable) -> None:
    user = MemoryUser([("i0", 2, 1.0), ("i6", 2, 1.0)], table=table)
    index = VectorIndex()
    for source in (UserVectors(index), SemanticNeighbours(index)):
        rows = source.propose(query_of(table, user), 100).rows
        assert len(rows) >= 60  # vectors that are alike find the same items
        assert (table.categories[rows, 0] == table.categories[0, 0]).mean() > 0.8


def test_vectors_of_another_space_are_not_compared(table: MemoryTable, user: MemoryUser) -> None:
    user.space = "other/8/v1"
    assert len(UserVectors(VectorIndex()).propose(query_of(table, user), 100)) == 0


def test_trending_holds_rising_items_only(table: MemoryTable, user: MemoryUser) -> None:
    found = trending().propose(query_of(table, user), 500)
    assert (table.trend(NOW_MS)[found.rows] > 0).all()
    assert (np.diff(found.scores) <= 0).all()


def test_demand_takes_the_four_orders_in_turn(table: MemoryTable, user: MemoryUser, monkeypatch: Any) -> None:
    taken = np.zeros((len(table), 4), dtype=np.float32)
    taken[[7, 8, 9], 1] = [3, 2, 1]
    taken[[9, 4], 0] = [1, 0.5]
    taken[[5, 7], 3] = [8, 9]
    monkeypatch.setattr(table, "demand", lambda rows, as_of_ms: taken[rows])
    found = demand(0.0).propose(query_of(table, user), 100)
    assert found.rows.tolist() == [7, 9, 4, 5, 8]  # 7 and 9 lead an order, 4, 5 and 8 are second in one
    taken[6, 2] = 1
    assert demand(0.0).propose(query_of(table, user), 100).rows.tolist() == [6, 7, 9, 4, 5, 8]


def test_what_was_met_is_a_share_that_time_does_not_scale(table: MemoryTable, user: MemoryUser) -> None:
    met = query_of(table, user).met
    of_i0 = {6: 3 / 6, 12: 2 / 6, 18: 1 / 6}
    of_i7 = {13: 3 / 6, 19: 2 / 6, 25: 1 / 6}
    newer = 1.0
    older = 0.9 * 0.5 ** (60_000 / (7 * 86_400_000))
    wanted = {row: share * newer / (newer + older) for row, share in of_i0.items()}
    wanted |= {row: share * older / (newer + older) for row, share in of_i7.items()}
    assert dict(zip(met.rows.tolist(), met.share.tolist(), strict=True)) == pytest.approx(wanted, rel=1e-5)
    last = dict(zip(met.rows.tolist(), met.last.tolist(), strict=True))
    assert last == pytest.approx({**of_i0, **dict.fromkeys(of_i7, 0.0)}, rel=1e-5)
    of = met.of(np.array([12, 0, 2999], dtype=np.int32))
    assert of["met_share"].tolist() == pytest.approx([wanted[12], 0, 0], rel=1e-5)
    assert set(of) == {"co_occurrence", "met_share", "met_last"}


def test_own_items_come_again_where_the_policy_lets_them(table: MemoryTable, user: MemoryUser) -> None:
    assert Again().propose(query_of(table, user), 10).rows.tolist() == [
        7,
        0,
    ]  # weight 2, weight 1; none rejected
    allowed = table.available.copy()
    allowed[7] = False
    assert Again().propose(query_of(table, user, allowed), 10).rows.tolist() == [0]


def test_columns_of_demand_and_of_own_items(table: MemoryTable, user: MemoryUser) -> None:
    rows = np.array([7, 0, 12, 13], dtype=np.int32)
    query = query_of(table, user)
    x = build(user, table, rows, context=Context(), as_of_ms=NOW_MS, scores=query.met.of(rows), affinity=query.affinity)

    def column(name: str) -> list[float]:
        values: list[float] = x[:, INDEX[f"crosses:{name}"]].tolist()
        return values

    taken = table.demand(rows, NOW_MS)
    for at, name in enumerate(("1h", "1d", "7d", "30d")):
        assert column(f"demand_{name}") == pytest.approx(np.log1p(taken[:, at]).tolist(), rel=1e-5)
    usual = np.log1p(table.demand(np.array([0, 7, 13], np.int32), NOW_MS)[:, 2]).mean()
    assert column("usual_demand") == pytest.approx([usual] * 4, rel=1e-5)
    assert column("own_times") == [1, 1, 0, 0]  # a rejected item was not taken
    assert column("hours_since_own") == pytest.approx([2 / 60, 1 / 60, -1, -1], rel=1e-5)
    share = query.met.of(rows)["met_share"]
    assert column("met_share") == share.tolist()
    assert column("met_lift") == pytest.approx((share / np.sqrt(1 + taken[:, 3])).tolist(), rel=1e-5)


def test_popular_list_honours_what_changed_within_its_second(table: MemoryTable, user: MemoryUser) -> None:
    source = popular()
    first = source.propose(query_of(table, user), 5).rows
    allowed = table.available.copy()
    allowed[first] = False
    assert not set(first.tolist()) & set(source.propose(query_of(table, user, allowed), 5).rows.tolist())


def test_caller_candidates_are_unique_and_unknown_ones_named(table: MemoryTable) -> None:
    given = [
        pb.Candidate(item_id="i3", scores={"mine": 1.0}),
        pb.Candidate(item_id="nope"),
        pb.Candidate(item_id="i5", scores={"mine": 3.0}),
        pb.Candidate(item_id="i3", scores={"mine": 9.0}),
    ]
    found = caller_candidates(given, table)
    assert found.rows.tolist() == [3, 5]
    assert found.unknown == ("nope",)
    assert found.scores[1] > found.scores[0]


class TestVectorIndex:
    @pytest.fixture
    def built(self, table: MemoryTable) -> VectorIndex:
        index = VectorIndex(IndexSettings(exact_below=100, ef=200))
        assert index.due(table)
        rows = np.arange(len(table), dtype=np.int32)
        index.rebuild(table.vectors.copy(), rows, table.space)
        return index

    def test_graph_answers_like_exact_search(self, table: MemoryTable, built: VectorIndex) -> None:
        assert not built.due(table)
        recall = built.measure(table, table.vectors[:20], 50)
        assert recall > 0.95

    def test_touched_row_is_found_at_its_new_place(self, built: VectorIndex) -> None:
        table = MemoryTable(3000)
        table.vectors[17] = -table.vectors[0]
        built.touch(np.array([17], dtype=np.int32))
        rows, cosines = built.search(table, -table.vectors[:1], 3)
        assert rows[0, 0] == 17
        assert cosines[0, 0] == pytest.approx(1.0, abs=1e-5)
        near, _ = built.search(table, table.vectors[:1], 500)
        assert len(set(near[0].tolist())) == 500

    def test_low_recall_raises_ef_then_answers_exactly(self, built: VectorIndex) -> None:
        breadth = built.ef
        built.judge(0.5)
        assert built.ef > breadth
        for _ in range(20):
            built.judge(0.5)
        assert built.exact
        built.judge(0.99)
        assert not built.exact

    def test_another_space_is_not_searched_in_the_old_graph(self, built: VectorIndex) -> None:
        table = MemoryTable(3000, seed=9)
        table.space = "test/8/v2"
        rows, _ = built.search(table, table.vectors[:1], 1)
        assert rows[0, 0] == 0
        assert built.due(table)

    def test_removed_vectors_are_not_returned(self, built: VectorIndex) -> None:
        table = MemoryTable(3000)
        table.has_vector[0] = False
        built.touch(np.array([0], dtype=np.int32))
        rows, _ = built.search(table, table.vectors[:1], 5)
        assert 0 not in rows[0]

    def test_graph_in_pieces_is_answered_exactly(self, table: MemoryTable) -> None:
        class Broken:
            def get_current_count(self) -> int:
                return len(table)

            def set_ef(self, ef: int) -> None:
                pass

            def knn_query(self, queries: np.ndarray, **_: object) -> None:
                raise RuntimeError("Cannot return the results in a contiguous 2D array. Probably ef or M is too small")

        index = VectorIndex(IndexSettings(exact_below=100))
        index._built = type(index._built)(table.space, Broken(), np.ones(len(table), dtype=np.bool_))
        rows, cosines = index.search(table, table.vectors[:2], 10)
        assert rows[:, 0].tolist() == [0, 1]
        assert cosines.shape == (2, 10)
        assert index.broken_searches == 1
        assert index.measure(table, table.vectors[:2]) == 0.0
