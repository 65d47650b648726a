"""Whole requests over memory: modes, retries, candidates, filters, rungs, what is logged."""

from __future__ import annotations

import random

import numpy as np
import pytest
from ranker_world import NOW_MS, MemoryUser, World

from bandits import Problem, parse, recompute
from bandits.slates import generator
from bandits.snapshot import Snapshot
from liverank.contract import validate_event
from liverank.errors import UnavailableError
from liverank.ids import uuid7
from liverank.settings import RankerSettings
from liverank.v1 import decision_pb2, event_pb2, item_pb2
from liverank.v1 import personalization_pb2 as pb
from ranker.columns import COLUMNS
from ranker.degrade import Cost
from ranker.errors import RequestConflictError, RequestError, RequestTimeoutError
from ranker.rules import slate_rules


def rank(world: World, remaining_ms: float | None = 1e6, **fields: object) -> pb.RankReply:
    fields = {"user_id": "u", "k": 10, **fields}
    return pb.RankReply.FromString(world.pipeline.rank(pb.RankRequest(**fields), remaining_ms=remaining_ms))  # type: ignore[arg-type]


def exposures(world: World) -> list[event_pb2.Event]:
    return [event_pb2.Event.FromString(value) for _, value in world.producer.of("events.")]


def decisions(world: World) -> list[decision_pb2.Decision]:
    return [decision_pb2.Decision.FromString(value) for _, value in world.producer.of("decisions")]


@pytest.fixture
def world() -> World:
    world = World(300)
    world.users["u"] = MemoryUser([("i0", 2, 1.0), ("i6", 4, 2.0)], table=world.table)
    return world


def new_id(at_ms: int = NOW_MS, seed: int = 1) -> str:
    return uuid7(at_ms, random.Random(seed))


class TestServe:
    def test_reply_exposure_and_decision_agree(self, world: World) -> None:
        reply = rank(world)
        (event,), (made,) = exposures(world), decisions(world)
        assert [item.item_id for item in reply.items] == [slot.item_id for slot in event.exposure.slots]
        assert [item.propensity for item in reply.items] == [slot.propensity for slot in made.slots]
        assert event.event_id == made.request_id == reply.request_id
        assert event.exposure.drawn
        assert made.drawn
        assert reply.policy == parse(event.exposure.policy).name
        assert len(event.exposure.slots[0].phi) == 32
        assert list(made.feature_names) == list(COLUMNS)
        assert len(made.slots[0].features) == len(COLUMNS)
        assert [item.pinned for item in reply.items[:3]] == [True, True, False]
        validate_event(event, now_ms=NOW_MS, internal=True)

    def test_snapshot_comes_before_the_decision_that_cites_it_and_once(self, world: World) -> None:
        for _ in range(3):
            rank(world)
        topics = [topic for topic, _, _ in world.producer.records]
        assert topics.index("liverank.test.policy-snapshots") < topics.index("liverank.test.decisions")
        ((key, value),) = world.producer.of("policy-snapshots")
        assert key == decisions(world)[0].snapshot.encode()
        assert Snapshot.from_bytes(value).id.encode() == key

    def test_fully_logged_decision_recomputes_its_propensities(self, world: World) -> None:
        world.pipeline._settings = world.settings
        reply = rank(world, debug=True)
        (made,) = decisions(world)
        table = world.table
        rows = np.array([table.rows[candidate.item_id] for candidate in made.candidates], dtype=np.int32)
        snapshot = Snapshot.from_bytes(world.producer.of("policy-snapshots")[0][1])
        problem = Problem(
            value=np.array([candidate.value for candidate in made.candidates]),
            phi=np.array([list(candidate.phi) for candidate in made.candidates]),
            posterior=snapshot.posterior(list(made.head_weights)),
            k=10,
            feasible=slate_rules(table, rows, 10, world.book.list_rules),
            floor=made.floor,
            cap=made.cap,
            n_greedy_slots=made.greedy_slots,
        )
        ids = [candidate.item_id for candidate in made.candidates]
        again = recompute(
            parse(made.policy), problem, generator(made.seed), [ids.index(item.item_id) for item in reply.items]
        )
        assert again.propensity.tolist() == [item.propensity for item in reply.items]

    def test_greedy_slots_end_when_enough_was_shown(self) -> None:
        world = World(300, ranker=RankerSettings(greedy_until_shown=0))
        assert not any(item.pinned for item in rank(world).items)

    def test_anonymous_subject_keys_by_session(self, world: World) -> None:
        rank(world, user_id="", anonymous_id="anon-1")
        ((key, _),) = world.producer.of("events.")
        assert key == b"anon-1"

    def test_without_consent_nothing_is_stored(self, world: World) -> None:
        reply = rank(world, consent=pb.CONSENT_DENIED, request_id=new_id())
        assert len(reply.items) == 10
        assert reply.policy == "none"
        assert not world.producer.records
        assert not world.redis.data
        assert reply.freshness.newest_event_ts_ms == 0

    def test_USE_1_age_of_the_newest_event_is_in_the_reply(self, world: World) -> None:
        assert rank(world).freshness.newest_event_age_ms == 60_000
        assert rank(world, user_id="stranger").freshness.newest_event_age_ms == -1


