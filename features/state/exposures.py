"""Exposures and their outcomes: the join, as a function of the two sets (docs/specs/state.md).

An outcome with a request id joins that request only; one without joins, among the exposures of its item shown at or
before it and within the window, the newest by (time, request id). Either may arrive first. Whatever changes is returned
as changes against what was said before, so that sums of changes do not depend on the order of arrival.

When its window closes every slot of an exposure becomes exactly one row. The exposure stays a while longer: an outcome
of the window that arrives then gives one correction row for its slot; further ones for that slot change no label.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from features.errors import StateFormatError
from features.state.exposure import (
    CORRECTED,
    FAST,
    IMPRESSION,
    INFERRED,
    INTERACTED,
    LABELS,
    SEEN,
    Exposure,
    Outcome,
)
from features.state.outcomes import Outcomes
from features.state.pages import HEAD, body
from features.state.params import StateParams
from liverank.v1.event_pb2 import Event

__all__ = ["USUAL_IDS", "Change", "Counted", "Exposures", "LabelMoved", "RowDue", "SeenMoved", "room"]

#: Outcomes that nothing can claim any more go so many at a time.
_GOING: Final = 16
MAX_BYTES: Final = 64 * 1024
LEAST_BYTES: Final = 2 * 1024
USUAL_IDS: Final = 640
ID_BYTES: Final = 12
_NEVER: Final = 1 << 62


class LabelMoved(NamedTuple):
    """Outcome minus expectation of one head at one slot moved by `delta`."""

    exposure: Exposure
    slot: int
    head: int
    delta: float


class SeenMoved(NamedTuple):
    """A slot is now inferred to have been seen (+1), or no longer (-1)."""

    exposure: Exposure
    slot: int
    sign: int


class RowDue(NamedTuple):
    """The slot's label row is to be written."""

    exposure: Exposure
    slot: int
    correction: bool


class Counted(NamedTuple):
    """Something that operators watch happened."""

    name: str


def room(n_ids: int) -> int:
    """Bytes of exposures that a user with so many event ids may keep: both together are bounded.

    More than 640 ids are kept only of a user with more than that many events within 15 minutes.
    """
    return max(LEAST_BYTES, MAX_BYTES - ID_BYTES * max(0, n_ids - USUAL_IDS))


Change = LabelMoved | SeenMoved | RowDue | Counted


