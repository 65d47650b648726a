"""A session that was anonymous becomes a user's: its events move, once (docs/specs/control.md, Login).

At the session's partition the fold takes back what the session added to sums, sends its events to the user's partition
as one control record `adopt`, deletes the session's state and remembers whose it is, so that events which still come
without a user follow. At the user's partition they are folded as the user's own, items as of their first append time;
the user's duplicates make a second `adopt` harmless.
"""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from bandits.errors import InvalidStatisticsError
from features.item_version import CatalogueItem
from features.state.dedup import HORIZON_MS
from features.state.effects import item_event, item_pairs
from features.state.emitter import Emitter, NullEmitter
from features.state.pages import HEAD, body
from features.state.raw import RawEvent
from features.state.user import UserState
from liverank.errors import ContractError
from liverank.v1.event_pb2 import Event, EventType, Exposure
from streams.statistics import StatisticsState, statistics_key

if TYPE_CHECKING:
    from streams.fold import Context

__all__ = ["Identified", "adopted", "advance", "movable", "take_back"]

_TO: Final = b"_to"
_KNOWN_MS: Final = struct.Struct("<q")
_VARIANT: Final = int(EventType.EVENT_TYPE_VARIANT)
_EXPOSURE: Final = int(EventType.EVENT_TYPE_EXPOSURE)


class Identified:
    """What stands in place of a session's state: whose it is, for a week; a `streams.fold.KeyState`."""

    def __init__(self, session_id: str, fields: Mapping[bytes, bytes]) -> None:
        self.session_id = session_id
        self.user_id, self._since_ms = "", 0
        self._changed = False
        if stored := fields.get(_TO):
            entry = body(_TO, stored)
            self.user_id, self._since_ms = entry[_KNOWN_MS.size :].decode(), _KNOWN_MS.unpack_from(entry)[0]

    @staticmethod
    def holds(fields: Mapping[bytes, bytes]) -> bool:
        """Whether these fields are such a state's."""
        return _TO in fields

    def set(self, user_id: str, clock_ms: int) -> None:
        """Note the user; empty = forget."""
        self.user_id, self._since_ms, self._changed = user_id, clock_ms, True

    def merge(self, pages: Mapping[bytes, bytes]) -> None:
        """Tiles of before the login: the user counts them with the events that moved."""

    def due_ms(self) -> int | None:
        """When no event of before the login can come any more."""
        return self._since_ms + HORIZON_MS if self.user_id else None

    def dirty(self) -> dict[bytes, bytes]:
        """The stored form, if it changed."""
        if not self._changed:
            return {}
        self._changed = False
        page = HEAD + _KNOWN_MS.pack(self._since_ms) + self.user_id.encode()
        return {_TO: page if self.user_id else b""}


def movable(state: UserState, clock_ms: int) -> tuple[list[RawEvent], bool]:
    """Events of a session that a user can take, and whether they are all that the session ever counted."""
    events, horizon_ms = [], clock_ms - HORIZON_MS
    for raw in state.raw.events():
        if Event.FromString(raw.packed).event_ts_ms >= horizon_ms:
            events.append(raw)
    return events, state.raw.complete and len(events) == len(state.raw.events())


def take_back(session_id: str, events: Sequence[RawEvent], ctx: Context, make: Callable[[], UserState]) -> None:
    """Take back what a session added to sums, by folding its events once more.

    Parameters
    ----------
    make : callable
        Makes an empty state of the session.
    """
    outlet, state = _TakeBack(ctx), make()
    for raw in _in_order(events):
        event = Event.FromString(raw.packed)
        advance(state, event.event_ts_ms, outlet)
        try:
            state.observe(event, append_ts_ms=raw.append_ts_ms, clock_ms=ctx.clock_ms, emit=outlet)
        except ContractError:
            continue  # the session did not count it either
    advance(state, ctx.clock_ms, outlet)
    outlet.close()
    for key, counted in outlet.statistics.items():
        have = ctx.state(key)
        if isinstance(have, StatisticsState):
            have.take_back(counted)


def advance(state: UserState, until_ms: int, emit: Emitter) -> None:
    """Do what is due by then: windows of the past close in the order in which they would have."""
    while (due_ms := state.due_ms()) is not None and due_ms <= until_ms:
        state.on_due(due_ms, emit)


def adopted(events: Sequence[tuple[bytes, int]], user_id: str) -> list[tuple[Event, int]]:
    """The user's events, in the order in which they are folded, with their append times."""
    found = []
    for raw in _in_order([RawEvent(*each) for each in events]):
        event = Event.FromString(raw.packed)
        event.user_id = user_id
        found.append((event, raw.append_ts_ms))
    return found


def _in_order(events: Sequence[RawEvent]) -> list[RawEvent]:
    """By event time, exposures before what was done on them."""

    def place(raw: RawEvent) -> tuple[int, bool, str]:
        event = Event.FromString(raw.packed)
        return event.event_ts_ms, event.type != _EXPOSURE, event.event_id

    return sorted(events, key=place)


class _TakeBack(NullEmitter):
    """Sends the opposite of every effect on items; counts statistics apart."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._pairs: dict[tuple[str, int], Counter[tuple[int, float]]] = defaultdict(Counter)
        self.statistics: dict[str, StatisticsState] = {}

    def item(self, item_id: str, append_ts_ms: int) -> CatalogueItem | None:
        return self._ctx.item(item_id, append_ts_ms)

    def item_event(
        self,
        item_id: str,
        kind: int,
        event_ts_ms: int,
        *,
        value: float = 0.0,
        sign: float = 1.0,
        surface: str = "",
        expected: float | None = None,
        position: int = 0,
    ) -> None:
        expected = expected or 0.0
        if kind == _VARIANT:
            value, expected = -value, -expected
        else:
            sign = -sign
        self._ctx.effect(item_id, item_event(item_id, kind, event_ts_ms, value, sign, surface, expected, position))

    def pairs(self, item_id: str, other_hashes: Sequence[int], weights: Sequence[float], event_ts_ms: int) -> None:
        for other, weight in zip(other_hashes, weights, strict=True):
            self._pairs[item_id, event_ts_ms][other, abs(weight)] += 1 if weight > 0 else -1

    def close(self) -> None:
        """Send the opposite of the pairs that are left: a neighbour never has fewer than none of them."""
        for (item_id, event_ts_ms), counts in self._pairs.items():
            left = [(other, weight) for (other, weight), n in counts.items() for _ in range(n)]
            if left:
                back = item_pairs(item_id, [other for other, _ in left], [-weight for _, weight in left], event_ts_ms)
                self._ctx.effect(item_id, back)

    def shown(
        self, exposure: Exposure, phi: NDArray[np.float64], residuals: NDArray[np.float64], exposure_ts_ms: int
    ) -> None:
        try:
            self._of(exposure).shown(self._ctx.partition, exposure, phi, residuals, exposure_ts_ms)
        except InvalidStatisticsError:
            return  # nothing was entered the first time either

    def outcome(
        self, exposure: Exposure, slot: int, phi: NDArray[np.float64], head: int, delta: float, exposure_ts_ms: int
    ) -> None:
        try:
            self._of(exposure).outcome(exposure, slot, phi, head, delta, exposure_ts_ms)
        except InvalidStatisticsError:
            return

    def _of(self, exposure: Exposure) -> StatisticsState:
        key = statistics_key(exposure.base_model, exposure.schema)
        if key not in self.statistics:
            self.statistics[key] = StatisticsState(key, {})
        return self.statistics[key]
