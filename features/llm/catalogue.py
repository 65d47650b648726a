"""Where enrichment takes the catalogue from: the topic `items`, or a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from liverank.contract import decode_item, validate_item
from liverank.errors import ConfigError, ContractError
from liverank.files import read_items
from liverank.kafka import KafkaUnavailableError, LogReader, Record, Tp, begin_offsets, end_offsets, partition_counts
from liverank.settings import Settings
from liverank.v1.item_pb2 import Item, ItemChange

_POLL = 2_000
_MAX_SILENT = 30


def items_of_topic(settings: Settings) -> dict[str, Item]:
    """The newest version of every item that is not removed, as of now, by id. About 1 s per 100,000 items.

    Records that are no items are left to the dead letters of the workers.

    Raises
    ------
    KafkaUnavailableError
        The broker is away.
    """
    topic = settings.topic("items")
    bootstrap = settings.kafka.bootstrap
    count = partition_counts(bootstrap, [topic]).get(topic)
    if count is None:
        raise ConfigError(
            f"no topic {topic}: run `liverank up` for namespace {settings.namespace!r}, or give a file of items"
        )
    tps = [Tp(topic, partition) for partition in range(count)]
    ends = end_offsets(bootstrap, tps)
    positions = begin_offsets(bootstrap, tps)
    items: dict[str, Item] = {}
    open_tps = {tp for tp in tps if positions[tp] < ends[tp]}
    if not open_tps:
        return items
    reader = LogReader(bootstrap, {tp: positions[tp] for tp in open_tps}, name="enrich")
    silent = 0
    try:
        while open_tps:
            records = reader.poll_batch(_POLL, 1.0)
            silent = 0 if records else silent + 1
            if silent > _MAX_SILENT:
                raise KafkaUnavailableError(f"{topic} gave no record for {silent} s before its end; run the job again")
            for record in records:
                tp = Tp(record.topic, record.partition)
                _take(items, record)
                if record.offset >= ends[tp] - 1:
                    open_tps.discard(tp)
    finally:
        reader.close()
    return items


def _take(items: dict[str, Item], record: Record) -> None:
    try:
        change = decode_item(record.value, record.headers)
        validate_item(change)
    except ContractError:  # the workers write the dead letter
        return
    if change.HasField("upsert"):
        items[change.item_id] = _item(change)
    else:
        items.pop(change.item_id, None)


def _item(change: ItemChange) -> Item:
    item = change.upsert
    item.item_id = change.item_id  # producers may leave it to the change
    return item


def items_of_file(path: Path) -> Iterator[Item]:
    """Items of a JSONL or Parquet file (docs/events.md); removals are left out."""
    for change in read_items(path):
        if change.HasField("upsert"):
            yield _item(change)
