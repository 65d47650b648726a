"""EVA-9: exploration on, off and uniform, over 20 rounds of a simulated world with new items and drifting tastes.

    python -m bench.loop [--seeds 10] [--rounds 20] [--requests 150] [--out FOLDER]

Each round is three days: users come by, slates are drawn, clicks come back; then the base model is retrained on all
that was shown and the residual statistics are re-scored (`bench.loop_system`). `on` is Thompson sampling with the
defaults (floor .02, cap .10, two greedy slots), `off` is greed on the same posterior, `uniform` explores uniformly with
the share that `on` explored in the same round. All see the same users at the same times with the same luck. Rewards
are expected clicks a slot under the world's true probabilities; intervals are two standard errors over worlds (seeds).

The still world has neither new items nor drift; what is left to find is what its past of 1,000 slates left open about
100 people and 300 items. The null world is the same with a past of 8,000 slates: there should be nothing to find.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

import bandits
from bench.loop_system import DAY_MS, GREEDY_SLOTS, System, gini, some_users, true_probabilities
from bench.plots import draw_curves
from bench.report import Figure, finish, table
from evaluation.simulator import Effects, World, WorldParams

Floats: TypeAlias = NDArray[np.float64]

START_MS = 1_757_000_000_000
ARMS = {"moving": ("off", "on", "uniform"), "still": ("off", "on"), "null": ("off", "on")}
WARM_REQUESTS = {"moving": 200, "still": 1_000, "null": 8_000}
LATE = 5
"""Rounds at the end that count as the long run."""
FIRST = 3
"""Rounds at the start whose cost is stated."""
FOUND = 10
"""An item is found in the round in which greed has shown it so often."""


@dataclass(frozen=True)
class Outcome:
    """One arm in one world.

    Attributes
    ----------
    reward, explored, coverage, gini : ndarray, shape (n_rounds,)
        Expected clicks a slot; share of slots that greed would have filled otherwise; share of the live catalogue that
        was shown; Gini of exposure.
    found_after : ndarray, shape (n_good_new_items,)
        Rounds from publication until found; the rounds that were left where it never was.
    found : ndarray of bool
        Whether it was.
    """

    reward: Floats
    explored: Floats
    coverage: Floats
    gini: Floats
    found_after: Floats
    found: NDArray[np.bool_]


def world_of(kind: str, seed: int) -> World:
    """The moving world, or one that stands still (also the null world, with a past so long that it is known)."""
    effects = replace(Effects(), freshness=False, satiation=False)
    params = WorldParams(seed=seed, n_items=300, n_users=100, published_share=0.5, effects=effects)
    if kind != "moving":
        params = replace(params, published_share=1.0, effects=replace(effects, drift=False))
    return World.build(params, START_MS)


def play(world: World, kind: str, arm: str, n_rounds: int, n_requests: int, explored: Floats | None) -> Outcome:
    """Run one arm; `explored` is the share a round that `uniform` is to explore."""
    seed, k = world.params.seed, world.params.slate
    looked = world.behaviour().looked
    policy = bandits.Thompson(n_draws=32) if arm == "on" else bandits.Greedy()
    system = System(world, policy, floor=0.02 if arm == "on" else 0.0, cap=0.10 if arm == "on" else 1.0)
    n_items, users = len(world.catalogue.items), world.population.users
    shares: dict[str, list[float]] = {name: [] for name in ("reward", "explored", "coverage", "gini")}
    by_greed = np.zeros((n_rounds, n_items), dtype=np.int64)
    for round_ in range(-1, n_rounds):
        n = WARM_REQUESTS[kind] if round_ < 0 else n_requests
        rng = np.random.default_rng([seed, round_ + 1, 31])
        if round_ >= 0 and arm == "uniform" and explored is not None:
            epsilon = explored[round_] / (1.0 - GREEDY_SLOTS / k)
            system.policy = bandits.EpsilonGreedy(epsilon=float(min(1.0, epsilon)))
        rewards, n_explored = [], 0
        exposures = np.zeros(n_items)
        for index, user in enumerate(some_users(world, n, rng).tolist()):
            at_ms = START_MS + int((max(round_, 0) + (index / n if round_ >= 0 else 0.0)) * 3 * DAY_MS)
            live = world.live_rows(at_ms)
            draw_seed = int(rng.integers(2**62))
            luck = rng.random((2, k))
            if round_ < 0:
                # A common past: what ran before, at random.
                rows = rng.choice(live, size=k, replace=False)
            else:
                rows, slate = system.draw(user, at_ms, live, k, draw_seed)
                n_explored += int(slate.explored.sum())
                greedily = rows[~slate.explored]
                np.add.at(by_greed[round_], greedily, 1)
            p = true_probabilities(world, users[user], rows, at_ms)
            rewards.append(float(p @ looked[: rows.shape[0]]) / k)
            clicked = np.where(
                (luck[0, : rows.shape[0]] < looked[: rows.shape[0]]) & (luck[1, : rows.shape[0]] < p), 1.0, 0.0
            )
            system.learn(user, rows, clicked, at_ms)
            np.add.at(exposures, rows, 1.0)
            if round_ >= 0 and index % 50 == 49:
                system.refresh()
        system.retrain()
        if round_ >= 0:
            on_sale = world.live_rows(START_MS + (round_ + 1) * 3 * DAY_MS)
            shares["reward"].append(float(np.mean(rewards)))
            shares["explored"].append(n_explored / (n * k))
            shares["coverage"].append(float((exposures[on_sale] > 0).mean()))
            shares["gini"].append(gini(exposures[on_sale]))
    after, found = discovery(world, by_greed)
    return Outcome(**{name: np.array(values) for name, values in shares.items()}, found_after=after, found=found)


def discovery(world: World, by_greed: NDArray[np.int64]) -> tuple[Floats, NDArray[np.bool_]]:
    """(rounds until found, whether found) of the new items whose true worth lies above the new items' median."""
    n_rounds = by_greed.shape[0]
    born = (world.catalogue.published_ms - START_MS) // (3 * DAY_MS)
    # Items that appear late have no time to be found.
    new = np.flatnonzero((born >= 0) & (born < n_rounds - LATE) & (world.catalogue.published_ms > START_MS))
    if not new.shape[0]:
        return np.zeros(0), np.zeros(0, dtype=np.bool_)
    users = world.population.users[:60]
    at_ms = START_MS + n_rounds * 3 * DAY_MS // 2
    worth = np.mean([true_probabilities(world, user, new, at_ms) for user in users], axis=0)
    good = new[worth > np.median(worth)]
    shown = by_greed[:, good].cumsum(axis=0) >= FOUND
    found = np.asarray(shown.any(axis=0), dtype=np.bool_)
    first = np.where(found, shown.argmax(axis=0), n_rounds)
    return (first - born[good]).astype(np.float64), found


