"""Counts of variants through both folds: shown when the exposure is folded, clicked when the join says so."""

from __future__ import annotations

import math
import random
from collections import defaultdict

import pytest

from features.columns import quantise
from features.hashing import id_hash
from features.state.variants import FIELD, arms_of, decode
from liverank.v1.event_pb2 import Event, EventType
from tests.recount.expected import Logged
from tests.recount.scenes import MINUTE_MS, START_MS, action, differences, exposure, play

WINDOW_MS = 30 * MINUTE_MS


def varied(event: Event, rng: random.Random, device: str = "") -> Event:
    """A slate whose even items have variants."""
    event.context.device = device
    for slot in event.exposure.slots:
        if int(slot.item_id[1:]) % 2 == 0:
            slot.variant_id, slot.variant_propensity = rng.choice("ab"), 0.5
    return event


def counts(world) -> dict[str, dict[int, tuple[float, float]]]:
    found = {item: decode(fields.get(FIELD)) for item, fields in world.items.store.fields.items()}
    return {item.decode() if isinstance(item, bytes) else item: arms for item, arms in found.items() if arms}


def test_BAN_11_a_click_counts_for_the_variant_that_its_request_showed() -> None:
    first = varied(exposure("r1", START_MS, [1, 2]), random.Random(1), "tv")
    first.exposure.slots[1].variant_id = "a"
    second = varied(exposure("r2", START_MS + 1_000, [2, 3]), random.Random(1))
    second.exposure.slots[0].variant_id = "b"
    log = [
        Logged(first, START_MS),
        Logged(second, START_MS + 1_000),
        Logged(action("c1", "click", START_MS + 2_000, 2, request_id="r1"), START_MS + 2_000),
        Logged(None, START_MS + WINDOW_MS + 2_000),
    ]
    world = play(log)
    ((_, arms),) = counts(world).items()
    shown = quantise(1 / math.log2(3))
    assert arms == {
        **{id_hash(arm): (shown, 1.0) for arm in ("a", "a\x1ftv", "a\x1ftv\x1ehome")},
        **{id_hash(arm): (1.0, 0.0) for arm in ("b", "b\x1f\x1ehome")},
    }
    rows = {(row.request_id, row.item_id): row for row in world.examples()}
    assert (rows["r1", "i2"].variant_id, rows["r1", "i2"].variant_propensity) == ("a", 0.5)
    assert rows["r1", "i1"].variant_id == ""
    assert rows["r1", "i2"].outcomes["click"] == 1.0
    assert differences(world, log, log[-1].append_ts_ms) == []  # nothing else has moved


@pytest.mark.parametrize("seed", range(8))
def test_BAN_11_counts_equal_a_recount_in_any_order_and_through_crashes(seed: int) -> None:
    rng = random.Random(seed)
    events, expected = [], defaultdict(lambda: [0.0, 0.0])
    for at in range(30):
        ts_ms = START_MS + at * 20_000
        items = rng.sample(range(1, 9), 5)
        event = varied(exposure(f"r{at}", ts_ms, items, drawn=rng.random() < 0.8), rng, rng.choice(["", "tv"]))
        events.append(event)
        for place, slot in enumerate(event.exposure.slots, start=1):
            clicked = rng.random() < 0.3
            if clicked:
                kind, item = "click", int(slot.item_id[1:])
                events.append(action(f"c{at}-{place}", kind, ts_ms + 1_000 + place, item, request_id=f"r{at}"))
            if slot.variant_id and event.exposure.drawn:
                for arm in arms_of(slot.variant_id, event.context.device, event.surface):
                    sums = expected[slot.item_id, id_hash(arm)]
                    sums[0] += quantise(1 / math.log2(1 + place))
                    sums[1] += clicked
    shuffled = [*events, *rng.sample(events, 10)]  # some arrive twice
    rng.shuffle(shuffled)
    arrived_ms = START_MS + 20 * MINUTE_MS
    log = [Logged(event, arrived_ms + at) for at, event in enumerate(shuffled)]
    world = play([*log, Logged(None, arrived_ms + 2 * WINDOW_MS)], crash_rate=0.2, seed=seed)
    found = {(item[-2:], arm): list(sums) for item, arms in counts(world).items() for arm, sums in arms.items()}
    assert found == dict(expected)
    assert all(event.type in (EventType.EVENT_TYPE_EXPOSURE, EventType.EVENT_TYPE_CLICK) for event in events)
