"""Both folds in memory: the real pure code, dictionaries in place of Kafka and Redis."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from features.item_version import CatalogueItem
from features.online import EntityRow, Tombstone
from features.program import FeatureProgram
from features.redis import VersionedValue
from liverank.kafka import Record
from liverank.settings import Settings
from liverank.v1.event_pb2 import DeadLetter, Event, EventType
from liverank.v1.stream_pb2 import Example, ItemEffects, ItemRow, UserChange
from streams.calls import LIMITS, Limits, Position
from streams.dues import HORIZON_MS
from streams.fold import Feed, Fold, KeyState
from streams.items import ItemFold
from streams.outbox import Output
from streams.partition_fold import PartitionFold
from streams.program import PROGRAM_KEY
from streams.users import UserFold
from tests.recount.program import PROGRAM

TOKEN = b"token"


class Catalogue:
    """Versions of items in memory."""

    def __init__(self) -> None:
        self._versions: dict[str, list[CatalogueItem]] = defaultdict(list)
        self._offset = 0

    def put(self, item_id: str, *categories: str, append_ts_ms: int = 0) -> None:
        """Append a version."""
        self._versions[item_id].append(CatalogueItem(item_id, self._offset, append_ts_ms, categories, "", 0.0, True, 0))
        self._offset += 1

    def at(self, item_id: str, append_ts_ms: int) -> CatalogueItem | None:
        """Return the newest version appended at or before `append_ts_ms`."""
        found = None
        for version in self._versions.get(item_id, ()):
            if version.append_ts_ms <= append_ts_ms:
                found = version
        return found


class Store:
    """Fields and due times of one fold's partition."""

    def __init__(self) -> None:
        self.fields: dict[str, dict[bytes, bytes]] = {}
        self.due: dict[str, int] = {}

    def load(self, partition: int, keys: Sequence[str]) -> list[Mapping[bytes, bytes]]:
        """See `StateReader.load`."""
        return [dict(self.fields.get(key, {})) for key in keys]

    def due_between(self, partition: int, after_ms: int, until_ms: int) -> list[tuple[str, int]]:
        """See `StateReader.due_between`."""
        return [(key, due) for key, due in self.due.items() if after_ms < due <= until_ms]


class Runner:
    """One partition of one fold, with its store; `crash` drops everything that is not stored."""

    def __init__(
        self,
        fold: Fold,
        catalogue: Catalogue | None,
        *,
        clock: str,
        numbered: bool,
        limits: Limits = LIMITS,
        horizon_ms: int = HORIZON_MS,
    ) -> None:
        self.fold = fold
        self._limits, self._horizon_ms = limits, horizon_ms
        self.store = Store()
        self.rows: dict[str, dict[str, bytes]] = {}
        self.outputs: list[Output] = []
        self._catalogue = catalogue
        self._clock = clock
        self._numbered = numbered
        self._position = Position(1, -1, 0)
        self._clock_ms = 0
        self._sources: dict[int, Any] = {}
        self._feeds: list[Feed] = []
        self.partition = self._open()

    def _open(self) -> PartitionFold:
        return PartitionFold(
            self.fold.for_partition(self.store.load(0, [PROGRAM_KEY])[0]),
            partition=0,
            n_partitions=1,
            generation=1,
            position=self._position,
            clock_ms=self._clock_ms,
            sources=self._sources,
            reader=self.store,
            items=self._catalogue,
            clock="data" if self._clock == "data" else "wall",
            numbered_input=self._numbered,
            spill=self.write,
            cache_states=10_000,
            limits=self._limits,
            horizon_ms=self._horizon_ms,
        )

    def feed(self, record: Record) -> None:
        """Fold one record."""
        from liverank.errors import ContractError

        try:
            parsed: Any = self.fold.parse(record)
        except ContractError as error:
            parsed = error
        self.partition.feed(record, parsed)

    def write(self, n_calls: int | None = None) -> None:
        """Write every closed call; `n_calls`: only so many of them, then the memory must be lost."""
        self.partition.close()
        for call in self.partition.calls[:n_calls]:
            for key, fields in call.pages.items():
                stored = self.store.fields.setdefault(key, {})
                for name, page in fields.items():
                    if page:
                        stored[name] = page
                    else:
                        stored.pop(name, None)
                self._publish(key, fields, call.states[key], call.version)
            for key, due in call.due.items():
                if due is None:
                    self.store.due.pop(key, None)
                else:
                    self.store.due[key] = due
            call.seal()
            self.outputs += call.outputs
            self._position, self._clock_ms = call.end, call.clock_ms
            self._sources.update(call.sources)
        self.partition.calls.clear()

    def _publish(self, key: str, fields: Mapping[bytes, bytes], state: KeyState, version: bytes) -> None:
        public = {n: p for n, p in fields.items() if key.startswith("#") or not n.startswith(b"_")}
        if not public:
            return
        for row in self.fold.rows(key, public, state, version):
            if isinstance(row, VersionedValue):
                self.rows.setdefault(row.key, {}).update(row.fields)
            elif isinstance(row, Feed):
                self._feeds.append(row)
            elif isinstance(row, Tombstone):
                self.rows.pop(row.entity_id, None)
            else:
                for each in row.rows() if isinstance(row, EntityRow) else [row]:
                    for name, value in each.values.items():
                        self.rows.setdefault(each.entity_id, {})[f"{each.view}:{name}"] = value

    @property
    def feeds(self) -> list[ItemRow]:
        """Item rows that were announced."""
        return [ItemRow.FromString(bytes(feed.message)) for feed in self._feeds]  # type: ignore[arg-type]

    def take_feeds(self) -> list[ItemRow]:
        """Item rows announced since the last call."""
        found = self.feeds
        self._feeds.clear()
        return found

    def crash(self) -> None:
        """Lose the memory and go on from the store."""
        self.partition = self._open()


