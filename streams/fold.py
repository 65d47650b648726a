"""Roles of the fold: what the engine asks of a pure fold, and what it gives it.

A fold is a pure function of its input log and of the catalogue's versions (docs/specs/fold.md). The engine reads the
log, loads states, calls the fold, and moves changed fields, due actions, outputs and the offset in one fenced write.
A fold reads no clock, no network and no randomness; whatever it needs comes through `Context`.

Order of calls, per record of one partition
-------------------------------------------
1. The partition's clock advances (fold.md point 2).
2. `Fold.on_due` for every key whose `KeyState.due_ms` is not later than the clock, in the order of (due_ms, key), as
often as the key stays due. 3. `Fold.apply` of the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from features.item_version import CatalogueItem
from liverank.kafka import Record

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from features.online import EntityRow, Row, Tombstone
    from features.redis import VersionedValue
    from features.state.effects import PySink
    from liverank.v1.event_pb2 import Control
    from liverank.v1.stream_pb2 import ItemEffect

__all__ = ["CatalogueItem", "Context", "Feed", "Fold", "KeyState", "Number", "Parsed", "Record", "Usual"]


class Number(NamedTuple):
    """Place of an input in its source's log; tuples compare in log order."""

    generation: int
    offset: int
    step: int
    place: int


class Parsed(NamedTuple):
    """A record that the fold can use.

    Attributes
    ----------
    keys : tuple[str, ...]
        State keys that `apply` will ask for (the engine loads them together beforehand; asking for others works, one
        round trip each).
    body : object
        Whatever `apply` wants to get back: the decoded event.
    route : bytes or None
        Key that decides the partition (user_id, else session_id, as UTF-8). If it belongs to another partition the
        engine forwards the
        record and `apply` is not called. None: the record may lie in any partition (ticks, effects).
    tick : bool
        The record only moves the clock: `apply` is not called.
    alone : bool
        A control record: it shares no call with the records before it, and may take several calls.
    """

    keys: tuple[str, ...]
    body: object
    route: bytes | None = None
    tick: bool = False
    alone: bool = False


class Feed(NamedTuple):
    """A change for readers of a topic, published from memory beside the rows; it may be repeated.

    Attributes
    ----------
    topic : str
        Short name, e.g. ``item-rows``.
    key : bytes
        Decides the partition.
    message : Message or bytes
        Holds the version of what it carries, so that a reader can drop older ones.
    """

    topic: str
    key: bytes
    message: Message | bytes


class KeyState(Protocol):
    """State of one key in memory. Keys that begin with ``#`` are states of the partition as a whole."""

    def dirty(self) -> dict[bytes, bytes]:
        """Return the fields that changed since the last call, with their whole new bytes; ``b""`` deletes the field.

        Fields whose name begins with ``_`` are private, every other one is ``view:feature`` and is published as that
        feature.
        """
        ...

    def due_ms(self) -> int | None:
        """When this key next wants `Fold.on_due` (partition clock, ms); None = never. Must be a function of the state
        alone.
        """
        ...


