"""``liverank init --from FILE``: somebody's own log becomes a folder that liverank starts from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from evaluation.datasets.adopt import Adopted


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(init)


def init(
    from_: Annotated[
        Path,
        typer.Option("--from", exists=True, dir_okay=False, help="Your log: .jsonl, .parquet or .csv (.gz, .zst)."),
    ],
    items: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Your catalogue, of the same kinds.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder to write; default: named as the log.")
    ] = None,
    namespace: Annotated[str, typer.Option(help="Namespace; default: named as the folder.")] = "",
    column: Annotated[
        list[str] | None, typer.Option(help="What a column means, e.g. user_id=buyer; user_id= means there is none.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell the columns of your own log, and write events, catalogue, a feature repo and settings for it."""
    from evaluation.datasets.adopt import adopt
    from features.deployment import CHECKOUT
    from liverank.settings import Settings

    settings = Settings()
    folder = out or Path(re.split(r"\.(?=jsonl|parquet|csv)", from_.name)[0])
    made = adopt(
        from_,
        folder,
        items=items,
        home=settings.home,
        repo=CHECKOUT / "features" / "repo",
        namespace=namespace or _namespace(folder.name),
        given=_given(column or []),
    )
    if json:
        _print_json(made)
    else:
        _print(made)


def _given(texts: list[str]) -> dict[str, str]:
    from liverank.errors import ConfigError

    found = {}
    for text in texts:
        role, split, name = text.partition("=")
        if not split:
            raise ConfigError(f"--column is ROLE=COLUMN, e.g. user_id=buyer, got {text!r}")
        found[role.strip()] = name.strip()
    return found


def _namespace(name: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")[:24].strip("-") or "own"


def _print(made: Adopted) -> None:
    columns = made.columns
    for field, name in columns.roles.items():
        typer.echo(f"column     {name} is {field}")
    for kind, name in columns.outcomes.items():
        typer.echo(f"column     {name} = 1 is a {kind}")
    for field, name in columns.items.items():
        typer.echo(f"column     {name} is {field} of the item")
    for word, kind in columns.types.items():
        if word.lower() != kind:
            typer.echo(f"type       {word!r} is {kind}")
    if made.ignored:
        typer.echo(f"not used   {', '.join(made.ignored)}")
    typer.echo(
        "events     " + ", ".join(f"{n:,} {kind}" for kind, n in sorted(made.kinds.items(), key=lambda k: -k[1]))
    )
    typer.echo(f"items      {made.items:,}")
    for reason, n in made.left_out.items():
        typer.echo(f"left out   {n:,} rows: {reason}")
    typer.echo(f"folder     {made.folder}\nnext       liverank import {made.folder} --train")


def _print_json(made: Adopted) -> None:
    import dataclasses
    import json

    typer.echo(json.dumps(dataclasses.asdict(made), default=str))
