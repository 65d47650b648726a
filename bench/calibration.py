"""RNK-2: calibration and AUC of each head on the newest day of a simulated past: `python -m bench.calibration`.

A simulated world's history is imported, enriched and trained on as an operator does it; the heads are measured on the
newest block, which neither boosters nor calibration have seen.
"""

from __future__ import annotations

import argparse
import sys
import time

from bench.report import Figure, finish, table
from bench.stack import namespace
from evaluation.demo import DemoPlan, build_world
from evaluation.simulator import WorldParams, history
from features.llm import job
from ranker.training.history import Sampling
from ranker.training.run import train
from streams.history import import_history


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=float, default=60.0, help="length of the simulated past")
    parser.add_argument("--slates", type=int, default=5_000, help="slates that become rows")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    world = build_world(DemoPlan(days=options.days, params=WorldParams(seed=options.seed)), time.time_ns() // 1_000_000)
    with namespace(("kafka", "redis", "namespace", "features")) as settings:
        imported = import_history(
            settings, list(history(world, days=options.days)), items=list(world.catalogue.changes())
        )
        job.enrich(settings, job.catalogue(settings, None))
        report = train(settings, source="history", sampling=Sampling(slates=options.slates), force=True)
    names = ("auc", "auc_popularity", "ece", "log_loss", "log_loss_base")
    figures: dict[str, Figure] = {"events": imported.events, "rows": report.rows, "train_s": report.seconds}
    bounds: dict[str, tuple[str, float | bool]] = {}
    rows = []
    for head, found in report.figures["heads"].items():
        values = {name: float(found[name]) for name in names if found.get(name) is not None}
        rows.append((head, *(values.get(name, float("nan")) for name in names)))
        lead = values["auc"] - values["auc_popularity"]
        figures[head] = {**values, "auc_lead": lead}
        bounds[f"{head}.ece"] = ("<=", 0.02)
        bounds[f"{head}.auc_lead"] = (">=", 0.0)
    sys.stdout.write(table(("head", *names), rows) + "\n")
    return finish("calibration", figures, bounds)


if __name__ == "__main__":
    sys.exit(main())