class Context(Protocol):
    """What the engine gives a fold while it handles one record of one partition."""

    @property
    def sink(self) -> PySink:
        """Takes effects on items from native code; `effect` puts them there too."""
        ...

    @property
    def generation(self) -> int:
        """Generation of the input topic; 0 while history is imported."""
        ...

    @property
    def partition(self) -> int:
        """Partition of the input."""
        ...

    @property
    def n_partitions(self) -> int:
        """Partitions of the input."""
        ...

    @property
    def clock_ms(self) -> int:
        """The partition's clock, already advanced by this record; 0 before the first."""
        ...

    def state(self, key: str) -> KeyState:
        """Return the key's state (new where it has none). Everything asked for is checked for changes when the call is
        closed.
        """
        ...

    def item(self, item_id: str, append_ts_ms: int) -> CatalogueItem | None:
        """Return the newest catalogue version appended at or before `append_ts_ms`; None = unknown or removed."""
        ...

    def emit(
        self, topic: str, message: Message | bytes, *, key: bytes | None = None, partition: int | None = None
    ) -> None:
        """Send `message` to `topic` (short name, e.g. ``examples``) through the outbox.

        If the message has a field ``number`` the engine fills it; bytes are an encoded message whose first field is to
        be the number. `partition` None: by `key`.
        """
        ...

    def change(self, key: bytes, change: bytes) -> None:
        """Tell the near-line agents that the row of a user changed: an encoded `UserChange` without its number, which
        is set as in `emit`. Those of one call travel in one record.
        """
        ...

    def effect(self, item_id: str, effect: ItemEffect | bytes) -> None:
        """Send an effect to the item fold; numbered by the engine and packed per (source, target) partition."""
        ...

    def broadcast(self, make: Callable[[], ItemEffect]) -> None:
        """Send an effect to every partition of the item fold, numbered like any other."""
        ...

    def reload(self) -> None:
        """Write everything that waits and forget the states in memory: they are loaded anew when they are next asked
        for. Only in records with `Parsed.alone`.
        """
        ...

    def drop(self, key: str, then: KeyState | None = None) -> None:
        """Delete everything of a key, its due time included; asked for again it is new, or `then`."""
        ...

    def write_now(self) -> None:
        """Write and publish what waits, this record's changes so far included, before anything later is folded. Only in
        records with `Parsed.alone`, whose state says how far it is.
        """
        ...

    def prefetch(self, keys: Sequence[str]) -> None:
        """Load the missing states among `keys` in one round trip."""
        ...

    def split(self) -> None:
        """Close the call here if it is full. Only in records with `Parsed.alone`, whose state says how far it is."""
        ...

    def erase(self, key: str, fields: Sequence[bytes]) -> None:
        """Delete fields of a key that its state knows nothing of."""
        ...

    def dead_letter(self, reason: str, detail: str) -> None:
        """Send the current record to the dead letters with this reason."""
        ...

    def control(self, partition: int, control: Control, token: bytes) -> None:
        """Send a control record to a partition of `events`, with the namespace's token."""
        ...

    def forward(self, record: Record) -> None:
        """Send a stray record to the partition that its key belongs to (the engine does so by itself for
        `Parsed.route`).
        """
        ...

    def take(self, source: int, number: Number) -> bool:
        """Whether `number` is the highest yet from source partition `source`; remembers it. False = a repeat: skip
        it.
        """
        ...

    def taken(self, source: int) -> Number | None:
        """The highest number yet from source partition `source`; None = none. For readers of many that `take` the last
        of them.
        """
        ...

    def source_clock(self, source: int, clock_ms: int) -> None:
        """Note the newest tick of a source partition; this partition's clock is the smallest one over all sources."""
        ...


class Usual(Protocol):
    """A `features.state.emitter.Emitter` for events of any user."""

    def count(self, name: str, n: int = 1) -> None:
        """Count what operators watch."""
        ...


class Fold(Protocol):
    """A pure fold. `parse` and `rows` of one instance serve all partitions of a worker; states are made by the instance
    of their partition (`for_partition`).
    """

    @property
    def name(self) -> str:
        """``users`` or ``items``: names the consumer group and the metrics."""
        ...

    @property
    def kind(self) -> str:
        """``u`` or ``i``: names the keys of the state."""
        ...

    def for_partition(self, program: Mapping[bytes, bytes]) -> Fold:
        """Return the instance of one partition.

        Parameters
        ----------
        program : mapping of bytes to bytes
            Stored fields of the state `#program`.
        """
        ...

    def parse(self, record: Record) -> Parsed:
        """Decode and validate a record.

        Raises
        ------
        liverank.errors.ContractError
            The record goes to the dead letters with the error's reason.
        """
        ...

    def new(self, key: str) -> KeyState:
        """Return the state of a key that has none."""
        ...

    def load(self, key: str, fields: Mapping[bytes, bytes]) -> KeyState:
        """Return the state that `KeyState.dirty` wrote.

        Raises
        ------
        liverank.errors.CorruptError
            The bytes cannot be read.
        """
        ...

    def apply(self, record: Record, body: object, ctx: Context) -> None:
        """Fold one record.

        Raises
        ------
        liverank.errors.ContractError
            Before anything was changed: the record goes to the dead letters.
        """
        ...

    def usual(self, ctx: Context) -> Usual | None:
        """What native code that folds many usual events (`features.native`: UserLane) calls for the rest; None: there
        is no such code, or something must be asked of every event.
        """
        ...

    def on_due(self, key: str, due_ms: int, ctx: Context) -> None:
        """Do everything of `key` that is due at `due_ms`, stamped with `due_ms`. Afterwards `due_ms()` must differ."""
        ...

    def rows(
        self, key: str, fields: Mapping[bytes, bytes], state: KeyState, version: bytes
    ) -> Sequence[EntityRow | Row | Tombstone | VersionedValue | Feed]:
        """Return what readers see of the changed public `fields`: Feast rows, or values of their own for keys that
        begin with ``#``.

        Called after the fence, and with fields read from the store (state loaded from all of them) when a new owner
        drains.
        """
        ...
