"""``liverank evaluate policy``: what another policy would have earned, from our decision log or any table."""

from __future__ import annotations

import json as _json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from evaluation.off_policy import Estimate, Estimator, Log, SlateLog
    from evaluation.off_policy.gate import Verdict


class Method(StrEnum):
    """How an interval is made."""

    bootstrap = "bootstrap"
    normal = "normal"
    bernstein = "bernstein"


Column = Annotated[str, typer.Option(help="Column of the table.")]


def policy(
    specification: Annotated[str, typer.Argument(help="Policy, e.g. 'linucb(alpha=2)'; not with --data.")] = "",
    data: Annotated[
        Path | None, typer.Option(help="A .parquet or .csv file instead of this namespace's decision log.")
    ] = None,
    reward: Column = "reward",
    propensity: Column = "propensity",
    target: Column = "target",
    decision: Column = "",
    slot: Column = "",
    predicted: Column = "",
    expected: Column = "",
    unsupported: Column = "",
    marginal_propensity: Column = "",
    marginal_target: Column = "",
    slate_weight: Column = "",
    days: Annotated[float, typer.Option(min=0.0, help="Of the decision log; 0 = all.")] = 7.0,
    floor: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Floor of the policy; as logged.")] = None,
    cap: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Cap of the policy; as logged.")] = None,
    marginals: Annotated[int, typer.Option(min=0, help="Slates drawn per decision for IIPS; 0 = none.")] = 32,
    pi_draws: Annotated[
        int, typer.Option("--pi-draws", min=0, help="Slates drawn per decision for PI and wPI (slow); 0 = none.")
    ] = 0,
    tau: Annotated[float, typer.Option(min=0.0, help="Largest weight that SWITCH-DR uses.")] = 5.0,
    lam: Annotated[float, typer.Option(min=0.0, help="Shrinkage of DRos.")] = 100.0,
    method: Annotated[Method, typer.Option(help="Of the intervals.")] = Method.bootstrap,
    level: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the intervals.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of bootstrap and folds.")] = 0,
    refuse: Annotated[bool, typer.Option(help="Refuse an estimate that the log cannot carry.")] = True,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the result as JSON to this file.")] = None,
) -> None:
    """Estimate a policy's reward from a log of another: intervals, effective sample size, largest and mean weight."""
    from liverank.errors import ConfigError

    if (data is None) == (not specification):
        raise ConfigError("name a policy for this namespace's log, or --data FILE with the target's probabilities")
    given = {
        "reward": reward,
        "propensity": propensity,
        "target": target,
        "decision": decision,
        "slot": slot,
        "predicted": predicted,
        "expected": expected,
        "unsupported": unsupported,
        "marginal_propensity": marginal_propensity,
        "marginal_target": marginal_target,
        "slate_weight": slate_weight,
    }
    options: dict[str, Any] = {"method": method.value, "level": level, "seed": seed, "refuse": refuse}
    if data is not None:
        from evaluation.off_policy import Columns, Log, read_frame

        log = read_frame(data, Columns(**{name: column for name, column in given.items() if column}))
        parts = [("slots" if isinstance(log, Log) else "slates", log, estimators_of(log, tau, lam, method))]
        verdict = None
    else:
        parts, verdict = _of_namespace(
            specification, days, floor, cap, marginals, pi_draws, tau, lam, method, level, seed
        )
    _tell(parts, verdict, options, json)


def estimators_of(log: Log | SlateLog, tau: float, lam: float, method: Method) -> list[Estimator[Any]]:
    """The estimators that a log has columns for; the Bernstein bound is not for the self-normalised."""
    from evaluation.off_policy import DM, DR, IIPS, IPS, PI, RIPS, SNIPS, CascadeDR, DRos, Log, SlateIPS, SwitchDR

    normalised = method is not Method.bernstein
    found: list[Estimator[Any]]
    if isinstance(log, Log):
        found = [IPS(), *([SNIPS()] if normalised else [])]
        if log.predicted is not None and log.expected is not None:
            found += [DM(), DR(), SwitchDR(tau=tau), DRos(lam=lam)]
        return found
    found = [RIPS(), *([RIPS(normalised=True)] if normalised else []), SlateIPS()]
    if normalised:
        found.append(SlateIPS(normalised=True))
    if log.predicted is not None and log.expected is not None:
        found.append(CascadeDR())
    if log.marginal_propensity is not None and log.marginal_target is not None:
        found.append(IIPS())
    if log.slate_weight is not None:
        found += [PI(), *([PI(normalised=True)] if normalised else [])]
    return found


