"""One partition's recorded past, folded into an empty store by the live functions, without Kafka.

Nothing is fenced, so nothing else may write the generation meanwhile. What a partition of the user fold does to items
waits in a file (`Spool`) until every partition has been folded; then each partition of the item fold reads what is for
it, in the order of its sources' clocks.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from features.archive import read_part
from features.redis import Redis, format_version, translated
from features.state.effects import joined
from features.wire import entity_key, feature_field, timestamp_field, version_field
from liverank.errors import CorruptError
from liverank.kafka import Record
from liverank.settings import Settings
from streams.calls import Call, Limits, Position, SourceMark
from streams.fence import FencedStore
from streams.fold import Fold
from streams.outbox import Output
from streams.partition_fold import PartitionFold
from streams.past import feed, tick_at
from streams.publisher import Pending, RowSink, merge_calls
from streams.reading import ItemVersions
from streams.rows import SESSION, plain_key

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Effects", "PastPartition", "Spool", "Stage", "fold_items", "fold_users", "wipe", "write_rows"]

#: Records between two writes: what waits in memory is bounded by it.
_WRITE_EVERY: Final = 60_000
#: Records read at a time: what they do to items comes in between what those of other partitions did then.
_CHUNK: Final = 2_000
#: Of effects, before they are written.
_SPOOL_BYTES: Final = 16 * 1024 * 1024
#: Of what readers see, kept to be written at the end; beyond it the rows are built from the stored states.
_SEEN_BYTES: Final = 256 * 1024 * 1024
#: Rows written at a time.
_ROWS: Final = 1000
#: Recorded time runs fast: all due keys are held in memory.
_FOR_EVER_MS: Final = 1 << 60
_UNLIMITED: Final = Limits(keys=1 << 62, size_bytes=1 << 62)

Tell = Callable[[int], None]
Effects = Mapping[int, Sequence[bytes]]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Records that are folded one after the other: imported history, a generation before, the live generation.

    Attributes
    ----------
    generation : int
        Generation that numbers and versions carry: 0 for imported history.
    folder : Path
        Holds a folder of archive files for each partition.
    topic : str
        Name that the records carry.
    tick_ms : int
        Where every partition's clock stands afterwards, as after a tick of this time; 0 = where its records left it.
    """

    generation: int
    folder: Path
    topic: str
    tick_ms: int = 0

    def files(self, partition: int) -> list[Path]:
        """A partition's files, in order."""
        return sorted((self.folder / str(partition)).glob("*.parquet"))

    def size_bytes(self, partition: int) -> int:
        """Of a partition's files."""
        return sum(path.stat().st_size for path in self.files(partition))

    def n_records(self, n_partitions: int) -> int:
        """How many records there are."""
        import pyarrow.parquet as pq

        return sum(pq.read_metadata(path).num_rows for p in range(n_partitions) for path in self.files(p))

    def records(self, partition: int) -> Iterator[Record]:
        """Yield a partition's records.

        Raises
        ------
        CorruptError
            An offset is missing.
        """
        folder = self.folder / str(partition)
        for following, record in enumerate(read_part(folder, self.topic, partition)):
            if record.offset != following:
                raise CorruptError(
                    f"the archive of {self.topic} [{partition}] misses offsets {following} to {record.offset - 1}: "
                    "state cannot be rebuilt from it"
                )
            yield record


class _KnownReader:
    """Reads only keys that were written before: every other key is new, and costs no round trip."""

    def __init__(self, store: FencedStore) -> None:
        self._store = store
        self.known: set[str] = set()

    def load(self, partition: int, keys: Sequence[str]) -> list[Mapping[bytes, bytes]]:
        """See `StateReader.load`."""
        asked = [key for key in keys if key in self.known]
        stored = dict(zip(asked, self._store.load(partition, asked), strict=True))
        return [stored.get(key, {}) for key in keys]

    def due_between(self, partition: int, after_ms: int, until_ms: int) -> list[tuple[str, int]]:
        """See `StateReader.due_between`."""
        return self._store.due_between(partition, after_ms, until_ms)


