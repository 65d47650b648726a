"""``liverank dlq list | show | replay | drop``: records that could not be used."""

from __future__ import annotations

import json as encoder
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from streams.dlq import DeadLetters, Letter

_Names = Annotated[list[str] | None, typer.Argument(help="Letters, as <partition>:<offset>.", show_default=False)]
_Reason = Annotated[str, typer.Option(help="Only letters with this reason code.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    dlq = typer.Typer(no_args_is_help=True, help="Dead letters: what could not be used, and why.")
    dlq.command("list")(list_)
    dlq.command()(show)
    dlq.command()(replay)
    dlq.command()(drop)
    app.add_typer(dlq, name="dlq")


def _letters() -> DeadLetters:
    from liverank.settings import Settings, resolve
    from streams.dlq import DeadLetters

    return DeadLetters(resolve(Settings()))


def list_(
    reason: _Reason = "",
    every: Annotated[bool, typer.Option("--all", help="Name each letter, replayed and dropped ones too.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="With --all: at most so many, the newest.")] = 50,
    json: _Json = False,
) -> None:
    """Open letters by reason and topic; with --all each letter."""
    found = [letter for letter in _letters().read() if not reason or letter.body.reason == reason]
    if every:
        found = sorted(found, key=lambda letter: letter.written_ms)[-limit:]
        rows = [_summary(letter) for letter in found]
        if json:
            typer.echo(encoder.dumps(rows))
            return
        for row in rows:
            typer.echo(f"{row['name']:>10}  {row['written']}  {row['state']:8}  {row['reason']:22}  {row['detail']}")
        return
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for letter in found:
        group = groups.setdefault(
            (letter.body.reason, letter.body.topic),
            {"reason": letter.body.reason, "topic": letter.body.topic, "open": 0, "replayed": 0, "dropped": 0},
        )
        group[letter.state] += 1
        group["newest"], group["detail"] = letter.name, letter.body.detail
    rows = sorted(groups.values(), key=lambda group: -group["open"])
    if json:
        typer.echo(encoder.dumps(rows))
        return
    if not rows:
        typer.echo("no dead letters")
    for group in rows:
        typer.echo(
            f"{group['open']:>7} open {group['replayed']:>6} replayed {group['dropped']:>6} dropped  "
            f"{group['reason']:22} {group['topic']}  e.g. {group['newest']}: {group['detail']}"
        )


def show(
    names: Annotated[list[str], typer.Argument(help="Letters, as <partition>:<offset>.")],
    json: _Json = False,
) -> None:
    """One letter whole: reason, place, headers, and what was sent (decoded where that can be)."""
    from google.protobuf import json_format

    for letter in _letters().find(names):
        body, message = letter.body, letter.message()
        told = {
            **_summary(letter),
            "topic": body.topic,
            "partition": body.partition,
            "offset": body.offset,
            "appended": _time(body.append_ts_ms),
            "key": body.key.decode(errors="replace"),
            "headers": {name: value.decode(errors="replace") for name, value in sorted(body.headers.items())},
            "bytes": len(body.value),
            "sent": json_format.MessageToDict(message, preserving_proto_field_name=True) if message else None,
            "hex": body.value[:200].hex() if message is None else "",
        }
        # A token or a person's text is not for a log: only whoever asks for one letter sees it.
        told["headers"].pop("liverank-internal", None)
        if json:
            typer.echo(encoder.dumps(told))
        else:
            typer.echo("\n".join(f"{name:10} {_text(value)}" for name, value in told.items() if value != ""))


def replay(
    names: _Names = None,
    reason: _Reason = "",
    instead: Annotated[
        Path | None,
        typer.Option("--with", exists=True, dir_okay=False, help="Send this proto3 JSON in place of the one letter."),
    ] = None,
    json: _Json = False,
) -> None:
    """Send letters again to where they came from. What was applied meanwhile is a repeat and changes nothing."""
    from liverank.errors import ConfigError
    from streams.dlq import replayable

    letters = _letters()
    chosen = _chosen(letters, names or [], reason)
    if instead is not None and len(chosen) != 1:
        raise ConfigError(f"--with mends one letter; {len(chosen)} were named")
    stuck: list[Letter] = []
    if not names:
        stuck = [letter for letter in chosen if replayable(letter)]
        chosen = [letter for letter in chosen if not replayable(letter)]
    sent = letters.replay(chosen, instead=instead.read_bytes() if instead is not None else None)
    if json:
        typer.echo(encoder.dumps({"replayed": sent, "left": [letter.name for letter in stuck]}))
        return
    typer.echo(f"{sent} replayed" + (f", {len(stuck)} cannot be: {replayable(stuck[0])}" if stuck else ""))


def drop(names: _Names = None, reason: _Reason = "", json: _Json = False) -> None:
    """Mark letters as done with; they stay in the topic until its retention."""
    letters = _letters()
    dropped = letters.drop(_chosen(letters, names or [], reason))
    typer.echo(encoder.dumps({"dropped": dropped}) if json else f"{dropped} dropped")


def _chosen(letters: DeadLetters, names: Sequence[str], reason: str) -> list[Letter]:
    from liverank.errors import ConfigError

    if names and reason:
        raise ConfigError("name letters or give --reason, not both")
    if names:
        return letters.find(names)
    if not reason:
        raise ConfigError("name letters as <partition>:<offset>, or give --reason; see `liverank dlq list`")
    return [letter for letter in letters.read() if letter.body.reason == reason and letter.state == "open"]


def _summary(letter: Letter) -> dict[str, Any]:
    return {
        "name": letter.name,
        "written": _time(letter.written_ms),
        "state": letter.state,
        "reason": letter.body.reason,
        "detail": letter.body.detail,
    }


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")


def _text(value: object) -> str:
    return encoder.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)
