"""``liverank import | rebuild``: recorded events into the archive and into state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from liverank.cli.progress import Steps
    from liverank.settings import Settings
    from liverank.v1.event_pb2 import Event
    from ranker.training.run import TrainReport


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("import")(import_)
    app.command()(rebuild)


def import_(
    files: Annotated[
        list[Path],
        typer.Argument(
            exists=True,
            help="Events: JSONL, JSONL.gz, JSONL.zst or Parquet; or the folder that `liverank init` wrote.",
        ),
    ],
    items: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Catalogue to send first: JSONL or Parquet.")
    ] = None,
    train: Annotated[bool, typer.Option("--train", help="Then embed the items' texts and train the ranker.")] = False,
    slates: Annotated[int, typer.Option(min=40, help="With --train: slates, or choices, that become rows.")] = 5_000,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Put recorded events into the archive and fold them, before the namespace's first live event."""
    from liverank.cli.progress import Steps
    from liverank.files import read_events, read_items
    from liverank.settings import Settings, resolve
    from streams.history import import_history

    steps, settings = Steps(), Settings()
    if folder := next((path for path in files if path.is_dir()), None):
        files, items, settings = _enter(folder, files, items, steps)
    settings = resolve(settings)

    def events() -> Iterator[Event]:
        for path in files:
            yield from read_events(path)

    with steps.step("import") as step:

        def progress(name: str, done: int, total: int) -> None:
            step.note(f"{name} {done:,} of {total:,}" if total else f"{name} {done:,}" if done else name)

        changes = read_items(items) if items is not None else ()
        report = import_history(settings, events(), items=changes, on_progress=progress)
        step.note(f"{report.events:,} events of {report.users:,} users")
    dead = sum(report.dead_letters.values())
    trained = _learn(settings, steps, slates) if train else None
    if json:
        import json as encoder

        body = {
            "model": trained.model_id if trained else "",
            "heads": trained.figures["heads"] if trained else {},
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
    if trained is not None:
        name, figures = next(iter(trained.figures["heads"].items()))
        shown = {key: figures[key] for key in ("auc", "hit_10", "hit_10_popularity") if figures.get(key) is not None}
        typer.echo(f"model        {trained.model_id[:12]}, {trained.rows:,} rows ({trained.kind})")
        typer.echo(f"{name:<12} " + "  ".join(f"{key} {value:.4f}" for key, value in shown.items()))
    if folder is not None:
        typer.echo(f"next         cd {folder} && liverank up")


def _enter(
    folder: Path, files: list[Path], items: Path | None, steps: Steps
) -> tuple[list[Path], Path | None, Settings]:
    """Files and settings of a folder that `init` wrote; starts the stores and applies its feature repo."""
    from contextlib import chdir

    from infra.stack import Stack, parse_parts
    from liverank.errors import ConfigError
    from liverank.settings import Settings

    if len(files) > 1 or items is not None:
        raise ConfigError(f"{folder} is a folder: it brings its own events and items, give it alone")
    if not (folder / "liverank.toml").exists():
        raise ConfigError(f"{folder} has no liverank.toml: `liverank init --from FILE` writes such a folder")
    with chdir(folder):
        settings = Settings()
    Stack(settings, steps).up(parse_parts("kafka,redis,namespace,features"))
    return [folder / "events.parquet"], folder / "items.parquet", settings


def _learn(settings: Settings, steps: Steps, slates: int) -> TrainReport:
    """Vectors of the items' texts, then the heads."""
    from features.llm import job
    from ranker.training import run
    from ranker.training.history import Sampling

    with steps.step("enrich") as step:
        try:
            report = job.enrich(settings, job.catalogue(settings, None), note=step.note)
            step.note(f"{report.rows:,} vectors")
        except job.NothingToEnrichError:
            step.note("no item has a text: the ranker learns without vectors")
    with steps.step("train") as step:
        return run.train(settings, sampling=Sampling(slates=slates), note=step.note)


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
        step.note(f"{report.imported:,} imported and {report.before + report.live:,} live events")
    if json:
        import json as encoder
        from dataclasses import asdict

        typer.echo(encoder.dumps(asdict(report)))
        return
    typer.echo(
        f"imported events {report.imported:,}\nlive events     {report.before + report.live:,}\n"
        f"item versions   {report.items:,}"
    )
