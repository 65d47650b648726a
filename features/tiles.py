"""Tile state of one (view, key): what the folds keep, and what Feast rows hold byte for byte.

Guarantees: the bytes are a function of the set of rows added, not of their order (values come quantised from
`features.columns`, so sums are exact); only pages that changed are dirty; a row older than the ring changes nothing.
A row taken back (`sign=-1`) is exact for sum, count and mean; minima, maxima and distinct values keep what they saw.
Not thread safe.

A page is the version byte 1, then rows of little-endian float64: docs/specs/tiles.md.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from features import windows as _windows
from features.errors import RowFormatError
from features.layout import COUNT, MIN, SUM, Cell, DistinctRing, Ring
from features.program import ViewProgram

__all__ = ["MAX_DISTINCT", "RingTiles", "TileState", "windows"]

MAX_DISTINCT: Final = 512
"""Distinct values kept exactly; beyond it those seen longest ago are dropped and the page flagged."""

VERSION: Final = b"\x01"
PACKED: Final = b"\x02"
"""Version of the pages of (user, category) views, which are packed."""
DROPPED: Final = -1.0
_NAN: Final = float("nan")

if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("liverank's pages are little-endian; this machine is not")


class TileState(Protocol):
    """Tiles of one view for one key. Make one with `new` or `load`."""

    view: ViewProgram

    def add(self, ts_ms: int, row: Sequence[float], sign: float = 1.0, category: str = "") -> None:
        """Count one row into the tile of its event time.

        Parameters
        ----------
        ts_ms : int
            Event time, ms since the UTC epoch.
        row : sequence of float
            In the order of `view.columns` (text columns only if the view needs them).
        sign : float
            +1, or -1 to take an earlier row back.
        category : str
            Category of the item; (user, category) views only, which ignore rows without one.
        """
        ...

    def dirty(self) -> dict[bytes, bytes]:
        """Fields changed since the last call, whole new bytes, `b""` = delete; then nothing is dirty."""
        ...

    def pages(self) -> list[bytes]:
        """All pages by number, `b""` where nothing was counted."""
        ...


def new(view: ViewProgram) -> TileState:
    """Empty state of a view."""
    return load(view, {})


def load(view: ViewProgram, fields: Mapping[bytes, bytes]) -> TileState:
    """State from stored fields; pages are decoded when they are first touched.

    Raises
    ------
    RowFormatError
        If a page has another version (raised at the first touch of the page).
    """
    from features import native
    from features.category_tiles import CategoryTiles

    if native.core is not None:
        kind = native.core.CategoryTiles if view.layout.packed else native.core.RingTiles
        made: TileState = kind(_plan(view), view, fields)
        return made
    return CategoryTiles(view, fields) if view.layout.packed else RingTiles(view, fields)


_plans: dict[int, tuple[ViewProgram, object]] = {}


def _plan(view: ViewProgram) -> object:
    """The view's layout for the native tiles, made once."""
    from features import native

    found = _plans.get(id(view))
    if found is None or found[0] is not view:
        if len(_plans) > 1024:  # programs come and go with the registry
            _plans.clear()
        found = _plans[id(view)] = (view, native.core.Plan(view))
    return found[1]


def windows(view: ViewProgram, fields: Mapping[bytes, bytes | None], as_of_ms: int) -> NDArray[np.float64]:
    """Aggregates of a view at `as_of_ms` from stored fields.

    Parameters
    ----------
    view : ViewProgram
        Not a (user, category) view: see `features.category_tiles`.
    fields : mapping of bytes to bytes
        State fields or Feast values by `view:pNN`; others are ignored.
    as_of_ms : int
        Instant, ms since the UTC epoch.

    Returns
    -------
    ndarray of float64, shape (n_aggregates,)
        In the order of `view.names`. About 40 us for three rings.
    """
    pages = [fields.get(name) for name in view.page_fields]
    for page in pages:
        if page:
            check_page(page)
    values: NDArray[np.float64] = _windows.ring_windows(view.layout.plan, pages, as_of_ms)
    return values


def check_page(page: bytes) -> bytes:
    """`page`, if this build can read it."""
    if page[:1] != VERSION or (len(page) - 1) % 8:
        raise RowFormatError(
            f"tile page of {len(page)} bytes with version {page[0]}: this build reads version {VERSION[0]} and whole "
            "float64 values; run `liverank rebuild` with this build"
        )
    return page


def check_packed(page: bytes) -> bytes:
    """`page` of a (user, category) view, if this build can read it."""
    if page[:1] != PACKED or len(page) < 7:
        raise RowFormatError(
            f"page of categories of {len(page)} bytes with version {page[0]}: this build reads version {PACKED[0]}; "
            "run `liverank rebuild` with this build"
        )
    return page


