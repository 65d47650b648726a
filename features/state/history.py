"""What a user did with items: the newest 128 signals, 24 bytes each.

The kept set is the 128 largest entries in the order (event time, then the rest of the entry), so it does not depend on
the order of arrival. Entries lie in slots; a new one takes the slot of the one that leaves, so that one page changes.
"""

from __future__ import annotations

import struct
from bisect import bisect_right, insort
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.state.pages import HEAD, body

__all__ = [
    "CAPACITY",
    "DERIVED_FIELD",
    "EVENT_FIELDS",
    "FIELDS",
    "HISTORY",
    "Entry",
    "History",
    "decode",
    "next_leaving_ms",
    "pack",
    "unpack",
]

CAPACITY: Final = 128
PER_PAGE: Final = 43
EVENT_FIELDS: Final = (b"user_history:page_0", b"user_history:page_1", b"user_history:page_2")
DERIVED_FIELD: Final = b"user_history:page_3"
FIELDS: Final = (*EVENT_FIELDS, DERIVED_FIELD)
"""Three pages of events, and one of derived abandonments (features/state/session.py)."""

_ENTRY: Final = struct.Struct("<IHBbiIq")
SIZE: Final = _ENTRY.size
_NEVER: Final = 1 << 62
_PACKED: Final = np.dtype(
    [
        ("low", "<u4"),
        ("high", "<u2"),
        ("kind", "u1"),
        ("sixteenths", "i1"),
        ("version", "<i4"),
        ("category", "<u4"),
        ("item", "<i8"),
    ]
)

HISTORY: Final = np.dtype(
    [
        ("item_hash", "<i8"),
        ("event_ts_ms", "<i8"),
        ("kind", "u1"),
        ("weight", "<f4"),
        ("version", "<i8"),
        ("category", "<u4"),
    ]
)
"""Decoded entries: item (features.hashing.item_hash), event time, EventType, signed weight in clicks, offset of the
catalogue record (-1 = unknown then), main category (features.hashing.category_hash)."""


class Entry(NamedTuple):
    """One signal; tuples compare in the order in which entries are kept."""

    event_ts_ms: int
    item_hash: int
    kind: int
    sixteenths: int
    version: int
    category: int


def pack(entry: Entry) -> bytes:
    """24 bytes of an entry."""
    ts, item, kind, sixteenths, version, category = entry
    return _ENTRY.pack(ts & 0xFFFF_FFFF, ts >> 32, kind, sixteenths, version, category, item)


def unpack(entries: bytes | bytearray) -> Iterator[Entry]:
    """Entries of packed bytes, in order."""
    for low, high, kind, sixteenths, version, category, item in _ENTRY.iter_unpack(entries):
        yield Entry(high << 32 | low, item, kind, sixteenths, version, category)


def decode(*pages: bytes | None) -> NDArray[np.void]:
    """Entries of the pages together, newest first.

    Parameters
    ----------
    *pages : bytes or None
        Stored pages of `FIELDS`, in any order; None or empty where there are none.

    Returns
    -------
    ndarray of `HISTORY`, shape (n,)
        Newest first; ties by item hash. About 15 us for 128 entries.

    Raises
    ------
    StateFormatError
        If a page has another version.
    """
    packed = np.frombuffer(b"".join([body(b"user_history", page, SIZE) for page in pages if page]), _PACKED)
    ts = packed["low"] | packed["high"].astype(np.int64) << 32
    order = np.lexsort((packed["item"], ts))[::-1]
    out = np.empty(len(packed), HISTORY)
    packed = packed[order]
    out["item_hash"] = packed["item"]
    out["event_ts_ms"] = ts[order]
    out["kind"] = packed["kind"]
    out["weight"] = packed["sixteenths"] / np.float32(16)
    out["version"] = packed["version"]
    out["category"] = packed["category"]
    return out


class History:
    """The newest signals of one user. `add` costs about 2 us."""

    __slots__ = ("_dirty", "_intent", "_intent_from_ms", "_order", "_slots", "_times")

    def __init__(self, fields: Mapping[bytes, bytes]) -> None:
        self._slots = bytearray(b"".join(body(n, fields[n], SIZE) for n in EVENT_FIELDS if fields.get(n)))
        self._order: list[tuple[Entry, int]] = sorted((entry, at) for at, entry in enumerate(unpack(self._slots)))
        self._times = [entry.event_ts_ms for entry, _ in self._order]
        self._dirty: set[int] = set()
        self._intent: dict[int, int] = {}
        self._intent_from_ms = _NEVER

    def __len__(self) -> int:
        return len(self._order)

    def add(self, entry: Entry) -> bool:
        """Keep an entry if it is among the newest; False if it is not."""
        order = self._order
        if len(order) < CAPACITY:
            slot = len(order)
            self._slots += pack(entry)
        else:
            oldest, slot = order[0]
            if entry <= oldest:
                return False
            if oldest.event_ts_ms >= self._intent_from_ms:
                self._weigh(oldest, -1)
            del order[0], self._times[0]
            self._slots[slot * SIZE : (slot + 1) * SIZE] = pack(entry)
        if order and entry < order[-1][0]:
            insort(order, (entry, slot))
            insort(self._times, entry.event_ts_ms)
        else:
            order.append((entry, slot))
            self._times.append(entry.event_ts_ms)
        if entry.event_ts_ms >= self._intent_from_ms:
            self._weigh(entry, 1)
        self._dirty.add(slot // PER_PAGE)
        return True

    def intent(self, start_ms: int) -> tuple[int, float]:
        """Category with the most weight of good news since `start_ms`, and its share of all of it; (0, 0.0) = none."""
        weights = self._intent
        if start_ms != self._intent_from_ms:
            self._intent_from_ms = start_ms
            weights.clear()
            for entry, _ in reversed(self._order):
                if entry.event_ts_ms < start_ms:
                    break
                self._weigh(entry, 1)
        if not weights:
            return 0, 0.0
        most, category = max(zip(weights.values(), weights, strict=True))
        return category, most / sum(weights.values())

    def _weigh(self, entry: Entry, sign: int) -> None:
        if entry.sixteenths > 0 and entry.category:
            weights = self._intent
            weight = weights.get(entry.category, 0) + sign * entry.sixteenths
            if weight:
                weights[entry.category] = weight
            else:
                del weights[entry.category]

    def next_leaving_ms(self, after_ms: int, windows_ms: tuple[int, ...], grain_ms: int) -> int | None:
        """See `next_leaving_ms`."""
        return next_leaving_ms(self._times, after_ms, windows_ms, grain_ms)

    def dirty(self) -> dict[bytes, bytes]:
        """Fields changed since the last call."""
        step = PER_PAGE * SIZE
        changed = {EVENT_FIELDS[page]: HEAD + self._slots[page * step : (page + 1) * step] for page in self._dirty}
        self._dirty.clear()
        return changed


def next_leaving_ms(times_ms: Sequence[int], after_ms: int, windows_ms: tuple[int, ...], grain_ms: int) -> int | None:
    """First multiple of `grain_ms` above `after_ms` by which something has left a window that it was in.

    What happened at t has left a window W from t + W on.

    Parameters
    ----------
    times_ms : sequence of int
        Event times, ascending.
    """
    due: int | None = None
    floor_ms = after_ms // grain_ms * grain_ms
    for window_ms in windows_ms:
        at = bisect_right(times_ms, floor_ms - window_ms)
        if at < len(times_ms):
            leaves_ms = -(-(times_ms[at] + window_ms) // grain_ms) * grain_ms
            if due is None or leaves_ms < due:
                due = leaves_ms
    return due
