"""``liverank enrich | train``: batch work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from features.llm.enrich import Tally


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(enrich)
    app.command()(train)


def enrich(
    items: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="JSONL or Parquet of items, instead of the catalogue."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Estimate calls, tokens and cost; call nothing.")] = False,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="Ask again for what failed before.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Vectors (and attributes, with a chat model) of the catalogue's texts, into Feast; no call is made twice."""
    from features.llm import job
    from liverank.cli.progress import Steps
    from liverank.settings import Settings, resolve

    settings = resolve(Settings())
    steps = Steps()
    with steps.step("catalogue") as step:
        catalogue = job.catalogue(settings, items)
        step.note(f"{len(catalogue):,} items")
    if dry_run:
        plan = job.estimate(settings, catalogue)
        tokens = f"{plan.usage.input_tokens:,} + {plan.usage.output_tokens:,} tokens"
        typer.echo(f"{plan.items:,} items: {plan.calls:,} calls, {tokens}, cost {plan.cost:.4f}")
        return
    with steps.step("enrich") as step:

        def progress(tally: Tally) -> None:
            step.note(f"{tally.items:,} items, {tally.embedded:,} embedded, {tally.from_cache:,} from the cache")

        report = job.enrich(
            settings, catalogue, retry_quarantined=retry_quarantined, on_progress=progress, note=step.note
        )
        step.note(
            f"{report.rows:,} vectors, {report.calls:,} calls, cost {report.cost:.4f}, {report.users:,} users moved"
        )
    if json:
        _print(report)
    else:
        typer.echo(f"space      {report.space}\nfile       {report.path}")
        if report.tally.quarantined:
            typer.echo(f"quarantine {len(report.tally.quarantined)} items, e.g. {report.tally.quarantined[0]}")


def train(
    source: Annotated[str, typer.Option(help="auto, served (live traffic) or history (imported).")] = "auto",
    date: Annotated[str, typer.Option(help="Use what happened until the end of this day (UTC), YYYY-MM-DD.")] = "",
    days: Annotated[int, typer.Option(min=1, help="Use served rows of so many days before that.")] = 90,
    slates: Annotated[int, typer.Option(min=40, help="Slates of history that become rows.")] = 5_000,
    publish: Annotated[bool, typer.Option(help="Make the model active.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Also where it is no better than a coin.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train the heads, calibrate them, write the manifest and make it active; rankers load it within seconds."""
    from liverank.cli.progress import Steps
    from liverank.errors import ConfigError
    from liverank.settings import Settings, resolve
    from ranker.training import run
    from ranker.training.history import Sampling

    if source not in ("auto", "served", "history"):
        raise ConfigError(f"--source is auto, served or history, got {source!r}")
    settings = resolve(Settings())
    until_ms = _end_of(date) if date else 1 << 62
    since_ms = max(0, until_ms - days * 86_400_000) if date else 0
    steps = Steps()
    with steps.step("train") as step:
        report = run.train(
            settings,
            source=source,  # type: ignore[arg-type]
            since_ms=since_ms,
            until_ms=until_ms,
            sampling=Sampling(slates=slates),
            publish=publish,
            force=force,
            note=step.note,
        )
        step.note(f"{report.rows:,} rows ({report.kind})")
    if json:
        _print(report)
        return
    typer.echo(f"model      {report.model_id}\nengine     {report.engine}\nactive     {'yes' if publish else 'no'}")
    for head, figures in report.figures["heads"].items():
        shown = ("auc", "auc_popularity", "log_loss", "log_loss_base", "ece", "hit_10", "hit_10_popularity")
        values = "  ".join(f"{name} {figures[name]:.4f}" for name in shown if figures.get(name) is not None)
        typer.echo(f"{head:<10} {values}")
    typer.echo(f"report     {report.path / run.REPORT_FILE}")


def _end_of(day: str) -> int:
    from datetime import UTC, datetime, timedelta

    from liverank.errors import ConfigError

    try:
        start = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise ConfigError(f"--date is a day such as 2026-01-31, got {day!r}") from error
    return int((start + timedelta(days=1)).timestamp() * 1000)


def _print(report: object) -> None:
    import json
    from dataclasses import asdict

    typer.echo(json.dumps(asdict(report), default=str))  # type: ignore[call-overload]
