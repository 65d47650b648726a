"""What exploration did and what it cost, per surface, experiment arm and policy; and what was pulled."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Final, Protocol

import numpy as np

from bandits.learned import read_snapshot
from evaluation.exploration.reader import Outcome, Thinned
from evaluation.exploration.weights import WeightFigures, drawn_slots, weight_figures
from liverank.v1 import decision_pb2
from ranker.errors import NotReproducibleError
from ranker.reproduce import redraw, slot_laws

_Z: Final = NormalDist().inv_cdf(0.975)
MOST: Final = 200_000
"""Decisions that a report keeps in memory, about 2 KB each."""
ENTROPY_SAMPLE: Final = 100
"""Fully logged decisions per group whose laws are computed anew."""
BELIEF_POINTS: Final = 400


class Source(Protocol):
    """What the report reads (`evaluation.exploration.LogReader`)."""

    now_ms: int

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
class Mean:
    """A mean with its 95 % interval; NaN where nothing is known."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return "-" if math.isnan(self.value) else f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def mean_of(values: Sequence[float]) -> Mean:
    """Normal interval over independent values."""
    n = len(values)
    if not n:
        return Mean(value=math.nan, low=math.nan, high=math.nan)
    centre = float(np.mean(values))
    half = _Z * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return Mean(value=centre, low=centre - half, high=centre + half)


@dataclass(frozen=True, kw_only=True)
class GroupReport:
    """One surface, arm and policy.

    Attributes
    ----------
    surface, arm, policy
        Which.
    n_decisions, n_drawn, n_explored
        Decisions; slots that were drawn; slots that were explored.
    pulls
        Shown slots whose window is closed.
    reward
        Per shown slate, in clicks, by decisions whose slots are all closed.
    cost
        Exploration's price per slate as the posterior sees it: greedy score minus shown score, summed over slots.
    regret
        What greed would have earned more per drawn slot, estimated off policy (self-normalised, slot by slot given the
        slots before); its interval. Negative = exploring earned more.
    entropy
        Of a drawn slot's law, in nats; NaN where no decision is fully logged.
    weights
        See `WeightFigures`.
    """

    surface: str
    arm: str
    policy: str
    n_decisions: int
    n_drawn: int
    n_explored: int
    pulls: int
    reward: Mean
    cost: Mean
    regret: Mean
    entropy: float
    weights: WeightFigures

    @property
    def explored_share(self) -> float:
        """Of the drawn slots."""
        return self.n_explored / self.n_drawn if self.n_drawn else 0.0


@dataclass(frozen=True, kw_only=True)
class BeliefReport:
    """The newest posterior of a model that decisions cite.

    Attributes
    ----------
    model, snapshot
        Ids.
    n_shown
        Shown slots in the statistics.
    age_s
        From the newest exposure in them to the decision that cited them first; NaN = nothing was learned yet.
    sd
        Posterior sd of the residual value, mean over its shown items.
    """

    model: str
    snapshot: str
    n_shown: int
    age_s: float
    sd: float


@dataclass(frozen=True, kw_only=True)
class ExplorationReport:
    """All groups, the beliefs, and points for plots: (minutes before now, explored share, reward) over decisions.

    `n_seen` decisions were read, an even `share` of them is reported on.
    """

    groups: Sequence[GroupReport]
    beliefs: Sequence[BeliefReport]
    points: Sequence[tuple[float, float, float]]
    n_seen: int = 0
    share: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)


