"""``liverank repartition``: another number of partitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from streams.repartition import RepartitionReport


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(repartition)


def repartition(
    partitions: Annotated[int | None, typer.Option(min=1, max=256, help="Partitions of the next generation.")] = None,
    abort: Annotated[bool, typer.Option("--abort", help="Go back, as long as it has not switched.")] = False,
    forward: Annotated[
        bool, typer.Option("--forward", help="Send on what producers sent to the generation before since its end.")
    ] = False,
    tolerate: Annotated[int, typer.Option(min=0, help="States that may differ when both are compared.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Give the namespace another number of partitions; workers must be up. Replies go on, events wait. Interrupted, run
    the same command again.
    """
    from liverank.errors import ConfigError

    if (partitions is not None) + abort + forward != 1:
        raise ConfigError("give one of --partitions N, --abort, --forward")
    if partitions is not None:
        _show(_run(partitions, tolerate), json)
        return
    from liverank.settings import Settings, resolve
    from streams.repartition import Repartition

    command = Repartition(resolve(Settings()))
    if abort:
        gone = command.abort()
        typer.echo("gone back: the old generation goes on" if gone else "no repartition is under way")
        return
    n, producers = command.forward()
    names = ", ".join(f"{name} {count:,}" for name, count in producers.most_common())
    typer.echo(f"sent on      {n:,}{f' ({names}): start these producers anew' if names else ''}")


def _run(partitions: int, tolerate: int) -> RepartitionReport:
    from contextlib import ExitStack

    from infra.stack import Stack
    from liverank.cli.progress import Steps
    from liverank.settings import Settings, resolve
    from streams.repartition import Repartition

    given, steps = Settings(), Steps()
    settings = resolve(given)
    with ExitStack() as stack:
        shown: dict[str, object] = {}

        def tell(step: str, what: str) -> None:
            if step not in shown:
                stack.pop_all().close()
                shown.clear()
                shown[step] = stack.enter_context(steps.step(step))
            shown[step].note(what)  # type: ignore[attr-defined]

        command = Repartition(settings, tell=tell, announce=Stack(given).set_generation)
        return command.run(partitions, tolerate=tolerate)


def _show(report: RepartitionReport, json: bool) -> None:
    counts, compared = report.counts, report.comparison
    if json:
        import json as encoder
        from dataclasses import asdict

        typer.echo(encoder.dumps(asdict(report)))
        return
    typer.echo(f"live         generation {report.generation}, {report.partitions} partitions")
    if counts.read:
        typer.echo(
            f"records      {counts.read:,} read, {counts.kept:,} in their new partitions, {counts.anew:,} ticks made "
            f"anew, {counts.strays:,} strays"
        )
        keys = ", ".join(f"{n:,} {what}" for what, n in compared.keys.items())
        typer.echo(
            f"compared     {keys}, {compared.statistics:,} sums; {compared.differing:,} differ"
            + (f", {compared.shared:,} sessions of several users left out" if compared.shared else "")
        )
    names = ", ".join(f"{name} {n:,}" for name, n in report.producers.items())
    typer.echo(f"came late    {report.late:,}, sent on{f' ({names}): start these producers anew' if names else ''}")
    typer.echo("workers      end by themselves and are started anew by the stack's supervisor, or by yours")
