"""Choice: examination by position times a random nonlinear utility of taste, hidden quality and context.

The utility is a two-layer net with seeded random weights: non-negative, so that more of a good thing is never liked
less, with random thresholds, so that how much it counts depends on everything else. Its output is standardised over the
world, then shifted and stretched so that the best possible policy and the best common list have the click rates of
`WorldParams`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evaluation.simulator.catalogue import DAY_MS, Catalogue
from evaluation.simulator.parameters import WorldParams
from evaluation.simulator.population import DEVICES, Population, User
from liverank.errors import ConfigError

N_HIDDEN = 24
DAYPARTS = ("night", "morning", "afternoon", "evening")
N_SAMPLE = 240

Floats = NDArray[np.float64]


def daypart(at_ms: int, utc_offset_minutes: int) -> int:
    """Index into `DAYPARTS` of a time at a place."""
    return int((at_ms // 60_000 + utc_offset_minutes) // 60 % 24 // 6)


def examination(params: WorldParams) -> Floats:
    """P(slot is looked at), shape (slate,): a power law from 1 to `examined_last`; ones with the effect off."""
    positions = np.arange(1, params.slate + 1, dtype=np.float64)
    if not params.effects.position or params.slate == 1:
        return np.ones(params.slate)
    power = np.log(params.examined_last) / np.log(params.slate)
    curve: Floats = positions**power
    return curve


@dataclass(frozen=True)
class Utility:
    """P(click | looked at) of every user, item, time and context.

    Attributes
    ----------
    match_in, other_in : float arrays, shape (N_HIDDEN, dim) and (N_HIDDEN, 2)
        First layer: taste times item, element by element; quality and context.
    out : float array, shape (N_HIDDEN,)
        Second layer.
    affinity : float array, shape (n_kinds, n_dayparts, n_devices)
        How a kind does in a context.
    """

    catalogue: Catalogue
    population: Population
    params: WorldParams
    match_in: Floats
    other_in: Floats
    bias: Floats
    out: Floats
    affinity: Floats
    centre: float = 0.0
    spread: float = 1.0
    intercept: float = 0.0
    slope: float = 1.0

    def raw(self, taste: Floats, rows: NDArray[np.int64], at_ms: int, part: int, device: int) -> Floats:
        """The net's output, shape (len(rows),)."""
        cat = self.catalogue
        match = taste * cat.latent[rows] * np.sqrt(self.params.dim) * 2.5
        context = self.affinity[cat.kind[rows], part, device]
        other = np.stack([cat.quality[rows], context], axis=1)
        hidden = np.tanh(match @ self.match_in.T + other @ self.other_in.T + self.bias)
        result: Floats = hidden @ self.out
        if self.params.effects.freshness:
            age_days = np.maximum(at_ms - cat.published_ms[rows], 0) / DAY_MS
            result = result + 0.35 * self.spread * 0.5 ** (age_days / self.params.fresh_half_life_days)
        return result

    def click_probability(self, user: User, rows: NDArray[np.int64], at_ms: int) -> Floats:
        """P(click | looked at), shape (len(rows),)."""
        part = daypart(at_ms, user.utc_offset_minutes)
        value = (
            self.raw(self.population.taste(user, at_ms), rows, at_ms, part, user.device) - self.centre
        ) / self.spread
        log_odds = self.intercept + self.slope * value
        if self.params.quality_weight:
            log_odds = log_odds + self.params.quality_weight * self.catalogue.quality[rows]
        probability: Floats = 1.0 / (1.0 + np.exp(-log_odds))
        return probability


def build_utility(params: WorldParams, catalogue: Catalogue, population: Population) -> Utility:
    """The utility of a world, not yet tuned."""
    rng = np.random.default_rng([params.seed, 4])
    shape = (len(catalogue.kind_centres), len(DAYPARTS), len(DEVICES))
    return Utility(
        catalogue,
        population,
        params,
        match_in=np.abs(rng.normal(size=(N_HIDDEN, params.dim))) / np.sqrt(params.dim),
        other_in=np.abs(rng.normal((0.25, 0.25), 0.1, size=(N_HIDDEN, 2))),
        bias=rng.normal(-1.6, 0.6, size=N_HIDDEN),
        out=np.abs(rng.normal(size=N_HIDDEN)),
        affinity=rng.normal(size=shape) * params.effects.context,
    )


def tune(utility: Utility, at_ms: int) -> Utility:
    """The utility with its scale set so that the oracle and the best common list have their click rates at a time.

    Raises
    ------
    ConfigError
        No intercept and slope give both rates, or fewer items than a slate has are on offer.
    """
    params, population = utility.params, utility.population
    rng = np.random.default_rng([params.seed, 5])
    rows = np.flatnonzero(utility.catalogue.live(at_ms))
    if len(rows) < params.slate:
        raise ConfigError(
            f"{len(rows)} items are on offer on day 30, a slate has {params.slate}: take more items or longer lives"
        )
    chosen = rng.choice(len(population.users), size=min(N_SAMPLE, len(population.users)), replace=False)
    parts = rng.integers(len(DAYPARTS), size=len(chosen))

    def raw(spread: float) -> Floats:
        scaled = replace(utility, spread=spread)
        return np.stack(
            [
                scaled.raw(population.taste(user, at_ms), rows, at_ms, int(part), user.device)
                for user, part in zip((population.users[n] for n in chosen), parts, strict=True)
            ]
        )

    spread = float(raw(0.0).std())
    values = raw(spread)
    centre = float(values.mean())
    values = (values - centre) / spread
    looked = examination(params)
    best = -np.sort(-values, axis=1)[:, : params.slate]

    def oracle_rate(intercept: float, slope: float) -> float:
        return float((_sigmoid(intercept + slope * best) @ looked).mean() / params.slate)

    def popular_rate(intercept: float, slope: float) -> float:
        by_item = np.sort(_sigmoid(intercept + slope * values).mean(axis=0))[::-1][: params.slate]
        return float(by_item @ looked / params.slate)

    def intercept_of(slope: float) -> float:
        return _bisect(lambda b: oracle_rate(b, slope) - params.oracle_rate, -60.0, 20.0)

    slope = _bisect(lambda s: params.popular_rate - popular_rate(intercept_of(s), s), 0.05, 12.0)
    tuned = replace(utility, centre=centre, spread=spread, intercept=intercept_of(slope), slope=slope)
    reached = popular_rate(tuned.intercept, tuned.slope), oracle_rate(tuned.intercept, tuned.slope)
    if not np.allclose(reached, (params.popular_rate, params.oracle_rate), atol=0.025):
        raise ConfigError(
            f"no scale of the utility gives click rates {params.popular_rate} and {params.oracle_rate}; "
            f"the nearest gives {reached[0]:.3f} and {reached[1]:.3f}: move them closer together"
        )
    return tuned


def _sigmoid(x: Floats) -> Floats:
    result: Floats = 1.0 / (1.0 + np.exp(-x))
    return result


def _bisect(function: Callable[[float], float], low: float, high: float) -> float:
    """Where an increasing function crosses 0, within [low, high]."""
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return (low + high) / 2
