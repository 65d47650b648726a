"""Regret of our policies in seeded worlds, beside Vowpal Wabbit and MABWiser on the same seeds.

    python -m bench.bandits [--rounds 50000] [--seeds 20] [--libraries] [--out FOLDER]

Prints a table per world, writes the curves to FOLDER/bandits.json (and bandits.svg where matplotlib is installed).
Intervals are two standard errors over seeds; comparisons are paired by seed. Half-lives are tuned on other seeds than
they are judged on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import warnings
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bench.bandit_worlds import Agent, Kind, World, run
from bench.report import Figure, finish, table

Floats: TypeAlias = NDArray[np.float64]

AGENTS: dict[str, Agent] = {
    "thompson": Agent(act="thompson"),
    "thompson, floor .02": Agent(act="thompson", floor=0.02),
    "linucb": Agent(act="linucb", knob=2.0),
    "epsilon_greedy": Agent(act="epsilon_greedy", knob=0.05),
    "boltzmann": Agent(act="boltzmann", knob=0.005),
    "greedy": Agent(act="greedy"),
    "uniform": Agent(act="uniform"),
}
HALF_LIVES = (np.inf, 20_000.0, 10_000.0, 5_000.0, 2_500.0)
TUNING_SEEDS = range(1_000, 1_010)
LIBRARY_SEEDS, LIBRARY_ROUNDS = 5, 10_000
KINDS: tuple[Kind, ...] = ("stationary", "drifting", "delayed", "arrivals")


def interval(values: Floats) -> tuple[float, float]:
    """(mean, two standard errors)."""
    return float(values.mean()), float(2.0 * values.std(ddof=1) / np.sqrt(values.shape[0]))


def worlds(n_rounds: int, seeds: list[int], figures: dict[str, Figure]) -> dict[str, dict[str, Floats]]:
    """All agents in all worlds; regret curves by world and agent, shape (n_rounds, n_seeds)."""
    curves: dict[str, dict[str, Floats]] = {}
    for kind in KINDS:
        world = World(kind=kind, n_rounds=n_rounds)
        found = curves[kind] = {name: run(world, agent, seeds) for name, agent in AGENTS.items()}
        if kind == "drifting":
            half_life = tuned(world)
            found[f"thompson, half-life {half_life:g}"] = run(world, Agent(act="thompson", half_life=half_life), seeds)
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
        print(table(["policy", "regret", "+-", "less than uniform", "+-", "last 10% / uniform's"], rows))
    return curves


def tuned(world: World) -> float:
    """The half-life with the least regret on the tuning seeds."""
    totals = {
        half_life: run(world, Agent(act="thompson", half_life=half_life), list(TUNING_SEEDS)).sum(axis=0).mean()
        for half_life in HALF_LIVES
    }
    return min(totals, key=lambda half_life: float(totals[half_life]))


def swap(n_rounds: int, seeds: list[int], figures: dict[str, Figure]) -> None:
    """Regret after the swap and in the stationary world, with and without a half-life."""
    swapped, still = World(kind="swap", n_rounds=n_rounds), World(kind="stationary", n_rounds=n_rounds)
    after = slice(n_rounds // 2, n_rounds // 2 + 10_000)

    def cost(half_life: float, on: list[int]) -> tuple[Floats, Floats]:
        agent = Agent(act="thompson", half_life=half_life)
        return run(swapped, agent, on)[after].sum(axis=0), run(still, agent, on).sum(axis=0)

    tuning = {half_life: cost(half_life, list(TUNING_SEEDS)) for half_life in HALF_LIVES}
    plain = tuning[np.inf][1].mean()
    allowed = {half_life: pair for half_life, pair in tuning.items() if pair[1].mean() <= 1.5 * plain}
    best = min(allowed, key=lambda half_life: float(allowed[half_life][0].mean()))
    with_none, with_best = cost(np.inf, seeds), cost(best, seeds)
    gain, gain_sure = interval(with_none[0] - with_best[0])
    price = float(with_best[1].mean() / with_none[1].mean())
    print(f"\nswap: tuned half-life {best:g} rounds (of {', '.join(f'{one:g}' for one in HALF_LIVES)})")
    print(
        table(
            ["half-life", "regret in 10,000 rounds after", "stationary regret"],
            [
                [f"{half_life:g}", *(float(part.mean()) for part in pair)]
                for half_life, pair in ((np.inf, with_none), (best, with_best))
            ],
        )
    )
    figures["swap"] = {
        "half_life_rounds": None if np.isinf(best) else best,
        "regret_after_none": round(float(with_none[0].mean()), 1),
        "regret_after_tuned": round(float(with_best[0].mean()), 1),
        "gain": round(gain, 1),
        "gain_low": round(gain - gain_sure, 1),
        "stationary_price": round(price, 3),
    }


def libraries(figures: dict[str, Figure]) -> None:
    """VW and MABWiser beside ours, 5 seeds of 10,000 rounds."""
    seeds = list(range(LIBRARY_SEEDS))
    compared: dict[str, Figure] = {}
    for kind in ("stationary", "drifting", "delayed"):
        world = World(kind=kind, n_rounds=LIBRARY_ROUNDS)
        totals: dict[str, Floats] = {
            name: run(world, AGENTS[name], seeds).sum(axis=0) for name in ("thompson", "linucb", "uniform")
        }
        if importlib.util.find_spec("vowpalwabbit"):
            from bench.bandit_libraries import run_vowpal

            totals["VW squarecb"] = np.array([run_vowpal(world, seed) for seed in seeds])
        if importlib.util.find_spec("mabwiser"):
            from bench.bandit_libraries import run_mabwiser

            totals["MABWiser Thompson"] = np.array([run_mabwiser(world, seed) for seed in seeds])
        rows: list[list[Any]] = [[name, *interval(total)] for name, total in totals.items()]
        print(f"\n{kind}, with libraries: {LIBRARY_ROUNDS} rounds, {LIBRARY_SEEDS} seeds")
        print(table(["policy", "regret", "+-"], rows))
        theirs = [name for name in totals if name not in ("thompson", "linucb", "uniform")]
        entry: dict[str, Figure] = {name: [round(x, 1) for x in interval(total)] for name, total in totals.items()}
        if theirs:
            best = min(theirs, key=lambda name: float(totals[name].mean()))
            worse, sure = interval(totals["thompson"] - totals[best])
            entry["thompson_minus_best_library_low"] = round(worse - sure, 1)
        compared[kind] = entry
    figures["libraries"] = compared


def bounds(figures: dict[str, Figure], curves: dict[str, dict[str, Floats]]) -> dict[str, tuple[str, float | bool]]:
    """What must hold, as figures and limits."""
    wanted: dict[str, tuple[str, float | bool]] = {}
    for kind in ("stationary", "drifting", "delayed"):
        found = curves[kind]
        name = next((name for name in found if name.startswith("thompson, half-life")), "thompson")
        for rival in ("epsilon_greedy", "uniform"):
            gain, sure = interval((found[rival] - found[name]).sum(axis=0))
            figures[f"{kind}_thompson_gain_over_{rival}"] = round(gain, 1)
            figures[f"{kind}_thompson_gain_over_{rival}_high"] = round(gain + sure, 1)
            figures[f"{kind}_thompson_gain_over_{rival}_low"] = round(gain - sure, 1)
        wanted[f"{kind}_thompson_gain_over_uniform_low"] = (">=", 0.0)
        wanted[f"{kind}_thompson_gain_over_epsilon_greedy_high"] = (">=", 0.0)
        gain, sure = interval((found["uniform"] - found["linucb"]).sum(axis=0))
        figures[f"{kind}_linucb_gain_over_uniform_low"] = round(gain - sure, 1)
        wanted[f"{kind}_linucb_gain_over_uniform_low"] = (">=", 0.0)
    for kind, limit in (("stationary", "high"), ("arrivals", "low")):
        gain, sure = interval((curves[kind]["greedy"] - curves[kind]["thompson"]).sum(axis=0))
        figures[f"{kind}_thompson_gain_over_greedy_high"] = round(gain + sure, 1)
        figures[f"{kind}_thompson_gain_over_greedy_low"] = round(gain - sure, 1)
        wanted[f"{kind}_thompson_gain_over_greedy_{limit}"] = (">=", 0.0)
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


def save(folder: Path, curves: dict[str, dict[str, Floats]]) -> None:
    """Cumulative regret at 100 points per world and policy, as JSON and (with matplotlib) as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    n = next(iter(curves["stationary"].values())).shape[0]
    points = np.linspace(0, n - 1, 100).astype(int)
    lines = {
        kind: {name: regret.cumsum(axis=0)[points].mean(axis=1).round(2).tolist() for name, regret in found.items()}
        for kind, found in curves.items()
    }
    (folder / "bandits.json").write_text(json.dumps({"rounds": points.tolist(), "cumulative_regret": lines}, indent=1))
    if importlib.util.find_spec("matplotlib") is None:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(lines), figsize=(5 * len(lines), 4), layout="constrained")
    for axis, (kind, found) in zip(np.atleast_1d(axes), lines.items(), strict=True):
        for name, values in found.items():
            axis.plot(points, values, label=name)
        axis.set(title=kind, xlabel="round", ylabel="cumulative regret, clicks", ylim=(0, None))
    axes.flat[0].legend(fontsize=7)
    figure.savefig(folder / "bandits.svg")
    pyplot.close(figure)


def main() -> int:
    """Run the worlds, print the tables and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50_000)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--libraries", action="store_true", help="also VW and MABWiser, about 3 minutes")
    parser.add_argument("--out", type=Path, help="folder for curves and plot")
    args = parser.parse_args()
    seeds = list(range(args.seeds))
    figures: dict[str, Figure] = {"rounds": args.rounds, "seeds": args.seeds}
    curves = worlds(args.rounds, seeds, figures)
    swap(args.rounds, seeds, figures)
    wanted = bounds(figures, curves)
    if figures["swap"]["half_life_rounds"] is not None:  # type: ignore[call-overload, index]
        # Else no half-life does both, the default stays off, and the figures say so.
        wanted["swap.gain_low"] = (">=", 0.0)
        wanted["swap.stationary_price"] = ("<=", 1.5)
    if args.libraries:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the libraries' own deprecations
            libraries(figures)
        for kind in ("stationary", "drifting", "delayed"):
            wanted[f"libraries.{kind}.thompson_minus_best_library_low"] = ("<=", 0.0)
    if args.out:
        save(args.out, curves)
    return finish("bandits", figures, wanted)


if __name__ == "__main__":
    sys.exit(main())
