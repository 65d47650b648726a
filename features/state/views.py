"""The tiles of all views of one user or item: one row in, every view counted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from features import native, tiles
from features.columns import NUMERIC, TEXT, Fact, text_columns, text_hash
from features.columns import numeric_columns as _numeric_columns
from features.errors import ProgramError
from features.program import Entity, FeatureProgram, ViewProgram
from features.tile_merge import merge_fields
from features.tiles import TileState
from liverank.v1.event_pb2 import Event, EventType

if TYPE_CHECKING:
    from features.transform import Transformation

__all__ = ["Failed", "ViewTiles"]

Failed = Callable[[str, str], None]

numeric_columns: Callable[[int, float, float | None], tuple[float, ...]] = (
    _numeric_columns if native.core is None else native.core.event_row
)


class ViewTiles:
    """Tiles of every view of some entities for one key. A view with a transformation costs 0.4 ms a row.

    Parameters
    ----------
    program : FeatureProgram
    entities : sequence of str
        Whose views these are; views without aggregates have no tiles.
    fields : Mapping of bytes to bytes
        Stored fields; kept, and decoded when first used.
    """

    __slots__ = ("_merged", "_plain", "_text", "_transformed")

    def __init__(self, program: FeatureProgram, entities: Sequence[Entity], fields: Mapping[bytes, bytes]) -> None:
        self._text = program.needs_text
        self._merged: dict[bytes, bytes] = {}
        self._plain: list[TileState] = []
        self._transformed: list[TileState] = []
        for view in program.of_entity(*entities):
            if view.aggregates:
                own = self._plain if view.transformation is None else self._transformed
                own.append(tiles.load(view, fields))

    def add(
        self,
        event: Event | Fact,
        category: str,
        sign: float = 1.0,
        *,
        expected: float | None = None,
        failed: Failed | None = None,
        skip: Collection[str] = (),
    ) -> None:
        """Count an event in every view, or take it back (`sign` -1).

        Parameters
        ----------
        event : Event or Fact
        category : str
            Main category of its item.
        expected : float, optional
            Expected clicks of a slot.
        failed : callable, optional
            Gets the name of a view whose transformation raised, and what; the event counts for all others.
        skip : collection of str
            `ViewProgram.tiles_id` of views that do not count it.
        """
        ts_ms = event.event_ts_ms
        row = numeric_columns(event.type, event.value, expected)
        if self._text:
            row += text_columns(event, category)
        plain, transformed = self._plain, self._transformed
        if skip:
            plain = [tile for tile in plain if tile.view.tiles_id not in skip]
            transformed = [tile for tile in transformed if tile.view.tiles_id not in skip]
        for tile in plain:
            tile.add(ts_ms, row, sign, category)
        for tile in transformed:
            try:
                own = _transform(tile.view, event, row, category)
            except Exception as error:  # noqa: BLE001 - an operator's function may raise anything
                if failed is not None:
                    failed(tile.view.name, f"{type(error).__name__}: {error}")
                continue
            if own is not None:
                tile.add(ts_ms, own, sign, category)

    @property
    def compiled(self) -> list[TileState] | None:
        """The tiles, if native code can count them alone; the list stays the same one."""
        core = native.core
        if core is None or self._text or self._transformed:
            return None
        known = (core.RingTiles, core.CategoryTiles)
        return self._plain if all(type(tile) in known for tile in self._plain) else None

    @property
    def merged(self) -> bool:
        """Whether pages of `merge` wait for `dirty`."""
        return bool(self._merged)

    def merge(self, pages: Mapping[bytes, bytes]) -> None:
        """Add tiles that were counted apart, by field `view:page`."""
        for tiles_of in (self._plain, self._transformed):
            for at, tile in enumerate(tiles_of):
                names = tile.view.page_fields
                if any(name in pages for name in names):
                    ours = dict(zip(names, tile.pages(), strict=True))
                    self._merged |= tile.dirty() | merge_fields(tile.view, ours, pages)
                    tiles_of[at] = tiles.load(
                        tile.view, ours | {n: self._merged[n] for n in names if n in self._merged}
                    )

    def dirty(self) -> dict[bytes, bytes]:
        """Fields changed since the last call."""
        changed, self._merged = self._merged, {}
        for tile in self._plain:
            changed |= tile.dirty()
        for tile in self._transformed:
            changed |= tile.dirty()
        return changed


@lru_cache(maxsize=256)
def _function(transformation: bytes) -> Transformation:
    import dill

    function: Transformation = dill.loads(transformation)  # who may write the registry may run code: docs/security
    return function


def _transform(view: ViewProgram, event: Event | Fact, row: Sequence[float], category: str) -> tuple[float, ...] | None:
    """The view's own row of an event; None if the transformation leaves it out."""
    import pandas as pd

    from features.transform import transform

    if view.transformation is None:
        raise ProgramError(f"view {view.name!r} has no transformation")
    texts = (
        EventType.Name(event.type),
        event.surface,
        category,
        event.item_id,
        event.user_id,
        event.session_id,
    )
    columns: dict[str, list[object]] = {name: [value] for name, value in zip(NUMERIC, row, strict=False)}
    columns |= {name: [text] for name, text in zip(TEXT, texts, strict=True)}
    result = transform(_function(view.transformation), pd.DataFrame(columns))
    if not len(result):
        return None
    found = result.iloc[0]
    return tuple(text_hash(str(found[name])) if name in TEXT else float(found[name]) for name in view.columns)
