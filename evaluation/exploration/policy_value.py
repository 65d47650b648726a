"""What another policy would have earned on a namespace's decision log.

Fully logged decisions hold every candidate, so the other policy's law is computed slot by slot, given the slots that
were shown before, under the same hard rules, floor and cap. Rows are drawn slots; slates are the drawn slots of one
decision. Intervals resample decisions, because slots of one decision are not independent.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bandits import Greedy, Policy, generator
from bandits.laws import Law
from bandits.slates import slot_pmf
from evaluation.exploration.reader import Outcome
from evaluation.off_policy import Estimator, InvalidLogError, Log, SlateLog, Terms, slate_weights
from liverank.v1 import decision_pb2
from ranker.errors import NotReproducibleError
from ranker.reproduce import Redrawn, redraw, slot_laws

Floats: TypeAlias = NDArray[np.float64]
LogType = TypeVar("LogType", contravariant=True)
MIN_DECISIONS: Final = 30
_RIDGE: Final = 10.0


class Source(Protocol):
    """What is read (`evaluation.exploration.LogReader`)."""

    def decisions(self, days: float, *, drawn: bool = True) -> Iterator[decision_pb2.Decision]:
        """Decisions that were shown."""
        ...

    def snapshots(self, wanted: Sequence[str]) -> Mapping[str, bytes]:
        """Snapshots by id."""
        ...

    def outcomes(self, days: float) -> Mapping[tuple[str, int], Outcome]:
        """Outcomes by (request id, position)."""
        ...


@dataclass(frozen=True, kw_only=True)
class PolicyLog:
    """A decision log with another policy's probabilities.

    Attributes
    ----------
    slots
        Drawn slots.
    decision
        Which decision each row of `slots` belongs to, from 0.
    slates
        Drawn slots of decisions of the most frequent length; None where there are too few.
    n_decisions, n_open, n_short, n_lost
        Used; left out because an outcome is not known yet; slates left out for their length; without a snapshot.
    """

    slots: Log
    decision: NDArray[np.int64]
    slates: SlateLog | None
    n_decisions: int
    n_open: int
    n_short: int
    n_lost: int


@dataclass(frozen=True)
class Clustered(Generic[LogType]):
    """An estimator whose rows are summed up by decision before intervals are made; the estimate is the same."""

    inner: Estimator[LogType]
    cluster: NDArray[np.int64]

    @property
    def name(self) -> str:
        """That of the estimator."""
        return self.inner.name

    def terms(self, log: LogType) -> Terms:
        """See `Estimator.terms`."""
        terms = self.inner.terms(log)
        n_clusters = int(self.cluster.max()) + 1
        size = len(self.cluster) / n_clusters

        def summed(rows: Floats) -> Floats:
            out = np.zeros((n_clusters, rows.shape[1]))
            np.add.at(out, self.cluster, rows)
            return out / size

        below = None if terms.denominator is None else summed(terms.denominator)
        return Terms(summed(terms.numerator), below, terms.weight)


@dataclass
class _Row:
    """A drawn slot."""

    reward: float
    propensity: float
    target: float
    unsupported: float
    place: int
    law: Floats
    position: int


@dataclass
class _Made:
    """A decision and its drawn slots."""

    rows: list[_Row]
    x: Floats
    marginals: tuple[Floats, Floats] | None
    slate_weight: float


def policy_log(
    source: Source,
    policy: Policy,
    *,
    days: float = 7.0,
    floor: float | None = None,
    cap: float | None = None,
    marginal_draws: int = 0,
    pi_draws: int = 0,
    n_folds: int = 3,
    seed: int = 0,
) -> PolicyLog:
    """Read a namespace's log for a policy.

    Parameters
    ----------
    source
        The log.
    policy
        To be evaluated. `Greedy` is evaluated as it is served: no floor.
    days
        Of the log; 0 = all.
    floor, cap
        Of the policy; None = those of each decision.
    marginal_draws
        Slates drawn per decision for slot marginals (IIPS); 0 = none.
    pi_draws
        Slates drawn per decision for pseudo-inverse weights (PI, wPI), about 0.5 s a decision at 2,000; 0 = none.
    n_folds, seed
        Of the cross-fitted reward model.

    Raises
    ------
    InvalidLogError
        Fewer than 30 fully logged decisions whose outcomes are known.
    """
    outcomes = source.outcomes(days)
    full = [made for made in source.decisions(days) if made.candidates]
    snapshots = source.snapshots(sorted({made.snapshot for made in full}))
    if isinstance(policy, Greedy):
        floor, cap = 0.0, 0.0
    found: list[_Made] = []
    n_open = n_lost = 0
    for made in full:
        rewards = [outcomes.get((made.request_id, at)) for at in range(1, len(made.slots) + 1)]
        if any(one is None for one in rewards):
            n_open += 1
            continue
        data = snapshots.get(made.snapshot)
        try:
            if data is None:
                raise NotReproducibleError("no snapshot")
            logged, target = redraw(made, data), redraw(made, data, with_policy=policy)
        except NotReproducibleError:
            n_lost += 1
            continue
        target = _limited(target, floor, cap)
        one = _rows(
            made, logged, target, [each.reward for each in rewards if each is not None], marginal_draws, pi_draws
        )
        if one.rows:
            found.append(one)
    if len(found) < MIN_DECISIONS:
        raise InvalidLogError(
            f"at least {MIN_DECISIONS} fully logged decisions with drawn slots and known outcomes wanted, got "
            f"{len(found)} of {len(full)} ({n_open} not closed yet, {n_lost} without such a posterior); raise "
            "ranker.full_log_share, wait for windows to close, or take more days"
        )
    predicted, expected = _cross_fitted(found, n_folds, np.random.default_rng(seed))
    rows = [row for one in found for row in one.rows]
    slots = Log(
        reward=np.array([row.reward for row in rows]),
        propensity=np.array([row.propensity for row in rows]),
        target=np.array([row.target for row in rows]),
        predicted=predicted,
        expected=expected,
        unsupported=np.array([row.unsupported for row in rows]),
    )
    lengths = [len(one.rows) for one in found]
    decision = np.repeat(np.arange(len(found)), lengths)
    slates, n_short = _slates(found, slots, lengths)
    return PolicyLog(
        slots=slots,
        decision=decision,
        slates=slates,
        n_decisions=len(found),
        n_open=n_open,
        n_short=n_short,
        n_lost=n_lost,
    )


def _limited(found: Redrawn, floor: float | None, cap: float | None) -> Redrawn:
    problem = replace(
        found.problem,
        floor=found.problem.floor if floor is None else floor,
        cap=found.problem.cap if cap is None else cap,
    )
    return replace(found, problem=problem)


def _rows(
    made: decision_pb2.Decision,
    logged: Redrawn,
    target: Redrawn,
    rewards: Sequence[float],
    marginal_draws: int,
    pi_draws: int,
) -> _Made:
    seed = int.from_bytes(hashlib.blake2b(made.request_id.encode(), digest_size=8, person=b"target").digest(), "big")
    first = min(made.greedy_slots, len(made.slots))
    loggers, targets = slot_laws(logged, made.seed), slot_laws(target, seed)
    rows = []
    for at, (logger, law) in enumerate(zip(loggers, targets, strict=True), first):
        place = logged.order[at]
        rows.append(
            _Row(
                reward=rewards[at],
                propensity=made.slots[at].propensity,
                target=float(min(1.0, law[place])),
                unsupported=float(law[logger <= 0].sum()),
                place=place,
                law=law,
                position=at,
            )
        )
    score = logged.slate.score
    x = np.column_stack([np.ones(len(score)), logged.problem.value, score, logged.problem.phi])
    marginals, weight = None, float("nan")
    if rows and (marginal_draws or pi_draws):
        rng = np.random.default_rng(seed)
        n = max(marginal_draws, pi_draws)
        mine, their = _simulated(logged, made.seed, n, rng), _simulated(target, seed, n, rng)
        shown = np.array([logged.order[first:]])
        marginals = (_marginal(mine, shown[0]), _marginal(their, shown[0], 0.0))
        if pi_draws:
            weight = float(slate_weights(shown, mine[0], their[0], len(score))[0])
    return _Made(rows, x, marginals, weight)


def _simulated(found: Redrawn, seed: int, n: int, rng: Generator) -> tuple[NDArray[np.int64], Floats]:
    """`n` slates of the drawn slots under one law, and the probability of each logged item at its slot given each
    simulated prefix, shape ``(n, k)`` both; slates that run dry are dropped.
    """
    problem, score = found.problem, found.slate.score
    law: Law = found.policy.law(problem, score, generator(seed))
    feasible = problem.feasible
    assert feasible is not None
    first, last = min(problem.n_greedy_slots, len(found.order)), len(found.order)
    slates, chances = [], []
    for _ in range(n):
        prefix, seen = list(found.order[:first]), []
        for slot in range(first, last):
            mask = feasible.mask(prefix).copy()
            mask[prefix] = False
            if not mask.any():
                break
            pmf = slot_pmf(law, score, mask, floor=problem.floor, cap=problem.cap)
            seen.append(float(pmf[found.order[slot]]))
            prefix.append(
                int(np.searchsorted(np.cumsum(pmf), rng.random() * pmf.sum(), side="right").clip(0, len(pmf) - 1))
            )
        if len(seen) == last - first:
            slates.append(prefix[first:])
            chances.append(seen)
    shape = (-1, last - first)
    return np.array(slates, dtype=np.int64).reshape(shape), np.array(chances).reshape(shape)


def _marginal(simulated: tuple[NDArray[np.int64], Floats], shown: NDArray[np.int64], least: float = 1e-9) -> Floats:
    """P(the shown item in its slot), averaged over simulated prefixes."""
    chances = simulated[1]
    if not len(chances):
        return np.full(len(shown), max(least, 1e-9))
    mean: Floats = np.clip(chances.mean(axis=0), least, 1.0)
    return mean


def _cross_fitted(found: Sequence[_Made], n_folds: int, rng: Generator) -> tuple[Floats, Floats]:
    """Ridge regression of the reward on (1, value, score, phi), fitted on other decisions: at the placed item, and
    averaged over the target's law; one row a drawn slot.
    """
    fold = rng.permutation(len(found)) % n_folds
    width = found[0].x.shape[1]
    weights = []
    for held_out in range(n_folds):
        a, b = _RIDGE * np.eye(width), np.zeros(width)
        a[0, 0] = 1e-6
        for one, its in zip(found, fold.tolist(), strict=True):
            if its != held_out:
                x = one.x[[row.place for row in one.rows]]
                a += x.T @ x
                b += x.T @ np.array([row.reward for row in one.rows])
        weights.append(np.linalg.solve(a, b))
    predicted, expected = [], []
    for one, its in zip(found, fold.tolist(), strict=True):
        rewards = one.x @ weights[its]
        for row in one.rows:
            predicted.append(float(rewards[row.place]))
            expected.append(float(rewards @ row.law))
    return np.array(predicted), np.array(expected)


def _slates(found: Sequence[_Made], slots: Log, lengths: Sequence[int]) -> tuple[SlateLog | None, int]:
    """Decisions of the most frequent length as slates, and how many are left out."""
    length, n = Counter(lengths).most_common(1)[0]
    if n < MIN_DECISIONS:
        return None, len(found)
    chosen = [at for at, size in enumerate(lengths) if size == length]
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    at = (starts[chosen][:, None] + np.arange(length)).astype(np.int64)
    assert slots.predicted is not None
    assert slots.expected is not None
    optional: dict[str, Any] = {}
    marginals = [found[one].marginals for one in chosen]
    if all(pair is not None for pair in marginals):
        optional["marginal_propensity"] = np.array([pair[0] for pair in marginals if pair is not None])
        optional["marginal_target"] = np.array([pair[1] for pair in marginals if pair is not None])
    weights = np.array([found[one].slate_weight for one in chosen])
    if np.isfinite(weights).all():
        optional["slate_weight"] = weights
    slates = SlateLog(
        reward=slots.reward[at],
        propensity=slots.propensity[at],
        target=slots.target[at],
        predicted=slots.predicted[at],
        expected=slots.expected[at],
        **optional,
    )
    return slates, len(found) - n