class Exposures:
    """Open and lately closed exposures of one user, and the outcomes that may still join or move."""

    __slots__ = ("_dirty", "_exposures", "_leaves_ms", "_outcomes", "_params", "_waiting")

    def __init__(self, fields: Mapping[bytes, bytes], params: StateParams) -> None:
        self._params = params
        self._dirty: set[bytes] = set()
        self._exposures: dict[str, Exposure] = {}
        by_number: dict[int, Exposure] = {}
        for number in range(params.max_exposures):
            stored = fields.get(b"_x%d" % number)
            if stored:
                joined = fields.get(b"_j%d" % number)
                if not joined:
                    raise StateFormatError(f"exposure {number} has no page _j{number}; run `liverank rebuild`")
                exposure = Exposure.unpack(number, body(b"_x", stored), body(b"_j", joined))
                by_number[number] = self._exposures[exposure.request_id] = exposure
        self._outcomes = Outcomes(fields, by_number)
        self._leaves_ms = _NEVER
        self._waiting: list[int] = []
        self._note_times()

    def __len__(self) -> int:
        return len(self._exposures)

    def get(self, request_id: str) -> Exposure:
        """The exposure of a request, which must be kept."""
        return self._exposures[request_id]

    # -- arrivals

    def add_exposure(self, packed: bytes, append_ts_ms: int, clock_ms: int, counts: bool) -> list[Change]:
        """Keep an exposure and join what waits for it.

        Parameters
        ----------
        packed : bytes
            An encoded Event of type exposure.
        append_ts_ms : int
            Append time of its record.
        clock_ms : int
            The partition's clock: what waited for longer than the window waits no more.
        counts : bool
            Whether its outcomes move the bandit's statistics.
        """
        changes: list[Change] = []
        exposure = Exposure(self._free_number(changes), Event.FromString(packed), append_ts_ms, counts=counts)
        self._exposures[exposure.request_id] = exposure
        self._dirty.add(b"_x%d" % exposure.number)
        self._touch(exposure)
        changes += self._see(exposure)
        waits_from_ms = clock_ms - self._params.attribution_window_ms
        for outcome in self._outcomes:
            if outcome.target is None and outcome.event_ts_ms <= waits_from_ms:
                continue
            if outcome.item_id in exposure.at and self._target(outcome) is exposure:
                previous, slot = outcome.target, outcome.slot
                outcome.join(exposure)
                self._outcomes.changed(outcome)
                if previous is not None:
                    changes += self._refresh(previous, slot)
                changes += self._refresh(exposure, outcome.slot)
        self._note_times()
        return changes

    def add_outcome(self, item_id: str, event_ts_ms: int, bits: int, request_id: str, position: int) -> list[Change]:
        """Keep an outcome (`features.state.exposure.Outcome`), and join it if its exposure is there."""
        outcome = Outcome(item_id=item_id, event_ts_ms=event_ts_ms, bits=bits, request_id=request_id, position=position)
        changes: list[Change] = []
        target = self._target(outcome) if self._exposures else None
        if target is not None:
            outcome.join(target)
            changes += self._change(target, outcome.slot, target.bits[outcome.slot] | outcome.bits)
        while any(self._outcomes) and not self._outcomes.has_room(outcome):
            self._outcomes.drop_oldest()
            self._note_times()
            changes.append(Counted("outcome_overflow"))
        if target is None:
            insort(self._waiting, outcome.event_ts_ms + self._params.attribution_window_ms)
        self._outcomes.add(outcome)
        return changes

    # -- time

    def due_ms(self) -> int | None:
        """When the next window closes; with none open, when the last exposure may be dropped."""
        if not self._exposures:
            return None
        window_ms = self._params.attribution_window_ms
        opened = [e.shown_ms for e in self._exposures.values() if not e.closed]
        if opened:
            return min(opened) + window_ms
        return max(e.shown_ms for e in self._exposures.values()) + window_ms + self._params.late_outcome_ms

    def on_due(self, due_ms: int) -> list[Change]:
        """Close every window that ends by `due_ms`, and drop what nothing can join any more."""
        window_ms = self._params.attribution_window_ms
        changes: list[Change] = []
        for exposure in sorted(self._exposures.values(), key=_age):
            if not exposure.closed and exposure.shown_ms + window_ms <= due_ms:
                changes += self._close(exposure)
        return changes + self.forget(due_ms)

    def forget(self, clock_ms: int) -> list[Change]:
        """Drop exposures past their window and the time for corrections, and outcomes that nothing can claim (16 of
        them at a time).
        """
        many = len(self._waiting) >= _GOING and self._waiting[_GOING - 1] <= clock_ms
        if not many and clock_ms < self._leaves_ms:
            return []
        window_ms = self._params.attribution_window_ms
        keep_ms = window_ms + self._params.late_outcome_ms
        gone = [e for e in self._exposures.values() if e.closed and e.shown_ms + keep_ms <= clock_ms]
        for exposure in gone:
            self._drop(exposure)
        changes: list[Change] = []

        def unclaimed(outcome: Outcome) -> bool:
            if outcome.target is not None or clock_ms < outcome.event_ts_ms + window_ms:
                return False
            changes.append(Counted("orphan" if outcome.request_id else "unattributed"))
            return True

        self._outcomes.drop_if(unclaimed)
        self._note_times()
        return changes

    def _note_times(self) -> None:
        window_ms = self._params.attribution_window_ms
        keep_ms = window_ms + self._params.late_outcome_ms
        self._leaves_ms = min((each.shown_ms + keep_ms for each in self._exposures.values()), default=_NEVER)
        self._waiting = sorted(each.event_ts_ms + window_ms for each in self._outcomes if each.target is None)

    # -- the join

    def _target(self, outcome: Outcome) -> Exposure | None:
        window_ms = self._params.attribution_window_ms
        if outcome.request_id:
            exposure = self._exposures.get(outcome.request_id)
            if exposure is None or outcome.item_id not in exposure.at:
                return None
            return exposure if abs(outcome.event_ts_ms - exposure.shown_ms) < window_ms else None
        found: Exposure | None = None
        for exposure in self._exposures.values():
            age_ms = outcome.event_ts_ms - exposure.shown_ms
            if not 0 <= age_ms < window_ms or outcome.item_id not in exposure.at:
                continue
            if found is None or _age(exposure) > _age(found):
                found = exposure
        return found

    def _refresh(self, exposure: Exposure, slot: int) -> list[Change]:
        bits = 0
        for outcome in self._outcomes:
            if outcome.target is exposure and outcome.slot == slot:
                bits |= outcome.bits
        return self._change(exposure, slot, bits)

    def _change(self, exposure: Exposure, slot: int, bits: int) -> list[Change]:
        old = exposure.bits[slot]
        if bits == old:
            return []
        changes: list[Change] = []
        labels = (bits ^ old) & LABELS
        if labels and exposure.closed:
            if exposure.marks[slot] & CORRECTED:
                bits = bits & ~LABELS | old & LABELS
                labels = 0
                changes.append(Counted("late_outcome"))
            else:
                exposure.marks[slot] |= CORRECTED | SEEN
                changes.append(RowDue(exposure, slot, True))
        exposure.bits[slot] = bits
        self._touch(exposure)
        if labels and exposure.counts:
            for head, bit in enumerate(exposure.head_bits):
                if labels & bit and (bit & FAST or exposure.closed):
                    changes.append(LabelMoved(exposure, slot, head, 1.0 if bits & bit else -1.0))
        if (bits ^ old) & (INTERACTED | IMPRESSION):
            changes += self._see(exposure)
        return changes

    def _see(self, exposure: Exposure) -> Iterator[Change]:
        bits, marks = exposure.bits, exposure.marks
        if any(each & IMPRESSION for each in bits):
            wanted = [bool(each & INTERACTED and not each & IMPRESSION) for each in bits]
        else:
            last = max((at for at, each in enumerate(bits, 1) if each & INTERACTED), default=0)
            wanted = [at < last + 2 for at in range(len(bits))]
        for slot, inferred in enumerate(wanted):
            if inferred != bool(marks[slot] & INFERRED):
                marks[slot] ^= INFERRED
                yield SeenMoved(exposure, slot, 1 if inferred else -1)

    def _close(self, exposure: Exposure) -> Iterator[Change]:
        exposure.closed = True
        self._touch(exposure)
        for slot, bits in enumerate(exposure.bits):
            if exposure.marks[slot] & INFERRED or bits & IMPRESSION:
                exposure.marks[slot] |= SEEN
            if exposure.counts:
                expected = exposure.slots[slot].p_shown
                for head, bit in enumerate(exposure.head_bits):
                    if bit and not bit & FAST:
                        yield LabelMoved(exposure, slot, head, float(bits & bit > 0) - expected[head])
            yield RowDue(exposure, slot, False)

    # -- storage

    def shrink(self, most_bytes: int) -> list[Change]:
        """Close and drop the oldest exposures until the rest takes `most_bytes` (`room`), closed ones first."""
        held = sum(exposure.size_bytes for exposure in self._exposures.values())
        if held <= most_bytes:
            return []
        changes: list[Change] = []
        while held > most_bytes:
            held -= self._drop_oldest(changes)
        self._note_times()
        return changes

    def _drop_oldest(self, changes: list[Change]) -> int:
        oldest = min(self._exposures.values(), key=lambda e: (not e.closed, *_age(e)))
        if not oldest.closed:
            changes += self._close(oldest)
            changes.append(Counted("closed_early"))
        self._drop(oldest)
        return oldest.size_bytes

    def _free_number(self, changes: list[Change]) -> int:
        while len(self._exposures) >= self._params.max_exposures:
            self._drop_oldest(changes)
        taken = {exposure.number for exposure in self._exposures.values()}
        return next(number for number in range(len(taken) + 1) if number not in taken)

    def _drop(self, exposure: Exposure) -> None:
        del self._exposures[exposure.request_id]
        self._dirty.add(b"_x%d" % exposure.number)
        self._touch(exposure)
        self._outcomes.drop_if(lambda outcome: outcome.target is exposure)

    def _touch(self, exposure: Exposure) -> None:
        self._dirty.add(b"_j%d" % exposure.number)

    def dirty(self) -> dict[bytes, bytes]:
        """Fields changed since the last call."""
        changed = self._outcomes.dirty()
        by_number = {exposure.number: exposure for exposure in self._exposures.values()}
        for name in self._dirty:
            exposure = by_number.get(int(name[2:]))
            if exposure is None:
                changed[name] = b""
            else:
                changed[name] = HEAD + (exposure.pack_event() if name[1:2] == b"x" else exposure.pack_joined())
        self._dirty.clear()
        return changed


def _age(exposure: Exposure) -> tuple[int, str]:
    return exposure.shown_ms, exposure.request_id