class PastPartition:
    """A partition of one of the folds over an empty store, stage by stage.

    Parameters
    ----------
    store_generation : int
        Generation of the state's keys.
    cache_states : int
        States kept in memory.
    on_calls : callable, optional
        Gets what was folded and is written, in order.
    on_effects : callable, optional
        Gets (generation, clock, effects by target partition), in order: what a few thousand records do to items.
    silent : bool
        It takes only effects on items (`PartitionFold`).
    rows : bool
        Keep what readers see, so that `write_rows` can write it.
    """

    def __init__(
        self,
        fold: Fold,
        client: Redis,
        settings: Settings,
        *,
        partition: int,
        n_partitions: int,
        store_generation: int,
        cache_states: int,
        on_calls: Callable[[Sequence[Call]], None] = lambda _calls: None,
        on_effects: Callable[[int, int, Effects], None] = lambda _generation, _clock_ms, _effects: None,
        silent: bool = False,
        rows: bool = False,
    ) -> None:
        self._fold, self._settings = fold, settings
        self.partition, self._n_partitions = partition, n_partitions
        self._store_generation, self._cache_states = store_generation, cache_states
        self._store = FencedStore(client, namespace=settings.namespace, generation=store_generation, kind=fold.kind)
        self._rows = RowSink(client, settings.feast_project, fold)
        self._reader = _KnownReader(self._store)
        self._on_calls, self._on_effects, self._silent = on_calls, on_effects, silent
        self._statistics: dict[tuple[int, str], Pending] = {}
        self._seen: dict[tuple[int, str], Pending] | None = {} if rows else None
        self._seen_bytes = 0
        self._part: PartitionFold | None = None
        self._since_write = 0
        self.n_records = 0

    def begin(self, generation: int, items: ItemVersions | None) -> None:
        """Begin a stage with the state that the one before left.

        Parameters
        ----------
        items : ItemVersions or None
            What items were; None for the item fold.
        """
        self.write()
        before = self._part
        self._part = PartitionFold(
            self._fold.for_partition({}),
            partition=self.partition,
            n_partitions=self._n_partitions,
            generation=generation,
            position=Position(generation, -1, 0),
            clock_ms=0,
            sources={},
            reader=self._reader,
            items=items,
            clock=self._settings.clock,
            numbered_input=self._fold.kind == "i",
            spill=self.write,
            cache_states=self._cache_states,
            limits=_UNLIMITED,
            horizon_ms=_FOR_EVER_MS,
            silent=self._silent,
        )
        if before is not None:
            self._part.resume(before.clock_ms, before.sources)

    def feed(self, record: Record) -> None:
        """Fold one record of the stage."""
        feed(self._fold, self._now, record)
        self.n_records += 1
        self._since_write += 1
        if self._since_write >= _WRITE_EVERY:
            self.write()

    def feed_all(self, records: list[Record]) -> None:
        """Fold records of the stage, at most as many as lie between two writes."""
        at = 0
        while at < len(records):
            following = self._now.feed_usual(records, at)
            self.n_records += following - at
            self._since_write += following - at
            if following < len(records):
                self.feed(records[following])
                following += 1
            at = following
        now = self._now
        self._on_effects(now.generation, now.clock_ms, now.take_effects())
        if self._since_write >= _WRITE_EVERY or now.n_cached >= 2 * self._cache_states:
            self.write()

    def tick(self, ts_ms: int) -> None:
        """Move the clock to `ts_ms`, as a tick after the last record would."""
        tick_at(self._now, ts_ms)

    def write(self) -> None:
        """Write the state that waits."""
        self._since_write = 0
        part = self._part
        if part is None:
            return
        part.close()
        calls, part.calls = part.calls, []
        if not calls:
            return
        self._store.restore(calls)
        # Rankers find statistics under the generation of their version.
        fixed = format_version(self._store_generation, 0, 0) if part.generation < self._store_generation else b""
        for place, change in merge_calls(calls).items():
            if place[1].startswith("#"):
                if (earlier := self._statistics.get(place)) is not None:
                    change.fields = {**earlier.fields, **change.fields}
                change.version = fixed or change.version
                self._statistics[place] = change
            elif self._seen is not None:
                self._keep(place, change)
        if self._seen is not None:  # what readers do not see may have changed
            for call in calls:
                for key, state in call.states.items():
                    if (known := self._seen.get((self.partition, key))) is not None:
                        known.state = state
        self._reader.known.update(key for call in calls for key in call.pages)
        self._on_calls(calls)
        for call in calls:
            self._on_effects(call.end.generation, call.clock_ms, call.effects)
        part.shrink()

    def finish(self) -> tuple[Position, int, dict[int, SourceMark]]:
        """Write the rest and publish the statistics; return where the fold stands: position, clock, sources."""
        self.write()
        self._rows.write(self._rows.build(self._statistics))
        return self._now.position, self._now.clock_ms, self._now.sources

    def write_rows(self, version: bytes) -> bool:
        """Write the rows of all states, whatever readers saw before under an earlier version; after `finish`.

        Returns
        -------
        bool
            False: there is too much for memory, or nobody wants it; nothing was written.
        """
        if self._seen is None:
            return False
        some: dict[tuple[int, str], Pending] = {}
        for place, change in self._seen.items():
            if public := {name: data for name, data in change.fields.items() if data}:
                some[place] = Pending(change.state, public, version)
            if len(some) == _ROWS:
                self._rows.write(self._rows.build(some))
                some = {}
        self._rows.write(self._rows.build(some))
        self._seen = {}
        return True

    def _keep(self, place: tuple[int, str], change: Pending) -> None:
        """Keep what readers see of a state, as long as there is room."""
        seen = self._seen
        if seen is None:
            return
        known = seen.setdefault(place, change)
        if known is change:
            self._seen_bytes += sum(map(len, change.fields.values()))
        else:
            self._seen_bytes += sum(
                len(data) - len(known.fields.get(name, b"")) for name, data in change.fields.items()
            )
            known.fields.update(change.fields)
        if self._seen_bytes > _SEEN_BYTES or len(seen) > self._cache_states:
            self._seen = None

    @property
    def _now(self) -> PartitionFold:
        if self._part is None:
            raise RuntimeError("no stage was begun")
        return self._part