class RingTiles:
    """Tiles of a view with one ring of tiles per slide. `add` costs about 3 us for three rings of seven cells."""

    __slots__ = ("_arrays", "_dirty", "_distinct", "_raw", "view")

    def __init__(self, view: ViewProgram, fields: Mapping[bytes, bytes]) -> None:
        self.view = view
        self._raw = fields
        self._arrays: dict[int, array[float]] = {}
        self._distinct: dict[int, Distinct] = {}
        self._dirty: set[int] = set()

    def add(self, ts_ms: int, row: Sequence[float], sign: float = 1.0, category: str = "") -> None:
        layout = self.view.layout
        cells: tuple[Cell, ...] | None = None
        hits: list[tuple[int, int, float]] = []
        for ring in layout.rings:
            if ring.cells is not cells:
                cells = ring.cells
                hits = contributions(cells, row, sign, 1)
            if hits:
                self._count(ring, ts_ms // ring.slide_ms, hits)
        if sign > 0:
            for distinct in layout.distincts:
                value = row[distinct.column]
                if value == value:
                    self._values(distinct).add(ts_ms // distinct.slide_ms, value, self._dirty)

    def _count(self, ring: Ring, tile: int, hits: list[tuple[int, int, float]]) -> None:
        number = ring.first_page + tile % ring.n_tiles // ring.tiles_per_page
        page = self._arrays.get(number)
        if page is None:
            page = self._decode(number)
        width = ring.width
        end = len(page)
        at = end - width
        if at < 0 or page[at] < tile:
            page.append(tile)
            page.extend(empty_cells(ring.cells))
            oldest = tile - ring.n_tiles
            while page[0] <= oldest:
                del page[:width]
            at = len(page) - width
        elif page[at] > tile:
            if tile <= page[at] - ring.n_tiles:
                return
            while at >= 0 and page[at] > tile:
                at -= width
            if at < 0 or page[at] < tile:
                at += width
                page[at:at] = array("d", (tile, *empty_cells(ring.cells)))
        apply(page, at, hits)
        self._dirty.add(number)

    def _decode(self, number: int) -> array[float]:
        page = array("d")
        raw = self._raw.get(self.view.page_fields[number])
        if raw:
            page.frombytes(check_page(raw)[1:])
        self._arrays[number] = page
        return page

    def _values(self, ring: DistinctRing) -> Distinct:
        found = self._distinct.get(ring.first_page)
        if found is None:
            pages = range(ring.first_page, ring.first_page + ring.n_pages)
            found = self._distinct[ring.first_page] = Distinct(ring, [self._decode(number) for number in pages])
        return found

    def dirty(self) -> dict[bytes, bytes]:
        names = self.view.page_fields
        changed = {names[number]: self._encode(number) for number in sorted(self._dirty)}
        self._dirty.clear()
        return changed

    def pages(self) -> list[bytes]:
        names = self.view.page_fields
        return [
            self._encode(number) if number in self._arrays else self._raw.get(name, b"")
            for number, name in enumerate(names)
        ]

    def _encode(self, number: int) -> bytes:
        for found in self._distinct.values():
            if 0 <= number - found.ring.first_page < found.ring.n_pages:
                self._arrays[number] = found.page(number - found.ring.first_page)
        page = self._arrays[number]
        return VERSION + page.tobytes() if page else b""


class Distinct:
    """Newest tile of each distinct value; those with the largest (tile, value) are kept.

    A dropped value can only return with a larger key, so the kept set and the largest dropped tile are functions of
    the set of rows.
    """

    __slots__ = ("dropped", "newest", "ring", "tiles")

    def __init__(self, ring: DistinctRing, pages: Sequence[array[float]]) -> None:
        self.ring = ring
        self.tiles: dict[float, float] = {}
        for page in pages:
            self.tiles.update(zip(page[1::2], page[::2], strict=True))
        self.dropped: float | None = self.tiles.pop(DROPPED, None)
        self.newest = max(self.tiles.values(), default=0.0)

    def add(self, tile: int, value: float, dirty: set[int]) -> None:
        """Note `value` in `tile`; numbers of changed pages go to `dirty`."""
        oldest = self.newest - self.ring.n_tiles
        if tile <= oldest or self.tiles.get(value, 0.0) >= tile:
            return
        self.tiles[value] = float(tile)
        dirty.add(self._page_of(value))
        if tile > self.newest:
            self.newest = float(tile)
            oldest = self.newest - self.ring.n_tiles
            for old in [v for v, t in self.tiles.items() if t <= oldest]:
                self._drop(old, dirty)
            if self.dropped is not None and self.dropped <= oldest:
                self.dropped = None
                dirty.add(self.ring.first_page)
        if len(self.tiles) > MAX_DISTINCT:
            last = min(self.tiles, key=lambda v: (self.tiles[v], v))
            if self.dropped is None or self.tiles[last] > self.dropped:
                self.dropped = self.tiles[last]
                dirty.add(self.ring.first_page)
            self._drop(last, dirty)

    def _drop(self, value: float, dirty: set[int]) -> None:
        del self.tiles[value]
        dirty.add(self._page_of(value))

    def _page_of(self, value: float) -> int:
        return self.ring.first_page + int(value) % self.ring.n_pages

    def page(self, at: int) -> array[float]:
        """Entries of page `at` of the ring: (tile, value) in order, the mark of a drop first on page 0."""
        own = sorted((t, v) for v, t in self.tiles.items() if int(v) % self.ring.n_pages == at)
        if at == 0 and self.dropped is not None:
            own.insert(0, (self.dropped, DROPPED))
        return array("d", [number for entry in own for number in entry])


def contributions(
    cells: Sequence[Cell], row: Sequence[float], sign: float, n_keys: int
) -> list[tuple[int, int, float]]:
    """What a row adds to a tile: (cell, operation, value); empty where it adds nothing."""
    hits = []
    for at, (op, column) in enumerate(cells, n_keys):
        value = row[column]
        if value != value:
            continue
        if op == SUM:
            if value:
                hits.append((at, SUM, sign * value))
        elif op == COUNT:
            hits.append((at, SUM, sign))
        elif sign > 0:
            hits.append((at, op, value))
    return hits


def empty_cells(cells: Sequence[Cell]) -> list[float]:
    """Cells of a new tile: 0 for sums and counts, NaN for minima and maxima."""
    return [0.0 if op <= COUNT else _NAN for op, _ in cells]


def apply(row: array[float] | list[float], at: int, hits: Sequence[tuple[int, int, float]]) -> None:
    """Apply contributions to the tile row that starts at `at`."""
    for cell, op, value in hits:
        old = row[at + cell]
        if op == SUM:
            row[at + cell] = old + value
        elif old != old or (value < old if op == MIN else value > old):
            row[at + cell] = value
