"""``liverank estimate``: what a population needs, before it is there."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(estimate)


def estimate(
    users: Annotated[int, typer.Option(min=1, help="Users with state.")] = 100_000,
    items: Annotated[int, typer.Option(min=1, help="Items of the catalogue.")] = 20_000,
    events: Annotated[float, typer.Option(min=1, help="Mean events of a user in 30 days; Zipf over users.")] = 40.0,
    per_day: Annotated[float, typer.Option(min=0, help="Events a day for the log; 0 = users x events / 30.")] = 0.0,
    requests: Annotated[float, typer.Option(min=0, help="Rank requests a second; replies are kept for retries.")] = 0.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Bytes of state part by part, of Redis and of Kafka's log, folded in memory with the namespace's own views."""
    from features.program import FeatureProgram
    from features.redis import connect, translated
    from liverank.errors import ConfigError
    from liverank.settings import Settings, resolve
    from streams.estimate import as_json
    from streams.estimate import estimate as run
    from streams.worst_case import largest_user

    settings = resolve(Settings())
    with connect(settings) as client, translated("reading the feature program"):
        text = client.get(f"{settings.namespace}:program")
    if not text:
        raise ConfigError(f"namespace {settings.namespace} has no views yet: run `liverank up` or `feast apply` first")
    program = FeatureProgram.from_json(text)
    largest = largest_user(settings, program)
    found = run(
        settings, program, users=users, items=items, events_a_user=events, events_a_day=per_day,
        requests_a_second=requests,
    )  # fmt: skip
    if json:
        import json as encoder

        body = {**as_json(found), "largest_user": largest.size_bytes, "largest_user_parts": largest.parts}
        typer.echo(encoder.dumps(body))
        return
    for title, parts, total, most, redis in (
        ("user", found.user_parts, found.user_bytes, found.user_most, found.user_redis),
        ("item", found.item_parts, found.item_bytes, found.item_most, found.item_redis),
    ):
        typer.echo(f"mean {title}")
        for name, size in sorted(parts.items(), key=lambda part: -part[1]):
            typer.echo(f"  {name:34} {size:10,.0f} B")
        typer.echo(
            f"  {'all parts':34} {total:10,.0f} B, busiest {most:,} B, in Redis with its Feast row {redis:,.0f} B"
        )
    biggest = ", ".join(f"{name} {_human(size)}" for name, size in Counter(largest.parts).most_common(4))
    typer.echo(f"largest user that events can make: {_human(largest.size_bytes)} ({biggest})")
    typer.echo(f"Redis, {users:,} users and {items:,} items: {_human(found.redis_bytes)}")
    if requests:
        kept_s = settings.ranker.reply_ttl_s
        typer.echo(f"Redis, replies kept {kept_s:,} s at {requests:g} requests/s: {_human(found.replies_bytes)}")
    typer.echo("log, over each topic's retention, compressed")
    for topic, size in sorted(found.log_bytes.items(), key=lambda each: -each[1]):
        typer.echo(f"  {topic:34} {_human(size):>12}   {found.log_bytes_an_event[topic]:,.0f} B an event before")
    typer.echo(f"  {'all topics':34} {_human(sum(found.log_bytes.values())):>12}")


def _human(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"
