"""One exposure, one outcome: values of the join and their bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.errors import StateFormatError
from liverank.contract import polarity
from liverank.v1.event_pb2 import Event, EventType, ExposureSlot
from liverank.v1.stream_pb2 import Example

__all__ = [
    "CLICK",
    "CORRECTED",
    "FAST",
    "HEAD_BITS",
    "IMPRESSION",
    "INFERRED",
    "INTERACTED",
    "LABELS",
    "LABEL_NAMES",
    "SEEN",
    "Exposure",
    "Outcome",
    "matrix",
    "outcome_bits",
    "pack_outcome",
    "unpack_outcomes",
]

CLICK, DWELL, LIKE, PURCHASE, DISMISS = 1, 2, 4, 8, 16
LABELS: Final = CLICK | DWELL | LIKE | PURCHASE | DISMISS
FAST: Final = CLICK | DISMISS
INTERACTED: Final = 32
IMPRESSION: Final = 64
"""Bits of what happened at a slot: the labels; any event on the item; an impression event."""

LABEL_NAMES: Final = (("click", CLICK), ("dwell", DWELL), ("like", LIKE), ("purchase", PURCHASE), ("dismiss", DISMISS))
HEAD_BITS: Final = {**dict(LABEL_NAMES), "long_dwell": DWELL, "like_save": LIKE, "save": LIKE}
"""Heads that the fold knows; others have no label and never move a statistic."""

INFERRED, CORRECTED, SEEN = 1, 2, 4
"""Marks of a slot: its impression was inferred; its correction was written; its row says that it was seen."""

_CLOSED, _COUNTS = 1, 2
_NO_TARGET: Final = 255
_JOINED: Final = struct.Struct("<B")
_EVENT: Final = struct.Struct("<q")
_OUTCOME: Final = struct.Struct("<qBBBHBB")

_BITS: Final = {
    int(EventType.EVENT_TYPE_IMPRESSION): IMPRESSION,
    int(EventType.EVENT_TYPE_CLICK): CLICK | INTERACTED,
    int(EventType.EVENT_TYPE_LIKE): LIKE | INTERACTED,
    int(EventType.EVENT_TYPE_SAVE): LIKE | INTERACTED,
    int(EventType.EVENT_TYPE_PURCHASE): PURCHASE | INTERACTED,
    int(EventType.EVENT_TYPE_SKIP): INTERACTED,
    int(EventType.EVENT_TYPE_SURVEY): INTERACTED,
    int(EventType.EVENT_TYPE_DISMISS): DISMISS | INTERACTED,
    int(EventType.EVENT_TYPE_THUMBS_DOWN): DISMISS | INTERACTED,
    int(EventType.EVENT_TYPE_NOT_INTERESTED): DISMISS | INTERACTED,
}
_GOOD_BITS: Final = {int(EventType.EVENT_TYPE_DWELL): DWELL, int(EventType.EVENT_TYPE_RATING): LIKE}


def outcome_bits(kind: int, value: float) -> int:
    """What an event on an item says about a slot that showed it; 0 = nothing.

    A long dwell is the label `dwell`, a good rating counts as `like`, thumbs down and not interested as `dismiss`.
    """
    good = _GOOD_BITS.get(kind)
    if good is not None:
        return good | INTERACTED if polarity(kind, value) > 0 else INTERACTED
    return _BITS.get(kind, 0)


def matrix(packed: bytes, n_rows: int) -> NDArray[np.float64]:
    """Packed float32 rows of one length as float64, shape (n_rows, n)."""
    values = np.frombuffer(packed, np.float32)
    return values.reshape(n_rows, len(values) // max(1, n_rows)).astype(np.float64)


class Exposure:
    """A slate that was shown, and what came of each slot.

    Attributes
    ----------
    number : int
        Which of the user's places it lies in.
    event : Event
        As it came.
    append_ts_ms : int
        Append time of its record.
    counts : bool
        Its outcomes move the bandit's statistics.
    closed : bool
        Its rows are written.
    at : dict of str to int
        Item -> first slot that shows it, from 0.
    bits, marks : bytearray
        One byte a slot.
    head_bits : tuple of int
        Label of each head; 0 = none.
    """

    __slots__ = (
        "append_ts_ms",
        "at",
        "bits",
        "closed",
        "counts",
        "event",
        "head_bits",
        "marks",
        "number",
        "phi",
        "size_bytes",
    )

    def __init__(self, number: int, event: Event, append_ts_ms: int, *, counts: bool) -> None:
        self.number = number
        self.event = event
        self.append_ts_ms = append_ts_ms
        self.counts = counts
        self.closed = False
        slots = event.exposure.slots
        self.at: dict[str, int] = {}
        for at, slot in enumerate(slots):
            self.at.setdefault(slot.item_id, at)
        self.bits = bytearray(len(slots))
        self.marks = bytearray(len(slots))
        self.head_bits = tuple(HEAD_BITS.get(name, 0) for name in event.exposure.heads)
        self.phi: NDArray[np.float64] | None = None
        self.size_bytes = event.ByteSize() + 2 * len(slots) + 16  # with its page of outcomes and the fields' names

    @property
    def request_id(self) -> str:
        """Request that showed it."""
        return self.event.event_id

    @property
    def shown_ms(self) -> int:
        """When it was shown, event time."""
        return self.event.event_ts_ms

    @property
    def slots(self) -> Sequence[ExposureSlot]:
        """Slots, in order."""
        found: Sequence[ExposureSlot] = self.event.exposure.slots
        return found

    def features(self) -> NDArray[np.float64]:
        """Bandit features of the slots, shape (n_slots, dim)."""
        if self.phi is None:
            self.phi = np.array([slot.phi for slot in self.slots], dtype=np.float64)
        return self.phi

    def slot_of(self, item_id: str, position: int) -> int:
        """Slot that shows the item: the one at `position` (from 1) if it does, else the first."""
        slots = self.event.exposure.slots
        if 1 <= position <= len(slots) and slots[position - 1].item_id == item_id:
            return position - 1
        return self.at[item_id]

    def item_of(self, slot: int) -> str:
        """Item that the slot shows."""
        found: str = self.event.exposure.slots[slot].item_id
        return found

    @property
    def surface(self) -> str:
        """Where it was shown."""
        return self.event.surface

    @property
    def user_id(self) -> str:
        """Who saw it; empty for a session without a user."""
        return self.event.user_id

    @property
    def session_id(self) -> str:
        """The app's session."""
        return self.event.session_id

    def expected(self) -> NDArray[np.float64]:
        """Expectations at the slots shown, shape (n_slots, n_heads)."""
        return np.array([slot.p_shown for slot in self.slots], dtype=np.float64)

    def example(self, slot: int, user_id: str, closed_ts_ms: int, correction: bool, rewards: Sequence[float]) -> bytes:
        """The slot's label row: an encoded Example without its number.

        Parameters
        ----------
        slot : int
            From 0.
        closed_ts_ms : int
            When the window closed.
        correction : bool
            It replaces the row written then.
        rewards : sequence of float
            Worth of each outcome, in the order of `LABEL_NAMES`.
        """
        slate, shown, bits = self.event.exposure, self.slots[slot], self.bits[slot]
        outcomes = {name: 1.0 if bits & bit else 0.0 for name, bit in LABEL_NAMES}
        row = Example(
            request_id=self.request_id,
            position=slot + 1,
            user_id=user_id,
            item_id=shown.item_id,
            exposure_ts_ms=self.shown_ms,
            closed_ts_ms=closed_ts_ms,
            surface=self.surface,
            policy=slate.policy,
            arm=slate.arm,
            base_model=slate.base_model,
            schema=slate.schema,
            propensity=shown.propensity,
            pinned=shown.pinned,
            drawn=slate.drawn,
            seen=bool(self.marks[slot] & SEEN),
            outcomes=outcomes,
            reward=sum(worth * happened for worth, happened in zip(rewards, outcomes.values(), strict=True)),
            correction=correction,
            phi=shown.phi,
            p_shown=shown.p_shown,
            heads=slate.heads,
            catalogue_version=shown.catalogue_version,
            variant_id=shown.variant_id,
            variant_propensity=shown.variant_propensity,
        )
        return row.SerializeToString()

    def pack_event(self) -> bytes:
        """What never changes."""
        return _EVENT.pack(self.append_ts_ms) + self.event.SerializeToString()

    def pack_joined(self) -> bytes:
        """What changes."""
        flags = (_CLOSED if self.closed else 0) | (_COUNTS if self.counts else 0)
        return _JOINED.pack(flags) + self.bits + self.marks

    @classmethod
    def unpack(cls, number: int, event: bytes, joined: bytes) -> Exposure:
        """Inverse of `pack_event` and `pack_joined`.

        Raises
        ------
        StateFormatError
            The bytes do not fit together.
        """
        flags = joined[0]
        found = cls(
            number, Event.FromString(event[_EVENT.size :]), _EVENT.unpack_from(event)[0], counts=flags & _COUNTS > 0
        )
        n = len(found.bits)
        if len(joined) != 1 + 2 * n:
            raise StateFormatError(f"exposure {found.request_id!r} has {n} slots, its page {len(joined) - 1} bytes")
        found.closed = flags & _CLOSED > 0
        found.bits[:], found.marks[:] = joined[1 : 1 + n], joined[1 + n :]
        return found


