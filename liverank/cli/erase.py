"""``liverank erase``: everything of a user goes."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(erase)


def erase(
    users: Annotated[
        list[str] | None, typer.Argument(help="Ids of the users (without a user id: the session id).")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until the folds have done it, then rewrite the files at once.")
    ] = False,
    rewrite: Annotated[
        bool, typer.Option("--rewrite", help="Rewrite the files of every erase that still stands in the archive.")
    ] = False,
    timeout_s: Annotated[float, typer.Option(min=1, help="With --wait: how long for workers, s.")] = 120.0,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Erase users: state, features and vectors at once; archive, decisions and label rows by the rewrite (within 24
    hours). Sums keep no id and stay. Workers must be up.
    """
    from liverank.cli.progress import Steps
    from liverank.errors import ConfigError
    from liverank.settings import Settings, resolve
    from streams.erase import await_files, await_folded, send_erase
    from streams.erase_files import EraseReport
    from streams.erase_files import rewrite as rewrite_files

    if not users and not rewrite:
        raise ConfigError("name the users to erase, or give --rewrite")
    settings, steps = resolve(Settings()), Steps()
    sent = send_erase(settings, users or [])
    report: EraseReport | None = None
    if sent and (wait or rewrite):
        with steps.step("folds"):
            await_folded(settings, sent, timeout_s)
    if wait or rewrite:
        with steps.step("archive, label rows, vectors"):
            await_files(settings, timeout_s)
        with steps.step("rewrite") as step:
            report = rewrite_files(settings, on_progress=lambda what, done: step.note(f"{what} {done:,}"))
    removed = {} if report is None else report.removed
    if json:
        import json as encoder

        body = {
            "users": {each.user_id: {"partition": each.partition, "state_fields": each.state_fields} for each in sent},
            "rewritten_users": 0 if report is None else report.users,
            "removed": {store: {"rows": rows, "files": files} for store, (rows, files) in removed.items()},
        }
        typer.echo(encoder.dumps(body))
        return
    for each in sent:
        verb = "erased" if wait or rewrite else "asked for"
        typer.echo(
            f"{each.user_id}  {verb}: {each.state_fields} fields of state in partition {each.partition}, its rows"
        )
    for store, (rows, files) in removed.items():
        typer.echo(f"{store:<10} {rows:,} removed" + (f" from {files:,} files" if files else ""))
    if report is None:
        typer.echo("files still hold them: run `liverank erase --rewrite` within 24 hours")
    elif not removed:
        typer.echo("no erase stands in the archive: nothing to rewrite")
