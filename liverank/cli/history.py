"""``liverank import | rebuild``: recorded events into the archive and into state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from liverank.v1.event_pb2 import Event


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("import")(import_)
    app.command()(rebuild)


def import_(
    files: Annotated[
        list[Path],
        typer.Argument(exists=True, dir_okay=False, help="Events: JSONL, JSONL.gz, JSONL.zst or Parquet."),
    ],
    items: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Catalogue to send first: JSONL or Parquet.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Put recorded events into the archive and fold them, before the namespace's first live event."""
    from liverank.cli.progress import Steps
    from liverank.files import read_events, read_items
    from liverank.settings import Settings, resolve
    from streams.history import import_history

    settings = resolve(Settings())
    steps = Steps()

    def events() -> Iterator[Event]:
        for path in files:
            yield from read_events(path)

    with steps.step("import") as step:

        def progress(name: str, done: int, total: int) -> None:
            step.note(f"{name} {done:,} of {total:,}" if total else name)

        changes = read_items(items) if items is not None else ()
        report = import_history(settings, events(), items=changes, on_progress=progress)
        step.note(f"{report.events:,} events of {report.users:,} users")
    dead = sum(report.dead_letters.values())
    if json:
        import json as encoder

        body = {
            "events": report.events,
            "users": report.users,
            "items": report.items,
            "examples": report.examples,
            "dead_letters": dict(report.dead_letters),
        }
        typer.echo(encoder.dumps(body))
        return
    typer.echo(f"events       {report.events:,} of {report.users:,} users")
    typer.echo(f"items        {report.items:,}")
    typer.echo(f"label rows   {report.examples:,}")
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in report.dead_letters.most_common())
    typer.echo(f"dead letters {dead:,}{f' ({reasons}); see the topic dead-letter' if dead else ''}")


def rebuild(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before the state in Redis is deleted.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Fold the archive into an empty Redis; stop the workers first."""
    from liverank.cli.progress import Steps
    from liverank.settings import Settings, resolve
    from streams.rebuild import rebuild as run

    settings = resolve(Settings())
    if not yes:
        typer.confirm(
            f"Delete the fold state of namespace {settings.namespace} and build it anew from the archive?", abort=True
        )
    steps = Steps()
    with steps.step("rebuild") as step:
        report = run(settings, on_progress=lambda name, done: step.note(f"{name} {done:,}"))
        step.note(f"{report.imported:,} imported and {report.live:,} live events")
    if json:
        import json as encoder

        typer.echo(encoder.dumps({"imported": report.imported, "live": report.live, "items": report.items}))
        return
    typer.echo(
        f"imported events {report.imported:,}\nlive events     {report.live:,}\nitem versions   {report.items:,}"
    )
