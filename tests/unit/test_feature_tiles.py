"""Tiles: bounds, pages, late rows, distinct values, categories, and STR-1 on 100,000 events."""

from __future__ import annotations

import math

import numpy as np
import pytest

from features import tiles
from features.category_tiles import MAX_CATEGORIES, category_windows
from features.columns import COLUMNS, NUMERIC, event_columns, quantise, row_of, text_hash
from features.errors import RowFormatError
from features.layout import PAGE_BYTES
from features.program import Aggregate, ViewProgram
from features.tiles import MAX_DISTINCT
from liverank.v1.event_pb2 import Event, EventType

T0 = 1_760_000_000_000
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


def total(name: str, column: str, window_ms: int, slide_ms: int) -> Aggregate:
    return Aggregate(name=name, column=column, function="sum", window_ms=window_ms, slide_ms=slide_ms)


CLICKS = ViewProgram(
    name="activity",
    entity="user",
    aggregates=(
        total("clicks_1h", "click", HOUR, 10 * MINUTE),
        total("clicks_1d", "click", DAY, HOUR),
        total("clicks_7d", "click", 7 * DAY, DAY),
        total("clicks_30d", "click", 30 * DAY, DAY),
        total("dwell_7d", "dwell_s", 7 * DAY, DAY),
    ),
)


def test_STR_1_equals_batch_computation_on_100k_events() -> None:
    rng = np.random.default_rng(7)
    n, n_users = 100_000, 40
    users = rng.integers(0, n_users, n)
    ts = T0 - rng.integers(0, 40 * DAY, n)
    clicked = rng.random(n) < 0.5
    dwell = np.round(rng.exponential(30, n), 3)
    click, view = (
        event_columns(Event(type=EventType.EVENT_TYPE_CLICK), ""),
        [event_columns(Event(type=EventType.EVENT_TYPE_DWELL, value=value), "") for value in dwell.tolist()],
    )
    states = [tiles.new(CLICKS) for _ in range(n_users)]
    for user, ts_ms, is_click, row in zip(users.tolist(), ts.tolist(), clicked.tolist(), view, strict=True):
        states[user].add(ts_ms, click if is_click else row)
    fields = [state.dirty() for state in states]
    for as_of_ms in (T0, T0 + 7 * MINUTE, T0 + 5 * HOUR, T0 + 9 * DAY):  # later ones without a new event
        for user in range(n_users):
            own = users == user
            expected = []
            for aggregate in CLICKS.aggregates:
                start = as_of_ms // aggregate.slide_ms * aggregate.slide_ms - aggregate.window_ms
                inside = own & (ts >= start) & (ts <= as_of_ms)
                values = clicked if aggregate.column == "click" else np.where(clicked, 0.0, dwell)
                expected.append(values[inside].sum())
            np.testing.assert_allclose(tiles.windows(CLICKS, fields[user], as_of_ms), expected, rtol=1e-6)


def test_pages_are_bounded_and_only_changed_ones_are_written() -> None:
    state = tiles.new(CLICKS)
    row = row_of(one=1, click=1, dwell_s=3.5)
    for minute in range(0, 40 * 24 * 60, 7):
        state.add(T0 + minute * MINUTE, row)
    pages = state.dirty()
    assert set(pages) == set(CLICKS.page_fields)
    assert max(map(len, pages.values())) <= PAGE_BYTES
    assert state.dirty() == {}
    state.add(T0 + 40 * DAY, row)
    assert len(state.dirty()) == len(CLICKS.layout.rings)


def test_a_ring_of_192_tiles_lies_on_bounded_pages() -> None:
    many = tuple(
        Aggregate(name=f"a{at}", column=column, function="sum", window_ms=192 * 5 * MINUTE, slide_ms=5 * MINUTE)
        for at, column in enumerate(NUMERIC)
    )
    view = ViewProgram(name="v", entity="user", aggregates=many)
    state = tiles.new(view)
    for tile in range(193):
        state.add(T0 + tile * 5 * MINUTE, (1.0,) * len(NUMERIC))
    pages = state.dirty()
    assert len(pages) == view.layout.n_pages
    assert max(map(len, pages.values())) <= PAGE_BYTES
    assert (tiles.windows(view, pages, T0 + 192 * 5 * MINUTE) == 193).all()


def test_rows_that_add_nothing_store_nothing() -> None:
    state = tiles.new(CLICKS)
    state.add(T0, row_of(one=1, impression=1))
    assert state.dirty() == {}
    assert state.pages() == [b""] * CLICKS.layout.n_pages


