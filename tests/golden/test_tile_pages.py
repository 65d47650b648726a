"""Bytes of tile pages, as docs/specs/tiles.md fixes them."""

from __future__ import annotations

import struct

import pytest

from features import tiles
from features.category_tiles import CategoryTiles, category_windows
from features.columns import COLUMNS, row_of, text_hash
from features.errors import RowFormatError
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
    head = b"\x02" + struct.pack("<HHH", 2, 2, 1) + struct.pack("<3d", *sorted([hours, days]), jazz)
    clicks = b"\x01" + bytes((1, 1))
    assert state.dirty() == {view.page_fields[number]: head + bytes((1, 1)) + bytes((0, 0)) + clicks}
    for value, size, cells in (
        (299, 2, struct.pack("<hh", 300, 300)),
        (-400, 2, struct.pack("<hh", -100, -100)),
        (40_000, 4, struct.pack("<ii", 39_900, 39_900)),
        (0.5, 8, struct.pack("<dd", 39_900.5, 39_900.5)),
        (-39_900.5, 0, b""),
    ):
        state.add(T0, row_of(click=value), 1.0, "jazz")
        assert state.dirty() == {
            view.page_fields[number]: head + bytes((1, 1)) + bytes((0, 0)) + bytes((size,)) + cells
        }


def test_a_category_page_of_another_version_is_refused() -> None:
    view = ViewProgram(name="v", entity="user_category", aggregates=(aggregate("clicks_7d", "click", "sum", 7),))
    for broken in (page((8.0, 5.0, 1.0)), b"\x02" + struct.pack("<HHH", 9, 1, 1), b"\x02"):
        fields = dict.fromkeys(view.page_fields, broken)
        with pytest.raises(RowFormatError, match="liverank rebuild"):
            category_windows(view, fields, T0)
        with pytest.raises(RowFormatError, match="liverank rebuild"):
            tiles.load(view, fields).add(T0, row_of(click=1), 1.0, "jazz")
        with pytest.raises(RowFormatError, match="liverank rebuild"):
            CategoryTiles(view, fields).add(T0, row_of(click=1), 1.0, "jazz")


def test_hashes_of_texts() -> None:
    assert text_hash("jazz") == 6_788_118_499_479_718.0
