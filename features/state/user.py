"""The state of one user: every part together, as a pure function of the user's events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from features import native
from features.columns import Fact, quantise
from features.hashing import category_hash, id_hash, item_hash
from features.item_version import CatalogueItem
from features.program import FeatureProgram
from features.state import parts
from features.state.dedup import HORIZON_MS, Dedup, Verdict
from features.state.emitter import Emitter
from features.state.exposure import CLICK, FAST, Exposure, outcome_bits
from features.state.exposures import USUAL_IDS, Change, Counted, RowDue, SeenMoved, room
from features.state.history import Entry
from features.state.lead import NO_LEAVING, UNKNOWN
from features.state.pairs import Good, Pairs
from features.state.params import DAY_MS, EXPECTED_CLICKS, StateParams
from features.state.raw import RawEvents
from features.state.seen import CLICKED, CONSUMED, DISMISSED
from features.state.session import Shown
from features.state.variants import arms_of
from features.state.views import ViewTiles
from liverank.contract import polarity
from liverank.errors import ContractError
from liverank.v1.event_pb2 import Event, EventType, ExposureSlot

__all__ = ["VECTOR_WINDOWS_MS", "UserState", "expected_clicks"]

VECTOR_WINDOWS_MS: Final = (7 * DAY_MS, 30 * DAY_MS, 180 * DAY_MS)
"""Windows of the user vectors."""

_UNKNOWN_VERSION: Final = -1
#: What a native transition answers.
_REPEATED, _TOO_OLD, _CHANGED, _LEFT = 1, 2, 4, 8

_EXPOSURE: Final = int(EventType.EVENT_TYPE_EXPOSURE)
_IMPRESSION: Final = int(EventType.EVENT_TYPE_IMPRESSION)
_CLICK: Final = int(EventType.EVENT_TYPE_CLICK)
_RATING: Final = int(EventType.EVENT_TYPE_RATING)
_SESSION_END: Final = int(EventType.EVENT_TYPE_SESSION_END)
_ABANDON: Final = int(EventType.EVENT_TYPE_ABANDON)
_VARIANT: Final = int(EventType.EVENT_TYPE_VARIANT)
_ACTS: Final = {
    _CLICK: (CLICKED,),
    int(EventType.EVENT_TYPE_LIKE): (CONSUMED,),
    int(EventType.EVENT_TYPE_SAVE): (CONSUMED,),
    int(EventType.EVENT_TYPE_PURCHASE): (CONSUMED,),
    _RATING: (CONSUMED,),
    int(EventType.EVENT_TYPE_DISMISS): (DISMISSED,),
    int(EventType.EVENT_TYPE_THUMBS_DOWN): (DISMISSED,),
    int(EventType.EVENT_TYPE_NOT_INTERESTED): (DISMISSED,),
}
_DWELL: Final = int(EventType.EVENT_TYPE_DWELL)
_PAIRED: Final = frozenset(
    int(kind)
    for kind in (
        EventType.EVENT_TYPE_CLICK,
        EventType.EVENT_TYPE_LIKE,
        EventType.EVENT_TYPE_SAVE,
        EventType.EVENT_TYPE_PURCHASE,
        EventType.EVENT_TYPE_RATING,
    )
)
"""Good news that makes pairs; a dwell follows a click on the same item and would only repeat it."""


def expected_clicks(position: int) -> float:
    """Clicks expected of a slot (from 1) relative to the first: 1 / log2(1 + position); unknown (0) is the first."""
    return EXPECTED_CLICKS[min(max(position, 1), len(EXPECTED_CLICKS)) - 1]


class UserState:
    """Everything kept of one user.

    Guarantees: at quiescence the state and the sums of what was emitted are functions of the set of events above the
    dedup bound, not of the order of their arrival; a repeated event changes nothing; what is due is done at its time.
    Not thread safe. A mature user costs about 65 us an event, tiles and pages included.

    Parameters
    ----------
    user_id : str
        Key of the user.
    fields : Mapping of bytes to bytes
        Stored fields; kept, and decoded part by part when first used. Empty for a new user.
    program : FeatureProgram
        The views to keep.
    params : StateParams
    """

    def __init__(
        self, user_id: str, fields: Mapping[bytes, bytes], program: FeatureProgram, params: StateParams
    ) -> None:
        self.user_id = user_id
        self._fields = fields
        self._params = params
        self._views = ViewTiles(program, ("user", "user_category"), fields)
        self._dedup: Dedup | None = None
        self._pairs: Pairs | None = None
        self._raw: RawEvents | None = None
        self._history = parts.History(fields)
        self._seen = parts.Seen(fields)
        self._sessions = parts.Sessions(fields, params.session_timeout_ms)
        self._exposures = parts.make_exposures(fields, params)
        self._lead = parts.Lead(fields)
        self._parts: list[parts.Part] = [self._history, self._seen, self._sessions, self._exposures, self._lead]
        self._transition: Any = None
        if native.core is not None and (tiles := self._views.compiled) is not None:
            self._transition = native.core.UserTransition(
                user_id, self._history, self._seen, self._sessions, self._exposures, self._lead, tiles, params,
                VECTOR_WINDOWS_MS,
            )  # fmt: skip

    @property
    def newest_event_ts_ms(self) -> int:
        """Newest event time of the user; 0 = no event."""
        return self._lead.newest_event_ts_ms

    # -- parts that are decoded late

    @property
    def dedup(self) -> Dedup:
        """Event ids."""
        if self._dedup is None:
            self._dedup = parts.Dedup(self._fields)
            self._parts.append(self._dedup)
        return self._dedup

    @property
    def pairs(self) -> Pairs:
        """Good news."""
        if self._pairs is None:
            self._pairs = parts.Pairs(self._fields, self._params.pair_partners, self._params.pair_gap_half_life_ms)
            self._parts.append(self._pairs)
        return self._pairs

    @property
    def raw(self) -> RawEvents:
        """Events as they came; only sessions without a user keep them (the caller adds them, before `observe`)."""
        if self._raw is None:
            self._raw = RawEvents(self._fields, late=self.newest_event_ts_ms > 0)
            self._parts.append(self._raw)
        return self._raw

    # -- the transition

    def observe(
        self, event: Event, *, append_ts_ms: int, clock_ms: int, emit: Emitter, packed: bytes | None = None
    ) -> bool:
        """Fold one event of this user.

        Parameters
        ----------
        event : Event
            Valid; of any type but tick and control. Kept if it is an exposure.
        append_ts_ms : int
            Append time of its record: items are resolved as of then.
        clock_ms : int
            The partition's clock, this record included; everything due by then was done (`on_due`).
        emit : Emitter
        packed : bytes, optional
            The encoded event. With an emitter that has a `sink` it goes the fast way (features/native).

        Returns
        -------
        bool
            False if it was a repeat and nothing was done.

        Raises
        ------
        ContractError
            `beyond_dedup_horizon`: too old to tell whether it is a repeat. Nothing was changed.
        """
        ts_ms = event.event_ts_ms
        if packed is not None and self._transition is not None and emit.sink is not None:
            what = self._transition.observe(self, packed, append_ts_ms, clock_ms, emit, emit.sink)
            if what == _REPEATED:
                emit.count("repeat")
                return False
            if what == _TOO_OLD:
                raise ContractError("beyond_dedup_horizon", self._beyond(ts_ms, clock_ms))
            if what == _CHANGED:
                emit.user_changed(self.newest_event_ts_ms)
            if what != _LEFT:
                return True
        dedup = self.dedup
        event_id_hash = id_hash(event.event_id)
        verdict = dedup.judge(event_id_hash, ts_ms, clock_ms)
        if verdict is Verdict.REPEAT:
            emit.count("repeat")
            return False
        if verdict is Verdict.BEYOND:
            raise ContractError("beyond_dedup_horizon", self._beyond(ts_ms, clock_ms))
        if dedup.add(event_id_hash, ts_ms, clock_ms) and dedup.bound_ms is not None:
            self.pairs.forget(dedup.bound_ms)
        bot = dedup.is_bot(clock_ms)
        if bot:
            emit.count("bot")
        self._apply(self._exposures.forget(clock_ms), emit, bot)
        self._lead.newest_event_ts_ms = max(self.newest_event_ts_ms, ts_ms)
        if event.type == _EXPOSURE:
            self._exposure(event, append_ts_ms, clock_ms, emit, bot)
        else:
            self._action(event, append_ts_ms, clock_ms, emit, bot)
        if event.type == _EXPOSURE or len(dedup) > USUAL_IDS:
            self._make_room(clock_ms, emit)
        return True

    def _make_room(self, clock_ms: int, emit: Emitter) -> None:
        """Event ids and exposures share one bound."""
        changes = self._exposures.shrink(room(len(self.dedup)))
        self._apply(changes, emit, self.dedup.is_bot(clock_ms))

    def merge(self, pages: Mapping[bytes, bytes]) -> None:
        """Add tiles that were counted apart: the past of a view that was activated later."""
        self._views.merge(pages)

    def due_ms(self) -> int | None:
        """When `on_due` is wanted next (partition clock); None = never."""
        if self._transition is not None:
            due: int | None = self._transition.due_ms()
            return due
        due_ms = self._next_leaving_ms()
        for time_ms in (self._exposures.due_ms(), self._sessions.due_ms()):
            if time_ms is not None and (due_ms is None or time_ms < due_ms):
                due_ms = time_ms
        return due_ms

    def on_due(self, due_ms: int, emit: Emitter) -> None:
        """Do everything that is due by `due_ms`, stamped with it. Afterwards `due_ms()` lies later."""
        if self._transition is not None and emit.sink is not None:
            if self._transition.on_due(self, due_ms, emit, emit.sink):
                emit.user_changed(self.newest_event_ts_ms)
            return
        bot = self.dedup.is_bot(due_ms)
        exposures_ms = self._exposures.due_ms()
        if exposures_ms is not None and exposures_ms <= due_ms:
            self._apply(self._exposures.on_due(due_ms), emit, bot)
        else:
            self._apply(self._exposures.forget(due_ms), emit, bot)
        sessions_ms = self._sessions.due_ms()
        changed = False
        if sessions_ms is not None and sessions_ms <= due_ms:
            changed = self.abandon(self._sessions.on_due(due_ms), emit, bot)
        leaving_ms = self._next_leaving_ms()
        if leaving_ms is not None and leaving_ms <= due_ms:
            self._lead.composition_ms, self._lead.leaving_ms = due_ms, UNKNOWN
            changed = True
        if changed:
            emit.user_changed(self.newest_event_ts_ms)

    def dirty(self) -> dict[bytes, bytes]:
        """Fields changed since the last call, with their whole new bytes; `b""` deletes the field."""
        tiles = self._views.compiled
        if tiles is not None and not self._views.merged:
            changed = parts.collect((*self._parts, *tiles))
        else:
            changed = parts.collect(self._parts)
            changed |= self._views.dirty()
        return changed

    # -- events

    def _beyond(self, ts_ms: int, clock_ms: int) -> str:
        bound_ms = self.dedup.bound_ms
        horizon_ms = clock_ms - HORIZON_MS
        lowest_ms = horizon_ms if bound_ms is None else max(horizon_ms, bound_ms + 1)
        return (
            f"event time of this user is at least {lowest_ms}, got {ts_ms} ({(lowest_ms - ts_ms) // 1000} s too old); "
            "import old history with `liverank import`"
        )

    def _action(self, event: Event, append_ts_ms: int, clock_ms: int, emit: Emitter, bot: bool) -> None:
        kind, ts_ms, value, item_id = event.type, event.event_ts_ms, event.value, event.item_id
        item = emit.item(item_id, append_ts_ms) if item_id else None
        category = item.category if item is not None else ""
        sign = polarity(kind, value)
        self._views.add(event, category, failed=emit.transformation_failed)
        shown, added = None, False
        if item_id:
            hashed = item_hash(item_id)
            sixteenths = round(self._params.signals.of(kind, value) * 16)
            if sixteenths:
                entry = _entry(ts_ms, hashed, kind, sixteenths, item, category)
                added = self._history.add(entry)
            if kind == _IMPRESSION:
                shown = Shown(ts_ms, item_id, append_ts_ms)
                self._seen.mark(hashed, ts_ms)
            elif acts := _ACTS.get(kind) or ((CONSUMED,) if kind == _DWELL and sign > 0 else ()):
                for act in acts:
                    self._seen.act(hashed, act, ts_ms)
        start_ms = self._sessions.start_ms
        moved = self._sessions.add(ts_ms, clock_ms, sign, kind == _CLICK, kind == _SESSION_END, shown)
        changed = (self.abandon(moved, emit, bot) if moved else False) or added
        if changed:
            self._lead.leaving_ms = UNKNOWN
        self._find_intent(start_ms, added)
        if item_id:
            position = event.position
            if bits := outcome_bits(kind, value):
                changes = self._exposures.add_outcome(item_id, ts_ms, bits, event.request_id, position)
                if changes:
                    self._apply(changes, emit, bot)
            if not bot:
                emit.item_event(
                    item_id,
                    kind,
                    ts_ms,
                    value=value,
                    surface=event.surface,
                    expected=expected_clicks(position) if kind == _IMPRESSION else None,
                    position=position,
                )
                if sign > 0 and kind in _PAIRED:
                    for pairing in self.pairs.add(Good(ts_ms, item_id, hashed)):
                        emit.pairs(*pairing)
        if changed:
            emit.user_changed(self.newest_event_ts_ms)

    def _exposure(self, event: Event, append_ts_ms: int, clock_ms: int, emit: Emitter, bot: bool) -> None:
        exposure, ts_ms = event.exposure, event.event_ts_ms
        counts = bool(not bot and exposure.drawn and exposure.heads and exposure.slots[0].phi)
        changes = self._exposures.add_exposure(event.SerializeToString(), append_ts_ms, clock_ms, counts)
        if counts:
            self.enter(self._exposures.get(event.event_id), emit)
            for at, slot in enumerate(exposure.slots, start=1):
                if slot.variant_id:
                    _variant(emit, event, slot, at, ts_ms, shown=expected_clicks(at))
        start_ms = self._sessions.start_ms
        shown = Shown(ts_ms, exposure.slots[0].item_id, append_ts_ms)
        changed = self.abandon(self._sessions.add(ts_ms, clock_ms, 0, False, False, shown), emit, bot)
        self._find_intent(start_ms, False)
        self._apply(changes, emit, bot)
        if changed:
            emit.user_changed(self.newest_event_ts_ms)

    def enter(self, held: Exposure, emit: Emitter) -> None:
        """Enter a slate into the statistics."""
        residuals = held.expected()
        residuals *= [-1.0 if bits & FAST else 0.0 for bits in held.head_bits]
        emit.shown(held.event.exposure, held.features(), residuals, held.shown_ms)

    # -- consequences

    def _apply(self, changes: Iterable[Change], emit: Emitter, bot: bool) -> None:
        for change in changes:
            self.consequence(change, emit, bot)

    def consequence(self, change: Change, emit: Emitter, bot: bool) -> None:
        """Say what a change in exposures and outcomes means."""
        if isinstance(change, SeenMoved):
            if self._transition is not None and emit.sink is not None:
                self._transition.saw(*change, emit, emit.sink, bot)
            else:
                self._saw(*change, emit, bot)
        elif isinstance(change, RowDue):
            exposure, slot, correction = change
            closed_ms = exposure.shown_ms + self._params.attribution_window_ms
            emit.example(exposure.example(slot, self.user_id, closed_ms, correction, self._params.rewards.in_order))
            if correction:
                emit.count("correction")
        elif isinstance(change, Counted):
            emit.count(change.name)
        elif not bot:
            exposure, slot, head, delta = change
            emit.outcome(exposure.event.exposure, slot, exposure.features()[slot], head, delta, exposure.shown_ms)
            if exposure.head_bits[head] == CLICK and (item := exposure.event.exposure.slots[slot]).variant_id:
                _variant(emit, exposure.event, item, slot + 1, exposure.shown_ms, clicked=delta)

    def _saw(self, exposure: Exposure, slot: int, sign: int, emit: Emitter, bot: bool) -> None:
        item_id, ts_ms, surface = exposure.item_of(slot), exposure.shown_ms, exposure.surface
        hashed = item_hash(item_id)
        if sign > 0:
            self._seen.mark(hashed, ts_ms)
        else:
            self._seen.unmark(hashed, ts_ms)
        fact = Fact(
            EventType.EVENT_TYPE_IMPRESSION, ts_ms, item_id, 0.0, surface, exposure.user_id, exposure.session_id
        )
        self._derived(fact, exposure.append_ts_ms, sign, emit)
        if not bot:
            emit.item_event(
                item_id,
                _IMPRESSION,
                ts_ms,
                sign=float(sign),
                surface=surface,
                expected=expected_clicks(slot + 1),
                position=slot + 1,
            )

    def abandon(self, changes: Iterable[tuple[int, Shown]], emit: Emitter, bot: bool) -> bool:
        """Count abandoned sessions, or take them back; return whether there was one."""
        changed = False
        sixteenths = round(self._params.signals.abandon * 16)
        for sign, abandoned in changes:
            item_id, ts_ms = abandoned.item_id, abandoned.event_ts_ms
            fact = Fact(EventType.EVENT_TYPE_ABANDON, ts_ms, item_id, user_id=self.user_id)
            item, category = self._derived(fact, abandoned.append_ts_ms, sign, emit)
            entry = _entry(ts_ms, item_hash(item_id), _ABANDON, sixteenths, item, category)
            self._sessions.derive(sign, entry if sixteenths else None)
            if not bot:
                emit.item_event(item_id, _ABANDON, ts_ms, sign=float(sign))
            self._lead.leaving_ms = UNKNOWN
            changed = True
        return changed

    def _derived(self, fact: Fact, append_ts_ms: int, sign: int, emit: Emitter) -> tuple[CatalogueItem | None, str]:
        item = emit.item(fact.item_id, append_ts_ms)
        category = item.category if item is not None else ""
        self._views.add(fact, category, float(sign), failed=emit.transformation_failed)
        return item, category

    def _find_intent(self, old_start_ms: int | None, added: bool) -> None:
        start_ms = self._sessions.start_ms
        if start_ms is not None and (added or start_ms != old_start_ms):
            self._sessions.set_intent(*self._history.intent(start_ms))

    def _next_leaving_ms(self) -> int | None:
        lead = self._lead
        if lead.leaving_ms == UNKNOWN:
            args = (lead.composition_ms, VECTOR_WINDOWS_MS, self._params.composition_grain_ms)
            times = (self._history.next_leaving_ms(*args), self._sessions.next_leaving_ms(*args))
            lead.leaving_ms = min((time for time in times if time is not None), default=NO_LEAVING)
        return None if lead.leaving_ms == NO_LEAVING else lead.leaving_ms


def _entry(ts_ms: int, hashed: int, kind: int, sixteenths: int, item: CatalogueItem | None, category: str) -> Entry:
    version = item.version if item is not None else _UNKNOWN_VERSION
    return Entry(ts_ms, hashed, kind, sixteenths, version, category_hash(category))


def _variant(
    emit: Emitter,
    event: Event,
    slot: ExposureSlot,
    position: int,
    ts_ms: int,
    *,
    shown: float = 0.0,
    clicked: float = 0.0,
) -> None:
    """Count a variant that was shown or clicked, for everybody, for the device and for the surface."""
    for arm in arms_of(slot.variant_id, event.context.device, event.surface):
        emit.item_event(
            slot.item_id, _VARIANT, ts_ms, value=clicked, surface=arm, expected=quantise(shown), position=position
        )
