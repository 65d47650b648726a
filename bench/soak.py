"""USE-3: memory stays flat: `python -m bench.soak --minutes 40`.

A worker and a ranker of their own on the real stack take a steady load of users and requests for a while; every few
seconds the memory of each process and of Redis is noted. Windows, sessions and the time that replies are kept are
short and the population is small, so that what has a bound reaches it in the first half (event ids after their 15
minutes, the newest 512 good news of a user after nine), but for the tiles of long windows, which are few; what still
grows in the second half would grow for ever. Told is, for every process and for Redis, the growth over the second
half: the medians of its last and its first quarter against each other; and what Redis's values hold, by part of the
state, at the middle and at the end.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import grpc
import numpy as np
import psutil

from bench.report import Figure, finish, table
from bench.stack import namespace
from bench.traffic import send_catalogue
from features.redis import Redis, connect
from infra.stack import Stack
from infra.stack.stack import Part
from liverank.client import Client
from liverank.settings import Settings

N_USERS, N_ITEMS = 60, 400
STREAMS = {"attribution_window_s": 60, "late_outcome_s": 60, "session_timeout_s": 60, "archive_flush_s": 5.0}
RANKER = {"reply_ttl_s": 300}
EVERY_S = 5.0
_NUMBERS = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{8,}|\d+")
GROWTH = 0.05
"""Most growth over the second half."""


def processes(settings: Settings) -> dict[str, psutil.Process]:
    """Worker, ranker and what else is liverank's own, by name."""
    return {
        state.name.removeprefix(f"{settings.namespace}-"): psutil.Process(state.pid)
        for state in Stack(settings).status().processes
        if state.pid and state.name.startswith(settings.namespace)
    }


def memory_mb(process: psutil.Process) -> float:
    """Resident memory of a process and its children, MB."""
    return float(sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))) / 2**20


def growth(values: list[float]) -> float:
    """Growth over the second half of a series: median of its last quarter against its first."""
    second = np.array(values[len(values) // 2 :])
    quarter = max(1, len(second) // 4)
    return float(np.median(second[-quarter:]) / np.median(second[:quarter]) - 1.0)


def parts(redis: Redis) -> Counter[str]:
    """Bytes that Redis's values hold, by field of the hashes, else by key; numbers left out."""
    found: Counter[str] = Counter()
    for key in redis.scan_iter(count=1_000):
        kind = redis.type(key).decode()
        if kind != "hash":
            found[f"{kind} {_NUMBERS.sub('#', key.decode(errors='replace'))}"] += int(redis.memory_usage(key) or 0)
            continue
        for field, value in redis.hgetall(key).items():
            found[part(bytes(field))] += len(field) + len(value)
    return found


def part(field: bytes) -> str:
    """Name of a field's part of the state."""
    if not field.isascii() or len(field) == 4:
        return "values of Feast's rows"
    name = field.decode()
    if name.startswith(("i:", "a:")):
        return f"{name[:2]}<name>"
    return _NUMBERS.sub("#", name)


def soak(
    settings: Settings, minutes: float, rate: int, requests: float
) -> tuple[dict[str, list[float]], list[Counter[str]]]:
    """Load the stack; return memory by process over time, MB, and bytes by part at the middle and at the end."""
    watched = processes(settings)
    feeder = [sys.executable, "-m", "bench.feeder", settings.kafka.bootstrap, settings.topic("events", 1)]
    feeder += ["--rate", str(rate), "--seconds", str(60 * minutes), "--users", str(N_USERS), "--items", str(N_ITEMS)]
    found: dict[str, list[float]] = {name: [] for name in (*watched, "redis")}
    begin_s = time.monotonic()
    end_s, next_s, n, failed = begin_s + 60 * minutes, 0.0, 0, 0
    held: list[Counter[str]] = []
    with (
        subprocess.Popen(feeder, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[1]) as load,
        Client(settings.ranker.grpc) as client,
        connect(settings) as redis,
    ):
        while time.monotonic() < end_s:
            try:
                client.rank(f"user-{n % N_USERS}", k=10)
            except grpc.RpcError:
                failed += 1
            n += 1
            if not held and time.monotonic() >= begin_s + 30 * minutes:
                held.append(parts(redis))
            if time.monotonic() >= next_s:
                next_s = time.monotonic() + EVERY_S
                for name, process in watched.items():
                    found[name].append(memory_mb(process))
                found["redis"].append(int(redis.info("memory")["used_memory"]) / 2**20)
            time.sleep(1.0 / requests)
        held.append(parts(redis))
        if load.wait(120):
            sys.exit("the events were not all sent")
    sys.stdout.write(f"{n:,} requests, {failed:,} failed\n")
    return found, held


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--rate", type=int, default=300, help="events a second")
    parser.add_argument("--requests", type=float, default=5.0, help="Rank requests a second, at most")
    options = parser.parse_args()
    parts: list[Part] = ["kafka", "redis", "namespace", "features", "workers", "model", "rankers"]
    with namespace(parts, stack={"workers": 1, "rankers": 1}, streams=STREAMS, ranker=RANKER) as settings:
        send_catalogue(settings, N_ITEMS)
        found, held = soak(settings, options.minutes, options.rate, options.requests)
    figures: dict[str, Figure] = {"minutes": options.minutes, "events_per_s": options.rate}
    rows = []
    for name, values in found.items():
        key = name.replace("-", "_")
        tenths = [values[int(at)] for at in np.linspace(0, len(values) - 1, 11)]
        figures |= {f"{key}_mb": round(values[-1], 1), f"{key}_growth": round(growth(values), 4)}
        rows.append((name, *tenths, 100 * growth(values)))
    heads = ("MB", *(f"{10 * at} %" for at in range(11)), "growth % over the second half")
    sys.stdout.write(table(heads, rows) + "\n")
    middle_parts, end_parts = held
    grown = sorted(end_parts, key=lambda name: middle_parts[name] - end_parts[name])
    held_rows = [(name, middle_parts[name] / 1024, end_parts[name] / 1024) for name in grown[:20]]
    sys.stdout.write(table(("KiB in Redis's values, most grown first", "middle", "end"), held_rows) + "\n")
    return finish("soak", figures, {name: ("<=", GROWTH) for name in figures if name.endswith("_growth")})


if __name__ == "__main__":
    sys.exit(main())
