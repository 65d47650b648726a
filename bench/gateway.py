"""ING-3: events through the gRPC gateway, in unary batches, each answered after the broker has it:
`python -m bench.gateway`.

One ranker on one core, callers on the others. Every event that was answered must be in the topic.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time

import numpy as np
import psutil

from bench.report import finish, table
from bench.stack import namespace
from bench.traffic import events
from infra.stack import Stack
from infra.stack.stack import Part
from liverank.client import Client
from liverank.kafka import Tp, end_offsets
from liverank.settings import FeastSettings, RankerSettings, Settings
from liverank.v1.event_pb2 import Event


def ranker_process(settings: Settings) -> psutil.Process:
    """The ranker of the namespace."""
    stack = Stack(settings.model_copy(update={"ranker": RankerSettings(), "feast": FeastSettings()}))
    name = f"{settings.namespace}-ranker-0"
    return psutil.Process(next(state.pid for state in stack.status().processes if state.name == name))


def call(settings: Settings, batches: list[list[Event]], took_ms: list[float]) -> None:
    """Send batches one after the other."""
    with Client(settings.ranker.grpc, deadline_s=30.0) as client:
        for batch in batches:
            start_s = time.perf_counter()
            reply = client.track(batch)
            took_ms.append(1000 * (time.perf_counter() - start_s))
            if reply.accepted != len(batch):
                raise RuntimeError(f"{len(reply.rejected)} events were refused, e.g. {reply.rejected[0]}")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--batch", type=int, default=100, help="events per call")
    parser.add_argument("--callers", type=int, default=4)
    options = parser.parse_args()
    parts: tuple[Part, ...] = ("kafka", "redis", "namespace", "features", "model", "rankers")
    with namespace(parts, stack={"workers": 0, "rankers": 1}) as settings:
        process = ranker_process(settings)
        process.cpu_affinity([(os.cpu_count() or 1) - 1])
        now_ms = time.time_ns() // 1_000_000
        load = list(
            events(
                options.events,
                n_users=2_000,
                n_items=1_000,
                seed=3,
                start_ms=now_ms - 60_000,
                end_ms=now_ms,
                exposures=0,
            )
        )
        batches = [load[at : at + options.batch] for at in range(0, len(load), options.batch)]
        took_ms: list[float] = []
        threads = [
            threading.Thread(target=call, args=(settings, batches[at :: options.callers], took_ms))
            for at in range(options.callers)
        ]
        cpu_before, start_s = process.cpu_times(), time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wall_s = time.perf_counter() - start_s
        cpu_after = process.cpu_times()
        topic = settings.topic("events", 1)
        tps = [Tp(topic, partition) for partition in range(settings.stack.partitions)]
        in_topic = sum(end_offsets(settings.kafka.bootstrap, tps).values())
    cpu_s = cpu_after.user + cpu_after.system - cpu_before.user - cpu_before.system
    p50_ms, p99_ms = (float(np.percentile(took_ms, q)) for q in (50, 99))
    figures = {
        "events": len(load),
        "batch": options.batch,
        "events_per_s": len(load) / wall_s,
        "cpu_us_per_event": cpu_s / len(load) * 1e6,
        "call_p50_ms": p50_ms,
        "call_p99_ms": p99_ms,
        "lost": len(load) - in_topic,
    }
    sys.stdout.write(table(("figure", "value"), list(figures.items())) + "\n")
    return finish("gateway", figures, {"events_per_s": (">=", 2_000), "lost": ("==", 0)})


if __name__ == "__main__":
    sys.exit(main())