def test_rows_older_than_the_ring_change_nothing() -> None:
    state = tiles.new(CLICKS)
    row = row_of(click=1)
    state.add(T0, row)
    before = state.dirty()
    state.add(T0 - 62 * DAY // 31 * 31, row)
    changed = state.dirty()
    as_of = T0 + 1
    np.testing.assert_array_equal(tiles.windows(CLICKS, before | changed, as_of), tiles.windows(CLICKS, before, as_of))


def test_a_page_of_another_version_is_refused() -> None:
    name = CLICKS.page_fields[0]
    with pytest.raises(RowFormatError, match="version 9"):
        tiles.windows(CLICKS, {name: b"\x09" + bytes(16)}, T0)
    with pytest.raises(RowFormatError, match="whole float64"):
        tiles.load(CLICKS, {name: b"\x01" + bytes(5)}).add(T0, row_of(click=1))


def test_distinct_values_are_exact_to_512_then_the_newest() -> None:
    view = ViewProgram(
        name="v",
        entity="user",
        aggregates=(
            Aggregate(name="items_30d", column="item_id", function="count_distinct", window_ms=30 * DAY, slide_ms=DAY),
        ),
    )
    at = COLUMNS.index("item_id")

    def row(item: int) -> list[float]:
        values = [math.nan] * len(COLUMNS)
        values[at] = text_hash(f"i{item}")
        return values

    state = tiles.new(view)
    for item in range(MAX_DISTINCT):
        state.add(T0 + item * HOUR, row(item))
        state.add(T0 + item * HOUR, row(item // 2))
    as_of_ms = T0 + MAX_DISTINCT * HOUR
    fields = state.dirty()
    assert tiles.windows(view, fields, as_of_ms)[0] == MAX_DISTINCT
    assert max(map(len, fields.values())) <= PAGE_BYTES
    for item in range(1000, 1100):
        state.add(as_of_ms, row(item))
    fields |= state.dirty()
    assert tiles.windows(view, fields, as_of_ms)[0] == MAX_DISTINCT
    flagged = np.frombuffer(fields[view.page_fields[0]], dtype="<f8", offset=1).reshape(-1, 2)
    assert flagged[0, 1] == -1.0  # something was dropped, and the newest tile of it
    reverse = tiles.new(view)
    for item in range(1099, 999, -1):
        reverse.add(as_of_ms, row(item))
    for item in reversed(range(MAX_DISTINCT)):
        reverse.add(T0 + item * HOUR, row(item // 2))
        reverse.add(T0 + item * HOUR, row(item))
    assert reverse.dirty() == {name: page for name, page in fields.items() if page}


def test_more_categories_than_a_page_holds_are_cut_and_flagged() -> None:
    view = ViewProgram(name="v", entity="user_category", aggregates=(total("clicks_7d", "click", 7 * DAY, DAY),))
    names = [f"c{at}" for at in range(400)]
    orders = [names, names[::-1], sorted(names)]
    results = []
    for order in orders:
        state = tiles.new(view)
        for name in order:
            state.add(T0, row_of(click=1), 1.0, name)
        results.append(category_windows(view, state.dirty(), T0))
    categories, values = results[0]
    assert len(categories) == 8 * MAX_CATEGORIES
    assert (values == 1).all()
    for other, _ in results[1:]:
        np.testing.assert_array_equal(other, categories)


def test_rows_without_a_category_do_not_enter_category_views() -> None:
    view = ViewProgram(name="v", entity="user_category", aggregates=(total("clicks_7d", "click", 7 * DAY, DAY),))
    state = tiles.new(view)
    state.add(T0, row_of(click=1))
    assert state.dirty() == {}


@pytest.mark.parametrize(
    ("kind", "value", "set_columns"),
    [
        ("CLICK", 0.0, {"click", "positive"}),
        ("DWELL", 60.0, {"dwell_s", "positive", "value"}),
        ("DWELL", 1.0, {"dwell_s", "negative", "short_dwell", "value"}),
        ("RATING", 9.0, {"rating", "positive", "value"}),
        ("RATING", 2.0, {"rating", "negative", "value"}),
        ("SKIP", 0.0, {"skip", "negative"}),
        ("DISMISS", 0.0, {"dismiss", "negative"}),
        ("THUMBS_DOWN", 0.0, {"thumbs_down", "negative"}),
        ("NOT_INTERESTED", 0.0, {"not_interested", "negative"}),
        ("ABANDON", 0.0, {"abandonment", "negative"}),
        ("IMPRESSION", 0.0, {"impression"}),
        ("SEARCH", 0.0, set()),
    ],
)
def test_columns_of_an_event(kind: str, value: float, set_columns: set[str]) -> None:
    event = Event(type=EventType.Value(f"EVENT_TYPE_{kind}"), value=value)
    row = dict(zip(NUMERIC, event_columns(event, ""), strict=True))
    assert {name for name, x in row.items() if x and x == x} == set_columns | {"one"}
    assert all(math.isnan(row[name]) for name in {"dwell_s", "rating", "expected"} - set_columns)


def test_text_columns_are_hashes_and_null_where_empty() -> None:
    event = Event(type=EventType.EVENT_TYPE_CLICK, item_id="i1", surface="home")
    row = dict(zip(COLUMNS, event_columns(event, "jazz", text=True), strict=True))
    assert row["item_id"] == text_hash("i1") == float(int(text_hash("i1")))
    assert row["category"] == text_hash("jazz")
    assert math.isnan(row["user_id"])


def test_values_are_quantised_so_that_sums_are_exact() -> None:
    values = [quantise(x) for x in np.random.default_rng(1).exponential(50, 2000).tolist()]
    assert sum(values) == sum(sorted(values)) == math.fsum(values)
    assert quantise(19.99) == pytest.approx(19.99, abs=5e-7)
