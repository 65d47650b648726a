"""The parts of state in machine code do what their Python twins do: same answers, same bytes, after any stop."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from features import native
from features.category_tiles import CategoryTiles
from features.columns import numeric_columns, text_hash
from features.errors import RowFormatError, StateFormatError
from features.hashing import item_hash
from features.program import Aggregate, ViewProgram
from features.state.dedup import Dedup, Verdict
from features.state.exposures import Exposures
from features.state.history import Entry, History
from features.state.neighbours import Neighbours
from features.state.older import OLDER_FIELDS
from features.state.pairs import Good, Pairs
from features.state.params import RewardWeights, StateParams
from features.state.seen import Seen
from features.state.session import Sessions, Shown
from features.state.surfaces import SurfaceCounts
from features.state.trend import Trend
from features.tiles import RingTiles, load
from liverank.v1.event_pb2 import Event, EventType
from liverank.v1.stream_pb2 import Example

core = native.core
pytestmark = pytest.mark.skipif(
    core is None and os.environ.get("CI") != "true", reason=f"no native state: {native.why_not}"
)

T0 = 1_700_000_000_000
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
FIELDS = ("request_id", "shown_ms", "append_ts_ms", "surface", "user_id", "session_id", "head_bits")
REWARDS = RewardWeights().in_order


class Twins:
    """A Python part and its twin, stopped and loaded again now and then."""

    def __init__(self, ours: Callable[[Mapping[bytes, bytes]], Any], theirs: Callable[[Mapping[bytes, bytes]], Any]):
        self.makers = (ours, theirs)
        self.fields: dict[bytes, bytes] = {}
        self.parts = [make({}) for make in self.makers]

    def ask(self, name: str, *args: Any) -> list[Any]:
        """What both answer to a method, or hold as a property."""
        found = [getattr(part, name) for part in self.parts]
        return [each(*args) if callable(each) else each for each in found]

    def both(self, name: str, *args: Any) -> Any:
        """The one answer of both."""
        ours, theirs = map(plain, self.ask(name, *args))
        assert ours == theirs
        return ours

    def stop(self, rng: random.Random) -> None:
        """Compare what changed; sometimes load both anew from it."""
        ours, theirs = (part.dirty() for part in self.parts)
        assert ours == theirs
        for name, page in ours.items():
            if page:
                self.fields[name] = page
            else:
                self.fields.pop(name, None)
        if rng.random() < 0.3:
            self.parts = [make(dict(self.fields)) for make in self.makers]


def plain(value: Any) -> Any:
    """Answers without objects of either twin in them."""
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if hasattr(value, "request_id") and hasattr(value, "features"):
        held = [plain(getattr(value, name)) for name in FIELDS]
        return [*held, value.features().tolist(), value.expected().tolist(), value.event.SerializeToString()]
    return value


def item(rng: random.Random, n: int = 60) -> str:
    return f"item-{int(n * rng.random() ** 2)}"


VIEWS = {
    "rings": ("sum", "count", "mean", "min", "max", "count_distinct"),
    "sums": ("sum",),
}


def view(entity: Any, functions: tuple[str, ...]) -> ViewProgram:
    aggregates = tuple(
        Aggregate(
            name=f"{function}_{column}_{window}",
            column=column if function != "count_distinct" else "item_id",
            function=function,  # type: ignore[arg-type]
            window_ms=window,
            slide_ms=slide,
        )
        for window, slide in ((HOUR, 10 * MINUTE), (DAY, HOUR), (7 * DAY, DAY))
        for column in ("click", "dwell_s", "value")
        for function in functions
        if not (function == "count_distinct" and column != "click")
    )
    return ViewProgram(name="v", entity=entity, aggregates=aggregates)


def rows(rng: random.Random, n_items: int) -> tuple[int, tuple[float, ...], str]:
    kind, name = rng.choice([1, 2, 2, 3, 6, 10, 53]), item(rng, n_items)
    value, expected = rng.choice([0.0, 3.3, -0.0, 45.7]), rng.choice([None, 0.63])
    row = numeric_columns(kind, value, expected)
    assert np.array_equal(core.event_row(kind, value, expected), row, equal_nan=True)
    return kind, (*row, 1.0, 2.0, 3.0, text_hash(name), 5.0, 6.0), f"category-{int(60 * rng.random() ** 2)}"


@pytest.mark.parametrize("functions", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("seed", range(4))
def test_ring_tiles(functions: tuple[str, ...], seed: int) -> None:
    rng, one = random.Random(seed), view("user", functions)
    twins = Twins(lambda fields: RingTiles(one, fields), lambda fields: load(one, fields))
    assert type(twins.parts[1]) is core.RingTiles
    now = T0
    for _ in range(1500):
        now += rng.randrange(20 * MINUTE)
        _, row, _ = rows(rng, 900)
        ts_ms = now - int(9 * DAY * rng.random() ** 6)
        sign = rng.choice([1.0, 1.0, 1.0, -1.0])
        twins.both("add", ts_ms, row, sign, "c")
        if rng.random() < 0.1:
            twins.both("pages")
            twins.stop(rng)
    twins.stop(rng)


@pytest.mark.parametrize("seed", range(6))
def test_category_tiles(seed: int) -> None:
    rng, one = random.Random(seed), view("user_category", ("sum", "count", "min"))
    twins = Twins(lambda fields: CategoryTiles(one, fields), lambda fields: load(one, fields))
    assert type(twins.parts[1]) is core.CategoryTiles
    now = T0
    for _ in range(1500):
        now += rng.randrange([2, 20][seed % 2] * MINUTE)
        _, row, category = rows(rng, 900)
        if seed > 3:
            category = f"category-{rng.randrange(400)}"
        ts_ms = now - int(9 * DAY * rng.random() ** 6)
        sign = rng.choice([1.0, 1.0, 1.0, -1.0, 700.0 if seed == 3 else 1.0, 70_000.0 if seed == 2 else 1.0])
        name = rng.choice([category, category, category, ""])
        twins.both("add", ts_ms, row, sign, name)
        if rng.random() < 0.1:
            twins.both("pages")
            twins.stop(rng)
    twins.stop(rng)


@pytest.mark.parametrize(("seed", "gap_ms"), [(0, 60_000), (1, 3_000), (2, 900), (3, 50), (4, 700)])
def test_dedup(seed: int, gap_ms: int) -> None:
    rng = random.Random(seed)
    twins = Twins(Dedup, core.Dedup)
    clock, ids = T0, []
    for at in range(3000 if gap_ms > 50 else 12_000):
        clock += rng.randrange(2 * gap_ms)
        number = rng.choice(ids[-900:]) if ids and rng.random() < 0.2 else rng.getrandbits(63) - (1 << 62)
        ids.append(number)
        ts_ms = clock - int(8 * DAY * rng.random() ** 8)
        if twins.both("judge", number, ts_ms, clock) is Verdict.NEW:
            twins.both("add", number, ts_ms, clock)
        twins.both("bound_ms")
        twins.both("is_bot", clock)
        twins.both("__len__")
        if at % 97 == 0:
            twins.stop(rng)
    twins.stop(rng)


@pytest.mark.parametrize("seed", range(4))
def test_history(seed: int) -> None:
    rng = random.Random(seed)
    twins = Twins(History, core.History)
    windows = (7 * DAY, 30 * DAY, 180 * DAY)
    now, start = T0, T0
    pace = (2 * HOUR, 2 * HOUR, 12 * HOUR, 2 * MINUTE)[seed]  # 12 h: weeks leave; 2 min: weeks are full
    for _ in range(1500):
        now += rng.randrange(pace)
        if rng.random() < 0.1:
            start = now - rng.randrange(DAY)
        entry = Entry(
            now - int((400 if seed == 2 else 40) * DAY * rng.random() ** 6), item_hash(item(rng)),
            rng.choice([2, 3, 10]), rng.choice([-32, 16, 16, 8]), rng.randrange(-1, 100), rng.randrange(4),
        )  # fmt: skip
        twins.both("add", entry)
        twins.both("__len__")
        twins.both("next_leaving_ms", now - DAY, windows, MINUTE)
        if rng.random() < 0.7:
            twins.both("intent", start)
        if rng.random() < 0.1:
            twins.stop(rng)
    twins.stop(rng)


@pytest.mark.parametrize("seed", range(3))
def test_seen(seed: int) -> None:
    rng = random.Random(seed)
    twins = Twins(Seen, core.Seen)
    for _ in range(9000):
        hashed, ts_ms = item_hash(item(rng, 4000)), T0 + rng.randrange(DAY)
        what = rng.random()
        if what < 0.4:
            twins.both("mark", hashed, ts_ms)
        elif what < 0.5:
            twins.both("unmark", hashed, ts_ms)
        else:
            twins.both("act", hashed, rng.randrange(1, 4), ts_ms)
        if rng.random() < 0.02:
            twins.stop(rng)
    twins.stop(rng)


@pytest.mark.parametrize("seed", range(8))
def test_sessions(seed: int) -> None:
    rng, timeout = random.Random(seed), 30 * MINUTE
    twins = Twins(lambda fields: Sessions(fields, timeout), lambda fields: core.Sessions(fields, timeout))
    clock = T0
    windows = (7 * DAY, 30 * DAY, 180 * DAY)
    for _ in range(1200):
        clock += rng.randrange([5, 60, 600][seed % 3] * MINUTE)
        ts_ms = clock - int(8 * DAY * rng.random() ** 5)
        shown = (
            Shown(ts_ms, (item(rng) + "é").ljust(100 if seed > 5 else 1, "é"), clock) if rng.random() < 0.4 else None
        )
        polarity = rng.choice([-1, 0, 0, 0, 1]) if shown is None else 0
        changes = twins.both("add", ts_ms, clock, polarity, polarity > 0, rng.random() < 0.05, shown)
        due = twins.both("due_ms")
        if due is not None and due <= clock:
            changes += twins.both("on_due", clock)
        for sign, (ts, name, _) in changes:
            entry = Entry(ts, item_hash(name), 53, -4, 1, 1) if rng.random() < 0.9 else None
            twins.both("derive", sign, entry)
        twins.both("start_ms")
        twins.both("next_leaving_ms", clock - DAY, windows, MINUTE)
        if rng.random() < 0.3:
            twins.both("set_intent", rng.randrange(1 << 32), rng.random())
        if rng.random() < 0.1:
            twins.stop(rng)
    twins.stop(rng)


@pytest.mark.parametrize("seed", range(4))
def test_pairs(seed: int) -> None:
    rng = random.Random(seed)
    args = ([5, 5, 1, 0][seed], 7 * DAY)
    twins = Twins(lambda fields: Pairs(fields, *args), lambda fields: core.Pairs(fields, *args))
    now = T0
    for _ in range(2000):
        now += rng.randrange(HOUR)
        name = (item(rng) + "ü").ljust(60 if seed == 1 else 1, "ü")
        good = Good(now - int(3 * DAY * rng.random() ** 5), name, item_hash(name))
        twins.both("add", good)
        twins.both("__len__")
        if rng.random() < 0.01:
            twins.both("forget", now - 2 * DAY)
        if rng.random() < 0.1:
            twins.stop(rng)
    twins.stop(rng)


def exposure(rng: random.Random, request: str, ts_ms: int) -> Event:
    event = Event(
        event_id=request,
        type=EventType.EVENT_TYPE_EXPOSURE,
        user_id="u",
        session_id="s",
        event_ts_ms=ts_ms,
        surface="h",
    )
    slate = event.exposure
    slate.policy, slate.arm, slate.base_model, slate.schema = "thompson", "a", "m", "s"
    slate.drawn = rng.random() < 0.8
    heads = rng.choice([["click", "dismiss"], ["click", "dwell", "purchase", "other"], []])
    slate.heads.extend(heads)
    for _ in range(rng.randrange(1, 12)):
        slate.slots.add(
            item_id=item(rng), catalogue_version=rng.randrange(-1, 9), propensity=0.1 + 0.9 * rng.random(),
            pinned=rng.random() < 0.3, p_shown=[rng.random() for _ in heads], p_first=[rng.random() for _ in heads],
            phi=[rng.random() for _ in range(4)] if heads else [], variant_id=rng.choice(["", "", "a", "art-2"]),
            variant_propensity=rng.choice([0.0, 0.5]),
        )  # fmt: skip
    return event


@pytest.mark.parametrize("seed", range(10))
def test_exposures(seed: int) -> None:
    rng = random.Random(seed)
    params = StateParams(max_exposures=[4, 32][seed % 2])
    args = (params.attribution_window_ms, params.late_outcome_ms, params.max_exposures)
    twins = Twins(lambda fields: Exposures(fields, params), lambda fields: core.Exposures(fields, *args))
    clock, requests = T0, ["r-none"]
    rewards = RewardWeights().in_order

    def settle(name: str, *args: Any) -> None:
        answers = twins.ask(name, *args)
        assert plain(answers[0]) == plain(answers[1])
        assert [type(each) for each in answers[0]] == [type(each) for each in answers[1]]
        for ours, theirs in zip(*answers, strict=True):
            if type(ours).__name__ == "RowDue":
                slot, correction = ours.slot, ours.correction
                mine, other = (each.exposure.example(slot, "u", clock, correction, rewards) for each in (ours, theirs))
                assert Example.FromString(mine) == Example.FromString(other)
            elif type(ours).__name__ == "SeenMoved":
                assert ours.exposure.item_of(ours.slot) == theirs.exposure.item_of(ours.slot)

    for at in range(800):
        clock += rng.randrange([1, 4][seed % 2] * MINUTE)
        ts_ms = clock - int(2 * HOUR * rng.random() ** 5)
        due = twins.both("due_ms")
        if due is not None and due <= clock:
            settle("on_due", clock)
        settle("forget", clock)
        if rng.random() < 0.25:
            request = f"r-{at}"
            requests.append(request)
            event = exposure(rng, request, ts_ms)
            counts = bool(event.exposure.drawn and event.exposure.heads)
            settle("add_exposure", event.SerializeToString(), clock, clock, counts)
            twins.both("get", request)
        else:
            request = rng.choice(["", rng.choice(requests[-6:]), f"r-{at + rng.randrange(3)}"])
            bits = rng.choice([64, 33, 34, 36, 40, 48, 32])
            name = item(rng).ljust(120 if seed > 7 else 1)
            settle("add_outcome", name, ts_ms, bits, request, rng.randrange(12))
        if seed > 5 and rng.random() < 0.3:
            settle("shrink", rng.randrange(400, 6000))
        twins.both("__len__")
        if rng.random() < 0.1:
            twins.stop(rng)
    twins.stop(rng)


def test_pages_that_cannot_be_read_are_refused_alike() -> None:
    with pytest.raises(StateFormatError, match="liverank rebuild"):
        core.History({b"user_history:page_0": b"\x02" + bytes(24)})
    for name in OLDER_FIELDS:
        fields = {name: b"\x02" + bytes(16)}
        for kind in (History, core.History):
            with pytest.raises(StateFormatError, match=name.decode()):
                kind(fields)
    with pytest.raises(StateFormatError, match="version 1 and 3 bytes"):
        core.Dedup({b"_d0": b"\x01abc"})
    for page in (b"\x02abc", b"\x02" + bytes(14) + b"abc", b"\x02" + bytes(12) + b"\x09\x00" + bytes(16)):
        for kind in (Dedup, core.Dedup):
            with pytest.raises(StateFormatError, match="liverank rebuild"):
                kind({b"_d0": page})
    with pytest.raises(StateFormatError, match="version 1 and 3 bytes"):
        core.Sessions({b"_sc": b"\x01abc"}, 1)
    with pytest.raises(StateFormatError, match="sessions cannot be read"):
        core.Sessions({b"_sc": b"\x02abc"}, 1)
    with pytest.raises(StateFormatError, match="no page _j3"):
        core.Exposures({b"_x3": b"\x01" + bytes(8)}, 1, 1, 32)
    with pytest.raises(StateFormatError, match="outcomes cannot be read"):
        core.Exposures({b"_o0": b"\x01abc"}, 1, 1, 32)
    one = view("user", ("sum",))
    broken = {name: b"\x07" + bytes(8) for name in one.page_fields}
    with pytest.raises(RowFormatError):
        load(one, broken).add(T0, numeric_columns(2, 0.0, None))


@pytest.mark.parametrize("seed", range(3))
def test_trend(seed: int) -> None:
    rng = random.Random(seed)
    twins = Twins(Trend, core.Trend)
    now = T0
    for _ in range(1500):
        now += rng.randrange([HOUR, 90 * DAY][seed % 2])
        twins.both(
            "add", now - int(9 * DAY * rng.random() ** 6), *(rng.choice([0.0, 1.0, -1.0, 0.37]) for _ in range(4))
        )
        if rng.random() < 0.1:
            twins.stop(rng)
    twins.stop(rng)


@pytest.mark.parametrize("seed", range(3))
def test_BAN_1_counts_per_surface(seed: int) -> None:
    rng = random.Random(seed)
    twins = Twins(SurfaceCounts, core.SurfaceCounts)
    now = T0
    for _ in range(800):
        now += rng.randrange([HOUR, 900 * DAY][seed % 2])  # beyond what a float64 holds, too
        surface = rng.choice(["", f"s{rng.randrange([5, 40][seed % 2])}"])
        twins.both("add", surface, now - int(9 * DAY * rng.random() ** 6), rng.choice([0.0, 0.63, -0.63]), 1.0)
        if rng.random() < 0.1:
            twins.stop(rng)
    twins.stop(rng)


@pytest.mark.parametrize("seed", range(4))
def test_neighbours(seed: int) -> None:
    rng = random.Random(seed)
    twins = Twins(Neighbours, core.Neighbours)
    now = T0
    for _ in range(1500):
        now += rng.randrange(DAY)
        others = [item_hash(item(rng, [300, 3000][seed % 2])) for _ in range(rng.randrange(6))]
        weights = [rng.choice([1.0, -1.0, 1.0, 1.0]) * rng.random() for _ in others]
        twins.both("add", others, weights, now - int(9 * DAY * rng.random() ** 6))
        twins.both("__len__")
        if rng.random() < 0.1:
            twins.stop(rng)
    twins.stop(rng)
