"""The state of one item, as sums of effects of users' events: tiles, trend, surfaces, neighbours and variants."""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from typing import Any, Final, cast

from features import native
from features.columns import Fact
from features.program import FeatureProgram
from features.state import parts
from features.state.effects import EventEffect, PairsEffect
from features.state.neighbours import Neighbours
from features.state.pages import HEAD, body
from features.state.params import SignalWeights
from features.state.trend import CHOICES
from features.state.variants import VariantCounts
from features.state.views import Failed, ViewTiles
from liverank.v1.event_pb2 import EventType
from liverank.v1.stream_pb2 import ItemEvent, ItemPairs

__all__ = ["ItemState", "count_effect"]

_CORE: Final = struct.Struct("<q")
_CORE_FIELD: Final = b"_i"
_CLICK: Final = int(EventType.EVENT_TYPE_CLICK)
_IMPRESSION: Final = int(EventType.EVENT_TYPE_IMPRESSION)
_VARIANT: Final = int(EventType.EVENT_TYPE_VARIANT)


def count_effect(
    views: ViewTiles,
    effect: ItemEvent | EventEffect,
    category: str = "",
    *,
    failed: Failed | None = None,
    skip: Collection[str] = (),
) -> None:
    """Count an effect in an item's views. Parameters as `ItemState.observe`."""
    if effect.type == _VARIANT:
        return  # no event of a user, but counts of their own
    kind = cast(EventType, effect.type)
    fact = Fact(kind, effect.event_ts_ms, effect.item_id, effect.value, effect.surface)
    expected = effect.expected if effect.type == _IMPRESSION else None
    views.add(fact, category, effect.sign, expected=expected, failed=failed, skip=skip)


class ItemState:
    """Everything kept of one item. Sums only, so the order of effects does not matter; not thread safe.

    An event costs about 10 us, a pairing with 8 partners 8 us.

    Parameters
    ----------
    item_id : str
        Key of the item.
    fields : Mapping of bytes to bytes
        Stored fields; kept, and decoded when first used. Empty for a new item.
    program : FeatureProgram
        The views to keep.
    signals : SignalWeights
        What good news weighs in trend and popularity.

    Attributes
    ----------
    transition : features.native.core.ItemTransition or None
        Counts events in machine code, where the views allow it.
    """

    def __init__(
        self, item_id: str, fields: Mapping[bytes, bytes], program: FeatureProgram, signals: SignalWeights
    ) -> None:
        self.item_id = item_id
        self._fields = fields
        self._signals = signals
        self._views = ViewTiles(program, ("item",), fields)
        self._trend = parts.Trend(fields)
        self._surfaces = parts.SurfaceCounts(fields)
        self._neighbours: Neighbours | None = None
        self._variants: VariantCounts | None = None
        core = fields.get(_CORE_FIELD)
        self.newest_event_ts_ms: int = _CORE.unpack(body(_CORE_FIELD, core, _CORE.size))[0] if core else 0
        self._core_dirty = False
        self.transition: Any = None
        if native.core is not None and (tiles := self._views.compiled) is not None:
            self.transition = native.core.ItemTransition(tiles, self._trend, self._surfaces, signals)

    def observe(
        self,
        effect: ItemEvent | EventEffect,
        category: str = "",
        *,
        failed: Failed | None = None,
        skip: Collection[str] = (),
    ) -> None:
        """Count an event on the item, or take one back (`sign` -1).

        Parameters
        ----------
        effect : ItemEvent or EventEffect
        category : str
            The item's main category; only views over text columns want it.
        failed : callable, optional
            Gets the name of a view whose transformation raised, and what.
        skip : collection of str
            `ViewProgram.tiles_id` of views that do not count it.
        """
        kind, ts_ms = effect.type, effect.event_ts_ms
        if self.transition is not None and not skip and kind != _VARIANT and type(effect) is native.core.EventEffect:
            self.transition.observe(effect)
            self.newer(ts_ms)
            return
        value, sign = effect.value, effect.sign
        if kind == _VARIANT:
            if self._variants is None:
                self._variants = VariantCounts(self._fields)
            self._variants.add(effect.surface, effect.expected, value, ts_ms)
            self.newer(ts_ms)
            return
        expected = effect.expected if kind == _IMPRESSION else None
        count_effect(self._views, effect, category, failed=failed, skip=skip)
        good = max(0.0, self._signals.of(kind, value))
        chosen = kind in CHOICES
        if good or expected or chosen:
            self._trend.add(
                ts_ms,
                sign * good,
                sign if kind == _CLICK else 0.0,
                sign * (expected or 0.0),
                sign if chosen else 0.0,
            )
        if expected or kind == _CLICK:
            self._surfaces.add(effect.surface, ts_ms, sign * (expected or 0.0), sign if kind == _CLICK else 0.0)
        self.newer(ts_ms)

    def meet(self, pairs: ItemPairs | PairsEffect) -> None:
        """Add to the weights of neighbours."""
        self.neighbours.add(pairs.other_hashes, pairs.weights, pairs.event_ts_ms)
        self.newer(pairs.event_ts_ms)

    @property
    def neighbours(self) -> Neighbours:
        """Neighbours, decoded when first used."""
        if self._neighbours is None:
            self._neighbours = parts.Neighbours(self._fields)
        return self._neighbours

    def merge(self, pages: Mapping[bytes, bytes]) -> None:
        """Add tiles that were counted apart: the past of a view that was activated later."""
        self._views.merge(pages)

    def due_ms(self) -> int | None:
        """Nothing of an item is ever due: its windows are right when read."""
        return None

    def dirty(self) -> dict[bytes, bytes]:
        """Fields changed since the last call, with their whole new bytes; `b""` deletes the field."""
        tiles = self._views.compiled
        if tiles is not None and not self._views.merged:
            known = () if self._neighbours is None else (self._neighbours,)
            changed = parts.collect((self._trend, self._surfaces, *tiles, *known))
        else:
            changed = self._trend.dirty() | self._surfaces.dirty()
            changed |= self._views.dirty()
            if self._neighbours is not None:
                changed |= self._neighbours.dirty()
        if self._variants is not None:
            changed |= self._variants.dirty()
        if self._core_dirty:
            changed[_CORE_FIELD] = HEAD + _CORE.pack(self.newest_event_ts_ms)
            self._core_dirty = False
        return changed

    def newer(self, ts_ms: int) -> None:
        """Note the event time of something that was counted."""
        if ts_ms > self.newest_event_ts_ms:
            self.newest_event_ts_ms = ts_ms
            self._core_dirty = True