def _of_namespace(
    specification: str,
    days: float,
    floor: float | None,
    cap: float | None,
    marginals: int,
    pi_draws: int,
    tau: float,
    lam: float,
    method: Method,
    level: float,
    seed: int,
) -> tuple[list[tuple[str, Log | SlateLog, list[Estimator[Any]]]], Verdict]:
    from bandits import parse
    from evaluation.exploration import Clustered, LogReader, policy_log
    from evaluation.off_policy import DR, gate
    from liverank.settings import Settings, resolve

    found = policy_log(
        LogReader(resolve(Settings())),
        parse(specification),
        days=days,
        floor=floor,
        cap=cap,
        marginal_draws=marginals,
        pi_draws=pi_draws,
        seed=seed,
    )
    typer.echo(
        f"{specification}: {found.n_decisions:,} fully logged decisions, {found.slots.n:,} drawn slots "
        f"({found.n_open:,} decisions wait for outcomes, {found.n_lost:,} lack their snapshot)"
    )
    slots: list[Estimator[Any]] = [
        Clustered(one, found.decision) for one in estimators_of(found.slots, tau, lam, method)
    ]
    parts: list[tuple[str, Log | SlateLog, list[Estimator[Any]]]] = [("slots", found.slots, slots)]
    if found.slates is not None:
        parts.append(("slates", found.slates, estimators_of(found.slates, tau, lam, method)))
    verdict = gate(found.slots, estimator=Clustered(DR(), found.decision), level=level, seed=seed)
    return parts, verdict


def _tell(
    parts: Sequence[tuple[str, Log | SlateLog, Sequence[Estimator[Any]]]],
    verdict: Verdict | None,
    options: dict[str, Any],
    json: Path | None,
) -> None:
    from rich.console import Console

    from evaluation.off_policy import NoSupportError, evaluate

    console = Console()
    result: dict[str, Any] = {}
    refused = []
    for name, log, estimators in parts:
        estimates = []
        for one in estimators:
            try:
                estimates += evaluate(log, [one], **options)
            except NoSupportError as error:
                refused.append(f"{name}: {error.detail}")
        total = float(log.reward.mean() if name == "slots" else log.reward.sum(axis=1).mean())
        result[name] = {"logged": total, "n": log.n, "estimates": [_plain(one) for one in estimates]}
        console.print(_table(name, total, log.n, estimates))
    if verdict is not None:
        result["gate"] = {"passed": verdict.passed, "low": verdict.low, "baseline": verdict.baseline}
        said = "passes" if verdict.passed else f"is held: {'; '.join(verdict.reasons)}"
        console.print(f"gate: the policy {said}", highlight=False, soft_wrap=True)
    result["refused"] = refused
    for line in refused:
        console.print(f"refused {line}", highlight=False, soft_wrap=True)
    if json is not None:
        json.write_text(_json.dumps(result, indent=2) + "\n")
    if refused:
        raise typer.Exit(1)


def _table(name: str, logged: float, n: int, estimates: Sequence[Estimate]) -> Any:
    from rich.table import Table

    unit = "drawn slot" if name == "slots" else "slate"
    table = Table(title=f"Reward per {unit}: logged policy {logged:.5f} over {n:,}", title_justify="left")
    table.add_column("estimator")
    for column in ("value", "interval", "effective sample", "largest weight", "mean weight", "faults"):
        table.add_column(column, justify="left" if column == "faults" else "right", overflow="fold")
    for one in estimates:
        seen = one.diagnostics
        table.add_row(
            one.estimator,
            f"{one.value:.5f}",
            f"[{one.low:.5f}, {one.high:.5f}]",
            f"{seen.effective:,.0f} of {seen.n:,}",
            f"{seen.max_weight:.1f}",
            f"{seen.mean_weight:.3f} +- {seen.mean_weight_sd:.3f}",
            "; ".join(seen.faults),
        )
    return table


def _plain(one: Estimate) -> dict[str, Any]:
    return {**vars(one), "diagnostics": {**vars(one.diagnostics), "faults": list(one.diagnostics.faults)}}
