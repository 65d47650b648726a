"""BAN-5: what is logged is what was acted upon, at full size for every policy.

    python -m bench.propensities [--logs 1000] [--rows 200] [--slates 20000]

Counts: 200,000 drawn slots per policy (20,000 slates of 5 slots under hard rules, without and with the cap), each cell
(slot, candidate) against the sum of the laws; the largest deviation in standard errors must stay below the Bonferroni
limit over all policies' cells at 0.1 %.

Logs: 1,000 simulated logs of 200 rows per policy, IPS with the logged propensities against the truth.
Every registered policy writes its logs (VW's too); all must lie within 3 standard errors of the truth. Acting on one
posterior draw and logging a Monte Carlo estimate of its probability must fail the same test, or the test shows
nothing.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from bandits import checks, specification
from bandits.vw import VowpalModel, VowpalSettings
from bench.report import Figure, finish, table
from bench.simulated_logs import SimulatedLogs, z_score


def learned_vowpal() -> VowpalModel:
    """A VW model that has learned a little from uniform choices."""
    model = VowpalModel(VowpalSettings(dim=checks.DIM))
    rng = np.random.default_rng(3)
    for _ in range(100):
        phi = rng.normal(size=(checks.N, checks.DIM)) * 0.5
        chosen = int(rng.integers(checks.N))
        model.learn(phi, chosen, float(phi[chosen, 0] > 0), 1.0 / checks.N)
    return model


def main() -> int:
    """Write the logs, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=int, default=1_000)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--slates", type=int, default=20_000)
    args = parser.parse_args()
    n = args.logs * args.rows
    figures: dict[str, Figure] = {"logs": args.logs, "rows": args.rows}
    bounds: dict[str, tuple[str, float | bool]] = {}
    rows: list[list[object]] = []

    def judge(key: str, label: str, logs: SimulatedLogs, errors: np.ndarray) -> float:
        estimates = errors.reshape(args.logs, args.rows).mean(axis=1)
        z, bias = z_score(estimates), float(errors.mean() / logs.truth.mean())
        rows.append([label, 100 * bias, z])
        figures[f"{key}_bias_pct"], figures[f"{key}_z"] = round(100 * bias, 3), round(z, 2)
        return z

    cases = checks.cases({"vowpal": learned_vowpal})
    counted: dict[str, np.ndarray] = {}
    for name, case in cases.items():
        z_scores = [checks.frequency_z_scores(case, 20, args.slates // 20, cap) for cap in (1.0, 0.1)]
        counted[name] = np.concatenate([one.ravel() for one in z_scores])
    limit = checks.z_limit(1e-3 / sum(found.size for found in counted.values()))
    figures["counts_z_limit"] = round(limit, 2)
    for name, found in counted.items():
        figures[f"{name}_counts_worst_z"] = round(float(np.abs(found).max()), 2)
        bounds[f"{name}_counts_worst_z"] = ("<=", limit)
    print(f"counts against laws, {args.slates * checks.SLOTS * 2} drawn slots a policy, limit {limit:.2f}")
    print(table(["policy", "cells", "worst z"], [[n, f.size, float(np.abs(f).max())] for n, f in counted.items()]))
    print(flush=True)
    for name, case in cases.items():
        logs = SimulatedLogs(case)
        figures[f"{name}_abs_z"] = abs(judge(name, specification(case.policy), logs, logs.errors(n)))
        bounds[f"{name}_abs_z"] = ("<=", 3.0)
    for n_draws in (32, 128):
        logs = SimulatedLogs(cases["thompson"])
        errors = logs.errors_of_estimated_propensities(n, n_draws)
        key = f"one_draw_estimated_by_{n_draws}"
        figures[f"{key}_abs_z"] = abs(judge(key, f"wrong: one draw, estimated by {n_draws}", logs, errors))
        bounds[f"{key}_abs_z"] = (">=", 3.0)
    print(table(["logging policy", "IPS bias %", "standard errors"], rows))
    return finish("propensities", figures, bounds)


if __name__ == "__main__":
    sys.exit(main())
