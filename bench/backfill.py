"""Backfill: the archive's Parquet files -> everything that folds keep, over the whole feature program:
`python -m bench.backfill`.

The same load as `bench.ingest` lies in the archive, as live events that are gone from the log; `rebuild` folds it into
an empty Redis: users, items, joins, statistics, Feast rows. Then one partition is folded again the way a worker does
it, in polls of 500 records whose calls are merged one by one, and the pages of every user in it are compared byte by
byte with what Redis holds.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Iterable

from bench.ingest import redis_cpu_s
from bench.report import finish
from bench.stack import namespace
from bench.traffic import events, send_catalogue
from features.archive import part_dir, read_part, write_part
from features.redis import connect, namespace_token
from liverank.kafka import Record
from liverank.partition import partition as partition_of
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event
from streams.calls import LIMITS
from streams.fence import FencedStore
from streams.past import MemoryStore, feed, memory_part, read_catalogue
from streams.program import pinned_program
from streams.rebuild import rebuild
from streams.users import UserFold

FILE_RECORDS = 50_000
POLL = 500


def archive(settings: Settings, load: Iterable[Event]) -> None:
    """Lay events into the archive of generation 1, appended at their event times."""
    n_partitions = settings.stack.partitions
    parts: list[list[Record]] = [[] for _ in range(n_partitions)]
    topic = settings.topic("events", 1)
    for event in load:
        key = event.user_id.encode()
        part = parts[partition := partition_of(key, n_partitions)]
        part.append(Record(topic, partition, len(part), key, event.SerializeToString(), (), event.event_ts_ms))
    for partition, records in enumerate(parts):
        for start in range(0, len(records), FILE_RECORDS):
            write_part(part_dir(settings, "events", 1, partition), records[start : start + FILE_RECORDS])


def differing(settings: Settings, partition: int) -> tuple[int, int]:
    """Fold a partition as a worker does; return users compared, and those whose pages differ in Redis."""
    client = connect(settings)
    program = pinned_program(client, settings.namespace)
    fold = UserFold(settings, program, token=namespace_token(client, settings.namespace), follow=False)
    table, _ = read_catalogue(settings, settings.stack.partitions)
    store = MemoryStore()
    part = memory_part(
        settings, fold, store, partition=partition, n_partitions=settings.stack.partitions, generation=1,
        catalogue=table, limits=LIMITS,
    )  # fmt: skip
    topic = settings.topic("events", 1)
    for record in read_part(part_dir(settings, "events", 1, partition), topic, partition):
        feed(fold, part, record)
        if record.offset % POLL == 0:
            store.take(part)
    store.take(part)
    rebuilt = FencedStore(client, namespace=settings.namespace, generation=1, kind="u")
    keys = [key for key in store.fields if not key.startswith("#")]
    held = rebuilt.load(partition, keys)
    return len(keys), sum(store.fields[key] != dict(fields) for key, fields in zip(keys, held, strict=True))


def cpu_s() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--days", type=float, default=6.0)
    options = parser.parse_args()
    now_ms = int(time.time() * 1000)
    with namespace(("kafka", "redis", "namespace", "features")) as settings:
        send_catalogue(settings, options.items)
        load = events(
            options.events, n_users=options.users, n_items=options.items, seed=1,
            start_ms=now_ms + 60_000, end_ms=now_ms + 60_000 + int(options.days * 86_400_000),
        )  # fmt: skip
        archive(settings, load)
        redis_before_s, cpu_before_s, start_s = redis_cpu_s(settings), cpu_s(), time.monotonic()
        report = rebuild(settings)
        wall_s, used_s = time.monotonic() - start_s, cpu_s() - cpu_before_s
        redis_s = redis_cpu_s(settings) - redis_before_s
        compared, unlike = differing(settings, 0)
    n = report.live
    figures = {
        "events": n,
        "events_per_s": n / wall_s,
        "cpu_us_per_event": used_s / n * 1e6,
        "redis_us_per_event": redis_s / n * 1e6,
        "events_per_s_of_two_free_cores": 2 * n / (used_s + redis_s),
        "users_compared": compared,
        "users_unlike": unlike,
    }
    bounds = {"events_per_s": (">=", 50_000), "users_unlike": ("==", 0), "users_compared": (">=", 100)}
    return finish("backfill", figures, bounds)


if __name__ == "__main__":
    sys.exit(main())
