"""One event on a user, one record of effects on items: machine code does what its Python twin does."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from features import native
from features.hashing import id_hash
from features.item_version import CatalogueItem
from features.state.effects import PySink, item_event, item_pairs, joined, read_effects
from features.state.item import ItemState
from features.state.params import SignalWeights, StateParams
from features.state.user import UserState
from liverank.errors import ContractError
from liverank.partition import partition
from liverank.v1.event_pb2 import Event, EventType
from liverank.v1.stream_pb2 import ItemEffect
from tests.recount.program import PROGRAM

core = native.core
pytestmark = pytest.mark.skipif(
    core is None and os.environ.get("CI") != "true", reason=f"no native state: {native.why_not}"
)
T0 = 1_700_000_000_000
MINUTE, HOUR = 60_000, 3_600_000
PARTITIONS = 3
PARAMS = StateParams(session_timeout_ms=20 * MINUTE, max_exposures=4, late_outcome_ms=30 * MINUTE)


class Heard:
    """Everything a user's state says, effects numbered in `sink`."""

    def __init__(self, sink: Any, *, fast: bool) -> None:
        self.effects = sink
        self.sink = sink if fast else None
        self.said: list[Any] = []

    def item(self, item_id: str, append_ts_ms: int) -> CatalogueItem | None:
        number = int(item_id.removeprefix("item-"))
        if number % 7 == 0:
            return None
        categories = () if number % 11 == 0 else (f"kind-{number % 5}",)
        return CatalogueItem(item_id, append_ts_ms // HOUR % 9, 0, categories, "", 0.0, True, 0)

    def item_event(
        self, item_id: str, kind: int, event_ts_ms: int, *, value: float = 0.0, sign: float = 1.0, surface: str = "",
        expected: float | None = None, position: int = 0,
    ) -> None:  # fmt: skip
        packed = item_event(item_id, kind, event_ts_ms, value, sign, surface, expected or 0.0, position)
        self.effects.effect(item_id, packed)

    def pairs(self, item_id: str, other_hashes: Sequence[int], weights: Sequence[float], event_ts_ms: int) -> None:
        self.effects.effect(item_id, item_pairs(item_id, other_hashes, weights, event_ts_ms))

    def example(self, row: bytes) -> None:
        self.effects.place += 1
        self.said.append(("example", self.effects.place, row))

    def shown(self, exposure: Any, phi: Any, residuals: Any, exposure_ts_ms: int) -> None:
        self.said.append(("shown", phi.tolist(), residuals.tolist(), exposure_ts_ms))

    def outcome(self, exposure: Any, slot: int, phi: Any, head: int, delta: float, exposure_ts_ms: int) -> None:
        self.said.append(("outcome", slot, phi.tolist(), head, delta, exposure_ts_ms))

    def user_changed(self, newest_event_ts_ms: int) -> None:
        self.said.append(("changed", newest_event_ts_ms))

    def transformation_failed(self, view: str, detail: str) -> None:
        raise AssertionError(view)

    def count(self, name: str) -> None:
        self.said.append(("count", name))


def exposure(rng: random.Random, event_id: str, ts_ms: int) -> Event:
    event = Event(event_id=event_id, type=EventType.EVENT_TYPE_EXPOSURE, user_id="u", event_ts_ms=ts_ms, surface="home")
    slate = event.exposure
    slate.policy, slate.drawn = "p", rng.random() < 0.8
    slate.heads.extend(["click", "dismiss", "purchase"])
    for number in rng.sample(range(40), 6):
        variant = f"v{number % 2}" if number % 3 == 0 else ""
        slate.slots.add(
            item_id=f"item-{number}", propensity=0.5, p_shown=[0.2, 0.1, 0.05], p_first=[0.1] * 3, phi=[0.5, -1.0],
            variant_id=variant,
        )  # fmt: skip
    return event


def event_of(rng: random.Random, now_ms: int, at: int, requests: list[str]) -> Event:
    ts_ms = now_ms - int(3 * HOUR * rng.random() ** 8)
    event_id = f"e{at if rng.random() < 0.95 else rng.randrange(at + 1)}"
    if rng.random() < 0.12:
        requests.append(event_id)
        return exposure(rng, event_id, ts_ms)
    kind = rng.choice([1, 1, 2, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14])
    value = {3: rng.choice([1.0, 12.0, 45.0]), 6: rng.choice([1.0, 5.0, 8.5]), 14: rng.random()}.get(kind, 0.0)
    no_item = kind in (8, 13, 14) and rng.random() < 0.7
    return Event(
        event_id=event_id, type=EventType.ValueType(kind), user_id="u", session_id="s", event_ts_ms=ts_ms, value=value,
        item_id="" if no_item else f"item-{rng.randrange(40)}", surface=rng.choice(["", "home", "köp"]),
        position=rng.choice([0, 0, 1, 3, 300]),
        request_id=rng.choice(requests[-3:]) if requests and rng.random() < 0.4 else "",
    )  # fmt: skip


def load(fields: Mapping[bytes, bytes], *, fast: bool) -> UserState:
    state = UserState("u", dict(fields), PROGRAM, PARAMS)
    assert state._transition is not None
    if not fast:
        state._transition = None
    return state


@pytest.mark.parametrize("seed", range(6))
def test_a_user_is_folded_alike(seed: int) -> None:
    rng = random.Random(seed)
    fields: dict[bytes, bytes] = {}
    sinks = core.Sink(PARTITIONS, partition), PySink(PARTITIONS, partition)
    heard = Heard(sinks[0], fast=True), Heard(sinks[1], fast=False)
    states = [load(fields, fast=each.sink is not None) for each in heard]
    now_ms, requests, n = T0, list[str](), 0
    for at in range(1200):
        now_ms += rng.randrange([2, 40][seed % 2] * MINUTE) if rng.random() < 0.4 else rng.randrange(3000)
        event = event_of(rng, now_ms, at, requests)
        results: list[Any] = []
        for state, each in zip(states, heard, strict=True):
            each.effects.offset, each.effects.place = at, 0
            while (due_ms := state.due_ms()) is not None and due_ms <= now_ms:
                state.on_due(due_ms, each)
            try:
                results.append(
                    state.observe(
                        event, append_ts_ms=now_ms, clock_ms=now_ms, emit=each, packed=event.SerializeToString()
                    )
                )
            except ContractError as error:
                results.append((error.reason, error.detail))
        assert results[0] == results[1]
        assert heard[0].said == heard[1].said
        assert states[0].newest_event_ts_ms == states[1].newest_event_ts_ms
        assert states[0].due_ms() == states[1].due_ms()
        if rng.random() < 0.2:
            changed = [state.dirty() for state in states]
            assert changed[0] == changed[1]
            fields |= changed[0]
            fields = {name: page for name, page in fields.items() if page}
            n += sum(map(len, sinks[0].effects.values()))
            assert sinks[0].effects == sinks[1].effects
            for sink, each in zip(sinks, heard, strict=True):
                sink.effects = {}
                each.said.clear()
            if rng.random() < 0.2:
                states = [load(fields, fast=each.sink is not None) for each in heard]
    assert n > 1000


class Partition:
    """States of items, as a partition keeps them."""

    def __init__(self) -> None:
        self.states: dict[str, ItemState] = {}
        self.clocks: list[tuple[int, int]] = []

    def state(self, key: str) -> ItemState:
        return self.states.setdefault(key, ItemState(key, {}, PROGRAM, SignalWeights()))

    def source_clock(self, source: int, clock_ms: int) -> None:
        self.clocks.append((source, clock_ms))


def effect_of(rng: random.Random) -> tuple[str, bytes]:
    name = rng.choice([f"item-{rng.randrange(9)}", "#odd", "\x01odd", "å"])
    ts_ms = T0 + rng.randrange(9 * HOUR)
    if rng.random() < 0.4:
        others = [id_hash(f"item-{rng.randrange(900)}") for _ in range(rng.randrange(1, 6))]
        return name, item_pairs(name, others, [rng.choice([1.0, 0.5, -0.5]) for _ in others], ts_ms)
    kind = rng.choice([1, 1, 2, 3, 4, 6, 10, 53, 54])
    value = {3: 40.0, 6: 8.0}.get(kind, 0.0)
    expected = 0.6 if kind in (1, 54) and rng.random() < 0.8 else 0.0
    return name, item_event(
        name, kind, ts_ms, value, rng.choice([1.0, 1.0, -1.0]), rng.choice(["", "v1", "v2"]), expected, 1
    )


@pytest.mark.parametrize("seed", range(4))
def test_items_are_folded_alike(seed: int) -> None:
    rng = random.Random(seed)
    fast, slow = Partition(), Partition()
    taken = (-1, -1, -1, -1)
    for offset in range(150):
        sink = PySink(1, partition)
        sink.offset = offset if rng.random() < 0.9 else offset // 2  # some records come again
        for _ in range(rng.randrange(1, 30)):
            sink.effect(*effect_of(rng))
        sink.number(0, ItemEffect(clock_ms=T0 + offset).SerializeToString())
        packed = joined(1, 2, sink.effects[0])
        batch = core.EffectBatch(packed)
        assert batch.simple
        assert (batch.generation, batch.source_partition) == (1, 2)
        keys: dict[str, None] = {}
        before = taken
        taken = batch.apply(fast, before)
        newest = before
        for number_offset, step, place, _, body in read_effects(packed).effects:
            number = (1, number_offset, step, place)
            fresh, newest = number > newest, max(newest, number)
            if isinstance(body, int):
                if fresh:
                    slow.source_clock(2, body)
                continue
            key = "\x01" + body.item_id if body.item_id[:1] in ("#", "\x01") else body.item_id
            keys[key] = None
            if not fresh:
                continue
            state = slow.state(key)
            state.transition = None
            if hasattr(body, "weights"):
                state.meet(body)
            else:
                state.observe(body)
        assert batch.keys == tuple(keys)
        assert taken == newest
        assert fast.clocks == slow.clocks
        assert fast.states.keys() == slow.states.keys()
        if offset % 5 == 0:
            for key, state in fast.states.items():
                assert state.dirty() == slow.states[key].dirty()
                assert state.newest_event_ts_ms == slow.states[key].newest_event_ts_ms


def test_a_batch_with_a_control_record_is_left_to_python() -> None:
    sink = PySink(1, partition)
    sink.number(0, ItemEffect(control={}).SerializeToString())  # type: ignore[arg-type]
    assert not core.EffectBatch(joined(1, 0, sink.effects[0])).simple
    with pytest.raises(ValueError, match="cannot be read"):
        core.EffectBatch(b"\xff\xff")


@pytest.mark.parametrize("n", [1, 5, 127, 128, 129, 200])
def test_texts_are_hashed_alike(n: int) -> None:
    state = core.Pairs({}, 2, 1000)
    text = "å" * (n // 2) + "x" * (n % 2)
    state.add((T0, text, id_hash(text)))
    again = core.Pairs(dict(state.dirty()), 2, 1000)
    other = again.add((T0 + 1, "other", id_hash("other")))
    assert [pairing[1] for pairing in other] == [[id_hash("other")], [id_hash(text)]]
