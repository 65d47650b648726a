"""Neighbours of an item: the items that it met in users' good news, with weights that decay over 20 days.

Forward decay against a fixed landmark, so that a weight is never rewritten because time passed. Exact up to 512
partners; beyond 576 the smallest are dropped and every page that lost one is flagged.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.state.pages import HEAD, body
from features.state.params import DAY_MS

__all__ = ["FIELDS", "HALF_LIFE_MS", "MOST", "Neighbours", "decode"]

MOST: Final = 512
SLACK: Final = 64
N_PAGES: Final = 8
HALF_LIFE_MS: Final = 20 * DAY_MS
LANDMARK_MS: Final = 1_577_836_800_000
"""2020-01-01. A float64 holds 1,022 half-lives either way: 56 years."""

FIELDS: Final = tuple(b"item_neighbours:page_%d" % page for page in range(N_PAGES))
_ENTRY: Final = struct.Struct("<qdI")
_KEY: Final = struct.Struct("<q")
_VALUE: Final = struct.Struct("<dI")
SIZE: Final = _ENTRY.size
_DTYPE: Final = np.dtype([("item", "<i8"), ("weight", "<f8"), ("pairs", "<u4")])
_CUT: Final = b"\x01"


def decode(pages: Iterable[bytes | None], as_of_ms: int) -> tuple[NDArray[np.int64], NDArray[np.float64], bool]:
    """Neighbours of an item, heaviest first.

    Parameters
    ----------
    pages : iterable of bytes or None
        Stored pages of `FIELDS`, in any order.
    as_of_ms : int
        Instant for which weights are decayed.

    Returns
    -------
    hashes : ndarray of int64, shape (n,)
        features.hashing.item_hash of the neighbours; at most 512.
    weights : ndarray of float64, shape (n,)
        Decayed sums, descending; ties by hash.
    cut : bool
        Some neighbours were dropped at some time.

    Raises
    ------
    StateFormatError
        If a page has another version.
    """
    bodies = [body(b"item_neighbours", page) for page in pages if page]
    table = np.frombuffer(b"".join(page[1:] for page in bodies), _DTYPE)
    order = np.lexsort((table["item"], -table["weight"]))[:MOST]
    factor = 2.0 ** ((LANDMARK_MS - as_of_ms) / HALF_LIFE_MS)
    return table["item"][order], table["weight"][order] * factor, any(page[:1] == _CUT for page in bodies)


class Neighbours:
    """Neighbours of one item. Adding to one weight costs about 1 us."""

    __slots__ = ("_cut", "_dirty", "_pages", "_size")

    def __init__(self, fields: Mapping[bytes, bytes]) -> None:
        bodies = [body(name, fields[name]) if fields.get(name) else b"\0" for name in FIELDS]
        self._cut = [each[:1] == _CUT for each in bodies]
        self._pages = [bytearray(each[1:]) for each in bodies]
        self._size = sum(map(len, self._pages)) // SIZE
        self._dirty: set[int] = set()

    def __len__(self) -> int:
        return self._size

    def add(self, other_hashes: Sequence[int], weights: Sequence[float], event_ts_ms: int) -> None:
        """Add to the weights of partners as of `event_ts_ms`; a negative weight takes an earlier pair back."""
        factor = 2.0 ** ((event_ts_ms - LANDMARK_MS) / HALF_LIFE_MS)
        for other, weight in zip(other_hashes, weights, strict=True):
            number = other % N_PAGES
            page = self._pages[number]
            at = _find(page, _KEY.pack(other))
            if at >= 0:
                old, pairs = _VALUE.unpack_from(page, at + _KEY.size)
                pairs += 1 if weight > 0 else -1
                if pairs > 0:
                    _VALUE.pack_into(page, at + _KEY.size, old + weight * factor, pairs)
                else:
                    del page[at : at + SIZE]
                    self._size -= 1
            elif weight > 0:
                page += _ENTRY.pack(other, weight * factor, 1)
                self._size += 1
            else:
                continue  # Its pair was dropped with the smallest.
            self._dirty.add(number)
        if self._size > MOST + SLACK:
            self._drop_smallest()

    def _drop_smallest(self) -> None:
        tables = [np.frombuffer(bytes(page), _DTYPE) for page in self._pages]
        table = np.concatenate(tables)
        order = np.lexsort((table["item"], -table["weight"]))
        keep = np.zeros(len(table), bool)
        keep[order[:MOST]] = True
        first = 0
        for number, own in enumerate(tables):
            kept = keep[first : first + len(own)]
            first += len(own)
            if not kept.all():
                self._pages[number] = bytearray(own[kept].tobytes())
                self._cut[number] = True
                self._dirty.add(number)
        self._size = MOST

    def dirty(self) -> dict[bytes, bytes]:
        """Fields changed since the last call."""
        changed = {}
        for number in self._dirty:
            page, cut = self._pages[number], self._cut[number]
            changed[FIELDS[number]] = HEAD + (_CUT if cut else b"\0") + page if page or cut else b""
        self._dirty.clear()
        return changed


def _find(page: bytearray, key: bytes) -> int:
    at = page.find(key)
    while at >= 0 and at % SIZE:
        at = page.find(key, at + 1)
    return at
