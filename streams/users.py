"""The user fold: events in; users' state, sessions, joins and bandit statistics out (docs/specs/state.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter

from bandits.errors import InvalidStatisticsError
from features import native
from features.online import EntityRow, Tombstone
from features.program import FeatureProgram
from features.redis import VersionedValue
from features.state.effects import PySink, item_event, item_pairs
from features.state.params import state_params
from features.state.session_views import SessionViews
from features.state.user import UserState
from liverank.contract import decode_event, event_key, header, validate_event
from liverank.errors import ContractError
from liverank.partition import partition as partition_of
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType, Exposure
from streams.control import Adopt, Command, Erase, Erased, Void, apply_control, control, parse_control
from streams.erasure import ERASED_KEY, ErasedKeys, apply_erase
from streams.errors import FoldBugError
from streams.fold import Context, KeyState, Parsed, Record, Usual
from streams.identity import Identified, adopted, advance, movable, take_back
from streams.numbers import user_change
from streams.program import PROGRAM_KEY, ProgramState
from streams.rows import SESSION, plain_key, session_key, state_key
from streams.statistics import PREFIX, StatisticsState, statistics_key

__all__ = ["UserFold", "state_params"]

_TICK: Final = int(EventType.EVENT_TYPE_TICK)
_CONTROL: Final = int(EventType.EVENT_TYPE_CONTROL)
_EXPOSURE: Final = int(EventType.EVENT_TYPE_EXPOSURE)
_IDENTIFY: Final = int(EventType.EVENT_TYPE_IDENTIFY)
_MOST_HOPS: Final = 4
_ANY_TIME_MS: Final = 1 << 62
_VIEWS: Final = ("user_history", "user_session", "user_seen", "user_vectors")
"""Views of a user's row that no program lists."""

plain_event: Callable[[bytes, int], bool] = (
    (lambda _value, _now_ms: False) if native.core is None else (native.core.plain_event)
)
"""Whether an encoded event certainly keeps the contract."""

_COUNTED = Counter(
    "liverank_fold_users_total",
    "What the user fold met: repeat, bot, orphan, unattributed, late_outcome, correction, closed_early, ...",
    ["what"],
)


@cache
def _count_of(name: str) -> Counter:
    return _COUNTED.labels(name)