def exploration_report(source: Source, *, days: float = 7.0, most: int = MOST) -> ExplorationReport:
    """Read the log and sum it up.

    Parameters
    ----------
    source
        The log.
    days
        The last so many; 0 = all.
    most
        Decisions that are kept in memory; of more an even share is reported on.
    """
    outcomes = source.outcomes(days)
    thinned, full = Thinned(most), defaultdict[tuple[str, str, str], list[decision_pb2.Decision]](list)
    for made in source.decisions(days):
        thinned.offer(made)
        if made.candidates:
            chosen = full[made.surface, made.arm, made.policy]
            chosen.append(made)
            if len(chosen) > 4 * ENTROPY_SAMPLE:
                _keep_newest(chosen)
    groups: dict[tuple[str, str, str], list[decision_pb2.Decision]] = defaultdict(list)
    for made in thinned.decisions:
        groups[made.surface, made.arm, made.policy].append(made)
    newest: dict[str, decision_pb2.Decision] = {}
    sampled: dict[tuple[str, str, str], list[decision_pb2.Decision]] = {}
    for key, decisions in groups.items():
        decisions.sort(key=lambda made: made.decided_ts_ms)
        sampled[key] = _keep_newest(full[key])
        last = decisions[-1]
        if last.base_model not in newest or newest[last.base_model].decided_ts_ms < last.decided_ts_ms:
            newest[last.base_model] = last
    wanted = {made.snapshot for chosen in sampled.values() for made in chosen} | {m.snapshot for m in newest.values()}
    snapshots = source.snapshots(sorted(wanted))
    return ExplorationReport(
        groups=[
            _group(key, decisions, outcomes, _entropy(sampled[key], snapshots))
            for key, decisions in sorted(groups.items())
        ],
        beliefs=[_belief(made, snapshots.get(made.snapshot)) for _, made in sorted(newest.items())],
        points=_points(source.now_ms, thinned.decisions, outcomes),
        n_seen=thinned.n_seen,
        share=thinned.share,
    )


def _keep_newest(decisions: list[decision_pb2.Decision]) -> list[decision_pb2.Decision]:
    decisions.sort(key=lambda made: made.decided_ts_ms)
    del decisions[: max(0, len(decisions) - ENTROPY_SAMPLE)]
    return decisions


def _group(
    key: tuple[str, str, str],
    decisions: Sequence[decision_pb2.Decision],
    outcomes: Mapping[tuple[str, int], Outcome],
    entropy: float,
) -> GroupReport:
    slots = drawn_slots(decisions)
    slate_rewards, costs, pulls = [], [], 0
    for made in decisions:
        rewards = [outcomes.get((made.request_id, at)) for at in range(1, len(made.slots) + 1)]
        known = [one.reward for one in rewards if one is not None]
        pulls += len(known)
        if known and len(known) == len(rewards):
            slate_rewards.append(sum(known))
        costs.append(sum(slot.greedy_score - slot.score for slot in made.slots))
    return GroupReport(
        surface=key[0],
        arm=key[1],
        policy=key[2],
        n_decisions=len(decisions),
        n_drawn=len(slots),
        n_explored=int(slots.explored.sum()),
        pulls=pulls,
        reward=mean_of(slate_rewards),
        cost=mean_of(costs),
        regret=regret_of(decisions, outcomes),
        entropy=entropy,
        weights=weight_figures(slots),
    )


def regret_of(decisions: Sequence[decision_pb2.Decision], outcomes: Mapping[tuple[str, int], Outcome]) -> Mean:
    """Reward per drawn slot of greed (SNIPS) minus that of what was shown; interval by decisions (delta method)."""
    sums = []
    for made in decisions:
        n, earned, weight, weighted = 0, 0.0, 0.0, 0.0
        for position, slot in enumerate(made.slots, 1):
            outcome = outcomes.get((made.request_id, position))
            if outcome is None or slot.pinned or slot.propensity <= 0:
                continue
            w = 0.0 if slot.explored else 1.0 / slot.propensity
            n, earned, weight, weighted = (
                n + 1,
                earned + outcome.reward,
                weight + w,
                weighted + w * outcome.reward,
            )
        if n:
            sums.append((n, earned, weight, weighted))
    if not sums:
        return mean_of([])
    table = np.array(sums)
    n, earned, weight, weighted = table.mean(axis=0)
    greedy, shown = (weighted / weight if weight else math.nan), earned / n
    influence = (table[:, 3] - greedy * table[:, 2]) / weight - (table[:, 1] - shown * table[:, 0]) / n
    half = _Z * float(influence.std(ddof=1)) / math.sqrt(len(sums)) if len(sums) > 1 else math.inf
    return Mean(value=greedy - shown, low=greedy - shown - half, high=greedy - shown + half)


def _entropy(decisions: Sequence[decision_pb2.Decision], snapshots: Mapping[str, bytes]) -> float:
    found = []
    for made in decisions:
        data = snapshots.get(made.snapshot)
        if data is None:
            continue
        try:
            laws = slot_laws(redraw(made, data), made.seed)
        except NotReproducibleError:
            continue
        found += [float(-(law[law > 0] * np.log(law[law > 0])).sum()) for law in laws]
    return float(np.mean(found)) if found else math.nan


