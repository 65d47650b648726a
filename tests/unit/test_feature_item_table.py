"""The item table: catalogue, growth, vectors, pages, neighbours, decayed sums."""

from __future__ import annotations

import numpy as np
import pytest

from features import tiles
from features.columns import row_of, text_hash
from features.errors import SpaceError
from features.hashing import item_hash
from features.item_table import ALL_REGIONS, ItemTable
from features.program import Aggregate, FeatureProgram, ViewProgram
from features.state.neighbours import Neighbours
from features.state.trend import Trend
from liverank.v1 import event_pb2, item_pb2, stream_pb2
from ranker.inputs import ItemsView

T0 = 1_760_000_000_000
HOUR, DAY = 3_600_000, 86_400_000

VIEW = ViewProgram(
    name="item_activity",
    entity="item",
    aggregates=tuple(
        Aggregate(name=f"{name}_{label}", column=column, function=function, window_ms=window, slide_ms=slide)
        for label, window, slide in (("1d", DAY, HOUR), ("7d", 7 * DAY, DAY), ("30d", 30 * DAY, DAY))
        for name, column, function in (
            ("clicks", "click", "sum"),
            ("value", "value", "mean"),
            ("least", "value", "min"),
            ("most", "value", "max"),
        )
    ),
)
PROGRAM = FeatureProgram(project="liverank_live", views=(VIEW,))


def upsert(item_id: str, **fields: object) -> item_pb2.ItemChange:
    return item_pb2.ItemChange(
        item_id=item_id,
        upsert=item_pb2.Item(item_id=item_id, **{"available": True, **fields}),  # type: ignore[arg-type]
    )


def row_message(item_id: str, fields: dict[bytes, bytes], offset: int = 1) -> stream_pb2.ItemRow:
    return stream_pb2.ItemRow(
        number=stream_pb2.Number(generation=1, offset=offset),
        item_id=item_id,
        pages={name.decode(): page for name, page in fields.items()},
        event_ts_ms=T0,
    )


def test_it_plays_the_rankers_role() -> None:
    table: ItemsView = ItemTable(PROGRAM)
    assert len(table) == 0
    assert table.window_names == VIEW.names


def test_catalogue_fields() -> None:
    table = ItemTable()
    change = upsert(
        "a",
        price=9.5,
        creator="ann",
        categories=["jazz", "folk", "rock", "pop", "fifth"],
        published_ts_ms=T0,
        regions=["de", "fr"],
        attributes={"minutes": event_pb2.Attribute(number=4)},
    )
    assert table.apply_change(change, 3)
    assert table.apply_change(upsert("b", creator="ann", categories=["folk"]), 4)
    assert table.ids == ["a", "b"]
    assert table.rows == {"a": 0, "b": 1}
    assert table.available[:2].tolist() == [True, True]
    assert table.price[0] == 9.5
    assert table.published_ms[0] == T0
    assert table.creator[:2].tolist() == [1, 1]
    assert [table.category_names[code] for code in table.categories[0]] == ["jazz", "folk", "rock", "pop"]
    assert table.categories[1].tolist() == [table.category_code("folk"), 0, 0, 0]
    assert table.category_code("") == 0
    assert table.category_code("fifth") == -1
    assert table.category_of_hash[text_hash("folk")] == "folk"
    assert table.creator_code("ann") == 1
    assert table.creator_code("bob") == -1
    assert table.regions[0] == table.region_bit("de") | table.region_bit("fr")
    assert table.regions[1] == ALL_REGIONS
    assert table.region_bit("us") == 0
    assert table.attributes[0] is not None
    assert table.attributes[0]["minutes"].number == 4
    assert table.attributes[1] is None
    assert table.version[:2].tolist() == [3, 4]


def test_older_catalogue_records_change_nothing_and_removal_hides() -> None:
    table = ItemTable()
    table.apply_change(upsert("a", price=2.0), 7)
    assert not table.apply_change(upsert("a", price=1.0), 6)
    assert table.price[0] == 2.0
    assert table.apply_change(item_pb2.ItemChange(item_id="a", removed=item_pb2.ItemRemoved()), 8)
    assert not table.available[0]
    assert table.apply_change(upsert("a", price=3.0), 9)
    assert table.available[0]


def test_growth_keeps_every_row() -> None:
    table = ItemTable(PROGRAM, capacity=2)
    state = tiles.new(VIEW)
    state.add(T0, row_of(click=1, value=5))
    table.apply_row(row_message("i0", state.dirty()))
    for at in range(50):
        table.apply_change(upsert(f"i{at}", price=at, categories=[f"c{at % 3}"]), at)
    table.set_vectors(["i7", "i49"], np.array([[3.0, 4.0], [0.0, 2.0]]), "words")
    for at in range(50, 80):
        table.apply_change(upsert(f"i{at}", price=at), at)
    assert table.price[:80].tolist() == list(range(80))
    assert table.has_vector[:80].sum() == 2
    np.testing.assert_allclose(table.vectors[7], [0.6, 0.8])
    assert table.windows(np.array([0], np.int32), T0)[0, 0] == 1
    assert not table.available[80:].any()