class Spool:
    """What the partitions of the user fold do to items, by target: a file of each source.

    Parameters
    ----------
    folder : Path
    source : int
        Partition of the user fold.
    """

    def __init__(self, folder: Path, source: int) -> None:
        self._path, self._source = self.path(folder, source), source
        self._waiting: dict[int, list[tuple[int, int, bytes]]] = {}
        self._size = 0
        self._writer: Any = None

    @staticmethod
    def path(folder: Path, source: int) -> Path:
        """The file of a source; whole where the partition's mark says that it is done."""
        return folder / f"{source}.parquet"

    @staticmethod
    def _schema() -> pa.Schema:
        import pyarrow as pa

        names = {"target": pa.int32(), "generation": pa.int64(), "clock_ms": pa.int64(), "effects": pa.binary()}
        return pa.schema(list(names.items()))

    def take(self, generation: int, clock_ms: int, effects: Effects) -> None:
        """Take effects; those of one call come back as one record, in the order of the sources' clocks."""
        for target, entries in effects.items():
            if entries:
                packed = joined(generation, self._source, entries)
                self._waiting.setdefault(target, []).append((generation, clock_ms, packed))
                self._size += len(packed)
        if self._size > _SPOOL_BYTES:
            self._write()

    def _write(self) -> None:
        """Write what waits, one group of rows a target."""
        import pyarrow as pa

        for target, rows in self._waiting.items():
            columns = ([target] * len(rows), *zip(*rows, strict=True))
            arrays = [pa.array(column, each.type) for column, each in zip(columns, self._schema(), strict=True)]
            self._open().write_table(pa.Table.from_arrays(arrays, schema=self._schema()))
        self._waiting, self._size = {}, 0

    def close(self) -> None:
        """Make the file whole."""
        self._write()
        self._open().close()

    def _open(self) -> Any:
        import pyarrow.parquet as pq

        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._path, self._schema(), compression="zstd")
        return self._writer

    @classmethod
    def read(cls, folder: Path, target: int, n_sources: int) -> Iterator[tuple[int, bytes]]:
        """Yield (generation, effects) for one target: stage by stage, by the clocks of the sources."""
        sources = (cls._of_source(cls.path(folder, source), target, source) for source in range(n_sources))
        for generation, _, _, effects in heapq.merge(*sources, key=lambda row: row[:3]):
            yield generation, effects

    @classmethod
    def _of_source(cls, path: Path, target: int, source: int) -> Iterator[tuple[int, int, int, bytes]]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                if file.metadata.row_group(group).column(0).statistics.min != target:
                    continue
                rows = file.read_row_group(group, columns=["generation", "clock_ms", "effects"]).to_pydict()
                for generation, clock_ms, effects in zip(*rows.values(), strict=True):
                    yield generation, clock_ms, source, effects


