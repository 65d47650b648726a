"""Tiles of a (user, category) view, packed inside the user's state.

A row is (tile * 8 + ring, category hash, cells), sorted; a category lies on page `hash % 8`. Per page, ring and tile at
most `MAX_CATEGORIES` categories are kept, so a tile holds up to 128 and is exact for every category while no page
overflows; those kept are the ones that come first in an order that changes from tile to tile, and a row with category
-1 flags the tile. So the bytes are a function of the set of rows, whatever their order.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features import windows as _windows
from features.columns import text_hash
from features.program import ViewProgram
from features.tiles import DROPPED, VERSION, apply, check_page, contributions, empty_cells

__all__ = ["MAX_CATEGORIES", "CategoryTiles", "category_windows"]

MAX_CATEGORIES: Final = 16
"""Categories of one tile on one page."""

N_RINGS: Final = _windows.N_KEYS
_MIX: Final = 0x9E3779B97F4A7

Page = dict[tuple[float, float], list[float]]


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
            check_page(page)
    found: tuple[NDArray[np.float64], NDArray[np.float64]] = _windows.category_windows(
        view.layout.plan, pages, as_of_ms
    )
    return found


class CategoryTiles:
    """`TileState` of a (user, category) view. `add` costs about 5 us; a dirty page 5 to 20 us to encode."""

    __slots__ = ("_dirty", "_newest", "_pages", "_raw", "view")

    def __init__(self, view: ViewProgram, fields: Mapping[bytes, bytes]) -> None:
        self.view = view
        self._raw = fields
        self._pages: dict[int, Page] = {}
        self._newest: dict[tuple[int, int], int] = {}
        self._dirty: set[int] = set()

    def add(self, ts_ms: int, row: Sequence[float], sign: float = 1.0, category: str = "") -> None:
        rings = self.view.layout.rings
        hits = contributions(rings[0].cells, row, sign, 0)
        if not hits or not category:
            return
        group = text_hash(category)
        number = int(group) % rings[0].n_pages
        page = self._pages.get(number)
        if page is None:
            page = self._decode(number)
        for at, ring in enumerate(rings):
            tile = ts_ms // ring.slide_ms
            newest = self._newest.get((number, at), tile)
            if tile <= newest - ring.n_tiles:
                continue
            if tile >= newest:
                self._newest[number, at] = tile
                if tile > newest:
                    oldest = tile - ring.n_tiles
                    for key in [k for k in page if k[0] % N_RINGS == at and k[0] // N_RINGS <= oldest]:
                        del page[key]
                    self._dirty.add(number)
            stamp = float(tile * N_RINGS + at)
            cells = page.get((stamp, group))
            if cells is None:
                cells = page[stamp, group] = empty_cells(ring.cells)
                self._limit(page, stamp)
            apply(cells, 0, hits)
            self._dirty.add(number)

    def _limit(self, page: Page, stamp: float) -> None:
        if len(page) <= MAX_CATEGORIES:
            return
        rivals = [category for key, category in page if key == stamp and category >= 0]
        if len(rivals) <= MAX_CATEGORIES:
            return
        salt = int(stamp) * _MIX & ((1 << 53) - 1)
        del page[stamp, max(rivals, key=lambda category: int(category) ^ salt)]
        flag = empty_cells(self.view.layout.rings[0].cells)
        page.setdefault((stamp, DROPPED), flag)

    def _decode(self, number: int) -> Page:
        page: Page = {}
        raw = self._raw.get(self.view.page_fields[number])
        if raw:
            values = array("d")
            values.frombytes(check_page(raw)[1:])
            width = self.view.layout.rings[0].width
            for at in range(0, len(values), width):
                stamp, category, *cells = values[at : at + width]
                page[stamp, category] = cells
                tile, ring = divmod(int(stamp), N_RINGS)
                if tile > self._newest.get((number, ring), -1):
                    self._newest[number, ring] = tile
        self._pages[number] = page
        return page

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
        page = self._pages[number]
        values = array("d")
        for stamp, category in sorted(page):
            values.extend((stamp, category))
            values.extend(page[stamp, category])
        return VERSION + values.tobytes() if values else b""
