"""Tiles of a (user, category) view, packed inside the user's state.

A row is (tile * 8 + ring, category hash, cells), sorted; a category lies on page `hash % 8`. Per page, ring and tile at
most `MAX_CATEGORIES` categories are kept, so a tile holds up to 128 and is exact for every category while no page
overflows; those kept are the ones that come first in an order that changes from tile to tile, and a row with category
-1 flags the tile. So the bytes are a function of the set of rows, whatever their order.
"""

from __future__ import annotations

import math
import struct
from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features import windows as _windows
from features.columns import text_hash
from features.errors import RowFormatError
from features.program import ViewProgram
from features.tiles import DROPPED, PACKED, apply, check_packed, contributions, empty_cells

__all__ = ["MAX_CATEGORIES", "CategoryTiles", "category_windows", "pack_rows", "unpack_rows"]

MAX_CATEGORIES: Final = 16
"""Categories of one tile on one page."""

_HEAD: Final = struct.Struct("<HHH")
N_RINGS: Final = _windows.N_KEYS
MIX: Final = 0x9E3779B97F4A7


def category_windows(
    view: ViewProgram, fields: Mapping[bytes, bytes | None], as_of_ms: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Aggregates of every category of a (user, category) view at `as_of_ms`.

    Returns
    -------
    categories : ndarray of float64, shape (n,)
        Hashes (`features.columns.text_hash`), ascending.
    values : ndarray of float64, shape (n, n_aggregates)
        In the order of `view.names`. About 80 us.
    """
    pages = [fields.get(name) for name in view.page_fields]
    for page in pages:
        if page:
            check_packed(page)
    try:
        found: tuple[NDArray[np.float64], NDArray[np.float64]] = _windows.category_windows(
            view.layout.plan, pages, as_of_ms
        )
    except ValueError as error:
        raise RowFormatError(f"a page of {view.name} cannot be read ({error}); run `liverank rebuild`") from error
    return found


def unpack_rows(page: bytes, width: int) -> array[float]:
    """Rows of a stored page, one after the other.

    Raises
    ------
    RowFormatError
        The page is of another version, or broken.
    """
    rows = array("d")
    if page:
        try:
            rows.frombytes(_windows.category_rows([check_packed(page)], width).tobytes())
        except ValueError as error:
            raise RowFormatError(f"a page of categories cannot be read ({error}); run `liverank rebuild`") from error
    return rows


def pack_rows(rows: Sequence[float], width: int) -> bytes:
    """Bytes of a page (docs/specs/tiles.md); rows in order of (stamp, category). Inverse of `unpack_rows`."""
    if not rows:
        return b""
    table = np.array(rows, dtype="<f8").reshape(-1, width)
    stamps, counts = np.unique(table[:, 0], return_counts=True)
    hashes, index = np.unique(table[:, 1], return_inverse=True)
    parts = [
        PACKED,
        _HEAD.pack(len(table), len(stamps), len(hashes)),
        stamps.tobytes(),
        hashes.tobytes(),
        counts.astype("u1").tobytes(),
        index.reshape(-1).astype("<u2" if len(hashes) > 256 else "u1").tobytes(),
    ]
    for cells in table.T[2:]:
        size = _size(cells)
        parts.append(bytes((size,)))
        if size:
            parts.append(cells.astype({1: "u1", 2: "<i2", 4: "<i4", 8: "<f8"}[size]).tobytes())
    return b"".join(parts)


def _size(cells: NDArray[np.float64]) -> int:
    """Bytes that each of these numbers needs: 0 (all are zero), 1, 2 or 4 as whole numbers, else 8."""
    if not cells.any():
        return 0
    least, most = float(cells.min()), float(cells.max())
    if not (least >= -(2.0**31) and most < 2.0**31 and (cells == np.floor(cells)).all()):
        return 8
    if least >= 0 and most < 256:
        return 1
    return 2 if least >= -(2**15) and most < 2**15 else 4


class _Page:
    """Rows of one page: `keys` (stamp, category) in order, `rows` the same rows as stored."""

    __slots__ = ("keys", "newest", "rows")

    def __init__(self, raw: bytes, width: int) -> None:
        self.rows = unpack_rows(raw, width)
        self.keys = list(zip(self.rows[::width], self.rows[1::width], strict=True))
        self.newest = [-1] * N_RINGS
        for stamp, _ in self.keys:
            tile, ring = divmod(int(stamp), N_RINGS)
            if tile > self.newest[ring]:
                self.newest[ring] = tile

    def drop(self, at: int, width: int) -> None:
        """Drop the row at `at`."""
        del self.keys[at], self.rows[at * width : (at + 1) * width]

    def put(self, at: int, key: tuple[float, float], cells: Sequence[float], width: int) -> None:
        """Insert a row at `at`."""
        self.keys.insert(at, key)
        self.rows[at * width : at * width] = array("d", (*key, *cells))


class CategoryTiles:
    """`TileState` of a (user, category) view. `add` costs about 5 us for 3 rings; pages are packed when asked for."""

    __slots__ = ("_dirty", "_empty", "_pages", "_raw", "_width", "view")

    def __init__(self, view: ViewProgram, fields: Mapping[bytes, bytes]) -> None:
        self.view = view
        self._raw = fields
        self._pages: dict[int, _Page] = {}
        self._dirty: set[int] = set()
        ring = view.layout.rings[0]
        self._width = ring.width
        self._empty = empty_cells(ring.cells)

    def add(self, ts_ms: int, row: Sequence[float], sign: float = 1.0, category: str = "") -> None:
        if not category:
            return
        rings = self.view.layout.rings
        hits = contributions(rings[0].cells, row, sign, 2)
        if not hits:
            return
        group = text_hash(category)
        number = int(group) % rings[0].n_pages
        page = self._pages.get(number)
        if page is None:
            page = self._pages[number] = _Page(self._raw.get(self.view.page_fields[number], b""), self._width)
        width, keys, rows, newest = self._width, page.keys, page.rows, page.newest
        for ring_at, ring in enumerate(rings):
            tile = ts_ms // ring.slide_ms
            oldest = newest[ring_at] - ring.n_tiles
            if tile <= oldest:
                continue
            if tile > newest[ring_at]:
                if newest[ring_at] >= 0:
                    self._prune(page, ring_at, tile - ring.n_tiles)
                newest[ring_at] = tile
            key = (float(tile * N_RINGS + ring_at), group)
            at = bisect_left(keys, key)
            if at == len(keys) or keys[at] != key:
                page.put(at, key, self._empty, width)
                if len(keys) > MAX_CATEGORIES:
                    if self._limit(page, key):
                        continue
                    at = bisect_left(keys, key)
            apply(rows, at * width, hits)
        self._dirty.add(number)

    def _prune(self, page: _Page, ring_at: int, oldest: int) -> None:
        keys, width = page.keys, self._width
        end = bisect_left(keys, (float(oldest * N_RINGS + ring_at), math.inf))
        while end > 0:
            first = end
            while first > 0 and keys[first - 1][0] % N_RINGS == ring_at:
                first -= 1
            del keys[first:end], page.rows[first * width : end * width]
            end = first
            while end > 0 and keys[end - 1][0] % N_RINGS != ring_at:
                end -= 1

    def _limit(self, page: _Page, key: tuple[float, float]) -> bool:
        """Drop the category that comes last in this tile's order, if there are too many; True if it is this one."""
        stamp = key[0]
        first, end = bisect_left(page.keys, (stamp, 0.0)), bisect_left(page.keys, (stamp, math.inf))
        if end - first <= MAX_CATEGORIES:
            return False
        salt = int(stamp) * MIX & ((1 << 53) - 1)
        last = max(range(first, end), key=lambda at: int(page.keys[at][1]) ^ salt)
        dropped = page.keys[last]
        page.drop(last, self._width)
        flag = (stamp, DROPPED)
        at = bisect_left(page.keys, flag)
        if page.keys[at] != flag:
            page.put(at, flag, self._empty, self._width)
        return dropped == key

    def dirty(self) -> dict[bytes, bytes]:
        names = self.view.page_fields
        changed = {names[number]: self._encode(number) for number in sorted(self._dirty)}
        self._dirty.clear()
        return changed

    def pages(self) -> list[bytes]:
        names = self.view.page_fields
        return [
            self._encode(number) if number in self._pages else self._raw.get(name, b"")
            for number, name in enumerate(names)
        ]

    def _encode(self, number: int) -> bytes:
        return pack_rows(self._pages[number].rows, self._width)