class TestRetries:
    def test_same_id_same_bytes_one_exposure(self, world: World) -> None:
        request = pb.RankRequest(user_id="u", k=10, request_id=new_id(), debug=True)
        first = world.pipeline.rank(request, remaining_ms=1e6)
        world.users["u"] = MemoryUser()
        assert world.pipeline.rank(request, remaining_ms=1e6) == first
        assert len(exposures(world)) == len(decisions(world)) == 1

    def test_same_id_other_request_is_refused(self, world: World) -> None:
        request_id = new_id()
        rank(world, request_id=request_id)
        with pytest.raises(RequestConflictError):
            rank(world, request_id=request_id, k=5)

    def test_without_redis_a_retry_draws_the_same(self, world: World) -> None:
        world.redis.down = True
        request_id = new_id()
        first, second = rank(world, request_id=request_id), rank(world, request_id=request_id)
        assert first.items == second.items
        assert {event.event_id for event in exposures(world)} == {request_id}

    @pytest.mark.parametrize("minutes", [-6, 6])
    def test_id_far_from_the_clock_is_refused(self, world: World, minutes: int) -> None:
        with pytest.raises(RequestError, match="5 min"):
            rank(world, request_id=new_id(NOW_MS + minutes * 60_000))

    def test_id_that_is_no_uuid7_is_refused(self, world: World) -> None:
        with pytest.raises(RequestError, match="UUIDv7"):
            rank(world, request_id="order-1")


class TestModes:
    def test_USE_16_shadow_leaves_nothing_but_a_marked_decision(self, world: World) -> None:
        for seed in range(20):
            rank(world, mode=decision_pb2.MODE_SHADOW, shadow={"seed": seed + 1})
        assert not exposures(world)
        assert not world.redis.data
        assert {made.mode for made in decisions(world)} == {decision_pb2.MODE_SHADOW}
        assert len(decisions(world)) == 20

    def test_USE_16_prefetch_waits_for_its_impression(self, world: World) -> None:
        reply = rank(world, mode=decision_pb2.MODE_PREFETCH)
        assert not exposures(world)
        waiting = world.pipeline._replies.waiting_exposures([reply.request_id])
        assert event_pb2.Event.FromString(waiting[reply.request_id]).event_id == reply.request_id

    def test_USE_16_prefetch_without_redis_is_not_drawn(self, world: World) -> None:
        world.redis.down = True
        reply = rank(world, mode=decision_pb2.MODE_PREFETCH)
        assert reply.policy == "none"
        assert "unlogged" in reply.rungs
        assert not decisions(world)[0].drawn

    def test_shadow_seed_decides_the_draw_and_greedy_ignores_it(self, world: World) -> None:
        shadow = {"mode": decision_pb2.MODE_SHADOW}
        assert rank(world, **shadow, shadow={"seed": 7}).items == rank(world, **shadow, shadow={"seed": 7}).items
        slates = {
            tuple(item.item_id for item in rank(world, **shadow, shadow={"seed": s, "greedy": True}).items)
            for s in (1, 2, 3)
        }
        assert len(slates) == 1

    def test_shadow_policy_and_layers(self, world: World) -> None:
        shadow = {"mode": decision_pb2.MODE_SHADOW}
        assert rank(world, **shadow, shadow={"policy": "linucb"}).policy == "linucb"
        blind = rank(
            world, **shadow, debug=True, shadow={"seed": 1, "without": [pb.LAYER_USER_FEATURES, pb.LAYER_USER_VECTORS]}
        )
        assert "vector" not in {source for item in blind.items for source in item.sources}
        assert blind.debug.counts["co_occurrence"] == 0
        rank(world, **shadow, shadow={"without": [pb.LAYER_POSTERIOR, pb.LAYER_MODEL]})

    def test_as_of_in_the_past_hides_later_events(self, world: World) -> None:
        options = {"as_of_ms": NOW_MS - 10 * 60_000, "seed": 1}
        reply = rank(world, mode=decision_pb2.MODE_SHADOW, shadow=options, debug=True)
        assert reply.debug.counts["co_occurrence"] == 0