class UserFold:
    """`streams.fold.Fold` over `events`, key user_id (else session_id). Not thread safe.

    Parameters
    ----------
    settings : Settings
        Namespace, clock, session timeout, attribution window, signal weights.
    program : FeatureProgram
        The views to keep.
    token : bytes
        The namespace's token: ticks and control records carry it in the header ``liverank-internal``.
    follow : bool
        Follow control records that change the program. False: those only move the clock, `program` holds to the end
        (rebuild, backfill). Erasures are always followed.
    """

    name = "users"
    kind = "u"

    def __init__(self, settings: Settings, program: FeatureProgram, *, token: bytes, follow: bool = True) -> None:
        self._settings = settings
        self._namespace = settings.namespace
        self._wall = settings.clock == "wall"
        self._base = program
        self._program = ProgramState(program, {})
        self._params = state_params(settings)
        self._token = token
        self._follow = follow
        self._erased: ErasedKeys | None = None

    def for_partition(self, program: Mapping[bytes, bytes]) -> UserFold:
        """See `Fold.for_partition`."""
        fold = UserFold(self._settings, self._base, token=self._token, follow=self._follow)
        fold._program = ProgramState(self._base, program)
        return fold

    def parse(self, record: Record) -> Parsed:
        """Decode and validate an event; see `Fold.parse`."""
        headers = record.headers
        event = decode_event(record.value, headers)
        internal = bool(headers) and header(headers, "liverank-internal") == self._token
        # On the data's clock an event is never ahead of the wall.
        now_ms = record.append_ts_ms if self._wall else _ANY_TIME_MS
        if headers or not plain_event(record.value, now_ms):
            validate_event(event, now_ms=now_ms, internal=internal)
        if event.type == _TICK:
            return Parsed((), None, tick=True)
        if event.type == _CONTROL:
            command = parse_control(event.control)
            if isinstance(command, Erase | Erased):
                return Parsed((ERASED_KEY,), command, alone=True)
            if isinstance(command, Adopt):
                return Parsed((state_key(command.user_id),), command, alone=True)
            follow = self._follow and not isinstance(command, Void)
            return Parsed((PROGRAM_KEY,), command, alone=True) if follow else Parsed((), None)
        key = event_key(event)
        return Parsed((state_key(key.decode()),), event, key, alone=event.type == _IDENTIFY)

    def new(self, key: str) -> KeyState:
        """See `Fold.new`."""
        return self.load(key, {})

    def load(self, key: str, fields: Mapping[bytes, bytes]) -> KeyState:
        """See `Fold.load`."""
        if key.startswith(PREFIX):
            return StatisticsState(key, fields)
        if key == PROGRAM_KEY:
            return self._program
        if key == ERASED_KEY:
            if self._erased is None:
                self._erased = ErasedKeys(fields)
            return self._erased
        if key.startswith(SESSION):
            return SessionViews(plain_key(key), fields, self._program.program)
        if Identified.holds(fields):
            return Identified(plain_key(key), fields)
        return UserState(plain_key(key), fields, self._program.program, self._params)

    def apply(self, record: Record, body: object, ctx: Context) -> None:
        """Fold one event; see `Fold.apply`."""
        if self._erased is None:
            ctx.state(ERASED_KEY)
        if isinstance(body, Command):
            self._control(body, record, ctx)
            return
        if body is None:
            return  # a control record that is not followed
        if not isinstance(body, Event):
            raise FoldBugError(f"the user fold folds events, got {type(body).__name__}")
        if body.type == _IDENTIFY:
            self._identify(body, ctx)
            return
        anonymous = not body.user_id
        key = state_key(body.session_id if anonymous else body.user_id)
        if self._erased and self._erased.holds_back(key, body.event_ts_ms):
            _COUNTED.labels("erased").inc()
            return
        if anonymous and isinstance(known := ctx.state(key), Identified):
            if known.user_id:
                late = ((body.SerializeToString(), record.append_ts_ms),)
                self._send(Adopt(user_id=known.user_id, events=late, whole=True, late=True), ctx)
                return
            ctx.drop(key)
        state = _user(ctx, key)
        raw = state.raw if anonymous else None
        outlet = _Outlet(ctx, state.user_id)
        # JSON comes with a header; without one the value is the encoded event.
        packed = None if record.headers else record.value
        counted = state.observe(
            body, append_ts_ms=record.append_ts_ms, clock_ms=ctx.clock_ms, emit=outlet, packed=packed
        )
        if counted and self._program.has_sessions and body.session_id and body.type != _EXPOSURE:
            self._session(body, record.append_ts_ms, ctx, outlet)
        if raw is not None and counted:
            raw.add(body.SerializeToString(), record.append_ts_ms)
        outlet.close()

    def _identify(self, event: Event, ctx: Context) -> None:
        """Move an anonymous session to its user (`streams.identity`)."""
        if ctx.generation == 0:
            ctx.dead_letter("not_allowed", "imported history has no logins: give its events their user_id")
            return
        key = state_key(event.session_id)
        state = ctx.state(key)
        if isinstance(state, Identified) and state.user_id:
            _COUNTED.labels("repeat" if state.user_id == event.user_id else "identified_as_another").inc()
            return
        if isinstance(state, UserState) and state.newest_event_ts_ms:
            events, whole = movable(state, ctx.clock_ms)
            if whole:
                program, params = self._program.program, self._params
                take_back(event.session_id, events, ctx, lambda: UserState(event.session_id, {}, program, params))
            if events:
                packed = tuple((raw.packed, raw.append_ts_ms) for raw in events)
                self._send(Adopt(user_id=event.user_id, events=packed, whole=whole), ctx)
        known = Identified(event.session_id, {})
        ctx.drop(key, known)
        ctx.state(key)
        known.set(event.user_id, ctx.clock_ms)
        ctx.write_now()

    def _send(self, command: Adopt, ctx: Context) -> None:
        ctx.control(partition_of(command.user_id.encode(), ctx.n_partitions), control(command), self._token)

    def _adopt(self, command: Adopt, ctx: Context) -> None:
        """Fold events that moved here as the user's."""
        key = state_key(command.user_id)
        state = ctx.state(key)
        if isinstance(state, Identified) and state.user_id:
            if command.hops >= _MOST_HOPS:
                raise ContractError("bad_control", f"{command.user_id!r} and others were identified as each other")
            self._send(replace(command, user_id=state.user_id, hops=command.hops + 1), ctx)
            return
        if isinstance(state, Identified):
            ctx.drop(key)
        state = _user(ctx, key)
        outlet = _Outlet(ctx, state.user_id) if command.whole else _Counted(ctx, state.user_id)
        for event, append_ts_ms in adopted(command.events, command.user_id):
            if self._erased and self._erased.holds_back(key, event.event_ts_ms):
                _COUNTED.labels("erased").inc()
                continue
            advance(state, event.event_ts_ms, outlet)
            try:
                counted = state.observe(event, append_ts_ms=append_ts_ms, clock_ms=ctx.clock_ms, emit=outlet)
            except ContractError:
                _COUNTED.labels("adopted_too_late").inc()
                continue
            if counted and command.late and self._program.has_sessions and event.type != _EXPOSURE:
                self._session(event, append_ts_ms, ctx, outlet)
        outlet.close()

    def _control(self, command: Command, record: Record, ctx: Context) -> None:
        """Follow a control record."""
        home, erased = self._settings.home, self._erased
        if erased is None:
            raise FoldBugError(f"{ERASED_KEY} was not loaded")
        if isinstance(command, Adopt):
            self._adopt(command, ctx)
        elif isinstance(command, Erase | Erased):
            user = ctx.state(state_key(command.user_id)) if isinstance(command, Erase) else None
            newest_ms = user.newest_event_ts_ms if isinstance(user, UserState) else 0
            apply_erase(command, erased, ctx, home=home, offset=record.offset, newest_ms=newest_ms)
        else:
            apply_control(command, self._program, ctx, home=home, offset=record.offset, gone=erased.gone_since)

    def _session(self, event: Event, append_ts_ms: int, ctx: Context, outlet: _Outlet) -> None:
        """Count an event in the views of its session."""
        session = ctx.state(session_key(event.session_id))
        if not isinstance(session, SessionViews):
            raise FoldBugError(f"state of session {event.session_id!r} is a {type(session).__name__}")
        item = ctx.item(event.item_id, append_ts_ms) if event.item_id else None
        category = item.category if item is not None else ""
        session.observe(event, category, failed=outlet.transformation_failed)

    def usual(self, ctx: Context) -> Usual | None:
        """See `Fold.usual`."""
        if self._erased is None or self._erased or self._program.has_sessions:
            return None
        return _Outlet(ctx, "")

    def on_due(self, key: str, due_ms: int, ctx: Context) -> None:
        """See `Fold.on_due`."""
        if key.startswith(SESSION):
            session = ctx.state(key)
            if isinstance(session, SessionViews):
                session.forget()
            return
        known = ctx.state(key)
        if isinstance(known, Identified):
            known.set("", due_ms)
            return
        state = _user(ctx, key)
        outlet = _Outlet(ctx, state.user_id, due_ms)
        state.on_due(due_ms, outlet)
        outlet.close()

    def rows(
        self, key: str, fields: Mapping[bytes, bytes], state: KeyState, version: bytes
    ) -> Sequence[EntityRow | Tombstone | VersionedValue]:
        """Feast rows of a user, or the statistics' partial; see `Fold.rows`."""
        if isinstance(state, StatisticsState):
            return [state.value(self._namespace, fields, version)]
        if isinstance(state, ProgramState | ErasedKeys):
            return []
        if isinstance(state, SessionViews):
            if not state.newest_event_ts_ms and not any(fields.values()):
                return [self._tombstone("session_id", state.session_id, ("session",), version)]
            return [EntityRow("session_id", state.session_id, fields, state.newest_event_ts_ms, version)]
        if isinstance(state, Identified):
            return [self._tombstone("user_id", state.session_id, ("user", "user_category"), version)]
        if not isinstance(state, UserState):
            raise FoldBugError(f"state of {key!r} is a {type(state).__name__}")
        if not state.newest_event_ts_ms and not any(fields.values()):
            return [self._tombstone("user_id", state.user_id, ("user", "user_category"), version)]
        return [EntityRow("user_id", state.user_id, fields, state.newest_event_ts_ms, version)]

    def _tombstone(self, join_key: str, entity_id: str, entities: Sequence[str], version: bytes) -> Tombstone:
        """What is left of the row of a user or session that has no state any more."""
        views = [view.name for view in self._program.program.views if view.entity in entities]
        known = _VIEWS if join_key == "user_id" else ()
        return Tombstone(join_key, entity_id, (*known, *views), version, self._settings.streams.tombstone_s)


