"""Both folds in one process, from recorded events into an empty store: the same functions as live, without Kafka.

Used by import and rebuild. Effects go from the user fold to the item fold in memory. Nothing is fenced, so nothing
else may write the generation meanwhile; a replay that was interrupted is begun again from an empty store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from features.redis import Redis, format_version, translated
from features.state.effects import joined
from features.wire import entity_key, feature_field, timestamp_field, version_field
from liverank.errors import ContractError
from liverank.kafka import Record
from liverank.settings import Settings
from streams.calls import Call, Limits, Position
from streams.collector import quiet
from streams.fence import FencedStore, Meta
from streams.fold import Fold, Parsed
from streams.outbox import Output
from streams.partition_fold import ItemVersions, PartitionFold
from streams.publisher import Pending, RowSink, merge_calls
from streams.rows import SESSION, plain_key

__all__ = ["Replayer", "Restored"]

#: Records between two writes: what waits in memory is bounded by it.
_WRITE_EVERY: Final = 30_000
#: States of each fold in memory.
_CACHE_STATES: Final = 50_000
#: Recorded time runs fast: all due keys are held in memory.
_FOR_EVER_MS: Final = 1 << 60
#: Largest numbers of a version (features/redis.py).
_LAST_OFFSET: Final = 10**16 - 1
_LAST_STEP: Final = 999_999
_UNLIMITED: Final = Limits(keys=1 << 62, size_bytes=1 << 62)


@dataclass(frozen=True, kw_only=True)
class Restored:
    """Where a replayed partition of the user fold stands.

    Attributes
    ----------
    offset : int
        Of the last record; -1 = none.
    """

    offset: int
    clock_ms: int


class _KnownReader:
    """Reads only keys that were written before: every other key is new, and costs no round trip."""

    def __init__(self, store: FencedStore) -> None:
        self._store = store
        self.known: set[tuple[int, str]] | None = set()

    def load(self, partition: int, keys: Sequence[str]) -> list[Mapping[bytes, bytes]]:
        """See `StateReader.load`."""
        known = self.known
        asked = [key for key in keys if known is None or (partition, key) in known]
        stored = dict(zip(asked, self._store.load(partition, asked), strict=True))
        return [stored.get(key, {}) for key in keys]

    def due_between(self, partition: int, after_ms: int, until_ms: int) -> list[tuple[str, int]]:
        """See `StateReader.due_between`."""
        return self._store.due_between(partition, after_ms, until_ms)


class _Half:
    """One of the two folds over all partitions."""

    def __init__(
        self,
        fold: Fold,
        client: Redis,
        settings: Settings,
        *,
        n_partitions: int,
        generation: int,
        store_generation: int,
        items: ItemVersions | None,
        spill: Callable[[], None],
        numbered_input: bool,
    ) -> None:
        self._client, self._project = client, settings.feast_project
        # Rankers find statistics under the generation of their version.
        self._statistics_version = format_version(store_generation, 0, 0) if generation < store_generation else b""
        self.fold = fold
        self.store = FencedStore(client, namespace=settings.namespace, generation=store_generation, kind=fold.kind)
        self.rows = RowSink(client, settings.feast_project, fold)
        self.reader = _KnownReader(self.store)
        self._folds = [fold.for_partition({}) for _ in range(n_partitions)]
        self.parts = [
            PartitionFold(
                self._folds[partition],
                partition=partition,
                n_partitions=n_partitions,
                generation=generation,
                position=Position(generation, -1, 0),
                clock_ms=0,
                sources={},
                reader=self.reader,
                items=items,
                clock=settings.clock,
                numbered_input=numbered_input,
                spill=spill,
                cache_states=_CACHE_STATES // n_partitions,
                limits=_UNLIMITED,
                horizon_ms=_FOR_EVER_MS,
            )
            for partition in range(n_partitions)
        ]
        self.statistics: dict[tuple[int, str], Pending] = {}

    def take_calls(self) -> list[Call]:
        """Close and take the open calls."""
        calls = []
        for part in self.parts:
            part.close()
            calls += part.calls
            part.calls = []
        return calls

    def write(self, calls: Sequence[Call]) -> None:
        """Write state. Rows and statistics wait for the end."""
        self.store.restore(calls)
        for (partition, key), change in merge_calls(calls).items():
            if key.startswith("#"):
                earlier = self.statistics.get((partition, key))
                if earlier is not None:
                    change.fields = {**earlier.fields, **change.fields}
                self.statistics[partition, key] = change
        if self.reader.known is not None:
            self.reader.known.update((call.partition, key) for call in calls for key in call.pages)
        for part in self.parts:
            part.shrink()

    def write_rows(self, part: PartitionFold, version: bytes) -> None:
        """Write the whole row of every state of a partition."""
        for keys in self.store.keys(part.partition):
            entities = [key for key in keys if not key.startswith("#")]
            pending = {}
            for key, fields in zip(entities, self.store.load(part.partition, entities), strict=True):
                public = {name: data for name, data in fields.items() if not name.startswith(b"_")}
                if public:
                    pending[part.partition, key] = Pending(
                        self._folds[part.partition].load(key, fields), public, version
                    )
            self.rows.write(self.rows.build(pending))

    def wipe(self, *, rows: bool) -> int:
        """Delete all states, and before them what readers see of them if asked to; return how many keys went."""
        return self.store.wipe(len(self.parts), going=self._erase_rows if rows else None)

    def _erase_rows(self, partition: int, keys: Sequence[str]) -> None:
        entity = "user_id" if self.fold.kind == "u" else "item_id"
        with translated("deleting online rows"):
            pipe = self._client.pipeline(transaction=False)
            entities = [key for key in keys if not key.startswith("#")]
            for key, fields in zip(entities, self.store.load(partition, entities), strict=True):
                public = [name.decode().partition(":") for name in fields if not name.startswith(b"_")]
                gone = {feature_field(view, feature) for view, _, feature in public}
                gone |= {field(view) for view, _, _ in public for field in (timestamp_field, version_field)}
                if gone:
                    join_key = "session_id" if key.startswith(SESSION) else entity
                    pipe.hdel(entity_key(self._project, (join_key,), (plain_key(key),)), *gone)
            pipe.execute()

    def write_statistics(self) -> None:
        """Publish the statistics of all partitions."""
        for change in self.statistics.values():
            change.version = self._statistics_version or change.version
        self.rows.write(self.rows.build(self.statistics))
        self.statistics = {}


class Replayer:
    """Folds recorded events.

    Parameters
    ----------
    users, items : Fold
        The live folds.
    generation : int
        Generation of numbers and versions: 0 for imported history.
    store_generation : int
        Generation of the state's keys.
    catalogue : ItemVersions
        What items were.
    outputs : callable
        Gets the user fold's outputs (examples, dead letters, user changes), in order.
    """

    def __init__(
        self,
        settings: Settings,
        client: Redis,
        *,
        users: Fold,
        items: Fold,
        n_partitions: int,
        generation: int,
        store_generation: int,
        catalogue: ItemVersions,
        outputs: Callable[[Sequence[Output]], None],
    ) -> None:
        quiet()
        self._client, self._namespace = client, settings.namespace
        self._generation, self._store_generation = generation, store_generation
        self._outputs = outputs
        self._users = _Half(
            users, client, settings, n_partitions=n_partitions, generation=generation,
            store_generation=store_generation, items=catalogue, spill=self.write, numbered_input=False,
        )  # fmt: skip
        self._items = _Half(
            items, client, settings, n_partitions=n_partitions, generation=generation,
            store_generation=store_generation, items=None, spill=self._write_items, numbered_input=True,
        )  # fmt: skip
        self._since_write = 0
        self._effects = [0] * n_partitions
        self.n_records = 0

    def wipe(self, *, rows: bool = False) -> int:
        """Delete what the store holds of the generation; return how many keys went.

        Parameters
        ----------
        rows : bool
            What readers see too: Feast rows and bandit partials. Otherwise it stays until it is written anew.
        """
        if rows:
            with translated("deleting statistics"):
                partials = list(self._client.scan_iter(match=f"{self._namespace}:bandit:*", count=5000))
                for start in range(0, len(partials), 1000):
                    self._client.unlink(*partials[start : start + 1000])
        return self._users.wipe(rows=rows) + self._items.wipe(rows=rows)

    def feed(self, record: Record) -> None:
        """Fold one record of `events`; records of one partition come in the order of their offsets."""
        parsed: Parsed | ContractError
        try:
            parsed = self._users.fold.parse(record)
        except ContractError as error:
            parsed = error
        self._users.parts[record.partition].feed(record, parsed)
        self.n_records += 1
        self._since_write += 1
        if self._since_write >= _WRITE_EVERY:
            self.write()

    def go_on_from_store(self) -> None:
        """Begin with the state that another replay left, instead of an empty store."""
        for half in (self._users, self._items):
            half.reader.known = None
            for part in half.parts:
                meta = half.store.meta(part.partition)
                if meta is not None:
                    part.resume(meta.clock_ms, meta.sources)

    def tick(self, ts_ms: int) -> None:
        """Move the clock of every partition to `ts_ms`, as a tick after its last record would."""
        for part in self._users.parts:
            record = Record("events", part.partition, part.position.offset + 1, None, b"", (), ts_ms)
            part.feed(record, Parsed((), None, tick=True))
        self.write()

    def write(self) -> None:
        """Write what waits: state, rows, and the effects on items."""
        self._since_write = 0
        calls = self._users.take_calls()
        if not calls:
            return
        self._users.write(calls)
        for call in calls:
            for target, effects in call.effects.items():
                packed = joined(self._generation, call.partition, effects)
                record = Record("item-effects", target, self._effects[target], None, packed, (), call.clock_ms)
                self._effects[target] += 1
                self._items.parts[target].feed(record, self._items.fold.parse(record))
            call.effects = {}
            self._outputs(call.outputs)
        self._write_items()

    def _write_items(self) -> None:
        calls = self._items.take_calls()
        if calls:
            self._items.write(calls)

    def write_rows(self, n_effects: Sequence[int] = ()) -> None:
        """Write what readers see of all states, whatever they saw before.

        Parameters
        ----------
        n_effects : sequence of int, optional
            Records that `item-effects` holds, by partition; default: as many as this replay made. A replay packs
            effects otherwise than the live fold did, so an item's row takes the version of the last of these: newer
            than all before, older than all to come.
        """
        self.write()
        users = [part.position.offset for part in self._users.parts]
        for half, ends in ((self._users, users), (self._items, [n - 1 for n in n_effects or self._effects])):
            for part, end in zip(half.parts, ends, strict=True):
                # Imported history lies before all that is live, and another import may be shorter. So does all that
                # is there of a generation without a record.
                last = (
                    (self._generation, end) if self._generation and end >= 0 else (self._generation - 1, _LAST_OFFSET)
                )
                half.write_rows(part, format_version(max(0, last[0]), last[1], _LAST_STEP))

    def finish(self, *, live: bool) -> None:
        """Publish statistics and say where each partition stands; the store may be taken over now.

        Parameters
        ----------
        live : bool
            The records are of the live log: go on after their last offset. Otherwise at the log's beginning.
        """
        self.write()
        self._users.write_statistics()
        self._items.write_statistics()
        # Users last: a worker takes nothing while one of their positions is missing (takeover.py).
        for half in (self._items, self._users):
            for part in half.parts:
                offset = part.position.offset
                position = part.position if live and half is self._users else Position(self._store_generation, -1, 0)
                version = format_version(self._generation, max(0, offset), 0)
                half.store.restore_meta(
                    part.partition,
                    Meta(epoch=0, position=position, clock_ms=part.clock_ms, version=version, sources=part.sources),
                )

    @property
    def ends(self) -> list[Restored]:
        """Where the partitions of `events` stand."""
        return [Restored(offset=part.position.offset, clock_ms=part.clock_ms) for part in self._users.parts]