class Outcome:
    """An event on an item that may belong to an exposure."""

    __slots__ = ("bits", "event_ts_ms", "item_id", "position", "request_id", "slot", "target")

    def __init__(self, *, item_id: str, event_ts_ms: int, bits: int, request_id: str, position: int) -> None:
        self.item_id = item_id
        self.event_ts_ms = event_ts_ms
        self.bits = bits
        self.request_id = request_id
        self.position = position
        self.target: Exposure | None = None
        self.slot = 0

    def join(self, exposure: Exposure) -> None:
        """Belong to this exposure, until another one claims it."""
        self.target = exposure
        self.slot = exposure.slot_of(self.item_id, self.position)


def pack_outcome(outcome: Outcome) -> bytes:
    """Bytes of an outcome."""
    item, request = outcome.item_id.encode(), outcome.request_id.encode()
    number = _NO_TARGET if outcome.target is None else outcome.target.number
    return (
        _OUTCOME.pack(
            outcome.event_ts_ms, outcome.bits, number, outcome.slot, outcome.position, len(item), len(request)
        )
        + item
        + request
    )


def unpack_outcomes(packed: bytes, exposures: Mapping[int, Exposure]) -> Iterator[Outcome]:
    """Outcomes of packed bytes, in order; targets by the numbers of their places.

    Raises
    ------
    StateFormatError
        The bytes cannot be read.
    """
    at = 0
    try:
        while at < len(packed):
            ts, bits, number, slot, position, n_item, n_request = _OUTCOME.unpack_from(packed, at)
            at += _OUTCOME.size
            item = packed[at : at + n_item].decode()
            request = packed[at + n_item : at + n_item + n_request].decode()
            at += n_item + n_request
            outcome = Outcome(item_id=item, event_ts_ms=ts, bits=bits, request_id=request, position=position)
            outcome.slot = slot
            outcome.target = None if number == _NO_TARGET else exposures[number]
            yield outcome
    except (struct.error, UnicodeDecodeError, KeyError) as error:
        raise StateFormatError(f"outcomes cannot be read at byte {at} ({error}); run `liverank rebuild`") from error
