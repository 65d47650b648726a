"""Is what the log says of exploration true? Draws made again bit by bit, and the mean weight of known policies."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

from bandits.posterior import Learned
from evaluation.exploration.reader import Thinned
from evaluation.exploration.weights import SlotVerdict, drawn_slots, judge
from evaluation.off_policy.audit import MIN_ROWS
from liverank.v1 import decision_pb2
from ranker import variants
from ranker.errors import NotReproducibleError
from ranker.reproduce import differences, posterior_of, redraw, slot_faults

MOST: Final = 500_000
"""Decisions that mean weights are made of; of more an even share."""
MOST_FAULTS: Final = 50
"""Faults that are told one by one."""


class Source(Protocol):
    """What verification reads (`evaluation.exploration.LogReader`)."""

    def decisions(self, days: float, *, drawn: bool = True) -> Iterator[decision_pb2.Decision]:
        """Decisions that were shown."""
        ...

    def snapshots(self, wanted: Sequence[str]) -> Mapping[str, bytes]:
        """Snapshots by id."""
        ...


@dataclass(frozen=True, kw_only=True)
class GroupVerdict:
    """Mean weights of one policy over some days.

    Attributes
    ----------
    policy, days
        Which, and the first and last day (UTC) that were pooled.
    n_decisions
        Rows.
    slots
        Verdicts; empty where there were too few rows.
    """

    policy: str
    days: tuple[str, str]
    n_decisions: int
    slots: Sequence[SlotVerdict]


@dataclass(kw_only=True)
class Verification:
    """What was checked and what was found.

    Attributes
    ----------
    n_decisions, n_slots
        Drawn decisions whose shown slots were checked.
    n_full, n_redrawn
        Decisions whose candidates are logged; draws that were made again.
    n_no_snapshot
        Decisions of the sample whose snapshot is not in the log.
    groups
        Mean weights.
    faults
        What failed, one line each; empty = nothing.
    n_faults
        How many there were in all.
    """

    n_decisions: int = 0
    n_slots: int = 0
    n_full: int = 0
    n_redrawn: int = 0
    n_no_snapshot: int = 0
    groups: list[GroupVerdict] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    n_faults: int = 0

    def fault(self, text: str) -> None:
        """Note a fault."""
        self.n_faults += 1
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(text)

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        found = [
            f"{self.n_decisions:,} drawn decisions, {self.n_slots:,} slots: propensities, floors and caps checked",
            f"{self.n_redrawn:,} of {self.n_full:,} fully logged decisions drawn again, bit by bit",
        ]
        if self.n_no_snapshot:
            found.append(f"{self.n_no_snapshot:,} decisions of the sample cite a snapshot that the log does not hold")
        for group in self.groups:
            name = f"{group.policy}, {group.days[0]}" + (
                f" to {group.days[1]}" if group.days[0] != group.days[1] else ""
            )
            if not group.slots:
                found.append(f"{name}: {group.n_decisions:,} decisions, too few for a mean weight")
            for slot in group.slots:
                found.append(
                    f"{name}, slot {slot.position}: n {slot.n:,}, mean weight of near-greed {slot.near_greed:.4f} "
                    f"(1 +- {slot.near_greed_limit:.4f}), of uniform {slot.uniform:.3f} (1 +- {slot.uniform_limit:.3f})"
                    + ("" if slot.passed else "  FAILED")
                )
        found += [f"FAILED {fault}" for fault in self.faults]
        if self.n_faults > len(self.faults):
            found.append(f"FAILED and {self.n_faults - len(self.faults):,} more")
        found.append("the log is sound" if not self.faults else f"{self.n_faults:,} faults")
        return found


def verify_log(source: Source, *, sample: int = 200, days: float = 7.0, min_rows: int = MIN_ROWS) -> Verification:
    """Check a namespace's log of exploration.

    Parameters
    ----------
    source
        The log.
    sample
        Fully logged decisions that are drawn again, and decisions whose belief is checked; the newest. Choices among
        variants are made again in both.
    days
        Of the log; 0 = all.
    min_rows
        Rows per slot that a mean weight needs; days of a policy are pooled until they hold so many.
    """
    found = Verification()
    thinned = Thinned(MOST)
    full: list[decision_pb2.Decision] = []
    plain: list[decision_pb2.Decision] = []
    for made in source.decisions(days):
        found.n_decisions += 1
        found.n_slots += len(made.slots)
        for fault in slot_faults(made, None):
            found.fault(f"{made.request_id} ({made.policy}): {fault}")
        kept, wanted = (full, sample) if made.candidates else (plain, sample)
        kept.append(made)
        found.n_full += bool(made.candidates)
        if len(kept) > 4 * wanted:
            _keep_newest(kept, wanted)
        thinned.offer(made)
    pooled: dict[tuple[str, str], list[decision_pb2.Decision]] = defaultdict(list)
    for made in thinned.decisions:
        pooled[made.policy, _day(made.decided_ts_ms)].append(made)
    _keep_newest(full, sample)
    _keep_newest(plain, sample)
    _beliefs(source, found, full, plain)
    for group in _groups(pooled, min_rows):
        found.groups.append(group)
        for slot in group.slots:
            if not slot.passed:
                found.fault(
                    f"mean weight of {group.policy} at slot {slot.position} from {group.days[0]} to {group.days[1]}: "
                    f"near-greed {slot.near_greed:.4f} (1 +- {slot.near_greed_limit:.4f}), uniform {slot.uniform:.3f} "
                    f"(1 +- {slot.uniform_limit:.3f}); the logged propensities are not what was acted upon"
                )
    return found


def _beliefs(
    source: Source, found: Verification, full: list[decision_pb2.Decision], plain: list[decision_pb2.Decision]
) -> None:
    """Draw the fully logged again; check posterior mean and sd of the others."""
    snapshots = source.snapshots(sorted({made.snapshot for made in (*full, *plain)}))
    posteriors: dict[tuple[str, tuple[float, ...]], Learned] = {}
    for made in (*full, *plain):
        for fault in variants.faults(made):
            found.fault(f"{made.request_id} ({made.variant_policy}): {fault}")
        data = snapshots.get(made.snapshot)
        if data is None:
            found.n_no_snapshot += 1
            continue
        try:
            if made.candidates:
                faults = differences(made, redraw(made, data))
                found.n_redrawn += 1
            else:
                key = (made.snapshot, tuple(made.head_weights))
                if key not in posteriors:
                    posteriors[key] = posterior_of(made, data)
                faults = slot_faults(made, posteriors[key])
        except NotReproducibleError as error:
            faults = [str(error)]
        for fault in faults:
            found.fault(f"{made.request_id} ({made.policy}): {fault}")


def _groups(pooled: Mapping[tuple[str, str], Sequence[decision_pb2.Decision]], min_rows: int) -> Iterator[GroupVerdict]:
    """Days of a policy in order, pooled until each slot that was drawn often enough has its rows."""
    for policy in sorted({name for name, _ in pooled}):
        days = sorted(day for name, day in pooled if name == policy)
        waiting: list[decision_pb2.Decision] = []
        first = days[0]
        for at, day in enumerate(days):
            if not waiting:
                first = day
            waiting += pooled[policy, day]
            rest = sum(len(pooled[policy, later]) for later in days[at + 1 :])
            # A rest that is too small for a verdict of its own is judged together with this.
            if (len(waiting) >= min_rows and rest >= min_rows) or at == len(days) - 1:
                slots = drawn_slots(waiting)
                yield GroupVerdict(
                    policy=policy,
                    days=(first, day),
                    n_decisions=len(waiting),
                    slots=judge(slots, len(waiting), min_rows=min_rows),
                )
                waiting = []


def _keep_newest(decisions: list[decision_pb2.Decision], n: int) -> None:
    decisions.sort(key=lambda made: made.decided_ts_ms)
    del decisions[: max(0, len(decisions) - n)]


def _day(ts_ms: int) -> str:
    return datetime.datetime.fromtimestamp(ts_ms / 1000, tz=datetime.UTC).strftime("%Y-%m-%d")
