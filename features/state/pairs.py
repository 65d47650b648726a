"""Co-occurrence of items in one user's good news.

In the user's good news sorted by time, every entry is paired with the `partners` entries before it and after it, other
items only; the weight of a pair halves for every `gap_half_life` between the two. A late entry adds its own pairs and
takes back those of entries that it moved apart, so the pairs are a function of the set of entries.

Kept are the newest 512 entries (of long ids the newest 8 KiB, cut when they take 9) above the dedup bound and the
`partners` newest at or below it: nothing at or below the bound is taken any more, so that no other entry can ever be
needed.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from math import exp2
from typing import Final, NamedTuple

from features.errors import StateFormatError
from features.hashing import item_hash
from features.state.pages import HEAD, body

__all__ = ["Good", "Pairing", "Pairs"]

MOST: Final = 512
MAX_BYTES: Final = 9 * 1024
KEPT_BYTES: Final = 8 * 1024
"""Bytes of entries at which the oldest are cut, and what is left then."""
SLACK: Final = 64
PER_PAGE: Final = 32
_ENTRY: Final = struct.Struct("<IHB")
_LONGEST: Final = _ENTRY.size + 128
_META: Final = struct.Struct("<q")
_META_FIELD: Final = b"_p"
_FIELDS: Final = tuple(b"_p%d" % page for page in range(-(-(MOST + SLACK) // PER_PAGE) + 2))
_NONE: Final = -1


class Good(NamedTuple):
    """One piece of good news; `hashed` is features.hashing.item_hash of the item."""

    event_ts_ms: int
    item_id: str
    hashed: int


class Pairing(NamedTuple):
    """Weights of one item with others, at the time of the later one.

    Attributes
    ----------
    item_id : str
        Whose neighbours change.
    other_hashes : sequence of int
        The partners (features.hashing.item_hash).
    weights : sequence of float
        One a partner, in (0, 1]; negative where an earlier pairing is taken back.
    event_ts_ms : int
        When, event time.
    """

    item_id: str
    other_hashes: Sequence[int]
    weights: Sequence[float]
    event_ts_ms: int


class Pairs:
    """Good news of one user. `add` in order costs about 5 us with 5 partners."""

    __slots__ = ("_dirty", "_floor_ms", "_half_life_ms", "_meta_dirty", "_pages", "_partners", "_sorted", "_stored")

    def __init__(self, fields: Mapping[bytes, bytes], partners: int, gap_half_life_ms: int) -> None:
        self._partners = partners
        self._half_life_ms = gap_half_life_ms
        self._pages: list[bytearray] = []
        for name in _FIELDS:
            page = fields.get(name)
            if not page:
                break
            self._pages.append(bytearray(body(name, page)))
        self._stored = len(self._pages)
        self._sorted = sorted(_unpack(b"".join(self._pages)))
        meta = fields.get(_META_FIELD)
        self._floor_ms = _META.unpack(body(_META_FIELD, meta, _META.size))[0] if meta else _NONE
        self._dirty: set[int] = set()
        self._meta_dirty = False

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, good: Good) -> list[Pairing]:
        """Keep an entry and return what its pairs add and take back; nothing below what was cut at 512 entries."""
        if not self._partners or good.event_ts_ms <= self._floor_ms:
            return []
        entries = self._sorted
        page = len(entries) // PER_PAGE
        if page == len(self._pages):
            self._pages.append(bytearray())
        self._pages[page] += _pack(good)
        self._dirty.add(page)
        if not entries or good >= entries[-1]:
            pairings = self._with(good, entries[-self._partners :], good.event_ts_ms)
            entries.append(good)
        else:
            at = bisect_right(entries, good)
            pairings = self._late(good, at)
            entries.insert(at, good)
        kept = MOST
        if len(entries) * _LONGEST > MAX_BYTES and sum(map(len, self._pages)) > MAX_BYTES:
            kept, size = 0, 0
            while kept < MOST and size <= KEPT_BYTES:
                kept += 1
                size += len(_pack(entries[-kept]))
        if len(entries) > kept + (SLACK if kept == MOST else 0):
            self._floor_ms = entries[-kept - 1].event_ts_ms
            self._meta_dirty = True
            self._keep(entries[-kept:])
        return pairings

    def forget(self, bound_ms: int) -> None:
        """Drop what no later event can be paired with, now that nothing at or below `bound_ms` is taken any more."""
        above = bisect_left(self._sorted, (bound_ms + 1,))
        if above > self._partners:
            self._keep(self._sorted[above - self._partners :])

    def _with(self, good: Good, others: list[Good], ts_ms: int, sign: float = 1.0) -> list[Pairing]:
        good_ms, item_id, own = good
        found: list[Pairing] = []
        hashes: list[int] = []
        weights: list[float] = []
        for other_ms, other_id, hashed in others:
            if hashed != own:
                weight = sign * exp2(-abs(good_ms - other_ms) / self._half_life_ms)
                hashes.append(hashed)
                weights.append(weight)
                found.append(Pairing(other_id, (own,), (weight,), ts_ms))
        if hashes:
            found.append(Pairing(item_id, hashes, weights, ts_ms))
        return found

    def _late(self, good: Good, at: int) -> list[Pairing]:
        entries, reach = self._sorted, self._partners
        pairings = self._with(good, entries[max(0, at - reach) : at], good.event_ts_ms)
        for other in entries[at : at + reach]:
            pairings += self._with(good, [other], other.event_ts_ms)
        for first in range(max(0, at - reach), at):
            last = first + reach
            if at <= last < len(entries):
                pairings += self._with(entries[last], [entries[first]], entries[last].event_ts_ms, -1.0)
        return pairings

    def _keep(self, entries: list[Good]) -> None:
        if len(entries) == len(self._sorted):
            return
        self._dirty.update(range(len(self._pages)))
        self._sorted = entries
        self._pages = [
            bytearray(b"".join(map(_pack, entries[at : at + PER_PAGE]))) for at in range(0, len(entries), PER_PAGE)
        ]

    def dirty(self) -> dict[bytes, bytes]:
        """Fields changed since the last call."""
        changed: dict[bytes, bytes] = {}
        if self._meta_dirty:
            changed[_META_FIELD] = HEAD + _META.pack(self._floor_ms)
            self._meta_dirty = False
        if self._dirty:
            for page in self._dirty:
                if page < len(self._pages):
                    changed[_FIELDS[page]] = HEAD + self._pages[page]
                elif page < self._stored:
                    changed[_FIELDS[page]] = b""
            self._stored = len(self._pages)
            self._dirty.clear()
        return changed


def _pack(good: Good) -> bytes:
    ts_ms, item_id, _ = good
    item = item_id.encode()
    return _ENTRY.pack(ts_ms & 0xFFFF_FFFF, ts_ms >> 32, len(item)) + item


def _unpack(packed: bytes) -> Iterator[Good]:
    at = 0
    try:
        while at < len(packed):
            low, high, length = _ENTRY.unpack_from(packed, at)
            at += _ENTRY.size
            item_id = packed[at : at + length].decode()
            yield Good(high << 32 | low, item_id, item_hash(item_id))
            at += length
    except (struct.error, UnicodeDecodeError) as error:
        raise StateFormatError(f"good news cannot be read at byte {at} ({error}); run `liverank rebuild`") from error