class World:
    """Users and items together.

    Parameters
    ----------
    crash_rate : float
        Probability to lose all memory after a write.
    write_rate : float
        Probability to write after a record (else it waits in an open call).
    horizon_ms : int
        How far ahead due keys are held in memory; a log of sparse events is folded faster with more.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        program: FeatureProgram = PROGRAM,
        catalogue: Catalogue | None = None,
        crash_rate: float = 0.0,
        write_rate: float = 1.0,
        seed: int = 0,
        limits: Limits = LIMITS,
        horizon_ms: int = HORIZON_MS,
    ) -> None:
        self.settings = settings or Settings()
        self.catalogue = catalogue or Catalogue()
        self._rng = random.Random(seed)
        self._crash_rate, self._write_rate = crash_rate, write_rate
        clock = self.settings.clock
        users, items = UserFold(self.settings, program, token=TOKEN), ItemFold(self.settings, program, token=TOKEN)
        self.users, self.items = (
            Runner(fold, self.catalogue, clock=clock, numbered=numbered, limits=limits, horizon_ms=horizon_ms)
            for fold, numbered in ((users, False), (items, True))
        )
        self._offset = self._effects_offset = 0
        self._sent = 0

    def send(self, event: Event, append_ts_ms: int | None = None) -> None:
        """Append an event to the log and fold it."""
        append = event.event_ts_ms if append_ts_ms is None else append_ts_ms
        self.send_bytes(event.SerializeToString(), append, (event.user_id or event.session_id).encode())

    def send_bytes(
        self, value: bytes, append_ts_ms: int, key: bytes | None = None, headers: tuple[tuple[str, bytes], ...] = ()
    ) -> None:
        """Append a record to the log and fold it."""
        self.users.feed(Record("events.1", 0, self._offset, key, value, headers, append_ts_ms))
        self._offset += 1
        if self._rng.random() < self._write_rate:
            self.flush()
            if self._rng.random() < self._crash_rate:
                self.users.crash()
                self.items.crash()

    def tick(self, now_ms: int) -> None:
        """Let the clock advance."""
        value = Event(type=EventType.EVENT_TYPE_TICK).SerializeToString()
        self.send_bytes(value, now_ms, headers=(("liverank-internal", TOKEN),))

    def flush(self) -> None:
        """Write what is open, and fold the item effects that came of it."""
        self.users.write()
        for output in self.users.outputs[self._sent :]:
            if output.topic == "item-effects":
                self.items.feed(Record("item-effects.1", 0, self._effects_offset, None, output.value, (), 0))
                self._effects_offset += 1
        moved = [output for output in self.users.outputs[self._sent :] if output.topic == "events"]
        self._sent = len(self.users.outputs)
        self.items.write()
        for output in moved:
            now_ms = self.users.partition.clock_ms
            self.users.feed(Record("events.1", 0, self._offset, output.key, output.value, output.headers, now_ms))
            self._offset += 1
        if moved:
            self.flush()

    # -- what came out

    def take_outputs(self) -> list[Output]:
        """What the user fold sent since the last call; `flush` has folded its item effects."""
        found = self.users.outputs[: self._sent]
        del self.users.outputs[: self._sent]
        self._sent = 0
        return found

    def fields(self, user_id: str) -> dict[bytes, bytes]:
        """Stored fields of a user."""
        return self.users.store.fields.get(user_id, {})

    def item_fields(self, item_id: str) -> dict[bytes, bytes]:
        """Stored fields of an item."""
        return self.items.store.fields.get(item_id, {})

    def rows_of_users(self) -> dict[str, dict[str, bytes]]:
        """Features of users as readers see them."""
        return self.users.rows

    def _messages(self, topic: str, kind: Any) -> list[Any]:
        return [kind.FromString(output.value) for output in self.users.outputs if output.topic == topic]

    def examples(self) -> list[Example]:
        """Label rows, in order."""
        return self._messages("examples", Example)

    def dead_letters(self) -> list[DeadLetter]:
        """Dead letters, in order."""
        return self._messages("dead-letter", DeadLetter)

    def changes(self) -> list[UserChange]:
        """User changes, in order."""
        return [change for first in self._messages("user-changes", UserChange) for change in (first, *first.more)]

    def effects(self) -> list[ItemEffects]:
        """Packed item effects, in order."""
        return self._messages("item-effects", ItemEffects)
