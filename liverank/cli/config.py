"""``liverank config show | set | unset | log | rollback``: settings that rankers apply while they serve."""

from __future__ import annotations

import datetime
import getpass
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from features.hot_settings import HotChange, HotStore
    from liverank.hot import HotSettings
    from liverank.settings import Settings

Who = Annotated[str, typer.Option("--as", help="Who changes it, for the audit log; the login name where not given.")]
Why = Annotated[str, typer.Option(help="Reason, for the audit log.")]

app = typer.Typer(no_args_is_help=True, help="Settings that every ranker applies within a second, with an audit log.")


def register(root: typer.Typer) -> None:
    """Add the commands."""
    root.add_typer(app, name="config")


@dataclass(frozen=True)
class Open:
    """The hot settings of a namespace and the settings below them."""

    settings: Settings
    store: HotStore

    def change(self, edit: Callable[[HotSettings], HotSettings], who: str, why: str) -> HotChange:
        """Edit the document, check it as a ranker would, write it and say what changed.

        Raises
        ------
        ConfigError
            The result breaks a rule; nothing was written.
        StaleError
            Someone else changed it meanwhile.
        """
        from ranker.serving import rulebook

        version, before = self.store.read()
        after = edit(before)
        rulebook(self.settings.ranker, after)
        change = self.store.write(after, over=version, who=who or getpass.getuser(), why=why)
        for name, (old, new) in change.changed.items():
            typer.echo(f"{name}: {shown(old)} -> {shown(new)}")
        typer.echo(f"version {change.version}" + ("" if change.changed else ", nothing changed"))
        return change


def opened() -> Open:
    """Connect as a command does."""
    from features.hot_settings import HotStore
    from features.redis import connect
    from liverank.settings import Settings, resolve

    settings = resolve(Settings())
    return Open(settings, HotStore(connect(settings), settings.namespace))


def shown(value: Any) -> str:
    """A value as JSON; `-` where nothing is set."""
    return "-" if value is None else json.dumps(value)


@app.command("show")
def show() -> None:
    """What is set, and its version."""
    version, hot = opened().store.read()
    typer.echo(json.dumps({"version": version, **hot.model_dump()}, indent=2))


@app.command("set")
def set_(
    pairs: Annotated[
        list[str], typer.Argument(help="NAME=VALUE of settings of ranker, e.g. floor=0.05 head_weights.dismiss=-3.")
    ],
    who: Who = "",
    why: Why = "",
) -> None:
    """Change settings of `ranker`; a value is JSON, or plain text. NAME.KEY changes one entry of a table."""
    here = opened()

    def edit(hot: HotSettings) -> HotSettings:
        from liverank.errors import ConfigError

        ranker = dict(hot.ranker)
        for pair in pairs:
            name, equals, text = pair.partition("=")
            if not equals or not name:
                raise ConfigError(f"NAME=VALUE wanted, got {pair!r}")
            name, dot, key = name.partition(".")
            value = parsed(text)
            if dot:
                table = ranker.get(name, getattr(here.settings.ranker, name, None))
                if not isinstance(table, dict):
                    raise ConfigError(f"{name} is not a table of settings; leave out .{key}")
                value = {**table, key: value}
            ranker[name] = value
        return hot.model_copy(update={"ranker": ranker})

    here.change(edit, who, why)


@app.command("unset")
def unset(
    names: Annotated[list[str], typer.Argument(help="Settings that fall back to those of the process.")],
    who: Who = "",
    why: Why = "",
) -> None:
    """Take settings back."""
    opened().change(
        lambda hot: hot.model_copy(update={"ranker": {n: v for n, v in hot.ranker.items() if n not in names}}), who, why
    )


@app.command("log")
def log(newest: Annotated[int, typer.Option("--newest", "-n", min=1, help="How many changes.")] = 20) -> None:
    """Who changed what, when and why, newest first."""
    changes = opened().store.log(newest)
    for change in changes:
        at = datetime.datetime.fromtimestamp(change.at_ms / 1000, tz=datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
        what = "; ".join(f"{name} {shown(old)} -> {shown(new)}" for name, (old, new) in change.changed.items())
        typer.echo(
            f"{change.version:>5}  {at}Z  {change.who}  {what or '(no change)'}"
            + f"  # {change.why}" * bool(change.why)
        )
    if not changes:
        typer.echo("nothing was ever changed")


@app.command("rollback")
def rollback(
    version: Annotated[int, typer.Argument(min=0, help="Version to put back; 0 = no hot settings.")],
    who: Who = "",
    why: Why = "",
) -> None:
    """Put an earlier version back, as a new one."""
    from ranker.serving import rulebook

    here = opened()
    document = here.store.at(version)
    rulebook(here.settings.ranker, document)
    change = here.store.write(
        document, over=here.store.version(), who=who or getpass.getuser(), why=why or f"rollback to version {version}"
    )
    for name, (old, new) in change.changed.items():
        typer.echo(f"{name}: {shown(old)} -> {shown(new)}")
    typer.echo(f"version {change.version}")


def parsed(text: str) -> Any:
    """A value from the command line: JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
