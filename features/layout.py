"""Where the tiles of a view lie: rings, cells and pages, derived from its aggregates alone.

Aggregates with the same slide share one ring of tiles, whatever their windows; a ring holds the longest window plus
the open tile. A page is at most `PAGE_BYTES` long when all its tiles are occupied; only occupied tiles are stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from features.program import Aggregate

__all__ = ["CATEGORY_PAGES", "DISTINCT_PAGES", "PAGE_BYTES", "Cell", "DistinctRing", "Layout", "Ring", "compile_layout"]

PAGE_BYTES: Final = 1300
CATEGORY_PAGES: Final = 8
DISTINCT_PAGES: Final = 8

SUM, COUNT, MIN, MAX = range(4)
_CELLS: Final = {"sum": (SUM,), "count": (COUNT,), "mean": (SUM, COUNT), "min": (MIN,), "max": (MAX,)}
_KINDS: Final = {"sum": 0, "count": 0, "mean": 1, "min": 2, "max": 3, "count_distinct": 4}
Cell = tuple[int, int]
"""(operation, column)"""
Output = tuple[int, int, int, int, int]
Plan = tuple[
    tuple[tuple[int, int, int, int, tuple[int, ...]], ...],
    tuple[tuple[int, int, int, tuple[int, ...]], ...],
    tuple[Output, ...],
]


@dataclass(frozen=True, kw_only=True)
class Ring:
    """Tiles of one slide: row of a tile = its number, then one float64 a cell."""

    slide_ms: int
    n_tiles: int
    cells: tuple[Cell, ...]
    lengths: tuple[int, ...]
    first_page: int
    n_pages: int
    tiles_per_page: int
    n_keys: int = 1

    @property
    def width(self) -> int:
        """Float64 values of one row."""
        return self.n_keys + len(self.cells)


@dataclass(frozen=True, kw_only=True)
class DistinctRing:
    """Newest tile of each distinct value of one column."""

    slide_ms: int
    n_tiles: int
    column: int
    lengths: tuple[int, ...]
    first_page: int
    n_pages: int = DISTINCT_PAGES


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Layout of one view."""

    rings: tuple[Ring, ...]
    distincts: tuple[DistinctRing, ...]
    outputs: tuple[Output, ...]
    n_pages: int
    packed: bool

    @cached_property
    def plan(self) -> Plan:
        """The layout as plain tuples, for `features.windows`."""
        return (
            tuple((r.slide_ms, r.first_page, r.n_pages, r.width, r.lengths) for r in self.rings),
            tuple((d.slide_ms, d.first_page, d.n_pages, d.lengths) for d in self.distincts),
            self.outputs,
        )


def compile_layout(aggregates: Sequence[Aggregate], columns: Sequence[str], *, packed: bool) -> Layout:
    """The layout of these aggregates.

    Parameters
    ----------
    aggregates : sequence of Aggregate
        In the order of declaration.
    columns : sequence of str
        Columns of a row.
    packed : bool
        A (user, category) view: all rings share `CATEGORY_PAGES` pages and one set of cells.
    """
    rings: list[Ring] = []
    distincts: list[DistinctRing] = []
    first_page = 0
    tiled = [a for a in aggregates if a.function != "count_distinct"]
    for slide_ms in sorted({a.slide_ms for a in tiled}):
        own = [a for a in tiled if a.slide_ms == slide_ms]
        cells = tuple(
            sorted({(op, columns.index(a.column)) for a in (tiled if packed else own) for op in _CELLS[a.function]})
        )
        # One tuple for rings with the same cells: what a row adds is then found once (features/tiles.py).
        cells = next((ring.cells for ring in rings if ring.cells == cells), cells)
        n_keys = 2 if packed else 1
        n_tiles = max(a.n_tiles for a in own) + 1
        per_page = max(1, (PAGE_BYTES - 1) // (8 * (n_keys + len(cells))))
        n_pages = CATEGORY_PAGES if packed else -(-n_tiles // per_page)
        rings.append(
            Ring(
                slide_ms=slide_ms,
                n_tiles=n_tiles,
                cells=cells,
                lengths=tuple(sorted({a.n_tiles for a in own})),
                first_page=0 if packed else first_page,
                n_pages=n_pages,
                tiles_per_page=n_tiles if packed else -(-n_tiles // n_pages),
                n_keys=n_keys,
            )
        )
        first_page = n_pages if packed else first_page + n_pages
    for slide_ms, column in sorted(
        {(a.slide_ms, columns.index(a.column)) for a in aggregates if a.function == "count_distinct"}
    ):
        lengths = tuple(
            sorted(
                {
                    a.n_tiles
                    for a in aggregates
                    if a.function == "count_distinct" and a.slide_ms == slide_ms and columns.index(a.column) == column
                }
            )
        )
        distincts.append(
            DistinctRing(
                slide_ms=slide_ms, n_tiles=lengths[-1] + 1, column=column, lengths=lengths, first_page=first_page
            )
        )
        first_page += DISTINCT_PAGES
    return Layout(
        rings=tuple(rings),
        distincts=tuple(distincts),
        outputs=tuple(_output(a, columns.index(a.column), rings, distincts) for a in aggregates),
        n_pages=first_page,
        packed=packed,
    )


def _output(aggregate: Aggregate, column: int, rings: Sequence[Ring], distincts: Sequence[DistinctRing]) -> Output:
    kind = _KINDS[aggregate.function]
    if aggregate.function == "count_distinct":
        at = next(i for i, d in enumerate(distincts) if d.slide_ms == aggregate.slide_ms and d.column == column)
        return kind, at, 0, 0, distincts[at].lengths.index(aggregate.n_tiles)
    at = next(i for i, r in enumerate(rings) if r.slide_ms == aggregate.slide_ms)
    ring = rings[at]
    cells = [ring.n_keys + ring.cells.index((op, column)) for op in _CELLS[aggregate.function]]
    return kind, at, cells[0], cells[-1], ring.lengths.index(aggregate.n_tiles)
