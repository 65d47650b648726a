"""The report as tables for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from evaluation.exploration.report import ArmReport, ExplorationReport


def _number(value: float, form: str = ".3f") -> str:
    return "-" if math.isnan(value) else format(value, form)


def report_tables(report: ExplorationReport) -> list[Table]:
    """Arms and rewards; cost of exploring; soundness of the log; beliefs."""
    arms = Table(title="Arms", title_justify="left")
    for name in ("surface", "arm", "policy"):
        arms.add_column(name, overflow="fold")
    for name in ("decisions", "pulls", "mean reward per slate [95 %]", "regret per drawn slot [95 %]"):
        arms.add_column(name, justify="right")
    spent = Table(title="Exploration", title_justify="left")
    for name in ("surface", "arm", "policy"):
        spent.add_column(name, overflow="fold")
    for name in ("drawn slots", "explored", "entropy", "cost per slate [95 %]"):
        spent.add_column(name, justify="right")
    sound = Table(title="Weights of a known policy (uniform; near greed)", title_justify="left")
    for name in ("surface", "arm", "policy"):
        sound.add_column(name, overflow="fold")
    for name in ("mean weight", "effective sample", "largest weight", "near greed"):
        sound.add_column(name, justify="right")
    for one in report.groups:
        who = (one.surface, one.arm, one.policy)
        arms.add_row(*who, f"{one.n_decisions:,}", f"{one.pulls:,}", str(one.reward), str(one.regret))
        spent.add_row(*who, f"{one.n_drawn:,}", f"{one.explored_share:.2%}", _number(one.entropy), str(one.cost))
        weights = one.weights
        sound.add_row(
            *who,
            _number(weights.mean),
            f"{weights.effective:,.0f} of {weights.n:,}",
            _number(weights.largest, ".1f"),
            _number(weights.near_greed, ".4f"),
        )
    beliefs = Table(title="Posterior", title_justify="left")
    for name in ("model", "shown slots", "age", "mean sd", "snapshot"):
        beliefs.add_column(name)
    for belief in report.beliefs:
        age = "nothing learned" if math.isnan(belief.age_s) else f"{belief.age_s:.1f} s"
        beliefs.add_row(belief.model[:12], f"{belief.n_shown:,}", age, _number(belief.sd, ".4f"), belief.snapshot[:12])
    return [arms, spent, sound, beliefs]


def arm_table(arms: Sequence[ArmReport], by: str) -> Table:
    """Pulled arms."""
    table = Table()
    table.add_column(by)
    for name in ("pulls", "explored", "closed", "mean reward [95 %]", "clicks", "dismissals", "propensity", "belief"):
        table.add_column(name, justify="right")
    for one in arms:
        mean = "-" if math.isnan(one.mean) else f"{one.mean:.4f} [{one.low:.4f}, {one.high:.4f}]"
        table.add_row(
            one.arm,
            f"{one.pulls:,}",
            f"{one.explored:,}",
            f"{one.closed:,}",
            mean,
            f"{one.clicks:,}",
            f"{one.dismissals:,}",
            _number(one.propensity),
            f"{one.posterior_mean:+.4f} +- {one.posterior_sd:.4f}",
        )
    return table
