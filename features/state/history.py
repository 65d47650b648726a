"""What a user did with items: the newest 128 signals, 24 bytes each, and a sample of what came before.

The kept set is the 128 largest entries in the order (event time, then the rest of the entry), so it does not depend on
the order of arrival. Entries lie in slots; a new one takes the slot of the one that leaves, so that one page changes.
What leaves goes to `features.state.older`.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.state.entries import HISTORY, SIZE, Entry, decode_entries, pack, unpack
from features.state.older import OLDER_FIELDS, Older, decode_older
from features.state.pages import HEAD, body

__all__ = [
    "CAPACITY",
    "DERIVED_FIELD",
    "EVENT_FIELDS",
    "FIELDS",
    "HISTORY",
    "SIGNAL_FIELDS",
    "Entry",
    "History",
    "decode",
    "decode_signals",
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
SIGNAL_FIELDS: Final = (*FIELDS, *OLDER_FIELDS)
"""And those of the sample of what came before."""

_NEVER: Final = 1 << 62


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
    return decode_entries(b"user_history", pages)


def decode_signals(*pages: bytes | None) -> NDArray[np.void]:
    """Everything kept: the newest entries, then the sample of the older ones, which weighs what it stands for.

    Parameters
    ----------
    *pages : bytes or None
        Stored pages of `SIGNAL_FIELDS`, in that order.
    """
    newest, older = decode(*pages[: len(FIELDS)]), pages[len(FIELDS) :]
    return np.concatenate([newest, decode_older(older)]) if any(older) else newest


class History:
    """The newest signals of one user, and the sample of the older ones. `add` costs about 2 us."""

    __slots__ = ("_dirty", "_intent", "_intent_from_ms", "_older", "_order", "_slots", "_times")

    def __init__(self, fields: Mapping[bytes, bytes]) -> None:
        self._slots = bytearray(b"".join(body(n, fields[n], SIZE) for n in EVENT_FIELDS if fields.get(n)))
        self._order: list[tuple[Entry, int]] = sorted((entry, at) for at, entry in enumerate(unpack(self._slots)))
        self._times = [entry.event_ts_ms for entry, _ in self._order]
        self._older = Older(fields)
        self._dirty: set[int] = set()
        self._intent: dict[int, int] = {}
        self._intent_from_ms = _NEVER

    def __len__(self) -> int:
        return len(self._order)

    def add(self, entry: Entry) -> bool:
        """Keep an entry; False if it is too old to be counted anywhere."""
        order = self._order
        if len(order) < CAPACITY:
            slot = len(order)
            self._slots += pack(entry)
        else:
            oldest, slot = order[0]
            if entry <= oldest:
                return self._older.add(entry)
            self._older.add(oldest)
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
        found = (next_leaving_ms(of, after_ms, windows_ms, grain_ms) for of in (self._times, self._older.times_ms))
        return min((each for each in found if each is not None), default=None)

    def dirty(self) -> dict[bytes, bytes]:
        """Fields changed since the last call."""
        step = PER_PAGE * SIZE
        changed = {EVENT_FIELDS[page]: HEAD + self._slots[page * step : (page + 1) * step] for page in self._dirty}
        self._dirty.clear()
        return changed | self._older.dirty()


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
