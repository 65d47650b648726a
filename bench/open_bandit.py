"""Open Bandit data, small sample: what the Bernoulli Thompson policy would have earned, from the random log.

    python -m bench.open_bandit [--data ../shared/data/obd-men-women]

Campaigns men and women, 10,000 rows each (Saito, Aihara, Matsutani and Narita, "Open Bandit Dataset and Pipeline",
NeurIPS 2021). The target policy is the mean logged propensity per item and slot of the Thompson log. Figures are
compared with an independent computation of the same definition; IPS and DR must contain the on-policy click rate; the
reverse direction for women (effective sample size 2) must be refused.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from bench.report import Figure, finish, table
from evaluation.off_policy import DM, DR, IPS, SNIPS, Log, NoSupportError, SwitchDR, cross_fit, evaluate, shrunk_rates

CAMPAIGNS = ("men", "women")
EXPECTED = {"men": {"ips": 0.551, "snips": 0.555, "dr": 0.558}, "women": {"ips": 0.592, "snips": 0.594, "dr": 0.595}}
"""Click rates in %, computed independently of this code; DR there had another reward model."""


def campaign(folder: Path, policy: str, name: str) -> pd.DataFrame:
    """One log of the data set."""
    return pd.read_csv(folder / policy / name / f"{name}.csv")


def random_to_thompson(folder: Path, name: str) -> tuple[Log, float]:
    """(the random log with the Thompson policy as target, click rate of the Thompson log)."""
    random, thompson = campaign(folder, "random", name), campaign(folder, "bts", name)
    n_items = int(max(random.item_id.max(), thompson.item_id.max())) + 1
    law = thompson.groupby(["item_id", "position"]).propensity_score.mean().unstack(fill_value=0)
    shares = np.asarray(law.reindex(range(n_items), fill_value=0.0), dtype=np.float64)
    shares /= shares.sum(axis=0)
    item, slot = np.asarray(random.item_id), np.asarray(random.position) - 1
    reward = random.click.to_numpy(dtype=np.float64)
    fit = shrunk_rates(item, reward, n_items)
    predicted, expected = cross_fit(fit, item, shares[:, slot].T, np.random.default_rng(0))
    log = Log(
        reward=reward,
        propensity=random.propensity_score.to_numpy(),
        target=shares[item, slot],
        predicted=predicted,
        expected=expected,
    )
    return log, float(thompson.click.mean())


def thompson_to_random(folder: Path, name: str) -> Log:
    """The Thompson log with the uniform policy as target."""
    thompson = campaign(folder, "bts", name)
    n_items = int(thompson.item_id.max()) + 1
    return Log(
        reward=thompson.click.to_numpy(dtype=np.float64),
        propensity=thompson.propensity_score.to_numpy(),
        target=np.full(len(thompson), 1.0 / n_items),
    )


def main() -> int:
    """Evaluate, print the tables and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    default = Path(os.environ.get("LIVERANK_DATA") or beside) / "obd-men-women"
    parser.add_argument("--data", type=Path, default=default, help=f"default {default.name} among the public data sets")
    args = parser.parse_args()
    if not args.data.is_dir():
        print(f"no Open Bandit data in {args.data}: give --data FOLDER or set LIVERANK_DATA", file=sys.stderr)
        return 2
    figures: dict[str, Figure] = {}
    bounds: dict[str, tuple[str, float | bool]] = {}
    for name in CAMPAIGNS:
        log, on_policy = random_to_thompson(args.data, name)
        found = evaluate(log, [IPS(), SNIPS(), DM(), DR(), SwitchDR(tau=5.0)])
        rows: list[list[object]] = []
        for one in found:
            figures[f"{name}_{one.estimator}_pct"] = [round(100 * x, 4) for x in (one.value, one.low, one.high)]
            rows.append([one.estimator, 100 * one.value, 100 * one.low, 100 * one.high])
            if one.estimator in EXPECTED[name]:
                off = abs(100 * one.value - EXPECTED[name][one.estimator])
                figures[f"{name}_{one.estimator}_off_pct"] = round(off, 5)
                bounds[f"{name}_{one.estimator}_off_pct"] = ("<=", 0.01 if one.estimator == "dr" else 0.0006)
            if one.estimator in ("ips", "dr"):
                figures[f"{name}_{one.estimator}_contains_on_policy"] = one.low <= on_policy <= one.high
                bounds[f"{name}_{one.estimator}_contains_on_policy"] = ("==", True)
        weights = found[0].diagnostics
        figures[f"{name}_on_policy_pct"] = round(100 * on_policy, 3)
        figures[f"{name}_effective"], figures[f"{name}_max_weight"] = (
            round(weights.effective, 1),
            round(weights.max_weight, 2),
        )
        print(
            f"\n{name}: random log -> Thompson; on-policy {100 * on_policy:.3f} %, effective sample "
            f"size {weights.effective:.0f} of {log.n}, largest weight {weights.max_weight:.1f}, "
            f"mean {weights.mean_weight:.3f}"
        )
        print(table(["% clicks", "estimate", "low", "high"], rows))
        reverse = thompson_to_random(args.data, name)
        ips, snips = evaluate(reverse, [IPS(), SNIPS()], refuse=False)
        figures[f"{name}_reverse_effective"] = round(ips.diagnostics.effective, 1)
        figures[f"{name}_reverse_mean_weight"] = round(ips.diagnostics.mean_weight, 3)
        print(
            f"{name}: Thompson log -> random: IPS {100 * ips.value:.3f}, SNIPS {100 * snips.value:.3f}, effective "
            f"sample size {ips.diagnostics.effective:.1f}, largest weight {ips.diagnostics.max_weight:.0f}, "
            f"mean {ips.diagnostics.mean_weight:.2f}"
        )
        try:
            evaluate(reverse, [IPS()])
            figures[f"{name}_reverse_refused"] = False
        except NoSupportError as error:
            figures[f"{name}_reverse_refused"] = True
            print(f"  refused: {error}")
    bounds["women_reverse_refused"] = ("==", True)
    return finish("open_bandit", figures, bounds)


if __name__ == "__main__":
    sys.exit(main())
