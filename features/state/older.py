"""What a user did before the newest 128 signals: of each week a sample that stands for all of it.

Priority sampling (Duffield, Lund and Thorup 2007): an entry of magnitude m and a random u in (0, 1], made of its item
and time, has the priority m / u; of each week the 25 largest are kept. Where more came, the smallest of the 25 is the
threshold t and the other 24 weigh max(m, t) / m of themselves, so that sums over them estimate sums over all, whatever
is summed. A negative entry's magnitude counts a quarter, as in the vectors.

Kept are the newest 27 weeks that have any (180 days touch at most 27). All this follows from the set of entries that
left the newest 128, not from the order in which they did.
"""

from __future__ import annotations

import struct
from bisect import insort
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.state.entries import HISTORY, Entry
from features.state.pages import HEAD, body

__all__ = ["KEPT", "OLDER_FIELDS", "WEEKS", "WEEK_MS", "Older", "decode_older", "priority"]

WEEK_MS: Final = 7 * 86_400_000
WEEKS: Final = 27
KEPT: Final = 25
N_PAGES: Final = 9
OLDER_FIELDS: Final = tuple(b"user_history:older_%d" % page for page in range(N_PAGES))
"""Week w lies on page w mod 9."""

_ENTRY: Final = struct.Struct("<IHbBq")
_PACKED: Final = np.dtype([("low", "<u4"), ("high", "<u2"), ("sixteenths", "i1"), ("kind", "u1"), ("item", "<i8")])
_MASK: Final = (1 << 64) - 1
_FACTORS: Final = (0x9E37_79B9_7F4A_7C15, 0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB)

Kept = tuple[float, int, int, int, int]
"""(priority, event time, item, kind, sixteenths); tuples compare in the order in which entries are kept."""


def priority(item_hash: int, event_ts_ms: int, sixteenths: int) -> float:
    """Magnitude over a number in (0, 1] that is SplitMix64 of item and time (Steele et al. 2014)."""
    x = (item_hash * _FACTORS[0] + event_ts_ms) & _MASK
    x = (x ^ x >> 30) * _FACTORS[1] & _MASK
    x = (x ^ x >> 27) * _FACTORS[2] & _MASK
    x ^= x >> 31
    return _magnitude(sixteenths) / (((x >> 11) + 1) * 2.0**-53)


def _magnitude(sixteenths: int) -> int:
    return 4 * sixteenths if sixteenths > 0 else -sixteenths


class Older:
    """Entries that left the newest 128."""

    __slots__ = ("_dirty", "_times", "_weeks")

    def __init__(self, fields: Mapping[bytes, bytes]) -> None:
        self._weeks: dict[int, list[Kept]] = {}
        for name in OLDER_FIELDS:
            if page := fields.get(name):
                for low, high, sixteenths, kind, item in _ENTRY.iter_unpack(body(name, page, _ENTRY.size)):
                    ts_ms = high << 32 | low
                    kept = (priority(item, ts_ms, sixteenths), ts_ms, item, kind, sixteenths)
                    self._weeks.setdefault(ts_ms // WEEK_MS, []).append(kept)
        for week in self._weeks.values():
            week.sort()
        self._times = sorted(kept[1] for week in self._weeks.values() for kept in week)
        self._dirty: set[int] = set()

    @property
    def times_ms(self) -> list[int]:
        """Event times of the kept entries, ascending."""
        return self._times

    def add(self, entry: Entry) -> bool:
        """Keep an entry if its priority is among the largest of its week; whether anything changed."""
        ts_ms, sixteenths = entry.event_ts_ms, entry.sixteenths
        kept = (priority(entry.item_hash, ts_ms, sixteenths), ts_ms, entry.item_hash, entry.kind, sixteenths)
        number = ts_ms // WEEK_MS
        week = self._weeks.get(number)
        if week is None:
            if len(self._weeks) >= WEEKS:
                oldest = min(self._weeks)
                if number < oldest:
                    return False
                self._drop(oldest)
            week = self._weeks[number] = []
        elif len(week) == KEPT:
            if kept <= week[0]:
                return False
            self._times.remove(week.pop(0)[1])
        insort(week, kept)
        insort(self._times, ts_ms)
        self._dirty.add(number % N_PAGES)
        return True

    def _drop(self, number: int) -> None:
        for kept in self._weeks.pop(number):
            self._times.remove(kept[1])
        self._dirty.add(number % N_PAGES)

    def dirty(self) -> dict[bytes, bytes]:
        """Fields changed since the last call."""
        changed = {}
        for page in self._dirty:
            packed = b"".join(
                _ENTRY.pack(ts_ms & 0xFFFF_FFFF, ts_ms >> 32, sixteenths, kind, item)
                for number in sorted(self._weeks)
                if number % N_PAGES == page
                for _, ts_ms, item, kind, sixteenths in self._weeks[number]
            )
            changed[OLDER_FIELDS[page]] = HEAD + packed if packed else b""
        self._dirty.clear()
        return changed


def decode_older(pages: Iterable[bytes | None]) -> NDArray[np.void]:
    """Entries of the pages together, in no order, each with the weight of those that it stands for.

    Parameters
    ----------
    pages : iterable of bytes or None
        Stored pages of `OLDER_FIELDS`, in any order.

    Returns
    -------
    ndarray of `HISTORY`, shape (n,)
        Version -1 and category 0: they are not kept.

    Raises
    ------
    StateFormatError
        If a page has another version.
    """
    packed = np.frombuffer(b"".join([body(OLDER_FIELDS[0], page, _ENTRY.size) for page in pages if page]), _PACKED)
    ts = packed["low"] | packed["high"].astype(np.int64) << 32
    sixteenths = packed["sixteenths"].astype(np.int64)
    magnitude = np.where(sixteenths > 0, 4 * sixteenths, -sixteenths).astype(np.float64)
    x = packed["item"].astype(np.uint64) * np.uint64(_FACTORS[0]) + ts.astype(np.uint64)
    x = (x ^ x >> np.uint64(30)) * np.uint64(_FACTORS[1])
    x = (x ^ x >> np.uint64(27)) * np.uint64(_FACTORS[2])
    x ^= x >> np.uint64(31)
    priorities = magnitude / (((x >> np.uint64(11)) + np.uint64(1)).astype(np.float64) * 2.0**-53)
    weeks, of_week, n = np.unique(ts // WEEK_MS, return_inverse=True, return_counts=True)
    threshold = np.full(len(weeks), np.inf)
    np.minimum.at(threshold, of_week, priorities)
    threshold[n < KEPT] = 0.0
    share = np.maximum(magnitude, threshold[of_week]) / magnitude
    at = np.lexsort((sixteenths, packed["kind"], packed["item"], ts, priorities, of_week))
    first = np.ones(len(at), np.bool_)
    first[1:] = of_week[at][1:] != of_week[at][:-1]
    share[at[first & (n[of_week[at]] == KEPT)]] = 0.0
    stands = share > 0
    out = np.empty(int(stands.sum()), HISTORY)
    out["item_hash"] = packed["item"][stands]
    out["event_ts_ms"] = ts[stands]
    out["kind"] = packed["kind"][stands]
    out["weight"] = (sixteenths / 16 * share)[stands]
    out["version"] = -1
    out["category"] = 0
    return out