def fold_users(
    past: PastPartition, stages: Sequence[Stage], partition: int, catalogues: Mapping[bool, ItemVersions], tell: Tell
) -> list[int]:
    """Fold a partition of `events` through all stages; return how many records each had.

    Parameters
    ----------
    catalogues : mapping of bool to ItemVersions
        What items were; True: for imported history.
    tell : callable
        Gets numbers of records, now and then.
    """
    counts = []
    for stage in stages:
        past.begin(stage.generation, catalogues[stage.generation == 0])
        before = past.n_records
        records = stage.records(partition)
        while chunk := list(islice(records, _CHUNK)):
            past.feed_all(chunk)
            tell(len(chunk))
        if stage.tick_ms:
            past.tick(stage.tick_ms)
        counts.append(past.n_records - before)
    return counts


def fold_items(
    past: PastPartition, stages: Sequence[Stage], target: int, n_sources: int, spool: Path, tell: Tell
) -> int:
    """Fold what all sources did to the items of a partition; return the records of the last stage."""
    following, now, n = 0, stages[0].generation, 0
    past.begin(now, None)
    for generation, effects in Spool.read(spool, target, n_sources):
        while generation != now:
            now = next(stage.generation for stage in stages if stage.generation > now)
            past.begin(now, None)
            following = 0
        past.feed(Record("item-effects", target, following, None, effects, (), 0))
        following += 1
        n += 1
        if n % 1000 == 0:
            tell(1000)
    tell(n % 1000)
    for stage in stages:
        if stage.generation > now:
            past.begin(stage.generation, None)
            following = 0
    return following


def wipe(fold: Fold, client: Redis, settings: Settings, store: FencedStore, partition: int, *, rows: bool) -> None:
    """Delete a partition's states, and before them, if `rows`, what readers see of them."""
    entity = "user_id" if fold.kind == "u" else "item_id"

    def going(partition: int, keys: Sequence[str]) -> None:
        pipe = client.pipeline(transaction=False)
        entities = [key for key in keys if not key.startswith("#")]
        for key, fields in zip(entities, store.load(partition, entities), strict=True):
            public = [name.decode().partition(":") for name in fields if not name.startswith(b"_")]
            gone = {feature_field(view, feature) for view, _, feature in public}
            gone |= {field(view) for view, _, _ in public for field in (timestamp_field, version_field)}
            if gone:
                join_key = "session_id" if key.startswith(SESSION) else entity
                pipe.hdel(entity_key(settings.feast_project, (join_key,), (plain_key(key),)), *gone)
        with translated("deleting online rows"):
            pipe.execute()

    store.wipe([partition], going=going if rows else None)


def write_rows(
    fold: Fold, client: Redis, settings: Settings, store: FencedStore, partition: int, version: bytes
) -> None:
    """Write the whole row of every state of a partition, whatever readers saw before under an earlier version."""
    rows = RowSink(client, settings.feast_project, fold)
    own = fold.for_partition({})
    for keys in store.keys(partition):
        entities = [key for key in keys if not key.startswith("#")]
        pending = {}
        for key, fields in zip(entities, store.load(partition, entities), strict=True):
            public = {name: data for name, data in fields.items() if not name.startswith(b"_")}
            if public:
                pending[partition, key] = Pending(own.load(key, fields), public, version)
        rows.write(rows.build(pending))


def outputs_of(calls: Sequence[Call]) -> list[Output]:
    """What calls send to Kafka, in order, without effects on items."""
    return [output for call in calls for output in call.outputs]