class TestCandidates:
    def test_USE_2_reply_is_a_permutation_of_the_candidates(self, world: World) -> None:
        given = [f"i{at}" for at in range(0, 120, 2)]
        reply = rank(world, k=60, candidates=[{"item_id": item, "scores": {"mine": 1.0}} for item in given])
        assert sorted(item.item_id for item in reply.items) == sorted(given)
        assert not reply.not_ranked
        assert {tuple(item.sources) for item in reply.items} == {("caller",)}

    def test_USE_2_unknown_and_forbidden_candidates_are_reported(self, world: World) -> None:
        world.table.available[2] = False
        world.users["u"] = MemoryUser(dismissed=["i3"])
        given = [{"item_id": item} for item in ("i1", "i2", "i3", "nope", "i4")]
        reply = rank(world, candidates=given, exclude_item_ids=["i4"], debug=True)
        assert [item.item_id for item in reply.items] == ["i1"]
        reasons = {left.item_id: left.reason for left in reply.not_ranked}
        assert reasons == {"nope": "unknown", "i2": "unavailable", "i3": "dismissed", "i4": "excluded"}
        assert list(reply.debug.unknown_item_ids) == ["nope"]


class TestFilters:
    def test_seen_policy_consumed(self) -> None:
        world = World(60, ranker=RankerSettings(seen_policy="consumed"))
        world.users["u"] = MemoryUser(consumed=[f"i{at}" for at in range(30)])
        reply = rank(world, k=30, mode=decision_pb2.MODE_SHADOW)
        assert not {item.item_id for item in reply.items} & {f"i{at}" for at in range(30)}

    def test_unavailable_item_leaves_at_once(self, world: World) -> None:
        shown = rank(world, mode=decision_pb2.MODE_SHADOW, shadow={"greedy": True}).items[0].item_id
        world.table.available[world.table.rows[shown]] = False
        again = rank(world, mode=decision_pb2.MODE_SHADOW, shadow={"greedy": True})
        assert shown not in {item.item_id for item in again.items}


class TestRungs:
    def test_RNK_7_redis_down_gives_popular_labelled_and_not_drawn(self, world: World) -> None:
        world.reader_error, world.redis.down = UnavailableError("away"), True
        reply = rank(world, user_id="new")
        assert len(reply.items) == 10
        assert set(reply.rungs) == {"no_user_features", "popular"}
        assert reply.policy == "none"
        assert not exposures(world)[0].exposure.drawn

    def test_RNK_7_redis_down_uses_the_kept_row_first(self, world: World) -> None:
        rank(world)
        world.reader_error = UnavailableError("away")
        reply = rank(world)
        assert list(reply.rungs) == ["stale"]
        assert reply.policy == "none"

    def test_RNK_7_model_missing_gives_popular(self, world: World) -> None:
        world.serving = None
        reply = rank(world)
        assert len(reply.items) == 10
        assert list(reply.rungs) == ["no_model", "popular"]
        popularity = [world.table.popularity(0)[world.table.rows[item.item_id]] for item in reply.items]
        assert popularity == sorted(popularity, reverse=True)
        event = exposures(world)[0]
        validate_event(event, now_ms=NOW_MS, internal=True)
        assert not event.exposure.drawn

    def test_RNK_7_short_deadline_gives_the_cached_slate_then_popular(self, world: World) -> None:
        first = rank(world)
        world.pipeline.cost.estimate_ms = 50.0
        again = rank(world, remaining_ms=10)
        assert list(again.rungs) == ["cached"]
        assert [item.item_id for item in again.items] == [item.item_id for item in first.items]
        assert list(rank(world, remaining_ms=10, user_id="new").rungs) == ["popular"]
        with pytest.raises(RequestTimeoutError):
            rank(world, remaining_ms=0)

    def test_RNK_7_full_queue_or_failed_delivery_stops_the_draw(self, world: World) -> None:
        world.producer.queue_fill = 0.9
        reply = rank(world)
        assert "unlogged" in reply.rungs
        assert reply.policy == "none"
        assert all(item.pinned for item in reply.items)

    def test_empty_catalogue_gives_an_empty_slate(self) -> None:
        world = World(50)
        world.table.available[:] = False
        reply = rank(world)
        assert not reply.items
        assert not exposures(world)


