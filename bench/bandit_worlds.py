"""Seeded bandit worlds and agents, vectorised over seeds: one step moves all seeds by one round.

Acting from the vote frequencies of n posterior draws and acting on one draw choose each arm with the same probability
(the votes only make that probability known), so the Thompson agent here draws once a round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Kind: TypeAlias = Literal["stationary", "drifting", "delayed", "swap", "arrivals"]

BASE_RATE = 0.06
SPREAD = 0.04
NOISE_SD = 0.25
"""About the standard deviation of one click at these rates."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Clicks on arms with features: rate = clip(base + phi . theta).

    Attributes
    ----------
    kind : str
        stationary; drifting (theta turns by half a circle over the run); delayed (rewards arrive 5,000 rounds later);
        swap (arms change their features' worth at the middle: theta turns round); arrivals (every 500 rounds the
        oldest arm gives way to a new one).
    n_arms, dim : int
        50 arms of 16 features: 1 constant, 15 random.
    n_rounds : int
        Length.
    swap_at : int
        Round of the swap; 0 = the middle.
    """

    kind: Kind
    n_arms: int = 50
    dim: int = 16
    n_rounds: int = 50_000
    swap_at: int = 0

    @property
    def swap_round(self) -> int:
        """Round in which the swap world turns round."""
        return self.swap_at or self.n_rounds // 2

    @property
    def delay(self) -> int:
        """Rounds until a reward arrives."""
        return 5_000 if self.kind == "delayed" else 0


@dataclass(frozen=True, kw_only=True)
class Agent:
    """A linear-Gaussian learner and how it acts.

    Attributes
    ----------
    act : str
        thompson, linucb, epsilon_greedy, boltzmann, greedy or uniform.
    knob : float
        alpha of linucb, epsilon, temperature, or how many posterior sds thompson's draws spread.
    floor : float
        Share of uniform choice on top.
    half_life : float
        Rounds in which a round's weight halves; infinity = never.
    prior_sd : float
        Of each coefficient.
    refresh : int
        Rounds between refreshes of the posterior.
    pending : bool
        What was shown enters the second moments at once, with residual 0 until its reward arrives, as the fold treats
        heads that mature late; else both enter with the reward.
    """

    act: str
    knob: float = 1.0
    floor: float = 0.0
    half_life: float = np.inf
    prior_sd: float = 0.05
    refresh: int = 10
    pending: bool = False


class Seeds:
    """State of a world for all seeds: arms (n_seeds, n_arms, dim) and coefficients that may move."""

    def __init__(self, world: World, seeds: list[int]) -> None:
        self.world = world
        rngs = [np.random.default_rng([seed, 77]) for seed in seeds]
        shape = (world.n_arms, world.dim - 1)
        self.phi = np.stack([_arms(rng, *shape) for rng in rngs])
        self._start = np.stack([_direction(rng, world.dim - 1) for rng in rngs])
        self._end = np.stack([_direction(rng, world.dim - 1) for rng in rngs])
        self._fresh = rngs
        self.rates = self._rates(self._start)

    def advance(self, round_: int) -> bool:
        """Move to a round; True where rates changed."""
        kind, n_rounds = self.world.kind, self.world.n_rounds
        if kind == "drifting" and round_ % 50 == 0:
            angle = np.pi * round_ / n_rounds
            self.rates = self._rates(np.cos(angle) * self._start + np.sin(angle) * self._end)
            return True
        if kind == "swap" and round_ == self.world.swap_round:
            self.rates = self._rates(-self._start)
            return True
        if kind == "arrivals" and round_ % 500 == 499:
            arm = (round_ // 500) % self.world.n_arms
            for seed, rng in enumerate(self._fresh):
                self.phi[seed, arm] = _arms(rng, 1, self.world.dim - 1)[0]
            self.rates = self._rates(self._start)
            return True
        return False

    def _rates(self, theta: Floats) -> Floats:
        worth = np.einsum("sad,sd->sa", self.phi[:, :, 1:], theta)
        rates: Floats = np.clip(BASE_RATE + SPREAD * worth, 0.005, 0.5)
        return rates


def run(world: World, agent: Agent, seeds: list[int]) -> Floats:
    """Regret per round, shape (n_rounds, n_seeds), float32-sized sums kept as float64.

    Choices and clicks use one generator for all seeds, seeded by the list; a seed's world does not depend on the
    other seeds.
    """
    state, rng = Seeds(world, seeds), np.random.default_rng([len(seeds), *seeds])
    n_seeds, dim, rows = len(seeds), world.dim, np.arange(len(seeds))
    a, b = np.zeros((n_seeds, dim, dim)), np.zeros((n_seeds, dim))
    ridge = (NOISE_SD / agent.prior_sd) ** 2 * np.eye(dim)
    decay = 0.5 ** (agent.refresh / agent.half_life)
    theta, factor = _posterior(a, b, ridge)
    waiting: list[tuple[Floats, Floats]] = []
    shown: list[Floats] = []
    regret = np.empty((world.n_rounds, n_seeds))
    best = state.rates.max(axis=1)
    for round_ in range(world.n_rounds):
        if state.advance(round_):
            best = state.rates.max(axis=1)
        arm = _choose(agent, state.phi, theta, factor, rng)
        rate = state.rates[rows, arm]
        regret[round_] = best - rate
        residual: Floats = np.where(rng.random(n_seeds) < rate, 1.0, 0.0) - BASE_RATE
        features = state.phi[rows, arm]
        waiting.append((features, residual))
        shown.append(features)
        if round_ % agent.refresh == agent.refresh - 1 and (agent.pending or len(waiting) > world.delay):
            ready, waiting = _ripe(waiting, world.delay)
            if ready:
                x = np.stack([one[0] for one in ready], axis=1)
                e = np.stack([one[1] for one in ready], axis=1)
                b = b * decay + np.einsum("snd,sn->sd", x, e)
            seen = np.stack(shown, axis=1) if agent.pending else x
            a = a * decay + seen.transpose(0, 2, 1) @ seen
            shown.clear()
            theta, factor = _posterior(a, b, ridge)
    return regret


def _ripe(
    waiting: list[tuple[Floats, Floats]], delay: int
) -> tuple[list[tuple[Floats, Floats]], list[tuple[Floats, Floats]]]:
    n_ripe = max(len(waiting) - delay, 0)
    return waiting[:n_ripe], waiting[n_ripe:]


def _posterior(a: Floats, b: Floats, ridge: Floats) -> tuple[Floats, Floats]:
    inverse = np.linalg.inv(np.linalg.cholesky(a + ridge))
    theta = np.einsum("sij,sik,sk->sj", inverse, inverse, b)
    return theta, NOISE_SD * inverse


def _choose(agent: Agent, phi: Floats, theta: Floats, factor: Floats, rng: Generator) -> Ints:
    n_seeds, n_arms = phi.shape[:2]
    if agent.act == "uniform":
        anywhere: Ints = rng.integers(0, n_arms, size=(n_seeds,))
        return anywhere
    drawn = theta
    if agent.act == "thompson":
        drawn = theta + agent.knob * np.matmul(rng.standard_normal((n_seeds, 1, theta.shape[1])), factor)[:, 0]
    scores = np.matmul(phi, drawn[:, :, None])[:, :, 0]
    if agent.act == "linucb":
        spread = np.matmul(phi, factor.transpose(0, 2, 1))
        scores = scores + agent.knob * np.sqrt(np.einsum("sad,sad->sa", spread, spread))
    elif agent.act == "boltzmann":
        scores = scores / agent.knob + rng.gumbel(size=scores.shape)
    chosen: Ints = scores.argmax(axis=1)
    share = agent.floor + (agent.knob if agent.act == "epsilon_greedy" else 0.0)
    if share:
        chosen = np.where(rng.random(n_seeds) < share, rng.integers(0, n_arms, n_seeds), chosen)
    return chosen


def _arms(rng: Generator, n_arms: int, dim: int) -> Floats:
    features = rng.normal(size=(n_arms, dim))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return np.concatenate([np.ones((n_arms, 1)), features * np.sqrt(dim) / 2.0], axis=1)


def _direction(rng: Generator, dim: int) -> Floats:
    direction = rng.normal(size=dim)
    unit: Floats = direction / np.linalg.norm(direction)
    return unit
