"""The join of exposures and outcomes, played in the order of arrival: what state.md says, step by step.

Labels after a window's close, what is closed early and what is forgotten depend on the order of arrival; so this part
of the recount is a small play over one user's events instead of sorting and grouping. Slow and plain on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from features.state.params import StateParams
from liverank.v1.event_pb2 import Event

MAX_BYTES = 64 * 1024
LEAST_BYTES = 2 * 1024
MAX_OUTCOMES = 256
MAX_OUTCOME_BYTES = 12 * 1024
IMPRESSION = 1
#: Outcomes whose waiting is over leave the list when so many of them are there.
LEAVE_TOGETHER = 16


class Arrival(Protocol):
    """An event of the user as it arrived."""

    @property
    def event(self) -> Event: ...
    @property
    def clock_ms(self) -> int: ...
    @property
    def bot(self) -> bool: ...
    @property
    def n_ids(self) -> int: ...


class Told(NamedTuple):
    """A label row: labels, seen, whether it corrects an earlier one."""

    labels: frozenset[str]
    seen: bool
    correction: bool


@dataclass(eq=False)
class Slate:
    """An exposure and what came of it.

    Attributes
    ----------
    labels, touched, impressed, inferred, corrected
        By slot, from 0.
    told : dict
        Slot -> the newest label row.
    moves : list of (slot, label, +1 or -1)
        Changes of labels that the statistics take, in order; and the close (slot -1).
    """

    arrival: Arrival
    labels: list[set[str]] = field(default_factory=list)
    touched: list[bool] = field(default_factory=list)
    impressed: list[bool] = field(default_factory=list)
    inferred: list[bool] = field(default_factory=list)
    corrected: list[bool] = field(default_factory=list)
    told: dict[int, Told] = field(default_factory=dict)
    closed: bool = False
    closed_as_bot: bool = False
    moves: list[tuple[int, str, int, bool, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        n = len(self.items)
        self.labels = [set() for _ in range(n)]
        self.touched, self.impressed = [False] * n, [False] * n
        self.inferred, self.corrected = [False] * n, [False] * n

    @property
    def event(self) -> Event:
        """The exposure."""
        return self.arrival.event

    @property
    def items(self) -> list[str]:
        """What was shown."""
        return [slot.item_id for slot in self.event.exposure.slots]

    @property
    def age(self) -> tuple[int, str]:
        """Order of exposures."""
        return self.event.event_ts_ms, self.event.event_id


@dataclass(eq=False)
class Said:
    """An outcome, and the exposure that it belongs to."""

    event: Event
    labels: set[str]
    slate: Slate | None = None
    slot: int = 0


class Joined:
    """Plays the join of one user.

    Parameters
    ----------
    labels_of : callable
        Labels that an event gives to its slot; None = it says nothing about a slot.
    """

    def __init__(self, params: StateParams, labels_of: Callable[[Event], set[str] | None]) -> None:
        self.slates: list[Slate] = []
        self._kept: list[Slate] = []
        self._said: list[Said] = []
        self._window_ms = params.attribution_window_ms
        self._keep_ms = params.attribution_window_ms + params.late_outcome_ms
        self._most = params.max_exposures
        self._labels_of = labels_of

    def play(self, arrivals: Sequence[Arrival], end_ms: int, is_bot_at: Callable[[int], bool]) -> list[Slate]:
        """Return all exposures, as they stand when the clock is `end_ms`."""
        for each in arrivals:
            self._until(each.clock_ms, is_bot_at)
            self._forget(each.clock_ms)
            labels = self._labels_of(each.event)
            if each.event.HasField("exposure"):
                self._show(each)
            elif labels is not None:
                self._hear(Said(each.event, labels), each.bot)
            self._make_room(each)
        self._until(end_ms, is_bot_at)
        return self.slates

    # -- time

    def _until(self, clock_ms: int, is_bot_at: Callable[[int], bool]) -> None:
        """Do what is due by then, each at its own time."""
        while True:
            open_ms = [each.event.event_ts_ms + self._window_ms for each in self._kept if not each.closed]
            if open_ms:
                due_ms = min(open_ms)
            elif self._kept:
                due_ms = max(each.event.event_ts_ms for each in self._kept) + self._keep_ms
            else:
                return
            if due_ms > clock_ms:
                return
            for slate in sorted(self._kept, key=lambda each: each.age):
                if not slate.closed and slate.event.event_ts_ms + self._window_ms <= due_ms:
                    self._close(slate, is_bot_at(due_ms))
            self._forget(due_ms)

    def _close(self, slate: Slate, bot: bool) -> None:
        slate.closed, slate.closed_as_bot = True, bot
        for slot in range(len(slate.items)):
            seen = slate.inferred[slot] or slate.impressed[slot]
            slate.told[slot] = Told(frozenset(slate.labels[slot]), seen, False)
        slate.moves.append((-1, "", 0, bot, True))

    def _forget(self, clock_ms: int) -> None:
        """Exposures past the time of corrections leave with their outcomes; so do outcomes that waited in vain."""
        waiting = sorted(each.event.event_ts_ms + self._window_ms for each in self._said if each.slate is None)
        many = len(waiting) >= LEAVE_TOGETHER and waiting[LEAVE_TOGETHER - 1] <= clock_ms
        leaves = min((each.event.event_ts_ms + self._keep_ms for each in self._kept), default=None)
        if not many and (leaves is None or clock_ms < leaves):
            return
        for slate in list(self._kept):
            if slate.closed and slate.event.event_ts_ms + self._keep_ms <= clock_ms:
                self._drop(slate)
        self._said = [
            each for each in self._said if each.slate is not None or clock_ms < each.event.event_ts_ms + self._window_ms
        ]

    def _drop(self, slate: Slate) -> None:
        self._kept.remove(slate)
        self._said = [each for each in self._said if each.slate is not slate]

    # -- arrivals

    def _make_room(self, arrival: Arrival) -> None:
        """64 KiB of exposures; of a user with more than 640 event ids 12 bytes less for each, 2 KiB at least."""
        most = max(LEAST_BYTES, MAX_BYTES - 12 * max(0, arrival.n_ids - 640))
        while sum(each.event.ByteSize() + 2 * len(each.items) + 16 for each in self._kept) > most:
            self._drop_oldest(arrival.bot)

    def _drop_oldest(self, bot: bool) -> None:
        oldest = min(self._kept, key=lambda each: (not each.closed, *each.age))
        if not oldest.closed:
            self._close(oldest, bot)
        self._drop(oldest)

    def _show(self, arrival: Arrival) -> None:
        while len(self._kept) >= self._most:
            self._drop_oldest(arrival.bot)
        slate = Slate(arrival)
        self.slates.append(slate)
        self._kept.append(slate)
        self._look(slate)
        for said in self._said:
            if said.slate is None and said.event.event_ts_ms <= arrival.clock_ms - self._window_ms:
                continue
            if self._belongs(said.event) is slate:
                before, slot = said.slate, said.slot
                said.slate, said.slot = slate, _slot(slate, said.event)
                if before is not None:
                    self._change(before, slot, arrival.bot)
                self._change(slate, said.slot, arrival.bot)

    def _hear(self, said: Said, bot: bool) -> None:
        slate = self._belongs(said.event)
        if slate is not None:
            said.slate, said.slot = slate, _slot(slate, said.event)
            self._said.append(said)
            self._change(slate, said.slot, bot)
            self._said.remove(said)
        while self._said and (
            len(self._said) >= MAX_OUTCOMES or sum(map(_size, self._said)) + _size(said) > MAX_OUTCOME_BYTES
        ):
            self._said.remove(min(self._said, key=_age))
        self._said.append(said)

    def _belongs(self, event: Event) -> Slate | None:
        fitting = []
        for slate in self._kept:
            age_ms = event.event_ts_ms - slate.event.event_ts_ms
            if event.item_id not in slate.items:
                continue
            if event.request_id:
                if slate.event.event_id == event.request_id and abs(age_ms) < self._window_ms:
                    return slate
            elif 0 <= age_ms < self._window_ms:
                fitting.append(slate)
        return max(fitting, key=lambda each: each.age, default=None)

    def _change(self, slate: Slate, slot: int, bot: bool) -> None:
        """What the slot's outcomes say now; after the close the first other labels are a correction."""
        own = [each for each in self._said if each.slate is slate and each.slot == slot]
        labels: set[str] = set().union(*(each.labels for each in own)) if own else set()
        slate.touched[slot] = any(each.event.type != IMPRESSION for each in own)
        slate.impressed[slot] = any(each.event.type == IMPRESSION for each in own)
        old = slate.labels[slot]
        if labels != old and not (slate.closed and slate.corrected[slot]):
            slate.labels[slot] = labels
            for label in labels ^ old:
                slate.moves.append((slot, label, 1 if label in labels else -1, bot, slate.closed))
            if slate.closed:
                slate.corrected[slot] = True
                slate.told[slot] = Told(frozenset(labels), True, True)
        self._look(slate)

    @staticmethod
    def _look(slate: Slate) -> None:
        """Which slots were seen without an impression event."""
        if any(slate.impressed):
            slate.inferred = [
                touched and not told for touched, told in zip(slate.touched, slate.impressed, strict=True)
            ]
        else:
            last = max((at for at, touched in enumerate(slate.touched, 1) if touched), default=0)
            slate.inferred = [at < last + 2 for at in range(len(slate.items))]


def _slot(slate: Slate, event: Event) -> int:
    items: list[Any] = slate.items
    if 1 <= event.position <= len(items) and items[event.position - 1] == event.item_id:
        return event.position - 1
    return items.index(event.item_id)


def _age(said: Said) -> tuple[int, str, str, int]:
    event = said.event
    return event.event_ts_ms, event.item_id, event.request_id, event.position


def _size(said: Said) -> int:
    return 15 + len(said.event.item_id.encode()) + len(said.event.request_id.encode())