BAD = [
    ({"k": 0}, "bad_value"),
    ({"k": 10_000}, "bad_value"),
    ({"k": -1}, "bad_value"),
    ({"user_id": ""}, "missing_id"),
    ({"user_id": "x" * 200}, "too_large"),
    ({"surface": "unknown"}, "unknown_surface"),
    ({"shadow": {"seed": 1}}, "not_allowed"),
    ({"mode": decision_pb2.MODE_SHADOW, "shadow": {"policy": "magic"}}, "unknown_policy"),
    ({"mode": decision_pb2.MODE_SHADOW, "shadow": {"without": [0]}}, "bad_value"),
    ({"candidates": [{"item_id": "i1", "scores": {"s": float("nan")}}]}, "not_finite"),
    ({"candidates": [{"item_id": ""}]}, "missing_id"),
    ({"candidates": [{"item_id": "i1"}] * 2001}, "too_large"),
    ({"context": {"utc_offset_minutes": 5000}}, "bad_value"),
    ({"filter": {"conditions": [{"field": "colour", "operator": 1, "values": ["x"]}]}}, "bad_filter"),
    ({"filter": {"conditions": [{"field": "price", "operator": 1, "values": ["x"]}]}}, "bad_filter"),
    ({"filter": {"conditions": [{"field": "category", "operator": 1}]}}, "bad_filter"),
    ({"filter": {"conditions": [{"field": "price", "operator": 3, "number": float("inf")}]}}, "not_finite"),
    ({"filter": {"conditions": [{"field": "price"}]}}, "bad_filter"),
]


@pytest.mark.parametrize(("fields", "reason"), BAD)
def test_bad_requests_are_refused_with_a_reason(fields: dict[str, object], reason: str) -> None:
    world = World(20, ranker=RankerSettings(surfaces=("default", "home")))
    with pytest.raises(RequestError) as caught:
        rank(world, **fields)
    assert caught.value.reason == reason
    assert not world.producer.records


class TestCost:
    def test_one_outlier_moves_the_estimate_little_and_turned_away_requests_lower_it(self) -> None:
        cost = Cost(10.0)
        cost.took(5_000.0)
        assert cost.estimate_ms <= 13.0
        for _ in range(40):
            cost.took(1_000.0)
        assert cost.estimate_ms > 500
        turned_away = 0
        while cost.estimate_ms * 1.2 > 200:
            cost.turned_away()
            turned_away += 1
        assert turned_away < 50

    def test_shadow_is_never_turned_away(self, world: World) -> None:
        world.pipeline.cost.estimate_ms = 500.0
        assert not rank(world, remaining_ms=10, mode=decision_pb2.MODE_SHADOW).rungs


def test_changed_items_are_named_once_the_catalogue_is_live(world: World) -> None:
    change = item_pb2.ItemChange(item_id="i3", upsert=item_pb2.Item(item_id="i3", available=True))
    world.catalogue.change([(change, 7)])
    assert world.catalogue.changed_within(60.0) == []
    world.catalogue.live = True
    world.catalogue.change([(change, 8), (change, 9)])
    assert world.catalogue.changed_within(60.0) == ["i3"]
    assert world.catalogue.changed_within(-1.0) == []


class TestDislikedKinds:
    """Category 1 holds i0, i6, i12, ... in the test catalogue."""

    @staticmethod
    def kinds(world: World, signals: list[tuple[str, int, float]], **fields: object) -> set[int]:
        world.users["u"] = MemoryUser(signals, table=world.table)
        reply = rank(world, k=40, mode=decision_pb2.MODE_SHADOW, **fields)
        return {int(world.table.categories[world.table.rows[item.item_id], 0]) for item in reply.items}

    def test_five_rejections_in_a_row_leave_the_kind_out(self, world: World) -> None:
        rejections = [(f"i{6 * at}", 10, -2.0) for at in range(5)]
        assert 1 in self.kinds(world, rejections[:4])
        assert 1 not in self.kinds(world, rejections)

    def test_a_liking_in_between_ends_the_row(self, world: World) -> None:
        rejections = [(f"i{6 * at}", 10, -2.0) for at in range(5)]
        assert 1 in self.kinds(world, [*rejections[:3], ("i60", 2, 1.0), *rejections[3:]])

    def test_skips_are_no_rejections(self, world: World) -> None:
        assert 1 in self.kinds(world, [(f"i{6 * at}", 9, -0.5) for at in range(9)])

    def test_own_candidates_and_small_remainders_are_not_touched(self, world: World) -> None:
        rejections = [(f"i{6 * at}", 10, -2.0) for at in range(5)]
        assert self.kinds(world, rejections, candidates=[{"item_id": "i66"}, {"item_id": "i72"}]) == {1}
        only = {"conditions": [{"field": "category", "operator": pb.Condition.OPERATOR_IN, "values": ["kind0"]}]}
        assert self.kinds(world, rejections, filter=only) == {1}
