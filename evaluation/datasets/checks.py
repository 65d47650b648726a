"""Faults of an event file with line and what to do: what the contract refuses, and what only the whole file shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from liverank.contract import validate_event
from liverank.errors import ContractError
from liverank.files import read_items, scan_events
from liverank.v1.event_pb2 import Event, EventType

__all__ = ["FIXES", "Fault", "FileReport", "check_file"]

_EXPOSURE: Final = int(EventType.EVENT_TYPE_EXPOSURE)
_RATING: Final = int(EventType.EVENT_TYPE_RATING)
_SKEW_MS: Final = 2_000
"""An outcome so long before its slate is told: clocks of servers differ by less."""
_SUM_SLACK: Final = 1.02
_ENOUGH: Final = 100
FIXES: Final = {
    "malformed": "one JSON object of liverank.v1.Event a line (docs/events.md), or the documented Parquet columns",
    "unknown_type": "map the word to one of the documented types; `liverank init --from` does it for usual words",
    "missing_id": "fill it; without a user send session_id. event_id is any text unique to the event",
    "bad_timestamp": "multiply seconds by 1000; event_ts_ms is ms since the UTC epoch",
    "future": "the sender's clock is ahead, or local time was taken for UTC: correct it, or subtract the offset",
    "not_finite": "leave the value out where there is none",
    "bad_value": "see the units in docs/events.md: dwell in seconds, ratings 0 to 10, survey 0 to 1, at most 1e12",
    "too_large": "cut it; limits stand in docs/events.md",
    "bad_exposure": "an exposure has 1 to 200 slots with a propensity in (0, 1] each, and one probability a head",
    "not_allowed": "leave it out: liverank writes this itself",
    "order": "sort by event_ts_ms (import sorts by itself; a live producer may be 7 days late, not more)",
    "duplicate_id": "harmless: the repeat is dropped; remove it, or find the producer that sends twice",
    "reused_id": "give each event an id of its own: the first wins, this one would be lost",
    "unseen_item": "add the item to the catalogue file; until then the event counts for the user only",
    "session_of_two_users": "a session belongs to one user: make session ids unique",
    "clock_skew": "one clock is wrong by so much: set both by NTP, or correct event_ts_ms of one of them",
    "unknown_request": "keep request_id of the slate that showed the item, or leave it empty",
    "wrong_slot": "position counts from 1 in the slate of request_id; leave it 0 where it is not known",
    "propensity_sum": "log the probability with which the policy chose the item, not a score; they add up to 1",
    "rating_scale": "multiply ratings so that they lie between 0 and 10 (5 is neutral)",
}


class Fault(NamedTuple):
    """One fault.

    Attributes
    ----------
    code : str
        A reason of docs/specs/dead-letters.md, or one of this module.
    line : int
        Line of JSONL, row of Parquet, from 1; 0 = the file as a whole.
    what, fix : str
    """

    code: str
    line: int
    what: str
    fix: str


class FileReport(NamedTuple):
    """What was found: events read, faults by line (at most `per_code` each), and how many there are of each code."""

    events: int
    faults: list[Fault]
    counts: Counter[str]


class _Faults:
    def __init__(self, per_code: int) -> None:
        self._per_code = per_code
        self.found: list[Fault] = []
        self.counts: Counter[str] = Counter()

    def add(self, code: str, line: int, what: str) -> None:
        """Count a fault, and keep it if it is among the first of its code."""
        self.counts[code] += 1
        if self.counts[code] <= self._per_code:
            self.found.append(Fault(code, line, what, FIXES[code]))


def check_file(path: Path, *, items: Path | None = None, now_ms: int, per_code: int = 5) -> FileReport:
    """Check an event file. Memory: about 150 bytes an event.

    Parameters
    ----------
    items : Path, optional
        The catalogue: events on items that it lacks are told.
    now_ms : int
        Now, ms since the UTC epoch.
    per_code : int
        Faults of one code that are kept with their lines; all are counted.

    Raises
    ------
    ConfigError
        The file is missing, of an unknown kind, or without a required column.
    """
    faults = _Faults(per_code)
    known = None if items is None else {change.item_id for change in read_items(items) if change.HasField("upsert")}
    events: list[tuple[int, Event]] = []
    read = 0
    for line, found in scan_events(path):
        read += 1
        try:
            if isinstance(found, ContractError):
                raise found
            validate_event(found, now_ms=now_ms)
        except ContractError as error:
            faults.add(error.reason, line, error.detail)
        if isinstance(found, Event):
            events.append((line, found))
    _check_order(events, faults, now_ms)
    _check_ids(events, faults)
    _check_joins(events, faults, known)
    _check_requests(events, faults)
    _check_propensities([event for _, event in events if event.type == _EXPOSURE], faults)
    _check_ratings([event.value for _, event in events if event.type == _RATING], faults)
    return FileReport(read, sorted(faults.found, key=lambda fault: (fault.line, fault.code)), faults.counts)


def _check_order(events: Iterable[tuple[int, Event]], faults: _Faults, now_ms: int) -> None:
    newest_ms, newest_line = 0, 0
    for line, event in events:
        ts_ms = event.event_ts_ms
        if ts_ms < newest_ms:
            faults.add("order", line, f"{(newest_ms - ts_ms) / 1000:g} s older than line {newest_line}")
        elif ts_ms <= now_ms + 300_000:  # one clock that is ahead does not make every later line late
            newest_ms, newest_line = ts_ms, line


def _check_ids(events: Iterable[tuple[int, Event]], faults: _Faults) -> None:
    first: dict[str, tuple[int, int]] = {}
    for line, event in events:
        if not event.event_id:
            continue
        body = hash(event.SerializeToString(deterministic=True))
        known = first.setdefault(event.event_id, (line, body))
        if known[0] != line:
            same = known[1] == body
            code = "duplicate_id" if same else "reused_id"
            which = "the same event" if same else "another event"
            faults.add(code, line, f"event_id {event.event_id!r} is that of line {known[0]}, {which}")


def _check_joins(events: Iterable[tuple[int, Event]], faults: _Faults, known: Collection[str] | None) -> None:
    unseen: set[str] = set()
    user_of: dict[str, tuple[str, int]] = {}
    for line, event in events:
        if known is not None:
            for item_id in (event.item_id, *(slot.item_id for slot in event.exposure.slots)):
                if item_id and item_id not in known and item_id not in unseen:
                    unseen.add(item_id)
                    faults.add("unseen_item", line, f"item {item_id!r} is not in the catalogue")
        if event.session_id and event.user_id:
            user, first = user_of.setdefault(event.session_id, (event.user_id, line))
            if user != event.user_id:
                faults.add(
                    "session_of_two_users",
                    line,
                    f"session {event.session_id!r} is of user {event.user_id!r} here and of {user!r} in line {first}",
                )


def _check_requests(events: Iterable[tuple[int, Event]], faults: _Faults) -> None:
    events = list(events)
    slates = {event.event_id: (line, event) for line, event in events if event.type == _EXPOSURE}
    if not slates:
        return
    for line, event in events:
        if not event.request_id or event.type == _EXPOSURE:
            continue
        found = slates.get(event.request_id)
        if found is None:
            faults.add("unknown_request", line, f"no exposure of the file has the id {event.request_id!r}")
            continue
        first, slate = found
        shown = [slot.item_id for slot in slate.exposure.slots]
        early_ms = slate.event_ts_ms - event.event_ts_ms
        if early_ms > _SKEW_MS:
            faults.add("clock_skew", line, f"{early_ms / 1000:g} s before its slate, which is line {first}")
        if event.item_id not in shown:
            faults.add("wrong_slot", line, f"item {event.item_id!r} is not in the slate of line {first}")
        elif event.position and (event.position > len(shown) or shown[event.position - 1] != event.item_id):
            at = shown.index(event.item_id) + 1
            faults.add("wrong_slot", line, f"position {event.position}, but the slate of line {first} shows it at {at}")


def _check_propensities(slates: Iterable[Event], faults: _Faults) -> None:
    """A law that always gives an item the same probability at a slot: over the items shown there they add up to 1."""
    by_slot: dict[tuple[str, str, int], dict[str, list[float]]] = {}
    for event in slates:
        if not event.exposure.drawn:
            continue
        for position, slot in enumerate(event.exposure.slots, 1):
            if not slot.pinned and 0.0 < slot.propensity <= 1.0:
                place = (event.surface, event.exposure.policy, position)
                by_slot.setdefault(place, {}).setdefault(slot.item_id, []).append(slot.propensity)
    for (surface, policy, position), items in by_slot.items():
        where = f"slot {position} of surface {surface!r} by policy {policy!r}"
        every = np.concatenate([np.array(values) for values in items.values()])
        if len(every) < _ENOUGH:
            continue
        total = sum(values[0] for values in items.values())
        constant = all(max(values) - min(values) < 1e-9 for values in items.values())
        if constant and total > _SUM_SLACK:
            faults.add("propensity_sum", 0, f"{where}: propensities of {len(items)} items add up to {total:.3g}")


def _check_ratings(values: list[float], faults: _Faults) -> None:
    most = max(values, default=0.0)
    if len(values) >= _ENOUGH and most in (1.0, 5.0):
        faults.add("rating_scale", 0, f"no rating is above {most:g}: is the scale 0 to {most:g}?")
    elif most > 10.0:
        faults.add("rating_scale", 0, f"the largest rating is {most:g}")
