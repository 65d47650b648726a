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


def _print(report: object) -> None:
    import json
    from dataclasses import asdict

    typer.echo(json.dumps(asdict(report), default=str))  # type: ignore[call-overload]
