"""Two halves of a view's tiles become one: what an activation's backfill and the live fold counted apart.

The bytes of tiles are a function of the set of rows that were counted (features/tiles.py), so the merged pages equal
byte for byte those of one state that saw all rows. Pure; costs about 1 us a tile.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping

from features.category_tiles import MAX_CATEGORIES, MIX, N_RINGS, pack_rows, unpack_rows
from features.layout import COUNT, MIN, Cell, DistinctRing, Ring
from features.program import ViewProgram
from features.tiles import DROPPED, MAX_DISTINCT, VERSION, check_page

__all__ = ["merge_fields"]

Row = list[float]


def merge_fields(view: ViewProgram, ours: Mapping[bytes, bytes], theirs: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Merge the pages of one key.

    Parameters
    ----------
    view : ViewProgram
    ours, theirs : mapping of bytes to bytes
        Pages by field `view:page`; other fields are ignored. Rows counted in one are not counted in the other.

    Returns
    -------
    dict of bytes to bytes
        Pages of `ours` that change, whole.

    Raises
    ------
    RowFormatError
        A page is not of this build.
    """
    names, layout = view.page_fields, view.layout
    merged: dict[bytes, bytes] = {}
    if layout.packed:
        for name in names:
            if theirs.get(name):
                rows = _categories(layout.rings, ours.get(name, b""), theirs[name])
                merged[name] = pack_rows([number for row in rows for number in row], layout.rings[0].width)
        return _changed(ours, merged)
    for ring in layout.rings:
        for name in names[ring.first_page : ring.first_page + ring.n_pages]:
            if theirs.get(name):
                merged[name] = _encode(_ring(ring, ours.get(name, b""), theirs[name]))
    for distinct in layout.distincts:
        own = names[distinct.first_page : distinct.first_page + distinct.n_pages]
        if any(theirs.get(name) for name in own):
            pages = _distinct(distinct, [ours.get(name, b"") for name in own], [theirs.get(name, b"") for name in own])
            merged.update(zip(own, pages, strict=True))
    return _changed(ours, merged)


def _changed(ours: Mapping[bytes, bytes], merged: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {name: page for name, page in merged.items() if page != ours.get(name, b"")}


def _rows(page: bytes, width: int) -> list[Row]:
    if not page:
        return []
    numbers = array("d")
    numbers.frombytes(check_page(page)[1:])
    return [list(numbers[at : at + width]) for at in range(0, len(numbers), width)]


def _packed_rows(page: bytes, width: int) -> list[Row]:
    numbers = unpack_rows(page, width)
    return [list(numbers[at : at + width]) for at in range(0, len(numbers), width)]


def _encode(rows: list[Row]) -> bytes:
    return VERSION + array("d", [number for row in rows for number in row]).tobytes() if rows else b""


def _add(cells: tuple[Cell, ...], n_keys: int, into: Row, row: Row) -> None:
    for at, (op, _) in enumerate(cells, n_keys):
        value = row[at]
        if op <= COUNT:
            into[at] += value
        elif value == value and (into[at] != into[at] or (value < into[at] if op == MIN else value > into[at])):
            into[at] = value


def _ring(ring: Ring, ours: bytes, theirs: bytes) -> list[Row]:
    tiles: dict[float, Row] = {row[0]: row for row in _rows(ours, ring.width)}
    for row in _rows(theirs, ring.width):
        into = tiles.setdefault(row[0], row)
        if into is not row:
            _add(ring.cells, 1, into, row)
    oldest = max(tiles) - ring.n_tiles
    return [tiles[tile] for tile in sorted(tiles) if tile > oldest]


def _categories(rings: tuple[Ring, ...], ours: bytes, theirs: bytes) -> list[Row]:
    width, cells = rings[0].width, rings[0].cells
    found: dict[tuple[float, float], Row] = {(row[0], row[1]): row for row in _packed_rows(ours, width)}
    for row in _packed_rows(theirs, width):
        into = found.setdefault((row[0], row[1]), row)
        if into is not row and row[1] != DROPPED:
            _add(cells, 2, into, row)
    newest = [-math.inf] * N_RINGS
    groups: dict[float, list[float]] = {}
    for stamp, category in found:
        tile, ring_at = divmod(int(stamp), N_RINGS)
        newest[ring_at] = max(newest[ring_at], tile)
        if category != DROPPED:
            groups.setdefault(stamp, []).append(category)
    empty = [0.0 if op <= COUNT else math.nan for op, _ in cells]
    for stamp, categories in groups.items():
        salt = int(stamp) * MIX & ((1 << 53) - 1)
        for category in sorted(categories, key=lambda each, salt=salt: int(each) ^ salt)[MAX_CATEGORIES:]:  # type: ignore[misc]
            del found[stamp, category]
            found.setdefault((stamp, DROPPED), [stamp, DROPPED, *empty])
    kept = []
    for key in sorted(found):
        tile, ring_at = divmod(int(key[0]), N_RINGS)
        if tile > newest[ring_at] - rings[ring_at].n_tiles:
            kept.append(found[key])
    return kept


def _distinct(ring: DistinctRing, ours: list[bytes], theirs: list[bytes]) -> list[bytes]:
    newest_of: dict[float, float] = {}
    dropped = -math.inf
    for page in (*ours, *theirs):
        for tile, value in _rows(page, 2):
            if value == DROPPED:
                dropped = max(dropped, tile)
            else:
                newest_of[value] = max(newest_of.get(value, 0.0), tile)
    oldest = max(newest_of.values(), default=0.0) - ring.n_tiles
    kept = sorted(((tile, value) for value, tile in newest_of.items() if tile > oldest), reverse=True)
    if len(kept) > MAX_DISTINCT:
        dropped = max(dropped, kept[MAX_DISTINCT][0])
        del kept[MAX_DISTINCT:]
    pages: list[list[Row]] = [[] for _ in range(ring.n_pages)]
    for tile, value in reversed(kept):
        pages[int(value) % ring.n_pages].append([tile, value])
    if dropped > oldest:
        pages[0].insert(0, [dropped, DROPPED])
    return [_encode(rows) for rows in pages]
