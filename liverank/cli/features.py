"""``liverank features list | diff | lineage | drift | skew | backfill | history``: what is declared, how it fares."""

from __future__ import annotations

import json as encoder
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from features.program import FeatureProgram
    from liverank.settings import Settings

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Last = Annotated[float, typer.Option(min=0.001, help="Hours of served decisions to look at, up to now.")]
_HOUR_MS = 3_600_000


def register(app: typer.Typer) -> None:
    """Add the commands."""
    features = typer.Typer(no_args_is_help=True, help="Features of the registry: states, lineage, drift, skew.")
    features.command("list")(list_)
    features.command()(diff)
    features.command()(lineage)
    features.command()(drift)
    features.command()(skew)
    features.command()(backfill)
    features.command()(history)
    app.add_typer(features, name="features")


def _settings() -> Settings:
    import warnings

    from liverank.settings import Settings, resolve

    warnings.filterwarnings("ignore", module="feast")
    warnings.filterwarnings("ignore", message="Stream feature views are experimental")
    warnings.filterwarnings("ignore", message="On demand feature view is an experimental")
    return resolve(Settings())


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
    return table


def list_(
    state: Annotated[str, typer.Option(help="Only features in this state: declared, warming, served.")] = "",
    json: _Json = False,
) -> None:
    """Every feature with its state (declared, warming, served) and the model that reads it."""
    from evaluation.features import inventory

    found = [each for each in inventory(_settings()) if not state or each.state == state]
    if json:
        typer.echo(encoder.dumps([vars(each) for each in found]))
        return
    table = _table("feature", "from", "state", "used by model")
    for each in found:
        table.add_row(each.name, each.source, each.state, each.model[:12])
    console = Console(highlight=False)
    console.print(table)
    counts = Counter(each.state for each in found)
    used = sum(1 for each in found if each.model)
    typer.echo(", ".join(f"{n} {name}" for name, n in sorted(counts.items())) + f"; {used} used by the model")


def diff(
    repo: Annotated[
        Path | None, typer.Argument(exists=True, file_okay=False, help="Feature repo; default: that of the settings.")
    ] = None,
) -> None:
    """What `feast apply` of the repo would change in the running namespace; exits 1 if anything."""
    from evaluation.features import declared_here, differences

    settings = _settings()
    lines = differences(_published(settings), declared_here(settings, repo))
    typer.echo("\n".join(lines) or "no change")
    raise typer.Exit(1 if lines else 0)


def lineage(
    feature: Annotated[str, typer.Argument(help="As `liverank features list` names it, e.g. user_windows:clicks_1d.")],
    json: _Json = False,
) -> None:
    """Where a feature comes from, from the source to the model that reads it."""
    from evaluation.features import lineage as steps_of

    steps = steps_of(_settings(), feature)
    if json:
        typer.echo(encoder.dumps([list(step) for step in steps]))
        return
    for what, which in steps:
        typer.echo(f"{what:16} {which}")


def drift(
    features: Annotated[list[str] | None, typer.Argument(help="Features; none = all that models read.")] = None,
    last: _Last = 24.0,
    before: Annotated[float, typer.Option(min=0.001, help="Hours of reference before that.")] = 24.0 * 7,
    reference: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Parquet of feature rows instead of decisions.")
    ] = None,
    current: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Parquet to compare with --reference.")
    ] = None,
    threshold: Annotated[float, typer.Option(min=0, help="PSI from which a feature has shifted.")] = 0.2,
    json: _Json = False,
) -> None:
    """Population stability of served features; exits 1 and names those that shifted."""
    from features.drift import drift as compare
    from liverank.errors import ConfigError

    if (reference is None) != (current is None):
        raise ConfigError("give both --reference and --current, or neither")
    if reference is not None and current is not None:
        then: Mapping[str, Any] = _parquet(reference)
        now: Mapping[str, Any] = _parquet(current)
    else:
        from evaluation.features.served import columns, served_decisions

        now_ms = int(time.time() * 1000)
        split_ms = now_ms - int(last * _HOUR_MS)
        found = served_decisions(_settings(), since_ms=split_ms - int(before * _HOUR_MS))
        then = columns(made for made in found if made.decided_ts_ms < split_ms)
        now = columns(made for made in found if made.decided_ts_ms >= split_ms)
    found_drift = compare(then, now, features or ())
    shifted = [each for each in found_drift if each.psi >= threshold]
    if json:
        typer.echo(encoder.dumps([each._asdict() for each in found_drift]))
    else:
        table = _table("feature", ">PSI", ">mean before", ">mean now", "")
        for each in found_drift[: max(20, len(shifted))]:
            mark = "shifted" if each.psi >= threshold else ""
            table.add_row(each.feature, f"{each.psi:.3f}", f"{each.before:.4g}", f"{each.after:.4g}", mark)
        Console(highlight=False).print(table)
        names = ", ".join(each.feature for each in shifted)
        typer.echo(f"{len(shifted)} of {len(found_drift)} features shifted{': ' + names if shifted else ''}")
    raise typer.Exit(1 if shifted else 0)


