"""Tiles against a brute force in the words of the rule: at t a window W with slide s covers [floor(t/s)*s - W, t]."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import tiles
from features.category_tiles import category_windows
from features.columns import COLUMNS, row_of, text_hash
from features.item_rings import ItemRings
from features.program import FUNCTIONS, MAX_TILES, Aggregate, ViewProgram

T0 = 1_760_000_000_000
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
WINDOWS = [(HOUR, 10 * MINUTE), (HOUR, HOUR), (DAY, HOUR), (7 * DAY, DAY), (30 * DAY, DAY), (6 * HOUR, 5 * MINUTE)]
CATEGORIES = ["jazz", "folk", "rock", "ambient", "opera"]

Event = tuple[int, tuple[float, ...], str]


def brute_force(aggregate: Aggregate, events: Sequence[Event], as_of_ms: int) -> float:
    """The rule, word by word."""
    start = as_of_ms // aggregate.slide_ms * aggregate.slide_ms - aggregate.window_ms
    column = COLUMNS.index(aggregate.column)
    values = [row[column] for ts_ms, row, _ in events if start <= ts_ms <= as_of_ms and not math.isnan(row[column])]
    if aggregate.function == "count_distinct":
        return float(len(set(values)))
    if aggregate.function in ("sum", "count"):
        return float(len(values) if aggregate.function == "count" else math.fsum(values))
    if not values:
        return math.nan
    of: dict[str, Callable[[Any], float]] = {"mean": lambda v: math.fsum(v) / len(v), "min": min, "max": max}
    return of[aggregate.function](values)


def aggregates(functions: Sequence[str]) -> st.SearchStrategy[tuple[Aggregate, ...]]:
    one = st.tuples(
        st.sampled_from(functions), st.sampled_from(WINDOWS), st.sampled_from(["click", "dwell_s", "value", "item_id"])
    )
    return st.lists(one, min_size=1, max_size=6).map(
        lambda picked: tuple(
            Aggregate(
                name=f"a{at}",
                column=column if column != "item_id" or function == "count_distinct" else "dwell_s",
                function=function,
                window_ms=window,
                slide_ms=slide,
            )
            for at, (function, (window, slide), column) in enumerate(picked)
        )
    )


def event(data: tuple[int, int, float, int, int]) -> Event:
    age_ms, kind, value, item, category = data
    if kind == 0:
        row = row_of(one=1, click=1, value=value)
    elif kind == 1:
        row = row_of(one=1, dwell_s=value, value=value)
    else:
        row = row_of(one=1, value=value)
    text = [math.nan] * 3 + [text_hash(f"item-{item}")] + [math.nan] * 2
    return T0 - age_ms, (*row, *text), CATEGORIES[category]


EVENTS = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 2 * HOUR), st.integers(0, 45 * DAY)),
        st.integers(0, 2),
        st.floats(0, 1e4, width=32),
        st.integers(0, 9),
        st.integers(0, len(CATEGORIES) - 1),
    ).map(event),
    max_size=40,
)
LATER = st.one_of(st.just(0), st.integers(0, 2 * HOUR), st.integers(0, 40 * DAY))


def state_of(view: ViewProgram, events: Sequence[Event]) -> dict[bytes, bytes]:
    """Fields after these events, written in between now and then, as a fold does."""
    fields: dict[bytes, bytes] = {}
    state = tiles.new(view)
    for at, (ts_ms, row, category) in enumerate(events):
        if at % 7 == 3:  # a restart: what was written is read again
            fields |= state.dirty()
            state = tiles.load(view, dict(fields))
        state.add(ts_ms, row, 1.0, category)
    return fields | state.dirty()


def stored(fields: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Fields that are there: an empty one is deleted."""
    return {name: page for name, page in fields.items() if page}


def assert_equal(left: Sequence[float], right: Sequence[float]) -> None:
    np.testing.assert_allclose(np.asarray(left, float), np.asarray(right, float), rtol=1e-9, atol=1e-9)


@given(aggregates(FUNCTIONS), EVENTS, LATER)
@settings(max_examples=150, deadline=None)
def test_STR_1_windows_equal_brute_force_with_and_without_new_events(
    of: tuple[Aggregate, ...], events: list[Event], later_ms: int
) -> None:
    view = ViewProgram(name="v", entity="user", aggregates=of)
    fields = state_of(view, events)
    for as_of_ms in (T0, T0 + later_ms):
        expected = [brute_force(aggregate, events, as_of_ms) for aggregate in of]
        assert_equal(tiles.windows(view, fields, as_of_ms), expected)


