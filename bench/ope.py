"""Off-policy estimators against known truth: bias, rmse and coverage of their 95 % intervals.

    python -m bench.ope [--runs 100] [--slates 5000] [--rows 2000]

Single decisions (five actions) and slates in three worlds. A bound stands only where an estimator's assumption holds:
the slate weight in all worlds, RIPS and cascade-DR where nothing below a slot matters, the item-position model and PI
where slots are independent. And a log without support must be refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bench.report import Figure, finish, table
from bench.slate_worlds import Kind, SlateWorld
from evaluation.off_policy import (
    DR,
    IPS,
    SLATE_ESTIMATORS,
    SNIPS,
    DRos,
    Estimator,
    Log,
    NoSupportError,
    SwitchDR,
    cross_fit,
    evaluate,
    interval,
    shrunk_rates,
)

Floats: TypeAlias = NDArray[np.float64]

HOLDS: dict[Kind, tuple[str, ...]] = {
    "independent": ("slate_ips", "slate_snips", "iips", "rips", "snrips", "cascade_dr", "pi", "wpi"),
    "cascade": ("slate_ips", "slate_snips", "rips", "snrips", "cascade_dr"),
    "interacting": ("slate_ips", "slate_snips"),
}
COVERAGE = 0.90


def judge(
    make: Callable[[Generator], Any], truth: float, estimators: Sequence[Estimator[Any]], runs: int
) -> dict[str, tuple[float, float, float, float]]:
    """(relative bias, relative rmse, coverage, mean ESS share) per estimator over seeded runs."""
    values: dict[str, list[tuple[float, bool, float]]] = {one.name: [] for one in estimators}
    for seed in range(runs):
        rng = np.random.default_rng([seed, 5])
        log = make(rng)
        for one in estimators:
            terms = one.terms(log)
            low, high = interval(terms, "normal", 0.95, rng)
            weight = np.ones(log.n) if terms.weight is None else terms.weight
            share = float(weight.sum() ** 2 / (weight**2).sum() / log.n)
            values[one.name].append((terms.value, low <= truth <= high, share))
    found = {}
    for name, rows in values.items():
        estimates = np.array([row[0] for row in rows])
        found[name] = (
            float(estimates.mean() / truth - 1.0),
            float(np.sqrt(((estimates - truth) ** 2).mean()) / truth),
            float(np.mean([row[1] for row in rows])),
            float(np.mean([row[2] for row in rows])),
        )
    return found


def single(rng: Generator, n: int) -> Log:
    """A log of five actions, logger and target far apart."""
    action = rng.choice(5, size=n, p=LOGGER)
    reward = np.where(rng.random(n) < RATES[action], 1.0, 0.0)
    law = np.broadcast_to(TARGET, (n, 5))
    predicted, expected = cross_fit(shrunk_rates(action, reward, 5), action, law, rng)
    return Log(reward=reward, propensity=LOGGER[action], target=TARGET[action], predicted=predicted, expected=expected)


RATES = np.array([0.05, 0.1, 0.2, 0.3, 0.15])
LOGGER = np.array([0.4, 0.3, 0.1, 0.1, 0.1])
TARGET = np.array([0.05, 0.15, 0.2, 0.4, 0.2])


def refused() -> bool:
    """Whether a log with one propensity of 1e-6 is refused."""
    rng = np.random.default_rng(0)
    propensity = np.full(10_000, 0.5)
    propensity[7] = 1e-6
    log = Log(reward=rng.random(10_000), propensity=propensity, target=np.full(10_000, 0.02))
    try:
        evaluate(log, [IPS()], n_bootstrap=10)
    except NoSupportError:
        return True
    return False


def main() -> int:
    """Run, print the tables and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--slates", type=int, default=5_000)
    parser.add_argument("--rows", type=int, default=2_000)
    args = parser.parse_args()
    figures: dict[str, Figure] = {"runs": args.runs, "slates": args.slates, "rows": args.rows}
    bounds: dict[str, tuple[str, float | bool]] = {}
    header = ["estimator", "bias %", "rmse %", "coverage", "ESS share", "assumption holds"]

    def show(title: str, key: str, found: dict[str, tuple[float, float, float, float]], holds: Sequence[str]) -> None:
        print(f"\n{title}")
        print(
            table(
                header,
                [[n, 100 * b, 100 * r, c, e, "yes" if n in holds else "no"] for n, (b, r, c, e) in found.items()],
            )
        )
        figures[key] = {
            name: {"bias_pct": round(100 * bias, 2), "rmse_pct": round(100 * rmse, 2), "coverage": coverage}
            for name, (bias, rmse, coverage, _) in found.items()
        }
        bounds.update({f"{key}.{name}.coverage": (">=", COVERAGE) for name in holds})

    estimators: list[Estimator[Log]] = [IPS(), SNIPS(), DR(), SwitchDR(tau=10.0), DRos(lam=1_000.0)]
    found = judge(lambda rng: single(rng, args.rows), float(RATES @ TARGET), estimators, args.runs)
    show(f"single decisions, {args.rows} rows", "single", found, [one.name for one in estimators])
    for kind, holds in HOLDS.items():
        world = SlateWorld(kind)
        found = judge(lambda rng, world=world: world.log(args.slates, rng), world.truth, SLATE_ESTIMATORS, args.runs)  # type: ignore[misc]
        show(f"slates, {kind}, {args.slates} a log, truth {world.truth:.4f}", kind, found, holds)
    figures["no_support_refused"] = refused()
    bounds["no_support_refused"] = ("==", True)
    return finish("ope", figures, bounds)


if __name__ == "__main__":
    sys.exit(main())
