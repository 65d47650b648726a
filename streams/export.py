"""Recorded events and the catalogue out of the archive and the log, as files that `liverank import` reads."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

from features.archive import last_offset, part_dir, partitions_of, read_part
from liverank.contract import INTERNAL_HEADER, decode_event, read_item
from liverank.errors import ContractError, UnavailableError
from liverank.kafka import LogReader, OffsetClient, Record, Tp, partition_counts
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType
from liverank.v1.item_pb2 import ItemChange

__all__ = ["Exported", "export_events", "export_items"]

#: So many polls of half a second without a record, and the log's end is given up.
_PATIENCE = 60
_INTERNAL = (EventType.EVENT_TYPE_TICK, EventType.EVENT_TYPE_CONTROL)


@dataclass
class Exported:
    """What was left out, counted while the iterator runs.

    Attributes
    ----------
    events : int
        Yielded.
    unreadable : int
        Records that are no event (they are dead letters).
    """

    events: int = 0
    unreadable: int = 0


def _records(settings: Settings, short: str, generation: int, *, in_log: bool) -> list[Iterator[Record]]:
    """The records of each partition in order: the archive's, then the log's end that is not archived yet."""
    topic = settings.topic(short, generation if short == "events" else None)
    archived = partitions_of(settings, short, generation)
    n = partition_counts(settings.kafka.bootstrap, [topic]).get(topic, 0) if in_log else 0
    return [_partition(settings, short, generation, Tp(topic, p), p < n) for p in sorted({*archived, *range(n)})]


def _partition(settings: Settings, short: str, generation: int, tp: Tp, in_log: bool) -> Iterator[Record]:
    folder = part_dir(settings, short, generation, tp.partition)
    until = last_offset(folder)
    for record in read_part(folder, tp.topic, tp.partition):
        if record.offset <= until:
            yield record
    if in_log:
        yield from _tail(settings, tp, until + 1)


def _tail(settings: Settings, tp: Tp, start: int) -> Iterator[Record]:
    offsets = OffsetClient(settings.kafka.bootstrap)
    end, start = offsets.ends([tp])[tp], max(start, offsets.begins([tp])[tp])
    if start >= end:
        return
    reader = LogReader(settings.kafka.bootstrap, {tp: start}, name="export")
    empty = 0
    try:
        while start < end:
            found = reader.poll_batch(2000, 0.5)
            empty = 0 if found else empty + 1
            if empty > _PATIENCE:
                raise UnavailableError(f"{tp.topic} [{tp.partition}] gives nothing at {start}; is Kafka up?")
            for record in found:
                start = record.offset + 1
                if record.offset < end:
                    yield record
    finally:
        reader.close()


def export_events(
    settings: Settings,
    generations: Sequence[int],
    *,
    since_ms: int = 0,
    until_ms: int = 1 << 62,
    user_id: str = "",
    exposures: bool = True,
    report: Exported | None = None,
) -> Iterator[Event]:
    """Yield recorded events, about in the order of their append times, repeats included as they came.

    Parameters
    ----------
    generations : sequence of int
        0 is imported history, the last one the live one; those between are in the archive alone.
    since_ms, until_ms : int
        Event times, half-open.
    user_id : str
        Only this user (user_id or session_id); empty = all.
    exposures : bool
        Whether exposures that the ranker wrote are among them.
    report : Exported, optional
        Counts.

    Raises
    ------
    UnavailableError
        Kafka is away.
    """
    report = report or Exported()
    streams: list[Iterator[Record]] = []
    for generation in generations:
        streams += _records(settings, "events", generation, in_log=generation == max(generations) > 0)
    for record in heapq.merge(*streams, key=attrgetter("append_ts_ms")):
        if record.header("liverank-forwarded") is not None:
            continue  # its original, in the partition it strayed to, is yielded
        try:
            event = decode_event(record.value, record.headers)
        except ContractError:
            report.unreadable += 1
            continue
        if event.type in _INTERNAL and record.header(INTERNAL_HEADER) is not None:
            continue
        if event.type == EventType.EVENT_TYPE_EXPOSURE and not exposures:
            continue
        if not since_ms <= event.event_ts_ms < until_ms:
            continue
        if user_id and user_id != (event.user_id or event.session_id):
            continue
        report.events += 1
        yield event


def export_items(settings: Settings) -> Iterator[ItemChange]:
    """Yield the catalogue's changes that the archive and the log hold, about in their order."""
    for record in heapq.merge(*_records(settings, "items", 0, in_log=True), key=attrgetter("append_ts_ms")):
        try:
            yield read_item(record.value, record.headers, key=record.key)
        except ContractError:
            continue