def _belief(made: decision_pb2.Decision, data: bytes | None) -> BeliefReport:
    found = read_snapshot(data) if data else None
    newest_ms = found.newest_ms if found is not None else 0
    return BeliefReport(
        model=made.base_model,
        snapshot=made.snapshot,
        n_shown=found.n_shown if found is not None else 0,
        age_s=max(0.0, (made.decided_ts_ms - newest_ms) / 1000) if newest_ms else math.nan,
        sd=float(np.mean([slot.posterior_sd for slot in made.slots])) if made.slots else math.nan,
    )


def _points(
    now_ms: int, decisions: list[decision_pb2.Decision], outcomes: Mapping[tuple[str, int], Outcome]
) -> list[tuple[float, float, float]]:
    """Bins of decisions in order of time: minutes before now, explored share of drawn slots, reward per slot."""
    decisions.sort(key=lambda made: made.decided_ts_ms)
    n_bins = min(BELIEF_POINTS, max(1, len(decisions) // 25))
    found = []
    for chunk in np.array_split(np.arange(len(decisions)), n_bins) if decisions else []:
        chosen = [decisions[at] for at in chunk.tolist()]
        slots = drawn_slots(chosen)
        rewards = [
            one.reward
            for made in chosen
            for at in range(1, len(made.slots) + 1)
            if (one := outcomes.get((made.request_id, at))) is not None
        ]
        found.append(
            (
                (now_ms - float(np.mean([made.decided_ts_ms for made in chosen]))) / 60_000,
                float(slots.explored.mean()) if len(slots) else 0.0,
                float(np.mean(rewards)) if rewards else math.nan,
            )
        )
    return found


@dataclass(kw_only=True)
class ArmReport:
    """One pulled arm.

    Attributes
    ----------
    arm
        Item id, position or policy.
    pulls, explored
        Slots that held it; those where greed would have put another.
    closed
        Pulls whose outcome is known.
    mean, low, high
        Reward per closed pull with its 95 % interval.
    clicks, dismissals
        Of the closed pulls.
    propensity
        Mean logged propensity of its drawn pulls.
    posterior_mean, posterior_sd
        Mean belief about its residual value where it was shown.
    """

    arm: str
    pulls: int = 0
    explored: int = 0
    closed: int = 0
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    clicks: int = 0
    dismissals: int = 0
    propensity: float = math.nan
    posterior_mean: float = math.nan
    posterior_sd: float = math.nan


def arms_of(source: Source, *, by: str = "item", days: float = 7.0) -> list[ArmReport]:
    """Arms, most pulled first.

    Parameters
    ----------
    source
        The log.
    by
        ``item``, ``position``, ``policy``, or ``variant`` (of the items that have variants).
    days
        The last so many; 0 = all.
    """
    outcomes = source.outcomes(days)
    pulls: dict[str, list[tuple[decision_pb2.DecisionSlot, Outcome | None]]] = defaultdict(list)
    thinned = Thinned(MOST)
    for made in source.decisions(days):
        thinned.offer(made)
    for made in thinned.decisions:
        for position, slot in enumerate(made.slots, 1):
            if by == "variant" and not slot.variant_id:
                continue
            variant = f"{slot.item_id}: {slot.variant_id}"
            name = {"item": slot.item_id, "position": str(position), "policy": made.policy, "variant": variant}[by]
            pulls[name].append((slot, outcomes.get((made.request_id, position))))
    found = [_arm(name, one) for name, one in pulls.items()]
    return sorted(found, key=lambda arm: (-arm.pulls, arm.arm))


def _arm(name: str, pulls: Sequence[tuple[decision_pb2.DecisionSlot, Outcome | None]]) -> ArmReport:
    closed = [outcome for _, outcome in pulls if outcome is not None]
    reward = mean_of([outcome.reward for outcome in closed])
    drawn = [slot.propensity for slot, _ in pulls if not slot.pinned]
    return ArmReport(
        arm=name,
        pulls=len(pulls),
        explored=sum(slot.explored for slot, _ in pulls),
        closed=len(closed),
        mean=reward.value,
        low=reward.low,
        high=reward.high,
        clicks=sum(outcome.clicked for outcome in closed),
        dismissals=sum(outcome.dismissed for outcome in closed),
        propensity=float(np.mean(drawn)) if drawn else math.nan,
        posterior_mean=float(np.mean([slot.posterior_mean for slot, _ in pulls])),
        posterior_sd=float(np.mean([slot.posterior_sd for slot, _ in pulls])),
    )
