"""Regret of our policies in seeded worlds, beside Vowpal Wabbit and MABWiser on the same seeds.

    python -m bench.bandits [--rounds 50000] [--seeds 20] [--libraries] [--part PART] [--out FOLDER]

Prints a table per world, writes figures and curves to FOLDER/bandit-regret.json (and .svg with matplotlib installed).
Intervals are two standard errors over seeds; comparisons are paired by seed. Knobs, prior and half-lives come from
other seeds than they are judged on (`bench.bandit_tuning`), for every policy in the same way.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bench.bandit_tuning import DRIFT_HALF_LIFE, HALF_LIVES, KINDS, PRIOR_SD, TUNED, TUNING_SEEDS, agent
from bench.bandit_worlds import Agent, Kind, Seeds, World, run
from bench.plots import draw_curves
from bench.report import Figure, finish, table

Floats: TypeAlias = NDArray[np.float64]
LIBRARY_KINDS: tuple[Kind, ...] = ("stationary", "drifting", "delayed")

AGENTS: dict[str, Agent] = {
    "thompson": agent("thompson"),
    "thompson, floor .02": replace(agent("thompson"), floor=0.02),
    "linucb": agent("linucb"),
    "epsilon_greedy": agent("epsilon_greedy"),
    "boltzmann": agent("boltzmann"),
    "greedy": agent("greedy"),
    "uniform": Agent(act="uniform"),
}
ACTS = ("thompson", "linucb", "epsilon_greedy", "boltzmann", "greedy")
OURS, RIVALS = ("thompson", "linucb"), ("epsilon_greedy", "uniform")
LIBRARY_SEEDS, LIBRARY_ROUNDS = 5, 10_000
WINDOW, AFTER, OF_OPTIMUM = 500, 10_000, 0.9
"""Recovery after a swap: rounds until a window of so many earns this share of the optimum."""


def interval(values: Floats) -> tuple[float, float]:
    """(mean, two standard errors)."""
    return float(values.mean()), float(2.0 * values.std(ddof=1) / np.sqrt(values.shape[0]))


def worlds(n_rounds: int, seeds: list[int], figures: dict[str, Figure]) -> dict[str, dict[str, Floats]]:
    """All agents in all worlds; regret curves by world and agent, shape (n_rounds, n_seeds).

    In the drifting world every policy forgets with the half-life that was tuned for it; Thompson without one, and in
    the delayed world both treatments of what waits for its reward, stand beside.
    """
    curves: dict[str, dict[str, Floats]] = {}
    for kind in KINDS:
        world = World(kind=kind, n_rounds=n_rounds)
        agents = dict(AGENTS)
        if kind == "drifting":
            agents |= {name: replace(one, half_life=drift_half_life(one.act)) for name, one in AGENTS.items()}
            agents["thompson, no half-life"] = AGENTS["thompson"]
        if kind == "delayed":
            agents["thompson, waiting counted"] = replace(AGENTS["thompson"], pending=True)
            agents["linucb, waiting not counted"] = replace(AGENTS["linucb"], pending=False)
        found = curves[kind] = {name: run(world, one, seeds) for name, one in agents.items()}
        uniform = found["uniform"].sum(axis=0)
        tail = n_rounds // 10
        rows = []
        entry: dict[str, Figure] = {}
        for name, regret in found.items():
            total, sure = interval(regret.sum(axis=0))
            gain, gain_sure = interval(uniform - regret.sum(axis=0))
            late = float(regret[-tail:].mean() / found["uniform"][-tail:].mean())
            rows.append([name, total, sure, gain, gain_sure, late])
            entry[name] = {"regret": round(total, 1), "two_se": round(sure, 1), "late_share": round(late, 4)}
        figures[kind] = entry
        print(f"\n{kind}: {n_rounds} rounds, {len(seeds)} seeds")
        print(table(["policy", "regret", "+-", "less than uniform", "+-", "last 10% / uniform's"], rows), flush=True)
    return curves


def drift_half_life(act: str) -> float:
    """Rounds, as tuned on other seeds; infinity = none."""
    return DRIFT_HALF_LIFE.get(act, np.inf)


def swap(n_rounds: int, seeds: list[int], figures: dict[str, Figure]) -> None:
    """Regret after the swap and in the stationary world, with and without a half-life, and how soon each recovers."""
    swapped, still = World(kind="swap", n_rounds=n_rounds), World(kind="stationary", n_rounds=n_rounds)

    def cost(half_life: float, on: list[int]) -> tuple[Floats, Floats]:
        one = replace(AGENTS["thompson"], half_life=half_life)
        regret = run(swapped, one, on)[n_rounds // 2 :]
        return regret[:AFTER].sum(axis=0), run(still, one, on).sum(axis=0)

    tuning = {half_life: cost(half_life, TUNING_SEEDS) for half_life in HALF_LIVES}
    plain = tuning[np.inf][1].mean()
    allowed = {half_life: found for half_life, found in tuning.items() if found[1].mean() <= 1.5 * plain}
    best = min(allowed, key=lambda half_life: float(allowed[half_life][0].mean()))
    fastest = min(tuning, key=lambda half_life: float(tuning[half_life][0].mean()))
    judged = {half_life: cost(half_life, seeds) for half_life in dict.fromkeys((np.inf, best, fastest))}
    # Without forgetting, recovery takes longer than the past was: a run of its own, four times as long after the swap.
    long = World(kind="swap", n_rounds=n_rounds // 2 + 2 * n_rounds, swap_at=n_rounds // 2)
    state = Seeds(long, seeds)
    state.advance(long.swap_round)
    optimum = state.rates.max(axis=1)
    recovered = {
        half_life: recovery(
            run(long, replace(AGENTS["thompson"], half_life=half_life), seeds)[long.swap_round :], optimum
        )
        for half_life in judged
    }
    gain, gain_sure = interval(judged[np.inf][0] - judged[best][0])
    price = float(judged[best][1].mean() / judged[np.inf][1].mean())
    print(
        f"\nswap: half-lives tried {', '.join(f'{one:g}' for one in HALF_LIVES)}; tuned {best:g}, fastest {fastest:g}"
    )
    print(
        table(
            [
                "half-life",
                f"regret in {AFTER} rounds after",
                "+-",
                "stationary regret",
                "+-",
                "rounds to 90% of optimum",
            ],
            [
                [f"{half_life:g}", *interval(found[0]), *interval(found[1]), recovered[half_life]]
                for half_life, found in judged.items()
            ],
        ),
        flush=True,
    )
    figures["swap"] = {
        "half_life_rounds": None if np.isinf(best) else best,
        "regret_after_none": round(float(judged[np.inf][0].mean()), 1),
        "regret_after_tuned": round(float(judged[best][0].mean()), 1),
        "gain": round(gain, 1),
        "gain_low": round(gain - gain_sure, 1),
        "stationary_price": round(price, 3),
        "fastest_half_life_rounds": None if np.isinf(fastest) else fastest,
        "recovery_rounds_none": recovered[np.inf],
        "recovery_rounds_tuned": recovered[best],
        "recovery_rounds_fastest": recovered[fastest],
        "recovery_share_tuned": round(recovered[best] / recovered[np.inf], 3),
        "recovery_share_fastest": round(recovered[fastest] / recovered[np.inf], 3),
        "fastest_stationary_price": round(float(judged[fastest][1].mean() / judged[np.inf][1].mean()), 3),
    }


def recovery(regret: Floats, optimum: Floats) -> int:
    """Rounds from the swap until the mean over seeds of a window's earnings reaches 90 % of the optimum; the length of
    the run where it never does.
    """
    earned = 1.0 - regret.mean(axis=1) / optimum.mean()
    share = np.convolve(earned, np.ones(WINDOW) / WINDOW, mode="valid")
    reached = np.flatnonzero(share >= OF_OPTIMUM)
    return int(reached[0]) + WINDOW if reached.shape[0] else int(regret.shape[0])


def libraries(figures: dict[str, Figure]) -> None:
    """VW and MABWiser beside ours, 5 seeds of 10,000 rounds; ours with the knobs of the long runs, and in the drifting
    world also with their half-lives (VW's learning rate forgets by itself).
    """
    seeds = list(range(LIBRARY_SEEDS))
    compared: dict[str, Figure] = {}
    for kind in LIBRARY_KINDS:
        world = World(kind=kind, n_rounds=LIBRARY_ROUNDS)
        agents = {name: AGENTS[name] for name in (*ACTS, "uniform")}
        if kind == "drifting":
            agents |= {
                f"{name}, half-life": replace(AGENTS[name], half_life=drift_half_life(AGENTS[name].act))
                for name in ACTS
            }
        totals: dict[str, Floats] = {name: run(world, one, seeds).sum(axis=0) for name, one in agents.items()}
        theirs: list[str] = []
        if importlib.util.find_spec("vowpalwabbit"):
            from bench.bandit_libraries import run_vowpal

            for exploration in ("squarecb", "cover"):
                theirs.append(f"VW {exploration}")
                totals[theirs[-1]] = np.array([run_vowpal(world, seed, exploration) for seed in seeds])
        if importlib.util.find_spec("mabwiser"):
            from bench.bandit_libraries import run_mabwiser

            theirs.append("MABWiser Thompson")
            totals[theirs[-1]] = np.array([run_mabwiser(world, seed) for seed in seeds])
        entry: dict[str, Figure] = {name: [round(x, 1) for x in interval(total)] for name, total in totals.items()}
        rows: list[list[Any]] = [[name, *interval(total)] for name, total in totals.items()]
        if theirs:
            best = min(theirs, key=lambda name: float(totals[name].mean()))
            for row in rows:
                worse, sure = interval(totals[row[0]] - totals[best])
                row += [worse - sure, worse + sure]
                if row[0] in agents:
                    entry[f"{row[0]}_minus_best_library_low"] = round(worse - sure, 1)
                    entry[f"{row[0]}_minus_best_library_high"] = round(worse + sure, 1)
        print(f"\n{kind}, with libraries: {LIBRARY_ROUNDS} rounds, {LIBRARY_SEEDS} seeds")
        columns = ["policy", "regret", "+-", "more than the best library's, from", "to"]
        print(table(columns[: len(rows[0])], rows), flush=True)
        compared[kind] = entry
    figures["libraries"] = compared


def bounds(figures: dict[str, Figure], curves: dict[str, dict[str, Floats]]) -> dict[str, tuple[str, float | bool]]:
    """What must hold, as figures and limits: paired gains by seed, two standard errors."""
    wanted: dict[str, tuple[str, float | bool]] = {}
    gains: dict[str, Figure] = {}
    rows: list[list[object]] = []
    figures["gains"] = gains

    def gain(kind: str, name: str, rival: str, end: str) -> None:
        mean, sure = interval((curves[kind][rival] - curves[kind][name]).sum(axis=0))
        key = f"{kind}_{name}_over_{rival}"
        gains[key] = {"gain": round(mean, 1), "low": round(mean - sure, 1), "high": round(mean + sure, 1)}
        wanted[f"gains.{key}.{end}"] = (">=", 0.0)
        rows.append([kind, name, rival, mean, mean - sure, mean + sure])

    for kind in LIBRARY_KINDS:
        for name in OURS:
            for rival in RIVALS:
                gain(kind, name, rival, "low")
    for name in OURS:
        gain("stationary", name, "greedy", "high")
        gain("arrivals", name, "greedy", "low")
    print("\npaired gains, two standard errors")
    print(table(["world", "policy", "over", "gain", "low", "high"], rows))
    thompson, uniform = curves["stationary"]["thompson"], curves["stationary"]["uniform"]
    tail = max(1, thompson.shape[0] // 10)
    figures["stationary_late_share_of_uniform"] = round(float(thompson[-tail:].mean() / uniform[-tail:].mean()), 4)
    wanted["stationary_late_share_of_uniform"] = ("<=", 0.10)
    figures["stationary_growth_exponent"] = round(growth_exponent(thompson.mean(axis=1)), 3)
    wanted["stationary_growth_exponent"] = ("<=", 0.9)
    return wanted


def growth_exponent(regret: Floats) -> float:
    """Slope of log cumulative regret over log rounds in the second half: 1 is linear."""
    total = regret.cumsum()
    n = total.shape[0]
    return float(np.log(total[-1] / total[n // 2]) / np.log(n / (n // 2)))


def save(folder: Path, figures: dict[str, Figure], curves: dict[str, dict[str, Floats]]) -> None:
    """Figures and cumulative regret at 100 points per world and policy, as JSON and (with matplotlib) as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    n = next(iter(curves["stationary"].values())).shape[0]
    points = np.linspace(0, n - 1, 100).astype(int)
    lines = {
        kind: {name: regret.cumsum(axis=0)[points].mean(axis=1).round(1).tolist() for name, regret in found.items()}
        for kind, found in curves.items()
    }
    errors = {
        kind: {
            name: (2 * regret.cumsum(axis=0)[points].std(axis=1, ddof=1) / np.sqrt(regret.shape[1])).round(1).tolist()
            for name, regret in found.items()
        }
        for kind, found in curves.items()
    }
    whole = {"figures": figures, "rounds": points.tolist(), "cumulative_regret": lines, "two_standard_errors": errors}
    (folder / "bandit-regret.json").write_text(json.dumps(whole) + "\n")
    draw_curves(folder / "bandit-regret.svg", points, lines, errors)


def main() -> int:
    """Run the worlds, print the tables and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50_000)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--libraries", action="store_true", help="also VW and MABWiser, about 4 minutes")
    parser.add_argument("--part", choices=("all", "worlds", "swap", "libraries"), default="all")
    parser.add_argument("--out", type=Path, help="folder for curves and plot")
    args = parser.parse_args()
    seeds = list(range(args.seeds))
    figures: dict[str, Figure] = {
        "rounds": args.rounds,
        "seeds": args.seeds,
        "prior_sd": PRIOR_SD,
        "knobs": dict(TUNED),
        "drift_half_lives": dict(DRIFT_HALF_LIFE),
    }
    wanted: dict[str, tuple[str, float | bool]] = {}
    curves = worlds(args.rounds, seeds, figures) if args.part in ("all", "worlds") else None
    if curves is not None:
        wanted |= bounds(figures, curves)
    if args.part in ("all", "swap"):
        swap(args.rounds, seeds, figures)
        wanted["swap.recovery_share_fastest"] = ("<=", 0.5)
        if figures["swap"]["half_life_rounds"] is not None:  # type: ignore[call-overload, index]
            # Else no half-life does both, the default stays off, and the figures say so.
            wanted["swap.gain_low"] = (">=", 0.0)
            wanted["swap.stationary_price"] = ("<=", 1.5)
    if args.libraries or args.part == "libraries":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the libraries' own deprecations
            libraries(figures)
        for kind in LIBRARY_KINDS:
            for name in OURS:
                wanted[f"libraries.{kind}.{name}_minus_best_library_low"] = ("<=", 0.0)
    if args.out and curves is not None:
        save(args.out, figures, curves)
    return finish("bandits", figures, wanted)


if __name__ == "__main__":
    sys.exit(main())