def interval(values: Floats) -> tuple[float, float, float]:
    """(mean, mean - 2 se, mean + 2 se) over worlds."""
    mean, half = float(values.mean()), float(2.0 * values.std(ddof=1) / np.sqrt(values.shape[0]))
    return mean, mean - half, mean + half


def compare(
    kind: str, outcomes: Mapping[str, Sequence[Outcome]], figures: dict[str, Figure], *, late_rounds: int = LATE
) -> None:
    """Print the tables of one world and keep the figures; the last `late_rounds` are the long run."""
    late = {arm: np.array([one.reward[-late_rounds:].mean() for one in found]) for arm, found in outcomes.items()}
    whole = {arm: np.array([one.reward.mean() for one in found]) for arm, found in outcomes.items()}
    first = {arm: np.array([one.reward[:FIRST].mean() for one in found]) for arm, found in outcomes.items()}
    rows: list[list[object]] = []
    entry: dict[str, Figure] = {}
    for arm, found in outcomes.items():
        numbers = {
            "reward_late": float(late[arm].mean()),
            "reward_all": float(whole[arm].mean()),
            "reward_first": float(first[arm].mean()),
            "explored": float(np.mean([one.explored.mean() for one in found])),
            "coverage": float(np.mean([one.coverage.mean() for one in found])),
            "gini": float(np.mean([one.gini.mean() for one in found])),
            "found_share": float(np.mean([one.found.mean() if one.found.size else 0.0 for one in found])),
            "found_after_rounds": float(np.mean([one.found_after.mean() if one.found.size else 0.0 for one in found])),
        }
        rows.append([arm, *numbers.values()])
        entry[arm] = {name: round(value, 5) for name, value in numbers.items()}
    print(f"\n{kind} world, {len(outcomes['on'])} seeds")
    print(table(["arm", "late reward", "all", "first", "explored", "coverage", "Gini", "found", "after rounds"], rows))
    gains: list[list[object]] = []

    def gain(name: str, values: Floats) -> None:
        mean, low, high = interval(values)
        entry[name] = {"mean": round(mean, 5), "low": round(low, 5), "high": round(high, 5)}
        gains.append([name, mean, low, high])

    gain("late_on_minus_off", late["on"] - late["off"])
    for arm in (arm for arm in late if arm not in ("on", "off")):
        gain(f"late_on_minus_{arm}", late["on"] - late[arm])
        gain(f"all_on_minus_{arm}", whole["on"] - whole[arm])
    gain("all_on_minus_off", whole["on"] - whole["off"])
    gain("first_on_minus_off", first["on"] - first["off"])
    for name in ("coverage", "gini"):
        per = {arm: np.array([getattr(one, name).mean() for one in found]) for arm, found in outcomes.items()}
        gain(f"{name}_on_minus_off", per["on"] - per["off"])
    if outcomes["on"][0].found.size:
        after = {arm: np.array([one.found_after.mean() for one in found]) for arm, found in outcomes.items()}
        gain("rounds_sooner_than_off", after["off"] - after["on"])
        if "uniform" in after:
            gain("rounds_sooner_than_uniform", after["uniform"] - after["on"])
    print(table(["difference", "mean", "low", "high"], gains), flush=True)
    figures[kind] = entry


