"""Import of history: recorded events -> archive, state, joins, statistics and Feast rows: `python -m bench.history`.

The same functions as live, over the whole feature program of the registry. Prints events a second and CPU microseconds
per event, of this process and of Redis.
"""

from __future__ import annotations

import argparse
import sys
import time

from bench.ingest import redis_cpu_s
from bench.report import finish
from bench.stack import namespace
from bench.traffic import events, send_catalogue
from streams.history import import_history


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=3_000)
    parser.add_argument("--items", type=int, default=2_000)
    options = parser.parse_args()
    now_ms = int(time.time() * 1000)
    with namespace(("kafka", "redis", "namespace", "features")) as settings:
        send_catalogue(settings, options.items)
        load = list(
            events(
                options.events, n_users=options.users, n_items=options.items, seed=1,
                start_ms=now_ms - 30 * 86_400_000, end_ms=now_ms - 86_400_000,
            )
        )  # fmt: skip
        redis_before_s, cpu_before_s, start_s = redis_cpu_s(settings), time.process_time(), time.monotonic()
        report = import_history(settings, load)
        wall_s, cpu_s = time.monotonic() - start_s, time.process_time() - cpu_before_s
        redis_s = redis_cpu_s(settings) - redis_before_s
    figures = {
        "events": report.events,
        "users": report.users,
        "examples": report.examples,
        "events_per_s": report.events / wall_s,
        "cpu_us_per_event": cpu_s / report.events * 1e6,
        "events_per_cpu_s": report.events / cpu_s,
        "redis_us_per_event": redis_s / report.events * 1e6,
        "goal_events_per_s": 50_000,
    }
    return finish("history", figures, {"events": (">=", options.events)})


if __name__ == "__main__":
    sys.exit(main())
