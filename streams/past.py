"""The past in memory: recorded events folded by the live folds, without Kafka's groups, Redis or publishing.

What backfill and skew share: where records come from (archive, then the log's end that is not archived yet), and a
store that keeps states encoded.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

from features.archive import part_dir, partitions_of, read_archive, read_part
from liverank.errors import ContractError, CorruptError, UnavailableError
from liverank.kafka import BEGINNING, LogReader, Record, Tp, end_offsets, partition_counts
from liverank.settings import Settings
from liverank.v1.stream_pb2 import ItemEffect, ItemEffects
from streams.calls import Limits, Position
from streams.catalogue import Catalogue
from streams.fold import Fold, Parsed
from streams.partition_fold import PartitionFold
from streams.reading import ItemVersions

__all__ = [
    "MemoryStore",
    "catalogue_records",
    "catalogue_table",
    "feed",
    "imported_records",
    "live_records",
    "memory_part",
    "newest_imported_ms",
    "read_catalogue",
    "tick_at",
]

_CACHE_STATES: Final = 20_000
_FOR_EVER_MS: Final = 1 << 60
_UNLIMITED: Final = Limits(keys=1 << 62, size_bytes=1 << 62)
_TAIL_PATIENCE_S: Final = 60.0


class MemoryStore:
    """State of one partition in memory, encoded."""

    def __init__(self) -> None:
        self.fields: dict[str, dict[bytes, bytes]] = {}
        self._due: dict[str, int] = {}

    def load(self, partition: int, keys: Sequence[str]) -> list[Mapping[bytes, bytes]]:
        """See `StateReader.load`."""
        return [self.fields.get(key, {}) for key in keys]

    def due_between(self, partition: int, after_ms: int, until_ms: int) -> list[tuple[str, int]]:
        """See `StateReader.due_between`."""
        return [(key, due_ms) for key, due_ms in self._due.items() if after_ms < due_ms <= until_ms]

    def take(self, part: PartitionFold) -> list[ItemEffect]:
        """Take what the partition's closed calls changed; return the effects on items."""
        part.close()
        effects: list[ItemEffect] = []
        for call in part.calls:
            for key, pages in call.pages.items():
                # A new mapping: states keep a reference to the one that they were made of.
                merged = {**self.fields.get(key, {}), **pages}
                self.fields[key] = {name: page for name, page in merged.items() if page}
            for key, due_ms in call.due.items():
                if due_ms is None:
                    self._due.pop(key, None)
                else:
                    self._due[key] = due_ms
            for own in call.effects.values():
                effects += ItemEffects.FromString(b"".join(own)).effects
        part.calls = []
        part.shrink()
        return effects


def memory_part(
    settings: Settings,
    fold: Fold,
    store: MemoryStore,
    *,
    partition: int,
    n_partitions: int,
    generation: int,
    catalogue: ItemVersions,
    limits: Limits = _UNLIMITED,
) -> PartitionFold:
    """A partition of the user fold over a store in memory; `MemoryStore.take` takes what it changed."""
    return PartitionFold(
        fold.for_partition({}),
        partition=partition,
        n_partitions=n_partitions,
        generation=generation,
        position=Position(generation, -1, 0),
        clock_ms=0,
        sources={},
        reader=store,
        items=catalogue,
        clock=settings.clock,
        numbered_input=False,
        spill=lambda: None,  # `MemoryStore.take` takes what waits
        cache_states=_CACHE_STATES,
        limits=limits,
        horizon_ms=_FOR_EVER_MS,
    )


def feed(fold: Fold, part: PartitionFold, record: Record) -> None:
    """Fold one record."""
    parsed: Parsed | ContractError
    try:
        parsed = fold.parse(record)
    except ContractError as error:
        parsed = error
    part.feed(record, parsed)


def imported_records(settings: Settings, partition: int) -> Iterator[Record]:
    """Imported records of a partition."""
    return read_part(part_dir(settings, "events", 0, partition), settings.topic("events", 0), partition)


def tick_at(part: PartitionFold, ts_ms: int) -> None:
    """Move the clock, as the tick after the last imported record does."""
    tick = Record("events", part.partition, part.position.offset + 1, None, b"", (), ts_ms)
    part.feed(tick, Parsed((), None, tick=True))


