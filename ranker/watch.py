"""Watches exploration while it is served: shares, cost, entropy, weights, and alarms where a limit was broken."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter, Gauge, Summary

from bandits import generator
from bandits.slates import slot_pmf
from liverank.log import get
from ranker.decisions import Shown
from ranker.explore import Drawn

_log = get(__name__)
WINDOW: Final = 2_000
"""Drawn slots of one policy over which weights are judged."""
ENTROPY_EVERY: Final = 64
"""Every so manieth decision has the entropy of its laws computed (0.7 ms)."""
MOST_POLICIES: Final = 50
ALARM_SDS: Final = 4.5
"""Standard errors by which a window's mean weight may lie off 1; one false alarm in 100,000 windows."""

DRAWN: Final = Counter("liverank_drawn_slots_total", "Slots that a policy drew.", ("policy",))
EXPLORED: Final = Counter("liverank_explored_slots_total", "Slots that do not hold greed's item.", ("policy",))
COST: Final = Counter(
    "liverank_exploration_cost_clicks_total",
    "Regret estimate: greed's score minus the shown score, summed over slots, in clicks.",
    ("policy",),
)
SHARE: Final = Gauge("liverank_exploration_share", "Explored share of the drawn slots of the last window.", ("policy",))
ENTROPY: Final = Summary("liverank_slot_entropy_nats", "Entropy of the law of a drawn slot (a sample).", ("policy",))
MEAN_WEIGHT: Final = Gauge(
    "liverank_weight_mean", "Mean weight of a known policy in the last window; 1 in expectation.", ("policy", "known")
)
EFFECTIVE: Final = Gauge(
    "liverank_weight_effective_share", "Effective share of the last window under uniform.", ("policy",)
)
LARGEST: Final = Gauge("liverank_weight_largest", "Largest weight of the last window under uniform.", ("policy",))
WEIGHT_ALARM: Final = Gauge(
    "liverank_weight_alarm", "1 while the mean weight of the last window is off 1: propensities are wrong.", ("policy",)
)
BREACHES: Final = Counter(
    "liverank_exploration_breaches_total", "Drawn slots that broke a limit of exploration; always 0.", ("limit",)
)
POSTERIOR_NEWEST_S: Final = Gauge(
    "liverank_posterior_newest_timestamp", "Time of the newest exposure in the posterior of the last decision."
)
POSTERIOR_AGE_S: Final = Gauge(
    "liverank_posterior_age_seconds", "Age of that exposure when the last decision was made; -1 = nothing was learned."
)


@dataclass
class _Window:
    uniform: list[float] = field(default_factory=list)
    near_greed: list[float] = field(default_factory=list)
    explored: int = 0


class ExplorationWatch:
    """Counts what one ranker drew; one thread. 40 us a decision."""

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}
        self._n = 0

    def saw(self, policy: str, shown: Shown, drawn: Drawn, *, seed: int, now_ms: int, newest_ms: int) -> None:
        """Take a decision that is shown to somebody.

        Parameters
        ----------
        policy
            Specification.
        shown, drawn
            The slate.
        seed
            Of the draw.
        now_ms, newest_ms
            Time of the decision and of the newest exposure in its posterior (0 = none).
        """
        if policy not in self._windows and len(self._windows) >= MOST_POLICIES:
            policy = "other"
        POSTERIOR_AGE_S.set((now_ms - newest_ms) / 1000 if newest_ms else -1)
        if newest_ms:
            POSTERIOR_NEWEST_S.set(newest_ms / 1000)
        at = np.flatnonzero(~shown.pinned)
        DRAWN.labels(policy).inc(len(at))
        if not len(at):
            return
        self._n += 1
        explored = shown.explored[at]
        EXPLORED.labels(policy).inc(int(explored.sum()))
        COST.labels(policy).inc(float(np.maximum(shown.greedy_score - shown.score, 0)[at].sum()))
        self._limits(shown, drawn, at)
        if self._n % ENTROPY_EVERY == 0:
            for law in laws_of(drawn, seed):
                ENTROPY.labels(policy).observe(float(-(law[law > 0] * np.log(law[law > 0])).sum()))
        self._weigh(policy, shown, at, explored)

    def _limits(self, shown: Shown, drawn: Drawn, at: NDArray[np.int64]) -> None:
        problem = drawn.problem
        p, floors = shown.propensity[at], shown.effective_floor[at]
        placed = np.array(drawn.slate.order, dtype=np.int64)[at]
        explored = shown.explored[at]
        for limit, broken in (
            ("floor", p < floors - 1e-12),
            ("cap", explored & (p > problem.cap + 1e-12)),
            ("relevance", explored & drawn.not_explorable[placed]),
        ):
            n = int(broken.sum())
            if n:
                BREACHES.labels(limit).inc(n)
                _log.error("a limit of exploration was broken", limit=limit, slots=n)

    def _weigh(self, policy: str, shown: Shown, at: NDArray[np.int64], explored: NDArray[np.bool_]) -> None:
        window = self._windows.setdefault(policy, _Window())
        n, p, floors = shown.n_feasible[at], shown.propensity[at], shown.effective_floor[at]
        window.uniform += (1.0 / n / p).tolist()
        window.near_greed += ((np.where(explored, 0.0, 1.0 - floors * n) + floors) / p).tolist()
        window.explored += int(explored.sum())
        if len(window.uniform) >= WINDOW:
            self._judge(policy, window)
            self._windows[policy] = _Window()

    @staticmethod
    def _judge(policy: str, window: _Window) -> None:
        uniform, near = np.array(window.uniform), np.array(window.near_greed)
        SHARE.labels(policy).set(window.explored / len(near))
        MEAN_WEIGHT.labels(policy, "uniform").set(float(uniform.mean()))
        MEAN_WEIGHT.labels(policy, "near_greed").set(float(near.mean()))
        EFFECTIVE.labels(policy).set(float(uniform.sum() ** 2 / (uniform**2).sum() / len(uniform)))
        LARGEST.labels(policy).set(float(uniform.max()))
        # Where hardly anything is explored a window may hold nothing that was: then the spread is not known.
        error = max(float(near.std(ddof=1)), 0.05) / math.sqrt(len(near))
        off = abs(float(near.mean()) - 1.0) > ALARM_SDS * error + 5.0 / len(near)
        WEIGHT_ALARM.labels(policy).set(float(off))
        if off:
            _log.error("mean weight is off 1: propensities are wrong", policy=policy, mean_weight=float(near.mean()))


def laws_of(drawn: Drawn, seed: int) -> list[NDArray[np.float64]]:
    """The law of each drawn slot of a slate, given the slots before it."""
    problem, score = drawn.problem, drawn.slate.score
    feasible = problem.feasible
    assert feasible is not None
    law = drawn.policy.law(problem, score, generator(seed))
    found = []
    for slot in range(min(problem.n_greedy_slots, len(drawn.slate.order)), len(drawn.slate.order)):
        prefix = list(drawn.slate.order[:slot])
        mask = feasible.mask(prefix).copy()
        mask[prefix] = False
        found.append(slot_pmf(law, score, mask, floor=problem.floor, cap=problem.cap))
    return found
