"""May a policy go out? What it would have earned on the decisions of the place where it is to act."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bandits import BanditsError, parse
from evaluation.exploration.policy_value import Clustered, Source, policy_log
from evaluation.exploration.reader import Outcome
from evaluation.off_policy import DR, InvalidLogError, gate
from evaluation.off_policy.gate import Verdict
from liverank.v1 import decision_pb2

SAFE: Final = ("greedy", "default")
"""Let in without a question: what an operator falls back to must not wait for evidence."""


@dataclass(frozen=True)
class Admission:
    """What the gate says of a policy.

    Attributes
    ----------
    passed
        It may go out.
    verdict
        Its estimate, lower bound and baseline; None where the log cannot tell.
    n_decisions, n_slots
        Fully logged decisions of the place, and their drawn slots.
    reasons
        Why not; empty where passed.
    """

    passed: bool
    verdict: Verdict | None
    n_decisions: int
    n_slots: int
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        said = "passes the gate" if self.passed else f"is held: {'; '.join(self.reasons)}"
        if self.verdict is None:
            return said
        return (
            f"{said} (reward per drawn slot: {self.verdict.value:.4g}, lower bound {self.verdict.low:.4g}; what runs "
            f"now earned {self.verdict.baseline:.4g}; {self.n_decisions:,} decisions, {self.n_slots:,} slots)"
        )


class Narrowed:
    """A log's decisions of one surface and experiment arm; ``*`` = every one."""

    def __init__(self, source: Source, surface: str, arm: str) -> None:
        self._source, self._surface, self._arm = source, surface, arm

    def decisions(self, days: float, *, drawn: bool = True) -> Iterator[decision_pb2.Decision]:
        """See `Source`."""
        for made in self._source.decisions(days, drawn=drawn):
            if self._surface in ("*", made.surface) and self._arm in ("*", made.arm):
                yield made

    def snapshots(self, wanted: Sequence[str]) -> Mapping[str, bytes]:
        """See `Source`."""
        return self._source.snapshots(wanted)

    def outcomes(self, days: float) -> Mapping[tuple[str, int], Outcome]:
        """See `Source`."""
        return self._source.outcomes(days)


def admit(
    source: Source,
    specification: str,
    *,
    surface: str = "*",
    arm: str = "*",
    days: float = 7.0,
    slack: float = 0.0,
    level: float = 0.95,
    seed: int = 0,
) -> Admission:
    """Judge a policy by the doubly robust lower bound of its reward, against what was logged there.

    Held where the lower bound is below (1 - slack) times the logged reward, where the log lacks support for it, and
    where there are too few decisions to say. `SAFE` policies pass.

    Parameters
    ----------
    source
        The log.
    specification
        The policy as text.
    surface, arm
        Where it is to act.
    days
        Of the log; 0 = all.
    slack
        Share of the logged reward that may be risked, in [0, 1).
    level
        Confidence of the lower bound, one-sided.
    seed
        Of folds and bootstrap.
    """
    if specification.partition("(")[0].strip() in SAFE:
        return Admission(True, None, 0, 0, ())
    try:
        found = policy_log(Narrowed(source, surface, arm), parse(specification), days=days, seed=seed)
    except (InvalidLogError, BanditsError) as error:
        return Admission(
            False, None, 0, 0, (f"the log cannot tell what it would earn: {getattr(error, 'detail', error)}",)
        )
    estimator = Clustered(DR(), found.decision)
    verdict = gate(found.slots, estimator=estimator, slack=slack, level=level, seed=seed)
    return Admission(verdict.passed, verdict, found.n_decisions, found.slots.n, verdict.reasons)
