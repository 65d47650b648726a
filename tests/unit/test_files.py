"""The documented file format: what is written is read, and every fault names its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from liverank.calls import attribute, new_event
from liverank.errors import ConfigError, ContractError
from liverank.files import read_events, read_items, write_events, write_items
from liverank.v1.event_pb2 import Context, Event, EventType, Exposure, ExposureSlot
from liverank.v1.item_pb2 import Item, ItemChange, ItemRemoved, ItemVariant, ItemVector

KINDS = ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"]


def events() -> list[Event]:
    context = Context(device="phone", utc_offset_minutes=-60)
    shown = Event(
        event_id="r1",
        type=EventType.EVENT_TYPE_EXPOSURE,
        user_id="u",
        event_ts_ms=10**12,
        exposure=Exposure(policy="p", drawn=True, slots=[ExposureSlot(item_id="i", propensity=0.1)]),
    )
    click = new_event(
        "click",
        event_id="e",
        event_ts_ms=10**12,
        user_id="u",
        item_id="ü",
        position=3,
        attributes={"q": "x", "n": 1.5, "b": False},
        context=context,
    )
    return [shown, click, new_event("rating", event_id="f", event_ts_ms=10**12, user_id="u", item_id="i", value=7.5)]


def items() -> list[ItemChange]:
    item = Item(
        item_id="i",
        title="T",
        text="x",
        price=2.5,
        available=True,
        creator="c",
        categories=["a", "b"],
        vectors=[ItemVector(space="own", values=[0.5, 0.25])],
        variants=[
            ItemVariant(variant_id="dark", attributes={"artwork": attribute("d.png")}),
            ItemVariant(variant_id="light"),
        ],
    )
    item.attributes["year"].number = 1999
    return [ItemChange(item_id="i", upsert=item), ItemChange(item_id="j", removed=ItemRemoved())]


@pytest.mark.parametrize("name", KINDS)
def test_events_round_trip(tmp_path: Path, name: str) -> None:
    assert write_events(tmp_path / name, events()) == 3
    assert list(read_events(tmp_path / name)) == events()


@pytest.mark.parametrize("name", KINDS)
def test_items_round_trip(tmp_path: Path, name: str) -> None:
    assert write_items(tmp_path / name, items()) == 2
    assert list(read_items(tmp_path / name)) == items()


def test_a_fault_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"type": "EVENT_TYPE_CLICK"}\n\n{"type": "EVENT_TYPE_POKE"}\n')
    with pytest.raises(ContractError, match=r"unknown_type: .*bad\.jsonl, line 3") as caught:
        list(read_events(path))
    assert caught.value.reason == "unknown_type"


def test_foreign_parquet_with_few_columns_and_short_types(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"type": ["rating", "EVENT_TYPE_LIKE"], "event_ts_ms": [10**12, 10**12], "user_id": ["1", "2"]})
    pq.write_table(table, tmp_path / "x.parquet")
    assert [e.type for e in read_events(tmp_path / "x.parquet")] == [6, 4]
    pq.write_table(pa.table({"type": ["poke"], "event_ts_ms": [1]}), tmp_path / "y.parquet")
    with pytest.raises(ContractError, match="row 1"):
        list(read_events(tmp_path / "y.parquet"))
    pq.write_table(pa.table({"user_id": ["u"]}), tmp_path / "z.parquet")
    with pytest.raises(ConfigError, match="lacks type, event_ts_ms"):
        list(read_events(tmp_path / "z.parquet"))


def test_a_bare_item_line_is_an_upsert(tmp_path: Path) -> None:
    (tmp_path / "i.jsonl").write_text('{"item_id": "i", "title": "T", "categories": ["a"]}\n')
    (change,) = read_items(tmp_path / "i.jsonl")
    assert change.upsert.title == "T"
    assert change.upsert.available


def test_unknown_suffix_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.parquet"):
        list(read_events(tmp_path / "x.csv"))
    with pytest.raises(ConfigError, match="no file"):
        list(read_events(tmp_path / "x.jsonl"))