def main() -> int:
    """Play all arms in both worlds, print the tables and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=150)
    parser.add_argument("--worlds", nargs="+", choices=tuple(ARMS), default=tuple(ARMS))
    parser.add_argument("--out", type=Path, help="folder for the plot and the figures")
    args = parser.parse_args()
    figures: dict[str, Figure] = {"seeds": args.seeds, "rounds": args.rounds, "requests": args.requests}
    lines: dict[str, dict[str, list[float]]] = {}
    errors: dict[str, dict[str, list[float]]] = {}
    for kind in args.worlds:
        outcomes: dict[str, list[Outcome]] = {arm: [] for arm in ARMS[kind]}
        for seed in range(args.seeds):
            world = world_of(kind, seed)
            for arm in ARMS[kind]:
                explored = outcomes["on"][-1].explored if arm == "uniform" else None
                outcomes[arm].append(play(world, kind, arm, args.rounds, args.requests, explored))
        compare(kind, outcomes, figures)
        curves = {arm: np.stack([one.reward for one in found]) for arm, found in outcomes.items()}
        lines[kind] = {arm: curve.mean(axis=0).round(5).tolist() for arm, curve in curves.items()}
        errors[kind] = {
            arm: (2 * (curve - curves["off"]).std(axis=0, ddof=1) / np.sqrt(args.seeds)).round(5).tolist()
            for arm, curve in curves.items()
        }
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "loop.json").write_text(json.dumps({"figures": figures, "reward": lines}) + "\n")
        draw_curves(args.out / "loop.svg", np.arange(args.rounds), lines, errors, y_label="expected clicks a slot")
    bounds: dict[str, tuple[str, float | bool]] = {
        "moving.late_on_minus_off.low": (">=", 0.0),
        "moving.late_on_minus_uniform.low": (">=", 0.0),
        "moving.rounds_sooner_than_off.low": (">=", 0.0),
        "moving.coverage_on_minus_off.low": (">=", 0.0),
        "moving.gini_on_minus_off.high": ("<=", 0.0),
        "null.late_on_minus_off.low": ("<=", 0.0),
    }
    return finish(
        "loop", figures, {name: bound for name, bound in bounds.items() if name.partition(".")[0] in args.worlds}
    )


if __name__ == "__main__":
    sys.exit(main())
