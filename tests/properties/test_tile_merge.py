"""Tiles that were counted in two halves and merged are, byte for byte, those of one state that saw everything."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_feature_windows import DAY, EVENTS, HOUR, T0, Event, aggregates, state_of, stored

from features.columns import row_of, text_hash
from features.errors import RowFormatError
from features.program import FUNCTIONS, Aggregate, ViewProgram
from features.tile_merge import merge_fields


def check(view: ViewProgram, first: list[Event], second: list[Event]) -> None:
    whole = stored(state_of(view, [*first, *second]))
    ours, theirs = stored(state_of(view, first)), stored(state_of(view, second))
    for one, other in ((ours, theirs), (theirs, ours)):
        changed = merge_fields(view, one, other)
        assert stored({**one, **changed}) == whole
        assert all(one.get(name, b"") != page for name, page in changed.items())


@given(aggregates(FUNCTIONS), EVENTS, EVENTS)
@settings(max_examples=150, deadline=None)
def test_merged_pages_equal_those_of_one_state(
    of: tuple[Aggregate, ...], first: list[Event], second: list[Event]
) -> None:
    check(ViewProgram(name="v", entity="user", aggregates=of), first, second)


@given(aggregates(["sum", "count", "mean", "min", "max"]), EVENTS, EVENTS, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_merged_category_pages_equal_those_of_one_state(
    of: tuple[Aggregate, ...], first: list[Event], second: list[Event], random: Any
) -> None:
    view = ViewProgram(name="v", entity="user_category", aggregates=of)
    check(view, first, second)
    many = [(ts_ms, row, f"c{random.randrange(300)}") for ts_ms, row, _ in [*first, *second] * 8]
    check(view, many[::3], [event for at, event in enumerate(many) if at % 3])


def test_merged_distinct_values_beyond_the_bound_are_flagged_alike() -> None:
    of = Aggregate(name="n", column="item_id", function="count_distinct", window_ms=2 * DAY, slide_ms=HOUR)
    view = ViewProgram(name="v", entity="user", aggregates=(of,))
    empty = [math.nan] * 3
    events: list[Event] = [
        (T0 - at * 40_000, (*row_of(one=1), *empty, text_hash(f"i{at % 700}"), math.nan, math.nan), "")
        for at in range(1500)
    ]
    check(view, events[::2], events[1::2])
    check(view, events[:500], events[500:])
    check(view, events[1200:], events[:1200])


def test_a_page_of_another_build_is_refused() -> None:
    of = Aggregate(name="n", column="one", function="sum", window_ms=DAY, slide_ms=HOUR)
    view = ViewProgram(name="v", entity="user", aggregates=(of,))
    with pytest.raises(RowFormatError):
        merge_fields(view, {}, {view.page_fields[0]: b"\x02" + bytes(16)})
    assert merge_fields(view, {}, {b"other:field": b"x"}) == {}
