"""Commands that call the ranker as an app does: rank, similar, explain, track."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from liverank.v1 import personalization_pb2 as pb
    from liverank.v1.event_pb2 import Event

Address = Annotated[str, typer.Option("--address", help="host:port of the ranker; found by itself where not given.")]
Json = Annotated[bool, typer.Option("--json", help="Print the reply as JSON, with the contract's names.")]
TOP = 6


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (rank, similar, explain, track):
        app.command()(command)


def rank(
    user: Annotated[str, typer.Option("--user", "-u", help="User id.")],
    k: Annotated[int, typer.Option("--k", "-k", help="How many items, 1 to 200.")] = 10,
    surface: Annotated[str, typer.Option(help="Surface that would show them.")] = "",
    explained: Annotated[bool, typer.Option("--explain", help="Why each item is there.")] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Really show the slate: write an exposure. Default: nobody sees it.")
    ] = False,
    address: Address = "",
    json: Json = False,
) -> None:
    """A personalised slate for a user."""
    from liverank.client import Client
    from liverank.v1.decision_pb2 import MODE_SERVE, MODE_SHADOW

    mode = MODE_SERVE if serve else MODE_SHADOW
    with Client(address, deadline_s=10.0) as client:
        reply = client.rank(user, k=k, surface=surface, mode=mode, debug=True, explain=explained)
    if json:
        _print_json(reply)
        return
    console = _console()
    console.print(_slate(reply))
    console.print(_summary(reply))
    if explained:
        explanations = [item.explanation for item in reply.items]
        for item in explanations:
            console.print(_why(item))
        console.print(_ages(reply))


def similar(
    item: Annotated[list[str], typer.Argument(help="Item ids, 1 to 16.")],
    k: Annotated[int, typer.Option("--k", "-k", help="How many, 1 to 200.")] = 10,
    address: Address = "",
    json: Json = False,
) -> None:
    """Items near the given ones."""
    from liverank.client import Client

    with Client(address, deadline_s=10.0) as client:
        reply = client.similar(item, k=k)
    if json:
        _print_json(reply)
        return
    table = _table("item", ">score", "found by")
    for one in reply.items:
        table.add_row(one.item_id, f"{one.score:.4f}", ", ".join(one.sources))
    _console().print(table if reply.items else "no neighbours")


def explain(
    request_id: Annotated[str, typer.Argument(help="request_id of a reply of the last 7 days.")],
    address: Address = "",
    json: Json = False,
) -> None:
    """Why a slate looked as it did, from the decision log."""
    from liverank.client import Client

    with Client(address) as client:
        reply = client.explain(request_id, deadline_s=30.0)
    if json:
        _print_json(reply)
        return
    console, decision = _console(), reply.decision
    facts = _table("decision", "")
    for name, value in (
        ("request", decision.request_id),
        ("user", decision.user_id),
        ("decided", _time(decision.decided_ts_ms)),
        ("surface, mode", f"{decision.surface}, {_mode(decision.mode)}"),
        ("policy, arm", f"{decision.policy}, {decision.arm}"),
        ("seed, floor", f"{decision.seed}, {decision.floor:g}"),
        ("model", decision.base_model),
        ("posterior", decision.snapshot),
        ("features", f"{decision.feature_service}, {len(decision.feature_names)} columns"),
        ("feasible items", str(decision.feasible_size)),
        ("rungs", ", ".join(decision.rungs) or "none: full service"),
    ):
        facts.add_row(name, value)
    console.print(facts)
    for item in reply.items:
        console.print(_why(item))


def track(
    type: Annotated[str, typer.Argument(help="click, like, dismiss, ... (any type of the contract).")] = "",
    user: Annotated[str, typer.Option("--user", "-u", help="User id.")] = "",
    item: Annotated[str, typer.Option("--item", "-i", help="Item id.")] = "",
    value: Annotated[float, typer.Option(help="Seconds, rating, price: as the type says.")] = 0.0,
    request_id: Annotated[str, typer.Option("--request-id", "-r", help="The reply that showed the item.")] = "",
    position: Annotated[int, typer.Option(help="Slot in that reply, from 1.")] = 0,
    surface: Annotated[str, typer.Option(help="Where it happened.")] = "",
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Events from a file instead (docs/events.md).")
    ] = None,
    address: Address = "",
) -> None:
    """Send one event, or the events of a file, through the ranker's gateway."""
    from liverank.calls import new_event
    from liverank.client import Client
    from liverank.errors import ConfigError

    if (file is None) == (not type):
        raise ConfigError(
            "give an event type (liverank track click --user U --item I) or --file FILE, not both or none"
        )
    with Client(address, deadline_s=15.0) as client:
        if file is None:
            event = new_event(
                type, user_id=user, item_id=item, value=value, request_id=request_id, position=position, surface=surface
            )
            _report(client.track([event]).rejected, 1, [event])
            return
        from liverank.files import read_events

        accepted, batch = 0, []
        for event in read_events(file):
            batch.append(event)
            if len(batch) == 500:
                accepted += _report(client.track(batch).rejected, len(batch), batch)
                batch = []
        if batch:
            accepted += _report(client.track(batch).rejected, len(batch), batch)
        _console().print(f"{accepted:,} events accepted from {file}")


