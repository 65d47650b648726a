"""USE-3: what `liverank estimate` says of Redis against what Redis takes: `python -m bench.memory`.

A Zipf population with the estimate's mix of events is imported into an empty namespace of a Redis of its own, and
Redis's used memory before and after is compared with the estimate for the same numbers of users, items and events.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator

import numpy as np

from bench.report import finish, table
from bench.stack import namespace
from features.llm import job
from features.online import OnlineWriter
from features.redis import connect
from liverank.kafka import Record
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event
from liverank.v1.item_pb2 import Item, ItemChange
from streams.agents.catalogue import catalogue_row
from streams.estimate import estimate, events_of_user
from streams.history import import_history
from streams.program import pinned_program

DAY_MS = 86_400_000
SPAN_MS = 30 * DAY_MS


def population(users: int, items: int, mean: float, seed: int) -> Iterator[Event]:
    """Events of the last 30 days: user number r has a share that falls with 1 / r, at least one event."""
    rng = random.Random(seed)
    weights = 1.0 / np.arange(1, users + 1)
    counts = np.maximum(1, np.round(weights * (mean * users / weights.sum()))).astype(int)
    start_ms = int(time.time() * 1000) - SPAN_MS - DAY_MS

    def item() -> str:
        return f"item-{int(items * rng.random() ** 3):08d}"

    for number, n in enumerate(counts.tolist()):
        yield from events_of_user(rng, f"user-{number:012d}", n, item, start_ms=start_ms, span_ms=SPAN_MS)


def write_catalogue(settings: Settings) -> None:
    """Items' rows, and vectors of items and users, as the catalogue's agent and `liverank enrich` write them."""
    items = job.catalogue(settings, None)
    with connect(settings) as client:
        writer = OnlineWriter(client, settings.feast_project)
        for start in range(0, len(items), 1_000):
            records = [Record("items", 0, n, None, b"", (), 0) for n in range(start, start + 1_000)]
            some = zip(items[start : start + 1_000], records, strict=False)
            writer.write([catalogue_row(item.item_id, record, item) for item, record in some])
    job.enrich(settings, items)


def used(settings: Settings) -> int:
    """Bytes that Redis's allocator has given out."""
    with connect(settings) as client:
        return int(client.info("memory")["used_memory"])


def main() -> int:
    """Import, measure, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--events", type=float, default=5.0, help="mean events of a user in 30 days")
    options = parser.parse_args()
    with namespace(("kafka", "redis", "namespace", "features")) as settings:
        catalogue = [
            ItemChange(
                item_id=f"item-{n:08d}",
                upsert=Item(title=f"Item {n}", categories=[f"category-{n % 40}"], available=True),
            )
            for n in range(options.items)
        ]
        with connect(settings) as client:
            program = pinned_program(client, settings.namespace)
        before = used(settings)
        report = import_history(settings, population(options.users, options.items, options.events, 3), items=catalogue)
        write_catalogue(settings)
        taken = used(settings) - before
        mean = report.events / options.users
        found = estimate(settings, program, users=options.users, items=options.items, events_a_user=mean)
    figures = {
        "users": options.users,
        "events": report.events,
        "redis_mb": round(taken / 2**20, 1),
        "estimated_mb": round(found.redis_bytes / 2**20, 1),
        "estimated_over_measured": round(found.redis_bytes / taken, 3),
        "parts_kib_a_user": round(found.user_bytes / 1024, 2),
        "redis_kib_a_user": round(found.user_redis / 1024, 2),
    }
    sys.stdout.write(table(("figure", "value"), list(figures.items())) + "\n")
    bounds = {"estimated_over_measured": ("<=", 1.15), "parts_kib_a_user": ("<=", 6.0)}
    low = {"measured_over_estimated": ("<=", 1.15)}
    figures["measured_over_estimated"] = round(taken / found.redis_bytes, 3)
    return finish("memory", figures, {**bounds, **low})


if __name__ == "__main__":
    sys.exit(main())
