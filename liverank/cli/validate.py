"""``liverank validate FILE``: every fault of an event file with its line and what to do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(validate)


def validate(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Events: JSONL(.gz, .zst) or Parquet.")],
    items: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Catalogue: items that it lacks are told.")
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="Lines to name of each kind of fault.")] = 5,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check an event file before it is imported or sent; exits 1 and names each fault with line and fix."""
    from evaluation.datasets.checks import check_file

    report = check_file(file, items=items, now_ms=int(time.time() * 1000), per_code=most)
    if json:
        import json as encoder

        body = {"events": report.events, "counts": report.counts, "faults": [f._asdict() for f in report.faults]}
        typer.echo(encoder.dumps(body))
    else:
        for fault in report.faults:
            where = f"{file}:{fault.line}" if fault.line else f"{file}"
            typer.echo(f"{where}: {fault.code}: {fault.what}\n    fix: {fault.fix}")
        counts = ", ".join(f"{code} {n:,}" for code, n in report.counts.most_common())
        typer.echo(f"{report.events:,} events: {counts or 'no faults'}")
    raise typer.Exit(1 if report.counts else 0)
