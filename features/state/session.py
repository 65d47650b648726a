"""Sessions of a user as a function of the set of their events, whatever the order of arrival.

Two events belong to one session if they are less than the timeout apart, directly or through events between them; so a
late event can extend a session or join two, and never needs one split. A session ends `timeout` after its last event,
or at once where its last event is a `session_end`; if the user goes on within the timeout, it is still the same one.

A session that ended without good news although something was shown is *abandoned*: a negative signal on the item shown
last, stamped with the session's end. When a late event changes that, the abandonment is taken back.
Sessions are kept while an event that is still taken could touch them (7 days and the timeout), the newest for good,
and at most 10 KiB of them (53 with ids of 128 bytes, 227 without an item): the oldest are final before their time then.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from features.errors import StateFormatError
from features.state.dedup import HORIZON_MS
from features.state.history import DERIVED_FIELD, Entry, next_leaving_ms, pack, unpack
from features.state.pages import HEAD, HEAD_2, body

__all__ = ["STATE_FIELD", "SessionView", "Sessions", "Shown", "decode_session"]

STATE_FIELD: Final = b"user_session:state"
_CURRENT: Final = b"_sc"
_OLDER: Final = b"_s"
MAX_FINAL: Final = 16
MAX_BYTES: Final = 10 * 1024
MAX_SESSION: Final = 192
"""Bytes of all sessions; of one."""

_STATE: Final = struct.Struct("<qqqqIIIIIIIIf")
_SESSION: Final = struct.Struct("<qqqIIIIIB")
_SHOWN: Final = struct.Struct("<qqB")
_HAS_SHOWN, _HAS_ABANDONED = 1, 2


class Shown(NamedTuple):
    """Something that was on screen; the largest is the last. An abandonment has the same form: its time, its item.

    `append_ts_ms` is the append time of the record that named the item, so the catalogue knows the version of then.
    """

    event_ts_ms: int
    item_id: str
    append_ts_ms: int


class SessionView(NamedTuple):
    """The newest session of a user, as stored in `user_session:state`.

    Attributes
    ----------
    start_ms, last_ms : int
        First and last event.
    end_ms : int
        Newest `session_end` in it, or -1.
    timeout_ms : int
        The timeout that the fold works with.
    events, clicks, positives, negatives, shown : int
        Counts within the session (`shown`: exposures and impressions).
    sessions, abandonments : int
        Counts over the user's life.
    intent_category : int
        Category (features.hashing.category_hash) with the most weight of good news in the session; 0 = none.
    intent_share : float
        Its share of all the session's good news, in [0, 1].
    """

    start_ms: int
    last_ms: int
    end_ms: int
    timeout_ms: int
    events: int
    clicks: int
    positives: int
    negatives: int
    shown: int
    sessions: int
    abandonments: int
    intent_category: int
    intent_share: float

    def closes_ms(self) -> int:
        """When it ends unless something happens."""
        return self.end_ms if self.end_ms >= self.last_ms else self.last_ms + self.timeout_ms

    def is_open(self, as_of_ms: int) -> bool:
        """Whether it is still going on at `as_of_ms`."""
        return as_of_ms < self.closes_ms()


def decode_session(page: bytes | None) -> SessionView | None:
    """The newest session, None where there never was one.

    Raises
    ------
    StateFormatError
        If the page has another version.
    """
    if not page:
        return None
    return SessionView(*_STATE.unpack(body(STATE_FIELD, page, _STATE.size)))


@dataclass(slots=True, kw_only=True, eq=False)
class _Session:
    start_ms: int
    last_ms: int
    end_ms: int = -1
    events: int = 0
    clicks: int = 0
    positives: int = 0
    negatives: int = 0
    n_shown: int = 0
    shown: Shown | None = None
    abandoned: Shown | None = None

    def closes_ms(self, timeout_ms: int) -> int:
        return self.end_ms if self.end_ms >= self.last_ms else self.last_ms + timeout_ms

    @property
    def is_pending(self) -> bool:
        """Whether it may still turn out abandoned."""
        return self.shown is not None and self.abandoned is None

    def absorb(self, other: _Session) -> None:
        self.start_ms = min(self.start_ms, other.start_ms)
        self.last_ms = max(self.last_ms, other.last_ms)
        self.end_ms = max(self.end_ms, other.end_ms)
        self.events += other.events
        self.clicks += other.clicks
        self.positives += other.positives
        self.negatives += other.negatives
        self.n_shown += other.n_shown
        if other.shown is not None and (self.shown is None or other.shown > self.shown):
            self.shown = other.shown

    def size_bytes(self) -> int:
        """Length of `pack`."""
        return _SESSION.size + (_SHOWN.size + len(self.shown.item_id.encode()) if self.shown else 0)

    def pack(self) -> bytes:
        # An abandonment is what was shown last, stamped with the session's end: nothing more need be stored.
        flags = (_HAS_SHOWN if self.shown else 0) | (_HAS_ABANDONED if self.abandoned else 0)
        parts = [
            _SESSION.pack(
                self.start_ms,
                self.last_ms,
                self.end_ms,
                self.events,
                self.clicks,
                self.positives,
                self.negatives,
                self.n_shown,
                flags,
            )
        ]
        if self.shown is not None:
            item = self.shown.item_id.encode()
            parts.append(_SHOWN.pack(self.shown.event_ts_ms, self.shown.append_ts_ms, len(item)) + item)
        return b"".join(parts)


def _unpack(packed: bytes, timeout_ms: int) -> Iterator[_Session]:
    at = 0
    try:
        while at < len(packed):
            start, last, end, events, clicks, positives, negatives, n_shown, flags = _SESSION.unpack_from(packed, at)
            at += _SESSION.size
            found: Shown | None = None
            if flags & _HAS_SHOWN:
                ts, append_ts, length = _SHOWN.unpack_from(packed, at)
                at += _SHOWN.size
                found = Shown(ts, packed[at : at + length].decode(), append_ts)
                at += length
            session = _Session(
                start_ms=start,
                last_ms=last,
                end_ms=end,
                events=events,
                clicks=clicks,
                positives=positives,
                negatives=negatives,
                n_shown=n_shown,
                shown=found,
            )
            if flags & _HAS_ABANDONED and found is not None:
                session.abandoned = found._replace(event_ts_ms=session.closes_ms(timeout_ms))
            yield session
    except (struct.error, UnicodeDecodeError) as error:
        raise StateFormatError(f"sessions cannot be read at byte {at} ({error}); run `liverank rebuild`") from error


class Sessions:
    """Sessions of one user, oldest first. `add` costs about 2 us."""

    __slots__ = (
        "_abandonments",
        "_count",
        "_current_dirty",
        "_derived",
        "_derived_dirty",
        "_intent",
        "_older_dirty",
        "_pending",
        "_sessions",
        "_state_dirty",
        "_timeout_ms",
    )

    def __init__(self, fields: Mapping[bytes, bytes], timeout_ms: int) -> None:
        self._timeout_ms = timeout_ms
        packed = b"".join(body(name, fields[name], version=2) for name in (_OLDER, _CURRENT) if fields.get(name))
        self._sessions = list(_unpack(packed, timeout_ms))
        view = decode_session(fields.get(STATE_FIELD))
        self._count, self._abandonments = (view.sessions, view.abandonments) if view else (0, 0)
        self._intent = (view.intent_category, view.intent_share) if view else (0, 0.0)
        derived = fields.get(DERIVED_FIELD)
        self._derived = sorted(unpack(body(DERIVED_FIELD, derived))) if derived else []
        self._state_dirty = self._current_dirty = self._older_dirty = self._derived_dirty = False
        self._pending = [session for session in self._sessions if session.is_pending]

    @property
    def start_ms(self) -> int | None:
        """Start of the newest session; None where there is none."""
        return self._sessions[-1].start_ms if self._sessions else None

    def add(
        self,
        ts_ms: int,
        clock_ms: int,
        polarity: int = 0,
        click: bool = False,
        end: bool = False,
        shown: Shown | None = None,
    ) -> list[tuple[int, Shown]]:
        """Count an event.

        Returns
        -------
        list of (sign, abandonment)
            What is now abandoned (+1) and what is no longer (-1).
        """
        sessions, timeout_ms = self._sessions, self._timeout_ms
        self._forget(clock_ms)
        event = _Session(
            start_ms=ts_ms,
            last_ms=ts_ms,
            end_ms=ts_ms if end else -1,
            events=1,
            clicks=int(click),
            positives=int(polarity > 0),
            negatives=int(polarity < 0),
            n_shown=int(shown is not None),
            shown=shown,
        )
        at = len(sessions) - 1
        while at >= 0 and sessions[at].start_ms > ts_ms:
            at -= 1
        before = at >= 0 and ts_ms - sessions[at].last_ms < timeout_ms
        after = at + 1 < len(sessions) and sessions[at + 1].start_ms - ts_ms < timeout_ms
        stale: list[Shown] = []
        if not before and not after:
            at += 1
            sessions.insert(at, event)
            session = event
            self._count += 1
            self._older_dirty |= len(sessions) > 1
        else:
            at = at if before else at + 1
            session = sessions[at]
            session.absorb(event)
            if before and after:
                merged = sessions.pop(at + 1)
                session.absorb(merged)
                self._count -= 1
                self._older_dirty = True
                if merged.abandoned is not None:
                    stale.append(merged.abandoned)
                if merged in self._pending:
                    self._pending.remove(merged)
            self._older_dirty |= at < len(sessions) - 1
        if session.positives:
            session.shown = None
        self._current_dirty = self._state_dirty = True
        return [*((-1, each) for each in stale), *self._settle(session, clock_ms)]

    def _settle(self, session: _Session, clock_ms: int) -> Iterator[tuple[int, Shown]]:
        closes_ms = session.closes_ms(self._timeout_ms)
        wanted = None
        if session.shown is not None and not session.positives and closes_ms <= clock_ms:
            wanted = session.shown._replace(event_ts_ms=closes_ms)
        if wanted != session.abandoned:
            if session.abandoned is not None:
                yield -1, session.abandoned
            if wanted is not None:
                yield 1, wanted
            session.abandoned = wanted
            self._current_dirty = True
            self._older_dirty |= session is not self._sessions[-1]
        if session.is_pending != (session in self._pending):
            if session.is_pending:
                self._pending.append(session)
            else:
                self._pending.remove(session)

    def due_ms(self) -> int | None:
        """When the next session may turn out abandoned."""
        return min([session.closes_ms(self._timeout_ms) for session in self._pending], default=None)

    def on_due(self, due_ms: int) -> list[tuple[int, Shown]]:
        """What turned out abandoned by `due_ms`."""
        pending = sorted(self._pending, key=lambda session: session.start_ms)
        return [change for session in pending for change in self._settle(session, due_ms)]

    def derive(self, sign: int, entry: Entry | None) -> None:
        """Count an abandonment (+1) or take it back (-1), with its history entry unless its weight is 0."""
        if entry is not None:
            if sign > 0:
                insort(self._derived, entry)
            elif entry in self._derived:
                self._derived.remove(entry)
            self._derived_dirty = True
        self._abandonments += sign
        self._state_dirty = True

    def next_leaving_ms(self, after_ms: int, windows_ms: tuple[int, ...], grain_ms: int) -> int | None:
        """See `features.state.history.next_leaving_ms`, for abandonments."""
        if not self._derived:
            return None
        return next_leaving_ms([entry.event_ts_ms for entry in self._derived], after_ms, windows_ms, grain_ms)

    def set_intent(self, category: int, share: float) -> None:
        """Set what the newest session is after."""
        if self._intent != (category, share):
            self._intent = (category, share)
            self._state_dirty = True

    def _forget(self, clock_ms: int) -> None:
        final_ms = clock_ms - HORIZON_MS - self._timeout_ms
        gone = 0
        while gone < len(self._sessions) - 1 and self._sessions[gone].last_ms <= final_ms:
            gone += 1
        if len(self._sessions) - gone > MAX_BYTES // MAX_SESSION:
            size = sum(session.size_bytes() for session in self._sessions[gone:])
            while size > MAX_BYTES and gone < len(self._sessions) - 1:
                size -= self._sessions[gone].size_bytes()
                gone += 1
        if gone:
            self._pending = [session for session in self._pending if session not in self._sessions[:gone]]
            del self._sessions[:gone]
            self._older_dirty = True
            final = bisect_left(self._derived, (self._sessions[0].start_ms,))
            if final > MAX_FINAL:
                del self._derived[: final - MAX_FINAL]
                self._derived_dirty = True

    def dirty(self) -> dict[bytes, bytes]:
        """Fields changed since the last call."""
        changed: dict[bytes, bytes] = {}
        if self._current_dirty:
            changed[_CURRENT] = HEAD_2 + self._sessions[-1].pack()
        if self._older_dirty:
            older = b"".join(session.pack() for session in self._sessions[:-1])
            changed[_OLDER] = HEAD_2 + older if older else b""
        if self._state_dirty:
            changed[STATE_FIELD] = HEAD + self._pack_state()
        if self._derived_dirty:
            changed[DERIVED_FIELD] = HEAD + b"".join(map(pack, self._derived)) if self._derived else b""
        self._state_dirty = self._current_dirty = self._older_dirty = self._derived_dirty = False
        return changed

    def _pack_state(self) -> bytes:
        now = self._sessions[-1]
        return _STATE.pack(
            now.start_ms,
            now.last_ms,
            now.end_ms,
            self._timeout_ms,
            now.events,
            now.clicks,
            now.positives,
            now.negatives,
            now.n_shown,
            self._count,
            self._abandonments,
            *self._intent,
        )