def skew(
    features: Annotated[list[str] | None, typer.Argument(help="Features; none = all windows.")] = None,
    last: _Last = 24.0,
    slack_ms: Annotated[int, typer.Option(min=0, help="Longest time from an event to its being readable, ms.")] = 2_000,
    json: _Json = False,
) -> None:
    """Served feature values against values rebuilt from the log, row by row; exits 1 and names what differs."""
    from evaluation.features.served import served_decisions
    from evaluation.features.skew import skew as compare
    from features.redis import connect, namespace_token
    from liverank.cli.progress import Steps
    from streams.past import read_catalogue

    settings = _settings()
    client = connect(settings, retries=3)
    steps = Steps()
    with steps.step("decisions") as step:
        decisions = served_decisions(settings, since_ms=int(time.time() * 1000 - last * _HOUR_MS))
        step.note(f"{len(decisions):,}")
    with steps.step("rebuild") as step:
        table, _ = read_catalogue(settings, settings.stack.partitions)
        report = compare(
            settings,
            decisions,
            _published(settings),
            table=table,
            token=namespace_token(client, settings.namespace),
            generation=int(client.get(f"{settings.namespace}:active") or 1),
            slack_ms=slack_ms,
            names=features or (),
            on_progress=lambda done, total: step.note(f"{done:,} of {total:,} events"),
        )
        step.note(f"{report.rows:,} rows")
    if json:
        body: dict[str, Any] = report._asdict() | {"found": [each._asdict() for each in report.found]}
        typer.echo(encoder.dumps(body))
    else:
        for each in report.found:
            typer.echo(
                f"{each.feature}: {each.rows} rows differ, first in request {each.request_id}, item {each.item_id}, "
                f"at {each.decided_ts_ms} ms: served {each.served:g}, rebuilt {each.rebuilt:g}"
            )
        typer.echo(
            f"{len(report.found)} features differ; compared {report.values:,} values of {report.rows:,} rows of "
            f"{report.decisions:,} decisions"
        )
    raise typer.Exit(1 if report.found else 0)


def backfill(
    wait: Annotated[float, typer.Option(min=0, help="Wait up to so many seconds until everything is served.")] = 0.0,
    json: _Json = False,
) -> None:
    """How far the backfill of new views is (workers run it by themselves); exits 1 while something is pending."""
    from evaluation.features.backfill import pending

    settings = _settings()
    deadline_s = time.monotonic() + wait
    while (found := pending(settings)) and time.monotonic() < deadline_s:
        time.sleep(0.5)
    if json:
        typer.echo(encoder.dumps([vars(each) for each in found]))
    else:
        for each in found:
            share = f", {each.done:,} of {each.total:,} events" if each.total else ""
            typer.echo(f"{each.view}: {each.state}, merged in {each.merged} of {each.partitions} partitions{share}")
        if not found:
            typer.echo("every view of the registry is served")
    raise typer.Exit(1 if found else 0)


def history(
    service: Annotated[str, typer.Option(help="Feature service of the registry.")],
    entities: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, help="Parquet or JSONL: join keys, event_timestamp (UTC or ms)."),
    ],
    out: Annotated[Path, typer.Option(dir_okay=False, help="Parquet to write.")],
    json: _Json = False,
) -> None:
    """Features of a service as they were strictly before each row's timestamp: a training set without the future."""
    import pyarrow.parquet as pq

    from features.apply import open_store
    from features.feature_history import feature_history, read_rows
    from liverank.cli.progress import Steps

    settings = _settings()
    steps = Steps()
    with steps.step("history") as step:
        rows = read_rows(entities)
        step.note(f"{len(rows):,} rows")
        table = feature_history(open_store(settings, timeout_s=30.0), service, rows)
        temporary = out.with_name(f".{out.name}.tmp")
        pq.write_table(table, temporary)
        temporary.replace(out)
        step.note(f"{table.num_rows:,} rows, {table.num_columns - len(rows.columns):,} columns added")
    if json:
        typer.echo(encoder.dumps({"rows": table.num_rows, "columns": table.column_names, "path": str(out)}))
        return
    typer.echo(f"{table.num_rows:,} rows with {table.num_columns - len(rows.columns):,} columns added -> {out}")


def _published(settings: Settings) -> FeatureProgram:
    from features.errors import ProgramError
    from features.redis import connect
    from streams.program import published_program

    program = published_program(connect(settings, retries=3), settings.namespace)
    if program is None:
        raise ProgramError(f"nothing is published for {settings.namespace} yet; run `liverank up` or `feast apply`")
    return program


def _parquet(path: Path) -> Mapping[str, Any]:
    """Numeric columns of a file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    numeric = [f.name for f in table.schema if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)]
    return {name: table[name].cast(pa.float64()).to_numpy() for name in numeric}