def test_rows_of_hashes() -> None:
    table = ItemTable()
    table.apply_change(upsert("a"), 1)
    table.apply_change(upsert("b"), 2)
    found = table.rows_of_hashes(np.array([item_hash("b"), 5, item_hash("a")], np.int64))
    assert found.tolist() == [1, -1, 0]
    assert found.dtype == np.int32


def test_vectors_are_unit_and_another_space_drops_the_old() -> None:
    table = ItemTable()
    table.set_vectors(["a", "b", "c"], np.array([[2.0, 0.0], [0.0, 0.0], [np.nan, 1.0]]), "words")
    assert table.has_vector[:3].tolist() == [True, False, False]
    np.testing.assert_allclose(table.vectors[:3], [[1, 0], [0, 0], [0, 0]])
    table.set_vectors(["b"], np.array([[0.0, 1.0, 0.0]]), "images")
    assert table.space == "images"
    assert table.vectors.shape[1] == 3
    assert table.has_vector[:3].tolist() == [False, True, False]
    table.apply_change(upsert("c", vectors=[item_pb2.ItemVector(space="images", values=[0, 0, 5])]), 1)
    assert table.has_vector[2]


@pytest.mark.parametrize(("ids", "shape", "space"), [(["a"], (2, 3), "s"), (["a"], (3,), "s"), (["a"], (1, 3), "")])
def test_wrong_vectors_are_refused(ids: list[str], shape: tuple[int, ...], space: str) -> None:
    with pytest.raises(SpaceError, match="named space"):
        ItemTable().set_vectors(ids, np.ones(shape), space)


def test_pages_move_windows_at_once_and_older_ones_do_not() -> None:
    table = ItemTable(PROGRAM)
    state = tiles.new(VIEW)
    state.add(T0 - 3 * DAY, row_of(click=1, value=4))
    first = state.dirty()
    state.add(T0, row_of(click=1, value=8))
    second = state.dirty()
    rows = np.array([0], np.int32)
    assert table.apply_row(row_message("a", first, 1))
    assert table.windows(rows, T0)[0].tolist()[4] == 1
    assert table.apply_row(row_message("a", second, 2))
    assert not table.apply_row(row_message("a", first, 1))
    at = dict(zip(table.window_names, table.windows(rows, T0)[0], strict=True))
    assert (at["clicks_1d"], at["clicks_7d"], at["value_7d"], at["least_7d"], at["most_30d"]) == (1, 2, 6, 4, 8)
    later = dict(zip(table.window_names, table.windows(rows, T0 + 5 * DAY)[0], strict=True))
    assert (later["clicks_1d"], later["clicks_7d"]) == (0, 1)
    assert np.isnan(later["value_1d"])
    assert table.event_ts_ms[0] == T0


def test_an_item_with_state_but_no_catalogue_record_is_not_available() -> None:
    table = ItemTable(PROGRAM)
    table.apply_row(row_message("a", {}))
    assert not table.available[0]
    assert table.version[0] == -1


def test_trend_and_popularity_follow_changes() -> None:
    table = ItemTable()
    for name in ("a", "b"):
        table.apply_change(upsert(name), 1)
    assert table.popularity(T0).tolist() == [0, 0]
    sums = Trend({})
    for minute in range(30):
        sums.add(T0 - minute * 60_000, good=1.0, clicks=1.0, expected=0.5)
    table.apply_row(row_message("b", sums.dirty()))
    assert table.popularity(T0)[1] > table.popularity(T0)[0] == 0
    assert table.trend(T0)[1] > 1
    assert table.popularity(T0 + 3 * DAY)[1] < table.popularity(T0 + 20_000)[1]
    assert table.trend(T0).dtype == np.float32


def test_neighbours_decay_and_skip_unknown_items() -> None:
    table = ItemTable()
    for name in ("a", "b", "c"):
        table.apply_change(upsert(name), 1)
    met = Neighbours({})
    met.add([item_hash("b"), item_hash("c"), item_hash("stranger")], [1.0, 2.0, 9.0], T0)
    table.apply_row(row_message("a", met.dirty()))
    rows, weights = table.neighbours(0)
    assert rows.tolist() == [2, 1]
    np.testing.assert_allclose(weights, [2.0, 1.0], rtol=1e-5)
    _, later = table.neighbours(0, T0 + 20 * DAY)
    np.testing.assert_allclose(later, [1.0, 0.5], rtol=1e-5)
    assert table.neighbours(1)[0].size == 0
    table.apply_change(upsert("stranger"), 2)
    assert table.neighbours(0)[0].tolist() == [3, 2, 1]
