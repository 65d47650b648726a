"""``liverank up | down | status | doctor``: the local stack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from infra.doctor import Finding
    from infra.stack import Status

ONLY_HELP = "Comma-separated parts to start: kafka, redis, namespace, features, model, workers, rankers."


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(doctor)


def up(
    only: Annotated[str, typer.Option(help=ONLY_HELP)] = "",
    workers: Annotated[int | None, typer.Option(min=0, max=16, help="Number of stream workers.")] = None,
    rankers: Annotated[int | None, typer.Option(min=0, max=16, help="Number of rankers.")] = None,
) -> None:
    """Start Kafka, Redis, the features, the workers and the ranker; a second run changes nothing."""
    from infra.stack import PARTS, Stack, parse_parts
    from liverank.cli.progress import Steps
    from liverank.settings import Settings

    settings = Settings()
    numbers = {name: value for name, value in (("workers", workers), ("rankers", rankers)) if value is not None}
    settings = settings.model_copy(update={"stack": settings.stack.model_copy(update=numbers)})
    steps = Steps()
    stack = Stack(settings, steps)
    found = stack.up(parse_parts(only) if only else PARTS)
    steps.total("up")
    own = found.of(settings.namespace)
    typer.echo(f"endpoints  {stack.layout.endpoints}")
    for name, address in (("gRPC", own.grpc), ("HTTP", own.http and f"http://{own.http}"), ("logs", stack.layout.logs)):
        if address:
            typer.echo(f"{name:<10} {address}")


def down(
    namespace_only: Annotated[bool, typer.Option(help="Stop the workers and rankers of this namespace only.")] = False,
) -> None:
    """Stop everything that `up` started here; the data stays."""
    from infra.stack import Stack
    from liverank.cli.progress import Steps
    from liverank.settings import Settings

    stack = Stack(Settings(), Steps())
    if namespace_only:
        stack.stop_namespace()
    else:
        stack.down()


def status(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask every part in its own protocol; exit code 1 unless all answer."""
    from infra.stack import Stack
    from liverank.settings import Settings

    found = Stack(Settings()).status()
    if json:
        _print_status_json(found)
    else:
        _print_status(found)
    raise typer.Exit(0 if found.healthy else 1)


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine, the stores and the stack; each finding says what to do. Exit code 1 on a fault."""
    from infra.doctor import examine
    from liverank.settings import Settings

    findings = examine(Settings())
    if json:
        _print_findings_json(findings)
    else:
        _print_findings(findings)
    raise typer.Exit(1 if any(one.level == "fault" for one in findings) else 0)


def _print_status(found: Status) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if found.endpoints is None and not found.processes:
        console.print("nothing is up here; start it with: liverank up")
        return
    table = Table("part", "state", "pid", "up", "answer", box=None, pad_edge=False)
    shown = set()
    for process in found.processes:
        shown.add(process.name)
        fault = found.faults.get(process.name, "")
        running = f"{process.up_s} s" if process.pid else ""
        answer = fault or ("ok" if process.name in found.faults else "not in the endpoints file: run liverank up")
        table.add_row(process.name, process.state.lower(), str(process.pid or ""), running, answer)
    for part, fault in found.faults.items():
        if part not in shown:
            table.add_row(part, "external" if part in ("kafka", "redis") else "", "", "", fault or "ok")
    console.print(table)
    if found.endpoints is None:
        console.print("processes run, but there is no endpoints file: run liverank up again")


def _print_status_json(found: Status) -> None:
    import dataclasses
    import json

    endpoints = found.endpoints.model_dump() if found.endpoints else None
    processes = [{**dataclasses.asdict(one), "log": str(one.log)} for one in found.processes]
    whole = {"healthy": found.healthy, "endpoints": endpoints, "processes": processes, "faults": found.faults}
    typer.echo(json.dumps(whole))


def _print_findings(findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.text import Text

    marks = {"ok": (" ok    ", "green"), "warning": (" warn  ", "yellow"), "fault": (" FAULT ", "bold red")}
    console = Console(highlight=False)
    for one in findings:
        console.print(Text.assemble(marks[one.level], f"{one.check:<22} {one.found}"), soft_wrap=True)
        if one.todo:
            console.print(Text(f"       {'':<22} -> {one.todo}"), soft_wrap=True)
    n_faults = sum(one.level == "fault" for one in findings)
    console.print(
        f"{len(findings)} checks, {n_faults} to be put right" if n_faults else f"{len(findings)} checks, all well"
    )


def _print_findings_json(findings: Sequence[Finding]) -> None:
    import dataclasses
    import json

    typer.echo(json.dumps([dataclasses.asdict(one) for one in findings]))
