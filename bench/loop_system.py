"""A small recommender that learns as liverank does, round by round, in process: for `bench.loop`.

Per round: a base model (logistic, retrained on everything shown so far), residual statistics per item re-scored with
that model (phi is the model's own probability, so that an item's effect is relative), a hybrid posterior with one arm
an item and, per user, one of what they make of each kind, 50 candidates (the best by score and some that were hardly
shown), a slate drawn by `bandits.draw_slate`. Arms of the experiment differ in the policy alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

import bandits
from bandits.hybrid import HybridPosterior, HybridPrior
from bandits.partials import Statistics
from bandits.posterior import RewardPosterior
from evaluation.simulator import User, World

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

DAY_MS = 86_400_000
N_CANDIDATES, N_FRESH, GREEDY_SLOTS = 50, 10, 2
KIND_SD = 0.16
"""Prior standard deviation of what a user makes of a kind, in clicks, beyond the model."""
PRIOR = HybridPrior(shared_sd=0.2, arm_sd=0.6, noise_sd=0.3)
AFFINITY_DECAY = 0.9
RIDGE = 2.0


@dataclass
class Shown:
    """Everything shown so far, one row a slot."""

    x: list[Floats] = field(default_factory=list)
    item: list[Ints] = field(default_factory=list)
    clicked: list[Floats] = field(default_factory=list)
    user: list[Ints] = field(default_factory=list)

    def arrays(self) -> tuple[Floats, Ints, Floats]:
        """(features, items, clicks)."""
        return np.concatenate(self.x), np.concatenate(self.item), np.concatenate(self.clicked)


class ItemAndKind:
    """Sum of two independent beliefs: the relative effect of the item, and what this user makes of its kind.

    Parameters
    ----------
    items : RewardPosterior
        Reads column 0 of phi, the model's own probability.
    mean, sd : ndarray of float64, shape (n_kinds,)
        Effect of each kind on this user's clicks, independent of each other.
    kinds : ndarray of int64, shape (n,)
        Of the candidates.
    """

    def __init__(self, items: RewardPosterior, mean: Floats, sd: Floats, kinds: Ints) -> None:
        self.items, self.kind_mean, self.kind_sd, self.kinds = items, mean, sd, kinds

    def mean(self, phi: Floats) -> Floats:
        """See `RewardPosterior.mean`."""
        return self.items.mean(phi) + self.kind_mean[self.kinds]

    def sd(self, phi: Floats) -> Floats:
        """See `RewardPosterior.sd`."""
        return np.hypot(self.items.sd(phi), self.kind_sd[self.kinds])

    def draws(self, phi: Floats, n_draws: int, rng: Generator) -> Floats:
        """See `RewardPosterior.draws`: candidates of one kind share its draw."""
        kinds = self.kind_mean + self.kind_sd * rng.standard_normal((n_draws, self.kind_mean.shape[0]))
        return self.items.draws(phi, n_draws, rng) + kinds[:, self.kinds]


class System:
    """What one arm of the experiment knows, and how it answers.

    Parameters
    ----------
    world : World
        Its catalogue is known (kind, time of publication); tastes and qualities are not.
    policy : Policy
        Who draws.
    floor, cap : float
        As in `bandits.Problem`.
    """

    def __init__(self, world: World, policy: bandits.Policy, floor: float, cap: float) -> None:
        self.world, self.policy, self.floor, self.cap = world, policy, floor, cap
        cat = world.catalogue
        self.kind, self.published = cat.kind, cat.published_ms
        n_kinds = len(cat.kind_centres)
        self.affinity = np.zeros((len(world.population.users), n_kinds))
        self.shown = Shown()
        self.times = np.zeros(len(cat.items), dtype=np.int64)
        self.kind_clicks, self.kind_shown = np.full(n_kinds, 1.0), np.full(n_kinds, 10.0)
        self.weights = np.zeros(self.features(0, np.arange(2), 0).shape[1] + 2)
        self.weights[0] = -2.0
        self.posterior = HybridPosterior({}, [1.0], PRIOR, 1)
        self.effect_of = np.zeros(len(cat.items))
        self.kind_mean = np.zeros(self.affinity.shape)
        self.kind_sd = np.full(self.affinity.shape, KIND_SD)
        self.names = [f"item-{row}" for row in range(len(cat.items))]

    def features(self, user: int, rows: Ints, at_ms: int) -> Floats:
        """What the base model reads of a user and items, shape (len(rows), 5)."""
        own, kinds = self.affinity[user], self.kind[rows]
        age_days = np.maximum(at_ms - self.published[rows], 0) / DAY_MS
        popular = np.log(self.kind_clicks / self.kind_shown)[kinds]
        return np.stack(
            [
                np.log1p(own[kinds]),
                own[kinds] / (own.sum() + 1.0),
                popular,
                0.5 ** (age_days / 10.0),
                np.full(rows.shape[0], np.log1p(own.sum())),
            ],
            axis=1,
        )

    def p_click(self, x: Floats, slot: Floats) -> Floats:
        """The base model's P(click | shown at slot)."""
        z = self.weights[0] + x @ self.weights[1:-1] + self.weights[-1] * np.log(slot)
        return _sigmoid(z)

    def draw(self, user: int, at_ms: int, live: Ints, k: int, seed: int) -> tuple[Ints, bandits.Slate]:
        """(rows of the slate, what was drawn)."""
        rows = live
        p = self.p_click(self.features(user, rows, at_ms), np.ones(rows.shape[0]))
        score = p * (1.0 + self.effect_of[rows]) + self.kind_mean[user, self.kind[rows]]
        best = np.argpartition(-score, N_CANDIDATES - N_FRESH)[: N_CANDIDATES - N_FRESH]
        free = np.ones(rows.shape[0], dtype=np.bool_)
        free[best] = False
        rest = np.flatnonzero(free)
        hardly = rest[np.argsort(self.times[rows[rest]], kind="stable")[:N_FRESH]]
        chosen = np.concatenate([best, hardly])
        candidates = rows[chosen]
        problem = bandits.Problem(
            value=p[chosen],
            phi=p[chosen, None],
            posterior=ItemAndKind(
                self.posterior.of([self.names[row] for row in candidates]),
                self.kind_mean[user],
                self.kind_sd[user],
                self.kind[candidates],
            ),
            k=k,
            feasible=bandits.GroupCaps(
                np.ones(chosen.shape[0], dtype=np.bool_), self.kind[candidates][None, :], [max(2, k // 2)]
            ),
            floor=self.floor,
            cap=self.cap,
            n_greedy_slots=GREEDY_SLOTS,
        )
        slate = bandits.draw_slate(self.policy, problem, bandits.generator(seed))
        return candidates[list(slate.order)], slate

    def learn(self, user: int, rows: Ints, clicked: Floats, at_ms: int) -> None:
        """A slate was shown and some of it clicked: counters move at once, the model at the end of the round."""
        x = self.features(user, rows, at_ms)
        slots = np.log(np.arange(1.0, rows.shape[0] + 1.0))
        self.shown.x.append(np.concatenate([x, slots[:, None]], axis=1))
        self.shown.item.append(rows)
        self.shown.clicked.append(clicked)
        self.shown.user.append(np.full(rows.shape[0], user))
        self.times[rows] += 1
        np.add.at(self.kind_shown, self.kind[rows], 1.0)
        np.add.at(self.kind_clicks, self.kind[rows], clicked)
        hits = rows[clicked > 0]
        if hits.shape[0]:
            self.affinity[user] *= AFFINITY_DECAY ** hits.shape[0]
            np.add.at(self.affinity[user], self.kind[hits], 1.0)

    def retrain(self) -> None:
        """A new base model on everything shown, and residual statistics re-scored with it."""
        x, _, clicked = self.shown.arrays()
        design = np.concatenate([np.ones((x.shape[0], 1)), x], axis=1)
        weights = self.weights.copy()
        for _ in range(8):
            p = _sigmoid(design @ weights)
            gradient = design.T @ (clicked - p) - RIDGE * weights
            hessian = (design * (p * (1.0 - p))[:, None]).T @ design + RIDGE * np.eye(design.shape[1])
            step = np.linalg.solve(hessian, gradient)
            weights = weights + step * min(1.0, 1.0 / max(float(np.abs(step).max()), 1e-12))
        self.weights = weights
        self.refresh()

    def refresh(self) -> None:
        """The posterior from residuals of the model in use."""
        x, item, clicked = self.shown.arrays()
        p = self.p_click(x[:, :-1], np.exp(x[:, -1]))
        phi = self.p_click(x[:, :-1], np.ones(x.shape[0]))
        n = self.times.shape[0]
        a, b = np.bincount(item, phi**2, minlength=n), np.bincount(item, phi * (clicked - p), minlength=n)
        statistics = {
            self.names[row]: Statistics(np.array([[a[row]]]), np.array([[b[row]]]), int(self.times[row]))
            for row in np.flatnonzero(a).tolist()
        }
        self.posterior = HybridPosterior(statistics, [1.0], PRIOR, 1)
        self.effect_of = self.posterior.of(self.names).mean(np.ones((n, 1)))
        cell = np.concatenate(self.shown.user) * self.affinity.shape[1] + self.kind[item]
        left = clicked - p - phi * self.effect_of[item]
        precision = np.bincount(cell, minlength=self.affinity.size) + (PRIOR.noise_sd / KIND_SD) ** 2
        total = np.bincount(cell, left, minlength=self.affinity.size)
        self.kind_mean = (total / precision).reshape(self.affinity.shape)
        self.kind_sd = (PRIOR.noise_sd / np.sqrt(precision)).reshape(self.affinity.shape)


def true_probabilities(world: World, user: User, rows: Ints, at_ms: int) -> Floats:
    """P(click | looked at)."""
    return world.utility.click_probability(user, rows, at_ms)


def gini(counts: Floats) -> float:
    """Gini coefficient of exposures."""
    ordered = np.sort(counts)
    n = ordered.shape[0]
    if not ordered.sum():
        return 0.0
    return float((2.0 * np.arange(1, n + 1) - n - 1.0) @ ordered / (n * ordered.sum()))


def some_users(world: World, n: int, rng: Generator) -> Ints:
    """Who comes by: all alike, or few would have seen everything."""
    drawn: Ints = rng.integers(0, len(world.population.users), n)
    return drawn


def _sigmoid(z: Floats) -> Floats:
    result: Floats = 0.5 * (1.0 + np.tanh(0.5 * z))
    return result