@given(aggregates(FUNCTIONS), EVENTS, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_any_order_of_events_gives_the_same_bytes(of: tuple[Aggregate, ...], events: list[Event], random: Any) -> None:
    view = ViewProgram(name="v", entity="user", aggregates=of)
    shuffled = list(events)
    random.shuffle(shuffled)
    in_order = sorted(events, key=lambda e: e[0])
    assert stored(state_of(view, shuffled)) == stored(state_of(view, in_order))


@given(aggregates(["sum", "count", "mean"]), EVENTS, EVENTS, LATER)
@settings(max_examples=60, deadline=None)
def test_rows_taken_back_leave_sums_as_if_they_had_never_been(
    of: tuple[Aggregate, ...], events: list[Event], wrong: list[Event], later_ms: int
) -> None:
    view = ViewProgram(name="v", entity="user", aggregates=of)
    state = tiles.new(view)
    for ts_ms, row, _ in [*events, *wrong]:
        state.add(ts_ms, row)
    for ts_ms, row, _ in wrong:
        state.add(ts_ms, row, -1.0)
    expected = [brute_force(aggregate, events, T0 + later_ms) for aggregate in of]
    assert_equal(tiles.windows(view, state.dirty(), T0 + later_ms), expected)


@given(aggregates(["sum", "count", "mean", "min", "max"]), EVENTS, LATER, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_STR_1_category_windows_equal_brute_force_per_category(
    of: tuple[Aggregate, ...], events: list[Event], later_ms: int, random: Any
) -> None:
    view = ViewProgram(name="v", entity="user_category", aggregates=of)
    fields = state_of(view, events)
    categories, values = category_windows(view, fields, T0 + later_ms)
    found = dict(zip(categories.tolist(), values, strict=True))
    for category in CATEGORIES:
        own = [e for e in events if e[2] == category]
        expected = [brute_force(aggregate, own, T0 + later_ms) for aggregate in of]
        if text_hash(category) in found:
            assert_equal(found[text_hash(category)], expected)
        else:
            assert all(value == 0 or math.isnan(value) for value in expected)
    shuffled = list(events)
    random.shuffle(shuffled)
    assert stored(state_of(view, shuffled)) == stored(fields)
    many = [(ts_ms, row, f"c{at % 150}") for at, (ts_ms, row, _) in enumerate(events * 12)]  # more than a tile holds
    shuffled = list(many)
    random.shuffle(shuffled)
    assert stored(state_of(view, shuffled)) == stored(state_of(view, many))


@given(aggregates(FUNCTIONS), st.lists(EVENTS, min_size=1, max_size=4), LATER)
@settings(max_examples=100, deadline=None)
def test_STR_1_item_columns_equal_brute_force(
    of: tuple[Aggregate, ...], per_item: list[list[Event]], later_ms: int
) -> None:
    view = ViewProgram(name="v", entity="item", aggregates=of)
    rings = ItemRings([view], 1)
    rings.grow(len(per_item))
    rows = np.arange(len(per_item))
    for half in (0, 1):  # the second half arrives after a reading
        for row, events in enumerate(per_item):
            cut = events[: len(events) // 2] if half == 0 else events
            for field, page in state_of(view, cut).items():
                assert rings.set_pages(field.decode(), np.array([row]), [page])
        rings.windows(rows, T0)
    for as_of_ms in (T0, T0 + later_ms):
        expected = [[brute_force(a, events, as_of_ms) for a in of] for events in per_item]
        np.testing.assert_allclose(rings.windows(rows, as_of_ms), np.array(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n_tiles", [1, 2, 24, MAX_TILES])
def test_the_rule_holds_at_the_edges_of_tiles(n_tiles: int) -> None:
    slide = 5 * MINUTE
    of = Aggregate(name="n", column="one", function="sum", window_ms=n_tiles * slide, slide_ms=slide)
    view = ViewProgram(name="v", entity="user", aggregates=(of,))
    as_of_ms = T0 // slide * slide + 1234
    start = as_of_ms // slide * slide - of.window_ms
    events = [(ts, (*row_of(one=1), *[math.nan] * 6), "") for ts in (start - 1, start, start + 1, as_of_ms)]
    fields = state_of(view, events)
    assert tiles.windows(view, fields, as_of_ms)[0] == 3 == brute_force(of, events, as_of_ms)