def _report(rejected: Sequence[pb.Rejected], n: int, events: Sequence[Event]) -> int:
    for one in rejected:
        event = events[one.index]
        _console().print(Text(f"refused {event.event_id}: {one.reason}: {one.detail}", style="red"))
    if rejected:
        raise typer.Exit(1)
    if n == 1:
        _console().print(f"accepted: {events[0].event_id}")
    return n


def _console() -> Console:
    return Console(highlight=False)


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left")
    return table


def _slate(reply: pb.RankReply) -> Table:
    table = _table(">#", "item", ">score", ">propensity", "how", "found by")
    for item in reply.items:
        how = "pinned" if item.pinned else "explored" if item.explored else "greedy"
        table.add_row(
            str(item.position),
            item.item_id,
            f"{item.score:.4f}",
            f"{item.propensity:.4f}",
            how,
            ", ".join(item.sources),
        )
    return table


def _summary(reply: pb.RankReply) -> Text:
    fresh = reply.freshness
    parts = [
        f"request {reply.request_id}",
        f"policy {reply.policy}" + (f" ({reply.arm})" if reply.arm else ""),
        f"model {reply.model[:12] or 'none'}",
        f"user state {reply.debug.user_state or 'unknown'}",
        f"newest event {_age(fresh.newest_event_age_ms)}",
        f"vectors {_age(fresh.vector_age_ms)}",
        f"posterior {_age(fresh.posterior_age_ms)}",
    ]
    if reply.rungs:
        parts.append(f"degraded: {', '.join(reply.rungs)}")
    return Text("; ".join(parts), style="dim")


def _why(item: pb.ItemExplanation) -> Group:
    heads = ", ".join(f"{name} {p:.3f}" for name, p in sorted(item.heads.items()))
    title = Text(
        f"\n{item.position}. {item.item_id}: score {item.score:.4f} ({heads}); posterior {item.posterior_mean:+.4f} "
        f"sd {item.posterior_sd:.4f}; propensity {item.propensity:.4f}\n"
        f"raw click score {item.raw_score:+.4f} = {item.bias:+.4f} + the sum of the contributions"
    )
    table = _table("feature", ">value", ">contribution")
    for one in item.contributions[:TOP]:
        table.add_row(one.feature, f"{one.value:.4g}", f"{one.contribution:+.4f}")
    rest = item.contributions[TOP:]
    if rest:
        table.add_row(f"{len(rest)} others", "", f"{sum(one.contribution for one in rest):+.4f}")
    for value in [one for one in item.not_used if one.value][:TOP]:
        table.add_row(value.feature, f"{value.value:.4g}", "not used by model")
    return Group(title, table)


def _ages(reply: pb.RankReply) -> Text:
    ages = ", ".join(f"{view} {_age(ms)}" for view, ms in sorted(reply.debug.feature_ages_ms.items()))
    stages = ", ".join(f"{stage} {ms:.2f}" for stage, ms in sorted(reply.debug.stage_ms.items()))
    return Text(f"ages of the features: {ages or 'none'}\nstages, ms: {stages}", style="dim")


def _age(age_ms: int) -> str:
    if age_ms < 0:
        return "none"
    if age_ms < 10_000:
        return f"{age_ms} ms ago"
    return f"{datetime.timedelta(seconds=age_ms // 1000)} ago"


def _time(ts_ms: int) -> str:
    return datetime.datetime.fromtimestamp(ts_ms / 1000, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _mode(mode: int) -> str:
    from liverank.v1.decision_pb2 import Mode

    return Mode.Name(mode).removeprefix("MODE_").lower()


def _print_json(message: pb.RankReply | pb.SimilarReply | pb.ExplainReply) -> None:
    from google.protobuf import json_format

    typer.echo(json_format.MessageToJson(message, preserving_proto_field_name=True, ensure_ascii=False))
