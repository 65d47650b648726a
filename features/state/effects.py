"""Effects of users' events on items, as they lie in Kafka: `ItemEffects` of protos/liverank/v1/stream.proto.

An effect is encoded once, where it arises, and stays bytes until the item fold reads it. In machine code where that is
compiled (`features.native`), else by protobuf; a reader takes the bytes of either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError

from features import native
from liverank.v1.stream_pb2 import ItemEffect, ItemEffects, ItemEvent, ItemPairs

__all__ = [
    "CLOCK",
    "CONTROL",
    "EVENT",
    "PAIRS",
    "Effect",
    "Effects",
    "EventEffect",
    "PairsEffect",
    "item_event",
    "item_pairs",
    "joined",
    "numbered_effect",
    "read_effects",
]

EVENT, PAIRS, CLOCK, CONTROL = 4, 5, 6, 7
"""Kinds of an effect: the numbers of its fields in ItemEffect; 0 = none is set."""


class EventEffect(NamedTuple):
    """An event on an item; fields as in ItemEvent."""

    item_id: str
    type: int
    event_ts_ms: int
    value: float
    sign: float
    surface: str
    expected: float
    position: int
    user_id: str = ""
    session_id: str = ""


class PairsEffect(NamedTuple):
    """Items that one item met; fields as in ItemPairs."""

    item_id: str
    other_hashes: Sequence[int]
    weights: Sequence[float]
    event_ts_ms: int


class Effect(NamedTuple):
    """One numbered effect.

    Attributes
    ----------
    offset, step, place : int
        Its number within the source partition.
    kind : int
        EVENT, PAIRS, CLOCK or CONTROL.
    body : EventEffect, PairsEffect, int (clock, ms) or bytes (an encoded Control)
    """

    offset: int
    step: int
    place: int
    kind: int
    body: Any


class Effects(NamedTuple):
    """Effects of one source partition's records, or a control record of the item fold itself."""

    generation: int
    source_partition: int
    effects: Sequence[Effect]
    control: bytes | None


def _item_event(
    item_id: str, kind: int, ts_ms: int, value: float, sign: float, surface: str, expected: float, position: int
) -> bytes:
    event = ItemEvent(
        item_id=item_id, type=kind, event_ts_ms=ts_ms, value=value, sign=sign, surface=surface, expected=expected,
        position=position,
    )  # fmt: skip
    return ItemEffect(event=event).SerializeToString()


def _item_pairs(item_id: str, other_hashes: Sequence[int], weights: Sequence[float], event_ts_ms: int) -> bytes:
    pairs = ItemPairs(item_id=item_id, other_hashes=other_hashes, weights=weights, event_ts_ms=event_ts_ms)
    return ItemEffect(pairs=pairs).SerializeToString()


def _numbered_effect(offset: int, step: int, place: int, effect: bytes) -> bytes:
    placed = ItemEffect(offset=offset, step=step, index=place).SerializeToString() + effect
    return ItemEffects(effects=[ItemEffect.FromString(placed)]).SerializeToString()


def _read_effects(packed: bytes) -> Effects:
    record = ItemEffects.FromString(packed)
    effects = []
    for effect in record.effects:
        kind: int = 0
        body: Any = None
        match effect.WhichOneof("effect"):
            case "event":
                own = effect.event
                kind, body = EVENT, EventEffect(
                    own.item_id, own.type, own.event_ts_ms, own.value, own.sign, own.surface, own.expected, own.position
                )  # fmt: skip
            case "pairs":
                met = effect.pairs
                kind, body = PAIRS, PairsEffect(
                    met.item_id, tuple(met.other_hashes), tuple(met.weights), met.event_ts_ms
                )  # fmt: skip
                if len(met.other_hashes) != len(met.weights):
                    raise DecodeError("pairs have one weight a partner")
            case "clock_ms":
                kind, body = CLOCK, effect.clock_ms
            case "control":
                kind, body = CONTROL, effect.control.SerializeToString()
        effects.append(Effect(effect.offset, effect.step, effect.index, kind, body))
    control = record.control.SerializeToString() if record.HasField("control") else None
    return Effects(record.generation, record.source_partition, effects, control)


_MOST_TARGETS: Final = 200_000
_core = native.core

item_event: Final[Callable[[str, int, int, float, float, str, float, int], bytes]] = (
    _item_event if _core is None else _core.item_event
)
"""`item_event(item_id, type, event_ts_ms, value, sign, surface, expected, position)`: an encoded ItemEffect."""

item_pairs: Final[Callable[[str, Sequence[int], Sequence[float], int], bytes]] = (
    _item_pairs if _core is None else _core.item_pairs
)
"""`item_pairs(item_id, other_hashes, weights, event_ts_ms)`: an encoded ItemEffect."""

numbered_effect: Final[Callable[[int, int, int, bytes], bytes]] = (
    _numbered_effect if _core is None else _core.numbered_effect
)
"""`numbered_effect(offset, step, place, effect)`: one entry of `ItemEffects.effects`, its tag included."""


class PySink:
    """Effects on items, numbered by their place in the log and collected by target partition.

    Parameters
    ----------
    n_partitions : int
        Of the item fold's input.
    partition_of : callable
        Partition of a key.

    Attributes
    ----------
    offset, step, place : int
        Of the next effect; `place` is raised by each.
    effects : dict
        Entries by target partition; replaced by whoever collects them.
    """

    __slots__ = ("_n_partitions", "_partition_of", "_targets", "effects", "offset", "place", "step")

    def __init__(self, n_partitions: int, partition_of: Callable[[bytes, int], int]) -> None:
        self._n_partitions = n_partitions
        self._partition_of = partition_of
        self._targets: dict[str, int] = {}
        self.offset = self.step = self.place = 0
        self.effects: dict[int, list[bytes]] = {}

    def use_items(self, versions: Mapping[str, tuple[Sequence[int], Sequence[object]]], first: bool) -> None:
        """Look items up here, not through the emitter; only native code does.

        Parameters
        ----------
        versions : mapping
            Append times and versions of each item, in order.
        first : bool
            An item that had no version yet is what it was first (imported history).
        """

    def effect(self, item_id: str, packed: bytes) -> None:
        """Add an encoded effect on an item."""
        target = self._targets.get(item_id)
        if target is None:
            if len(self._targets) > _MOST_TARGETS:
                self._targets.clear()
            target = self._targets[item_id] = self._partition_of(item_id.encode(), self._n_partitions)
        self.number(target, packed)

    def number(self, target: int, packed: bytes) -> None:
        """Add an encoded effect for a partition."""
        entry = numbered_effect(self.offset, self.step, self.place, packed)
        self.place += 1
        self.effects.setdefault(target, []).append(entry)


Sink: type[PySink] = PySink if _core is None else _core.Sink


def read_effects(packed: bytes) -> Effects:
    """Read a record of packed effects.

    Raises
    ------
    ValueError
        The bytes are not one.
    """
    if _core is not None:
        return Effects(*_core.read_effects(packed))
    try:
        return _read_effects(packed)
    except DecodeError as error:
        raise ValueError(str(error)) from error


def joined(generation: int, source_partition: int, entries: Iterable[bytes]) -> bytes:
    """An encoded ItemEffects of numbered entries."""
    head = ItemEffects(generation=generation, source_partition=source_partition).SerializeToString()
    return head + b"".join(entries)