def _user(ctx: Context, key: str) -> UserState:
    state = ctx.state(key)
    if not isinstance(state, UserState):
        raise FoldBugError(f"state of {key!r} is a {type(state).__name__}, not a user's")
    return state


class _Outlet:
    """`features.state.emitter.Emitter` over the engine's context, for one record or one due action."""

    __slots__ = ("_changed", "_clock_ms", "_ctx", "_user_id", "item", "sink")

    def __init__(self, ctx: Context, user_id: str, clock_ms: int | None = None) -> None:
        self._ctx = ctx
        self._user_id = user_id
        self.item = ctx.item
        self.sink: PySink | None = ctx.sink
        self._clock_ms = ctx.clock_ms if clock_ms is None else clock_ms
        self._changed = 0

    def close(self) -> None:
        """Send what is sent once a record."""
        if self._changed:
            change = user_change(self._user_id, self._changed, self._clock_ms)
            self._ctx.change(self._user_id.encode(), change)

    def example(self, row: bytes) -> None:
        self._ctx.emit("examples", row, key=self._user_id.encode())

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
        effect = item_event(item_id, kind, event_ts_ms, value, sign, surface, expected or 0.0, position)
        self._ctx.effect(item_id, effect)

    def pairs(self, item_id: str, other_hashes: Sequence[int], weights: Sequence[float], event_ts_ms: int) -> None:
        self._ctx.effect(item_id, item_pairs(item_id, other_hashes, weights, event_ts_ms))

    def shown(
        self, exposure: Exposure, phi: NDArray[np.float64], residuals: NDArray[np.float64], exposure_ts_ms: int
    ) -> None:
        try:
            self.statistics(exposure.base_model, exposure.schema).shown(
                self._ctx.partition, exposure, phi, residuals, exposure_ts_ms
            )
        except InvalidStatisticsError as error:
            self._ctx.dead_letter("bad_exposure", f"left out of the statistics: {error.detail}")

    def outcome(
        self, exposure: Exposure, slot: int, phi: NDArray[np.float64], head: int, delta: float, exposure_ts_ms: int
    ) -> None:
        try:
            self.statistics(exposure.base_model, exposure.schema).outcome(
                exposure, slot, phi, head, delta, exposure_ts_ms
            )
        except InvalidStatisticsError:
            self.count("outcome_without_statistics")

    def user_changed(self, newest_event_ts_ms: int) -> None:
        self._changed = newest_event_ts_ms

    def transformation_failed(self, view: str, detail: str) -> None:
        self._ctx.dead_letter("transformation_failed", f"view {view!r}: {detail}; the event counts for all other views")

    def count(self, name: str, n: int = 1) -> None:
        _count_of(name).inc(n)

    def statistics(self, base_model: str, schema: str) -> StatisticsState:
        """State of the statistics of a model and schema."""
        key = statistics_key(base_model, schema)
        state = self._ctx.state(key)
        if not isinstance(state, StatisticsState):
            raise FoldBugError(f"state of {key!r} is a {type(state).__name__}, not statistics")
        return state


class _Counted(_Outlet):
    """Of events whose part of the sums stays where it was counted."""

    __slots__ = ()

    def __init__(self, ctx: Context, user_id: str) -> None:
        super().__init__(ctx, user_id)
        self.sink = None  # the fast way would count it

    def item_event(self, item_id: str, kind: int, event_ts_ms: int, **_: object) -> None:
        return

    def pairs(self, item_id: str, other_hashes: Sequence[int], weights: Sequence[float], event_ts_ms: int) -> None:
        return

    def shown(
        self, exposure: Exposure, phi: NDArray[np.float64], residuals: NDArray[np.float64], exposure_ts_ms: int
    ) -> None:
        return

    def outcome(
        self, exposure: Exposure, slot: int, phi: NDArray[np.float64], head: int, delta: float, exposure_ts_ms: int
    ) -> None:
        return
