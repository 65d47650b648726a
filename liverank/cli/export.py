"""``liverank export``: recorded events and the catalogue as files that `liverank import` reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from liverank.v1.event_pb2 import Event


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(export)


def export(
    file: Annotated[Path, typer.Argument(dir_okay=False, help=".jsonl, .jsonl.gz, .jsonl.zst or .parquet.")],
    items: Annotated[
        Path | None, typer.Option(dir_okay=False, help="The catalogue too, into this file.", show_default=False)
    ] = None,
    since: Annotated[str, typer.Option(help="Events from this day or time on (UTC, ISO 8601).")] = "",
    until: Annotated[str, typer.Option(help="Events before this day or time (UTC, ISO 8601).")] = "",
    user: Annotated[str, typer.Option(help="Only this user.")] = "",
    exposures: Annotated[bool, typer.Option(help="With the exposures that the ranker wrote.")] = True,
    history: Annotated[bool, typer.Option(help="With imported history.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write what the archive and the log hold, in the order it came; refused records are left out and counted."""
    from features.generation import active_generation
    from features.redis import connect
    from liverank.cli.progress import Steps
    from liverank.files import write_events, write_items
    from liverank.settings import Settings, resolve
    from streams.export import Exported, export_events, export_items

    settings = resolve(Settings())
    with connect(settings) as client:
        generation = active_generation(client, settings)
    generations = [one for one in range(generation + 1) if one or history]
    steps, report, n_items = Steps(), Exported(), 0
    with steps.step("events") as step:
        events = export_events(
            settings, generations, since_ms=_ms(since, 0),
            until_ms=_ms(until, 1 << 62), user_id=user, exposures=exposures, report=report,
        )  # fmt: skip
        write_events(file, _noted(events, step.note))
        step.note(f"{report.events:,} events")
    if items is not None:
        with steps.step("items") as step:
            n_items = write_items(items, export_items(settings))
            step.note(f"{n_items:,} changes")
    if json:
        import json as encoder

        body = {"events": report.events, "unreadable": report.unreadable, "items": n_items, "file": str(file)}
        typer.echo(encoder.dumps(body))
        return
    typer.echo(f"events     {report.events:,} in {file}")
    if report.unreadable:
        typer.echo(f"left out   {report.unreadable:,} unreadable; see `liverank dlq list`")
    if items is not None:
        typer.echo(f"items      {n_items:,} in {items}")


def _noted(events: Iterable[Event], note: Callable[[str], None]) -> Iterator[Event]:
    """Pass events on, and say how many there were."""
    for n, event in enumerate(events, 1):
        if n % 10_000 == 0:
            note(f"{n:,} events")
        yield event


def _ms(text: str, default: int) -> int:
    from liverank.errors import ConfigError

    if not text:
        return default
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"a time is ISO 8601, e.g. 2026-01-31 or 2026-01-31T12:00; got {text!r}") from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
