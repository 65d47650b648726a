"""Bytes of tile pages, as docs/specs/tiles.md fixes them."""

from __future__ import annotations

import struct

from features import tiles
from features.columns import COLUMNS, row_of, text_hash
from features.program import Aggregate, ViewProgram

DAY = 86_400_000
T0 = 20_000 * DAY + 5_000


def page(*rows: tuple[float, ...]) -> bytes:
    return b"\x01" + b"".join(struct.pack(f"<{len(row)}d", *row) for row in rows)


def aggregate(name: str, column: str, function: str, days: int) -> Aggregate:
    return Aggregate(name=name, column=column, function=function, window_ms=days * DAY, slide_ms=DAY)  # type: ignore[arg-type]


def test_names_of_pages() -> None:
    view = ViewProgram(name="v", entity="user", aggregates=(aggregate("n", "one", "sum", 192),))
    assert view.tile_definition == '["user",[[86400000,193,[[0,"one"]]]],[],""]'
    assert view.page_fields == tuple(f"v:v_{view.digest}_p{at:02d}".encode() for at in range(3))
    assert view.digest == "d5fd44"
    assert view.layout.rings[0].tiles_per_page == 65


def test_a_ring_page() -> None:
    view = ViewProgram(
        name="v",
        entity="user",
        aggregates=(
            aggregate("clicks", "click", "sum", 7),
            aggregate("n", "dwell_s", "count", 7),
            aggregate("least", "dwell_s", "min", 3),
            aggregate("most", "dwell_s", "max", 3),
            aggregate("usual", "dwell_s", "mean", 3),
        ),
    )
    assert [(op, COLUMNS[column]) for op, column in view.layout.rings[0].cells] == [
        (0, "click"),
        (0, "dwell_s"),
        (1, "dwell_s"),
        (2, "dwell_s"),
        (3, "dwell_s"),
    ]
    state = tiles.new(view)
    state.add(T0, row_of(dwell_s=2.5))
    state.add(T0, row_of(dwell_s=4.0))
    state.add(T0 - DAY, row_of(click=1, dwell_s=0.5))
    assert state.dirty() == {view.page_fields[0]: page((19_999, 1, 0.5, 1, 0.5, 0.5), (20_000, 0, 6.5, 2, 2.5, 4.0))}


def test_a_distinct_page() -> None:
    view = ViewProgram(name="v", entity="user", aggregates=(aggregate("items", "item_id", "count_distinct", 7),))
    at = COLUMNS.index("item_id")
    state = tiles.new(view)
    for name, age in (("a", 0), ("b", 1), ("a", 2)):
        row = [float("nan")] * len(COLUMNS)
        row[at] = text_hash(name)
        state.add(T0 - age * DAY, row)
    expected = {}
    for name, tile in (("a", 20_000), ("b", 19_999)):
        number = int(text_hash(name)) % 8
        expected[view.page_fields[number]] = page((tile, text_hash(name)))
    assert state.dirty() == expected


def test_a_category_page() -> None:
    view = ViewProgram(
        name="v",
        entity="user_category",
        aggregates=(
            aggregate("clicks_7d", "click", "sum", 7),
            Aggregate(name="clicks_1d", column="click", function="sum", window_ms=DAY, slide_ms=DAY // 12),
        ),
    )
    state = tiles.new(view)
    state.add(T0, row_of(click=1), 1.0, "jazz")
    number = int(text_hash("jazz")) % 8
    hours, days = T0 // (DAY // 12) * 8, 20_000 * 8 + 1
    jazz = text_hash("jazz")
    assert state.dirty() == {view.page_fields[number]: page(*sorted([(hours, jazz, 1), (days, jazz, 1)]))}


def test_hashes_of_texts() -> None:
    assert text_hash("jazz") == 6_788_118_499_479_718.0