def live_records(
    settings: Settings, generation: int, partition: int, until: int, *, own: bool = False
) -> Iterator[Record]:
    """Records of a live generation up to offset `until`: archived ones, then those that only the log has.

    Before them those of the generations before it, as the repartition left them.

    Parameters
    ----------
    own : bool
        Only the generation's own.

    Raises
    ------
    CorruptError
        Archive and log miss records.
    UnavailableError
        The log gives nothing for a minute.
    """
    if generation > 1 and not own:
        topic = settings.topic("events", generation - 1)
        yield from read_part(part_dir(settings, "events", generation - 1, partition), topic, partition)
    topic = settings.topic("events", generation)
    following = 0
    for record in read_part(part_dir(settings, "events", generation, partition), topic, partition):
        if record.offset > until:
            return
        if record.offset != following:
            raise CorruptError(
                f"the archive of {topic} [{partition}] misses offsets {following} to {record.offset - 1}: "
                "the past cannot be folded from it"
            )
        yield record
        following += 1
    if following > until:
        return
    reader = LogReader(settings.kafka.bootstrap, {Tp(topic, partition): following}, name="backfill")
    give_up_s = time.monotonic() + _TAIL_PATIENCE_S
    try:
        while following <= until:
            records = reader.poll_batch(5000, 1.0)
            if not records and time.monotonic() > give_up_s:
                raise UnavailableError(
                    f"{topic} [{partition}] gave no record at offset {following} within {_TAIL_PATIENCE_S:g} s"
                )
            for record in records:
                if record.offset != following:
                    raise CorruptError(
                        f"{topic} [{partition}] jumps to offset {record.offset}, archive and log miss {following} "
                        "and later: the past cannot be folded from it"
                    )
                give_up_s = time.monotonic() + _TAIL_PATIENCE_S
                yield record
                following += 1
                if following > until:
                    break
    finally:
        reader.close()


def newest_imported_ms(settings: Settings) -> int:
    """Append time of the newest imported record; 0 = nothing was imported."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    newest = 0
    for partition in partitions_of(settings, "events", 0):
        for path in sorted(part_dir(settings, "events", 0, partition).glob("*.parquet"))[-1:]:
            newest = max(newest, pc.max(pq.read_table(path, columns=["append_ts_ms"])["append_ts_ms"]).as_py() or 0)
    return newest


def catalogue_records(settings: Settings, n_partitions: int) -> list[Record]:
    """Return the catalogue's records, as archive and topic hold them together, by append time.

    Parameters
    ----------
    n_partitions : int
        Of the topic, where the broker does not say.
    """
    found = {(record.partition, record.offset): record for record in read_archive(settings, "items")}
    topic = settings.topic("items")
    n_partitions = partition_counts(settings.kafka.bootstrap, [topic]).get(topic, n_partitions)
    ends = end_offsets(settings.kafka.bootstrap, [Tp(topic, p) for p in range(n_partitions)])
    left = {tp for tp, end in ends.items() if end > 0}
    reader = LogReader(settings.kafka.bootstrap, dict.fromkeys(ends, BEGINNING), name="past")
    try:
        while left:
            for record in reader.poll_batch(5000, 1.0):
                found[record.partition, record.offset] = record
                tp = Tp(record.topic, record.partition)
                if record.offset + 1 >= ends[tp]:
                    left.discard(tp)
    finally:
        reader.close()
    return sorted(found.values(), key=lambda r: (r.append_ts_ms, r.partition, r.offset))


def catalogue_table(records: Iterable[Record]) -> tuple[Catalogue, int]:
    """Return all versions that `catalogue_records` hold, and how many there are."""
    table, n = Catalogue(), 0
    for record in records:
        with suppress(ContractError):  # a dead letter was written when it came
            table.put_record(record, keep_all=True)
            n += 1
    return table, n


def read_catalogue(settings: Settings, n_partitions: int) -> tuple[Catalogue, int]:
    """Return the catalogue's versions, as archive and topic hold them together, and how many there are."""
    return catalogue_table(catalogue_records(settings, n_partitions))
