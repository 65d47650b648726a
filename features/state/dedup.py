"""Duplicate suppression by event id, exactly as docs/specs/state.md defines it.

An id is kept while it arrived within the last 15 minutes (at most the newest 8,192 such ids) or is among the 512 newest
by event time. When more than 576 are kept, the oldest by event time among the others leave, 64 at a time; the largest
event time that ever left is the *bound*, and nothing at or below it is taken any more. So above the bound every repeat
is recognised, whatever the order of arrival.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import Enum
from typing import Final

import numpy as np

from features.errors import StateFormatError
from features.state.pages import HEAD, HEAD_2, body

__all__ = ["Dedup", "Verdict"]

RECENT_S: Final = 15 * 60
MAX_RECENT: Final = 8192
NEWEST: Final = 512
MOST: Final = 576
LEAVE: Final = 64
HORIZON_MS: Final = 7 * 24 * 3600 * 1000
BOT_MS: Final = 24 * 3600 * 1000

_ENTRY: Final = struct.Struct("<qqI")
_META: Final = struct.Struct("<qq")
SIZE: Final = _ENTRY.size
PER_PAGE: Final = 32
_PAGE: Final = PER_PAGE * SIZE
_ID_BYTES: Final = 7
_PAGE_HEAD: Final = struct.Struct("<qIBB")
_ARRIVAL: Final = struct.Struct("<I")
_ARRIVAL_AT: Final = 16
_DTYPE: Final = np.dtype([("id", "<i8"), ("ts", "<i8"), ("arrival", "<u4")])
_NONE: Final = -(1 << 63)
_META_FIELD: Final = b"_d"
_FIELDS: Final = tuple(b"_d%d" % page for page in range(-(-(MAX_RECENT + MOST + LEAVE) // PER_PAGE) + 1))


class Verdict(Enum):
    """What to do with an event."""

    NEW = "new"
    REPEAT = "repeat"
    BEYOND = "beyond"


class Dedup:
    """Ids of one user, in the order of arrival. `judge` and `add` together cost about 2 us.

    Of an id's hash the upper 56 bits are kept: two of a user's 576 ids are taken for one in 4e11 users' lives.
    Arrival is kept in whole seconds of the partition clock: "within the last 15 minutes" means that the clock's second
    and the arrival's are at most 900 apart.
    """

    __slots__ = ("_bot_until_ms", "_dirty", "_entries", "_hold", "_ids", "_meta_dirty", "_stored_pages", "bound_ms")

    def __init__(self, fields: Mapping[bytes, bytes]) -> None:
        pages = []
        for name in _FIELDS:
            page = fields.get(name)
            if not page:
                break
            pages.append(_unpack(name, page))
        self._entries = bytearray(b"".join(pages))
        self._stored_pages = len(pages)
        self._ids = {entry[0] for entry in _ENTRY.iter_unpack(self._entries)}
        self.bound_ms: int | None = None
        self._bot_until_ms = 0
        meta = fields.get(_META_FIELD)
        if meta:
            bound, self._bot_until_ms = _META.unpack(body(_META_FIELD, meta, _META.size))
            self.bound_ms = None if bound == _NONE else bound
        self._dirty: set[int] = set()
        self._meta_dirty = False
        self._hold = (0, 0)

    def __len__(self) -> int:
        return len(self._ids)

    def judge(self, event_id_hash: int, event_ts_ms: int, clock_ms: int) -> Verdict:
        """Whether an event is new, a repeat, or too old to tell. Changes nothing."""
        if event_id_hash >> 8 in self._ids:
            return Verdict.REPEAT
        if event_ts_ms < clock_ms - HORIZON_MS or (self.bound_ms is not None and event_ts_ms <= self.bound_ms):
            return Verdict.BEYOND
        return Verdict.NEW

    def add(self, event_id_hash: int, event_ts_ms: int, clock_ms: int) -> bool:
        """Keep a new id; True if others left and the bound may have moved."""
        entries = self._entries
        event_id_hash >>= 8
        self._ids.add(event_id_hash)
        n = len(self._ids)
        self._dirty.add((n - 1) // PER_PAGE)
        entries += _ENTRY.pack(event_id_hash, event_ts_ms, clock_ms // 1000)
        if n <= MOST:
            return False
        horizon_s = clock_ms // 1000 - RECENT_S
        if n > MAX_RECENT and self._arrival(n - MAX_RECENT - 1) >= horizon_s:
            self._bot_until_ms = clock_ms + BOT_MS
            self._meta_dirty = True
        elif self._arrival(LEAVE - 1) >= horizon_s:
            return False
        if n < self._hold[0] and clock_ms // 1000 <= self._hold[1]:
            return False
        return self._leave(horizon_s)

    def is_bot(self, clock_ms: int) -> bool:
        """Whether more than 8,192 ids arrived within 15 minutes during the last 24 hours."""
        return clock_ms < self._bot_until_ms

    def _arrival(self, at: int) -> int:
        arrival: int = _ARRIVAL.unpack_from(self._entries, at * SIZE + _ARRIVAL_AT)[0]
        return arrival

    def _leave(self, horizon_s: int) -> bool:
        table = np.frombuffer(bytes(self._entries), _DTYPE)
        n = len(table)
        n_old = max(int(np.searchsorted(table["arrival"], max(horizon_s, 0), "left")), n - MAX_RECENT)
        by_time = np.lexsort((table["id"], table["ts"]))[: n - NEWEST]
        free = by_time[by_time < n_old]
        leaving = free[: LEAVE * min(-(-(n - MOST) // LEAVE), len(free) // LEAVE)]
        if not len(leaving):
            # An event can free two entries more, and so can an arrival that ages: until then there is nothing to find.
            self._hold = (n + (LEAVE - len(free) + 1) // 2, int(table["arrival"][n_old]) + RECENT_S if n_old < n else 0)
            return False
        bound = int(table["ts"][leaving[-1]])
        self.bound_ms = bound if self.bound_ms is None else max(self.bound_ms, bound)
        self._ids.difference_update(table["id"][leaving].tolist())
        keep = np.ones(n, bool)
        keep[leaving] = False
        self._entries = bytearray(table[keep].tobytes())
        self._dirty.update(range(int(leaving.min()) // PER_PAGE, -(-n // PER_PAGE)))
        self._meta_dirty = True
        self._hold = (0, 0)
        return True

    def dirty(self) -> dict[bytes, bytes]:
        """Fields changed since the last call."""
        changed: dict[bytes, bytes] = {}
        if self._meta_dirty:
            bound = _NONE if self.bound_ms is None else self.bound_ms
            changed[_META_FIELD] = HEAD + _META.pack(bound, self._bot_until_ms)
            self._meta_dirty = False
        if self._dirty:
            entries = self._entries
            n_pages = -(-len(entries) // _PAGE)
            for page in self._dirty:
                if page < n_pages:
                    changed[_FIELDS[page]] = _pack(entries[page * _PAGE : (page + 1) * _PAGE])
                elif page < self._stored_pages:
                    changed[_FIELDS[page]] = b""
            self._stored_pages = n_pages
            self._dirty.clear()
        return changed


def _pack(entries: bytearray) -> bytes:
    """A page: smallest event time and arrival, bytes of the offsets from them, then ids, offsets, offsets."""
    table = np.frombuffer(bytes(entries), _DTYPE)
    base_ms, base_s = int(table["ts"].min()), int(table["arrival"].min())
    times, arrivals = table["ts"] - base_ms, table["arrival"].astype("<i8") - base_s
    widths = [(int(offsets.max()).bit_length() + 7) // 8 for offsets in (times, arrivals)]
    parts = [HEAD_2, _PAGE_HEAD.pack(base_ms, base_s, *widths)]
    for column, width in zip((table["id"], times, arrivals), (_ID_BYTES, *widths), strict=True):
        parts.append(np.ascontiguousarray(column, "<i8").view("u1").reshape(-1, 8)[:, :width].tobytes())
    return b"".join(parts)


def _unpack(name: bytes, page: bytes) -> bytes:
    """Entries of a page.

    Raises
    ------
    StateFormatError
        Another version, or not a whole number of entries.
    """
    packed = body(name, page, version=2)
    if len(packed) < _PAGE_HEAD.size:
        raise StateFormatError(f"page {name.decode()!r} is cut short; run `liverank rebuild`")
    base_ms, base_s, *widths = _PAGE_HEAD.unpack_from(packed)
    n, rest = divmod(len(packed) - _PAGE_HEAD.size, _ID_BYTES + sum(widths))
    if rest or max(widths) > 8:
        raise StateFormatError(f"page {name.decode()!r} holds no whole number of ids; run `liverank rebuild`")
    table, at = np.zeros(n, _DTYPE), _PAGE_HEAD.size
    for column, width, base in zip(("id", "ts", "arrival"), (_ID_BYTES, *widths), (0, base_ms, base_s), strict=True):
        wide = np.zeros((n, 8), "u1")
        wide[:, :width] = np.frombuffer(packed, "u1", n * width, at).reshape(n, width)
        at += n * width
        numbers = wide.view("<i8").reshape(-1)
        table[column] = numbers << 8 >> 8 if column == "id" else numbers + base
    return table.tobytes()
