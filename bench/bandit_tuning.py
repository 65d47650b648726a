"""Knobs and half-lives of the policies of `bench.bandits`, chosen on seeds on which nothing is judged.

    python -m bench.bandit_tuning [--rounds 50000]

Every policy gets the same treatment: one knob for all worlds (least regret in shares of uniform's, averaged over the
worlds), then in the drifting world a half-life. The prior is `bandits.fit_prior` of uniform logs. What is found is
written into `TUNED` by hand, so that a run of `bench.bandits` says what it judged.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace

import numpy as np

from bandits import Partial, fit_prior
from bench.bandit_worlds import BASE_RATE, Agent, Kind, Seeds, World, run

TUNING_SEEDS = list(range(1_000, 1_020))
KINDS: tuple[Kind, ...] = ("stationary", "drifting", "delayed", "arrivals")
GRIDS: dict[str, tuple[float, ...]] = {
    "thompson": (0.35, 0.5, 0.7, 1.0),
    "linucb": (1.0, 1.5, 2.0, 3.0),
    "epsilon_greedy": (0.02, 0.05, 0.1),
    "boltzmann": (0.002, 0.005, 0.01),
}
HALF_LIVES = (np.inf, 20_000.0, 10_000.0, 5_000.0, 2_500.0)

PRIOR_SD = 0.01
TUNED: dict[str, float] = {"thompson": 0.7, "linucb": 2.0, "epsilon_greedy": 0.1, "boltzmann": 0.005}
"""Knobs chosen on `TUNING_SEEDS`."""
DRIFT_HALF_LIFE: dict[str, float] = {
    "thompson": 5_000.0,
    "linucb": 2_500.0,
    "epsilon_greedy": 2_500.0,
    "boltzmann": 2_500.0,
    "greedy": 2_500.0,
}
"""Half-lives chosen on `TUNING_SEEDS` for the drifting world."""


def agent(act: str, knob: float | None = None) -> Agent:
    """A policy with its tuned knob. LinUCB counts what it has shown at once, for else it repeats it."""
    chosen = TUNED.get(act, 1.0) if knob is None else knob
    return Agent(act=act, knob=chosen, prior_sd=PRIOR_SD, pending=act == "linucb")


def fitted_prior_sd(n_rounds: int = 20_000) -> float:
    """Median over tuning seeds of the prior sd that uniform logs of the stationary world ask for."""
    found = []
    for seed in TUNING_SEEDS:
        world = World(kind="stationary", n_rounds=n_rounds)
        state, rng = Seeds(world, [seed]), np.random.default_rng([seed, 9])
        arms = rng.integers(0, world.n_arms, n_rounds)
        phi = state.phi[0, arms]
        residual = np.where(rng.random(n_rounds) < state.rates[0, arms], 1.0, 0.0) - BASE_RATE
        half, learned = n_rounds // 2, Partial(world.dim, 1)
        learned.shown(phi[:half], residual[:half, None])
        found.append(fit_prior(learned, phi[half:], residual[half:, None], [1.0]).sd)
    return float(np.median(found))


def tuned_knob(act: str, n_rounds: int) -> tuple[float, dict[float, list[float]]]:
    """The knob with the least mean share of uniform's regret, and the shares of all, by world."""
    shares: dict[float, list[float]] = {knob: [] for knob in GRIDS[act]}
    for kind in KINDS:
        world = World(kind=kind, n_rounds=n_rounds)
        uniform = run(world, Agent(act="uniform"), TUNING_SEEDS).sum(axis=0).mean()
        for knob in GRIDS[act]:
            regret = run(world, agent(act, knob), TUNING_SEEDS).sum(axis=0).mean()
            shares[knob].append(round(float(regret / uniform), 4))
    return min(shares, key=lambda knob: float(np.mean(shares[knob]))), shares


def tuned_half_life(act: str, n_rounds: int) -> tuple[float, dict[str, float]]:
    """The half-life with the least regret in the drifting world, and the regret of all."""
    world = World(kind="drifting", n_rounds=n_rounds)
    regrets = {
        half_life: float(run(world, replace(agent(act), half_life=half_life), TUNING_SEEDS).sum(axis=0).mean())
        for half_life in HALF_LIVES
    }
    return min(regrets, key=lambda one: regrets[one]), {f"{one:g}": round(total, 1) for one, total in regrets.items()}


def main() -> int:
    """Tune and print; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50_000)
    args = parser.parse_args()
    prior_sd = fitted_prior_sd()
    print(f"prior sd fitted on uniform logs: {prior_sd:g} (used: {PRIOR_SD:g})", flush=True)
    knobs: dict[str, float] = {}
    half_lives: dict[str, float | None] = {}
    for act in GRIDS:
        knobs[act], shares = tuned_knob(act, args.rounds)
        print(f"{act}: knob {knobs[act]:g}; shares of uniform's regret in {', '.join(KINDS)}: {shares}", flush=True)
        TUNED[act] = knobs[act]
    for act in (*GRIDS, "greedy"):
        half_life, regrets = tuned_half_life(act, args.rounds)
        half_lives[act] = None if np.isinf(half_life) else half_life
        print(f"{act}: half-life where it drifts {half_life:g}; regrets {regrets}", flush=True)
    print(json.dumps({"prior_sd": prior_sd, "knobs": knobs, "drift_half_lives": half_lives}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
