"""The simulated world: rates, determinism, exact propensities, contract, null worlds."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest

from evaluation.simulator import Effects, World, WorldParams, history, plackett_luce, probe
from liverank.contract import NEGATIVE, validate_event, validate_item
from liverank.errors import ConfigError
from liverank.v1.event_pb2 import EventType

START_MS = 1_757_000_000_000
DAY_MS = 86_400_000
SMALL = WorldParams(seed=3, n_items=600, n_users=150)


@pytest.fixture(name="world", scope="module")
def _world() -> World:
    return World.build(SMALL, START_MS)


def test_EVA_9_a_seeded_run_repeats_bit_for_bit(world: World) -> None:
    again = World.build(SMALL, START_MS)
    other = World.build(replace(SMALL, seed=5), START_MS)

    def first(of: World) -> list[bytes]:
        return [event.SerializeToString(deterministic=True) for event in islice(history(of), 2000)]

    assert first(world) == first(again)
    assert first(world) != first(other)


@pytest.mark.parametrize("seed", [3, 11])
def test_the_oracle_and_popularity_have_the_click_rates_asked_for(seed: int) -> None:
    world = World.build(replace(SMALL, seed=seed), START_MS)
    for day in (0, 30, 60):
        at_ms = START_MS + day * DAY_MS
        assert 0.25 <= world.oracle_value(world.population.users, at_ms) <= 0.45
        assert 0.08 <= world.popular_value(world.population.users, at_ms) <= 0.15


def test_history_is_in_order_valid_and_has_all_signals(world: World) -> None:
    events = list(history(world))
    assert all(a.event_ts_ms <= b.event_ts_ms for a, b in pairwise(events))
    for event in events:
        validate_event(event, now_ms=event.event_ts_ms)
    kinds = Counter(event.type for event in events)
    assert set(NEGATIVE) < set(kinds)
    assert len({event.event_id for event in events}) == len(events)
    assert any(event.type == EventType.EVENT_TYPE_DWELL and event.value < 5 for event in events)
    shown = {e.event_id: e for e in events if e.type == EventType.EVENT_TYPE_EXPOSURE}
    for event in events:
        if event.request_id and event.type != EventType.EVENT_TYPE_EXPOSURE:
            exposure = shown[event.request_id]
            assert exposure.exposure.slots[event.position - 1].item_id == event.item_id
            assert exposure.event_ts_ms < event.event_ts_ms
    published = {item.item_id: item.published_ts_ms for item in world.catalogue.items}
    assert all(published[s.item_id] <= e.event_ts_ms for e in shown.values() for s in e.exposure.slots)


def test_catalogue_is_valid_and_its_texts_do_not_name_the_kind(world: World) -> None:
    for change in world.catalogue.changes():
        validate_item(change)
        item = change.upsert
        assert item.categories[0] not in f"{item.title} {item.text}".lower()


def test_logged_propensities_are_those_of_the_draw() -> None:
    scores = np.array([0.0, 1.0, 2.0, 3.0])
    rng = np.random.default_rng(5)
    counts: Counter[tuple[int, ...]] = Counter()
    said: dict[tuple[int, ...], float] = {}
    n = 20_000
    for _ in range(n):
        rows, propensity = plackett_luce(scores, 2, 0.1, rng)
        counts[tuple(rows.tolist())] += 1
        said[tuple(rows.tolist())] = float(np.prod(propensity))
    assert abs(sum(said.values()) - 1.0) < 1e-9
    for slate, p in said.items():
        assert abs(counts[slate] / n - p) < 4.5 * np.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize("effect", Effects.names())
def test_each_effect_is_there_and_its_null_world_has_none(effect: str, world: World) -> None:
    null = World.build(replace(SMALL, effects=Effects().without(effect)), START_MS)
    on, off = probe(world, effect, n=150), probe(null, effect, n=150)
    assert on.found
    assert on.estimate > 0
    assert not off.found
    assert off.low <= 0 <= off.high


def test_items_are_withdrawn_at_the_end_of_their_life_and_others_come() -> None:
    world = World.build(replace(SMALL, life_days=12.0, published_share=0.2), START_MS)
    cat = world.catalogue
    assert (cat.withdrawn_ms - cat.published_ms == 12 * DAY_MS).all()
    assert (cat.published_ms > START_MS - 12 * DAY_MS).all()
    for day in (0, 20, 50):
        at_ms = START_MS + day * DAY_MS
        live = world.live_rows(at_ms)
        assert 70 <= len(live) <= 170  # 120 at any time
        assert ((cat.published_ms[live] <= at_ms) & (at_ms < cat.withdrawn_ms[live])).all()
    for event in history(world, days=20.0):
        for slot in event.exposure.slots:
            row = cat.row(slot.item_id)
            assert cat.published_ms[row] <= event.event_ts_ms < cat.withdrawn_ms[row]


def test_quality_weighs_what_it_is_told_to_in_log_odds(world: World) -> None:
    heavy = World.build(replace(SMALL, quality_weight=0.7), START_MS)
    rows, user = np.arange(len(world.catalogue.items)), world.population.users[0]
    before, after = (w.utility.click_probability(user, rows, START_MS + DAY_MS) for w in (world, heavy))
    added = np.log(after / (1.0 - after)) - np.log(before / (1.0 - before))
    np.testing.assert_allclose(added, 0.7 * world.catalogue.quality, atol=1e-9)
    with pytest.raises(ConfigError, match="longer lives"):
        World.build(replace(SMALL, n_items=20, life_days=2.0), START_MS)
    without = World.build(replace(SMALL, quality_weight=0.7, effects=Effects().without("quality")), START_MS)
    assert not without.catalogue.quality.any()


def test_pace_hurries_a_reaction(world: World) -> None:
    user = world.population.users[0]

    def end_ms(pace: float, item_ids: list[str]) -> int:
        rng, ids = np.random.default_rng(0), random.Random(0)
        at = {"request_id": "r", "session_id": "s", "surface": "home", "at_ms": START_MS + DAY_MS}
        return world.behaviour(pace).react(user, item_ids, **at, rng=rng, ids=ids).end_ms - START_MS - DAY_MS  # type: ignore[arg-type]

    assert end_ms(0.001, ["item-1", "item-2"]) < end_ms(1.0, ["item-1", "item-2"]) / 20
    assert end_ms(1.0, []) == 0


@pytest.mark.parametrize(
    "broken",
    [
        {"n_items": 5},
        {"popular_rate": 0.5},
        {"examined_last": 0.0},
        {"dim": 1},
        {"published_share": 0.0},
        {"quality_weight": 3.5},
        {"life_days": 0.0},
    ],
)
def test_parameters_are_range_checked(broken: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(broken))):
        WorldParams(**broken)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="taste"):
        Effects().without("nothing")
