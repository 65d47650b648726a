"""Ingest of one worker: events in Kafka -> state, joins, statistics and Feast rows: `python -m bench.ingest`.

Both folds run in this process as in a worker, over the whole feature program of the registry. Users are made mature
first; then a measured load is folded as fast as it goes. Prints CPU microseconds per event by step of the user fold,
of the item fold, of Redis and of the broker.

`--workers 2`: one worker against two, each a process of its own.

`--minutes`: instead of the burst, events come at a steady `--rate`; the lag of both folds together is noted every
second and told by minute (medians) and as its growth a second (least squares), which is bounded. Says which share of
the machine's cores went to others than this bench.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import threading
import time

import numpy as np
import psutil

from bench.report import Figure, finish, table
from bench.stack import namespace
from bench.traffic import events, send_catalogue
from features.redis import Redis, connect, namespace_token
from liverank.kafka import Producer, Tp, end_offsets
from liverank.settings import Settings
from streams.catalogue import CatalogueReader
from streams.engine import FoldEngine
from streams.items import ItemFold
from streams.program import pinned_program
from streams.takeover import FoldSetup
from streams.users import UserFold


def build(settings: Settings) -> tuple[list[FoldEngine], CatalogueReader]:
    """The folds of a worker."""
    client = connect(settings)
    program = pinned_program(client, settings.namespace)
    token = namespace_token(client, settings.namespace)
    n = settings.stack.partitions
    catalogue = CatalogueReader(settings.kafka.bootstrap, settings.topic("items"), n)
    users = FoldSetup(
        fold=UserFold(settings, program, token=token), topic=settings.topic("events", 1), n_partitions=n, generation=1,
        member="bench", ticks=True, token=token,
    )  # fmt: skip
    items = FoldSetup(
        fold=ItemFold(settings, program), topic=settings.topic("item-effects", 1), n_partitions=n, generation=1,
        member="bench", numbered_input=True,
    )  # fmt: skip
    return [FoldEngine(users, settings, catalogue), FoldEngine(items, settings)], catalogue


def send(settings: Settings, n: int, n_users: int, n_items: int, seed: int) -> None:
    """Send a load whose event times are those of the last ten minutes."""
    producer = Producer(settings.kafka.bootstrap, linger_ms=20)
    now_ms = int(time.time() * 1000)
    load = events(n, n_users=n_users, n_items=n_items, seed=seed, start_ms=now_ms - 600_000, end_ms=now_ms)
    for event in load:
        producer.produce(settings.topic("events", 1), key=event.user_id.encode(), value=event.SerializeToString())
    if left := producer.flush(60.0):
        sys.exit(f"{left} events were not taken by the broker")


def drain(settings: Settings) -> float:
    """Wait until both folds have published everything that is in the log now; return the seconds it took."""
    start_s = time.monotonic()
    with connect(settings) as client:
        for fold in ("users", "items"):
            while lag(settings, fold, client):
                time.sleep(0.02)
    return time.monotonic() - start_s


def redis_cpu_s(settings: Settings) -> float:
    """CPU seconds that Redis has used."""
    with connect(settings) as client:
        info = client.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def lag(settings: Settings, fold: str, client: Redis) -> int:
    """Records in a fold's log that are not readable yet."""
    topic = settings.topic("events" if fold == "users" else "item-effects", 1)
    tps = [Tp(topic, p) for p in range(settings.stack.partitions)]
    ends = end_offsets(settings.kafka.bootstrap, tps)
    name = f"{settings.namespace}:position:fold.{fold}"
    return sum(ends[tp] - int(client.hget(f"{name}:{tp.partition}", topic) or 0) for tp in tps)


def steady(settings: Settings, options: argparse.Namespace) -> list[int]:
    """Feed at a steady rate; return the lag of both folds, second by second, the first ten left out."""
    lags: list[int] = []
    with feeder(settings, options, 60 * options.minutes) as feeding, connect(settings) as client:
        while feeding.poll() is None:
            time.sleep(1.0)
            lags.append(lag(settings, "users", client) + lag(settings, "items", client))
        if feeding.returncode:
            sys.exit(f"the feeder ended with {feeding.returncode}")
    first = next((at for at, each in enumerate(lags) if each), 0)  # before it the pool was made
    return lags[first + 10 :]


def _home_of(process: psutil.Process) -> str:
    try:
        return str(process.environ().get("LIVERANK_HOME", ""))
    except psutil.Error:
        return ""


def spent(settings: Settings) -> dict[str, float]:
    """CPU seconds so far: of the broker, of worker processes, of Redis, of all that belongs to this bench, of the
    whole machine.
    """
    broker = own = worker = 0.0
    for process in psutil.process_iter(["pid", "cmdline", "cpu_times"]):
        words, times = " ".join(process.info["cmdline"] or ()), process.info["cpu_times"]
        if times is not None and "streams.worker" in words and _home_of(process) == str(settings.home):
            worker += times.user + times.system
            own += times.user + times.system
            continue
        if times is None or not (process.info["pid"] == os.getpid() or str(settings.home) in words):
            continue
        own += times.user + times.system
        if "kafka.Kafka" in words:
            broker += times.user + times.system
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    machine = psutil.cpu_times()
    busy = sum(machine) - machine.idle - getattr(machine, "iowait", 0.0) - getattr(machine, "guest", 0.0)
    return {
        "broker": broker,
        "worker": worker,
        "redis": redis_cpu_s(settings),
        "own": own + children.ru_utime + children.ru_stime,
        "machine": busy,
    }


def feeder(settings: Settings, options: argparse.Namespace, seconds: float) -> subprocess.Popen[bytes]:
    """Start a process that sends events at `--rate`."""
    return subprocess.Popen([
        sys.executable, "-m", "bench.feeder", settings.kafka.bootstrap, settings.topic("events", 1),
        "--rate", str(options.rate), "--seconds", str(seconds),
        "--users", str(options.users), "--items", str(options.items),
    ])  # fmt: skip


def position(settings: Settings, client: Redis) -> int:
    """Events that are readable, of all that were ever sent."""
    names = (f"{settings.namespace}:position:fold.users:{p}" for p in range(settings.stack.partitions))
    return sum(int(client.hget(name, settings.topic("events", 1)) or 0) for name in names)


def processes(options: argparse.Namespace) -> int:
    """One whole worker against `--workers`, in processes of their own as `liverank up` starts them, under more events
    than they can fold.
    """
    figures: dict[str, Figure] = {}
    rows = []
    for n in (1, options.workers):
        with namespace(("kafka", "redis", "namespace", "features", "workers"), stack={"workers": n}) as settings:
            send_catalogue(settings, options.items)
            send(settings, options.warm, options.users, options.items, seed=1)
            drain(settings)
            with feeder(settings, options, 120.0) as feeding, connect(settings) as client:
                while lag(settings, "users", client) < 2 * options.rate:
                    time.sleep(0.5)
                at, before, start_s = position(settings, client), spent(settings), time.monotonic()
                time.sleep(options.seconds)
                folded, after, took_s = position(settings, client) - at, spent(settings), time.monotonic() - start_s
                feeding.kill()
        used = {name: after[name] - before[name] for name in ("worker", "redis", "broker", "machine")}
        us = {name: used[name] / folded * 1e6 for name in ("worker", "redis", "broker")}
        busy = used["machine"] / (took_s * (os.cpu_count() or 1))
        rows.append((n, folded / took_s, *us.values(), sum(us.values()), busy))
        figures |= {f"events_per_s_of_{n}": folded / took_s, f"machine_busy_of_{n}": busy}
        figures |= {f"{name}_us_per_event_of_{n}": each for name, each in us.items()}
    figures["ratio"] = rows[1][1] / rows[0][1]
    columns = ("workers", "events/s", "worker us", "redis us", "broker us", "all us", "machine busy")
    sys.stdout.write(table(columns, rows) + "\n")
    return finish("ingest_workers", figures, {})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=60_000, help="measured events")
    parser.add_argument("--minutes", type=float, default=0.0, help="feed at a steady rate for so long")
    parser.add_argument("--rate", type=int, default=8_000, help="events a second with --minutes")
    parser.add_argument("--workers", type=int, default=0, help="one worker process against so many")
    parser.add_argument("--seconds", type=float, default=30.0, help="measured, with --workers")
    parser.add_argument("--warm", type=int, default=60_000, help="events that make users mature")
    parser.add_argument("--users", type=int, default=3_000)
    parser.add_argument("--items", type=int, default=2_000)
    options = parser.parse_args()
    if options.workers:
        return processes(options)
    with namespace(("kafka", "redis", "namespace", "features")) as settings:
        send_catalogue(settings, options.items)
        engines, catalogue = build(settings)
        catalogue.start()
        threads = [threading.Thread(target=engine.run, name=engine.setup.fold.name) for engine in engines]
        for thread in threads:
            thread.start()
        for engine in engines:
            engine.ready.wait()
        send(settings, options.warm, options.users, options.items, seed=1)
        drain(settings)
        before = [(engine.n_records, engine.steps.take()) for engine in engines]
        redis_before_s, cpu_before_s, spent_before = redis_cpu_s(settings), time.process_time(), spent(settings)
        sending_s, start_s = time.process_time(), time.monotonic()
        lags = [0]
        if options.minutes:
            lags = steady(settings, options)
            sending_s = time.process_time()
        else:
            send(settings, options.events, options.users, options.items, seed=2)
            start_s = time.monotonic()
        sending_s = time.process_time() - sending_s
        drain(settings)
        wall_s = time.monotonic() - start_s
        redis_s = redis_cpu_s(settings) - redis_before_s
        cpu_s = time.process_time() - cpu_before_s - sending_s
        used = {name: seconds - spent_before[name] for name, seconds in spent(settings).items()}
        steps = [engine.steps.take() for engine in engines]
        folded = [engine.n_records - was for engine, (was, _) in zip(engines, before, strict=True)]
        for engine in engines:
            engine.stop()
        for thread in threads:
            thread.join()
        catalogue.stop()
    n = int(options.minutes * 60 * options.rate) or options.events
    rows = [
        (f"{e.setup.fold.name}: {step}", ns / n / 1000)
        for e, by in zip(engines, steps, strict=True)
        for step, ns in by.items()
    ]
    rows.sort(key=lambda row: (row[0].partition(":")[0] != "users", -row[1]))
    users_us, items_us = (sum(by.values()) / n / 1000 for by in steps)
    rows += [("users: all", users_us), ("items: all", items_us), ("redis", redis_s / n * 1e6)]
    rows.append(("broker", used["broker"] / n * 1e6))
    sys.stdout.write(table(("step", "CPU us an event"), rows) + "\n")
    figures = {
        "events": n,
        "events_per_s": n / wall_s,
        "users_fold_us_per_event": users_us,
        "items_fold_us_per_event": items_us,
        "worker_cpu_s_per_1000_events": (users_us + items_us) / 1000,
        "process_cpu_us_per_event": cpu_s / n * 1e6,
        "redis_us_per_event": redis_s / n * 1e6,
        "broker_us_per_event": used["broker"] / n * 1e6,
        "all_us_per_event": (cpu_s + redis_s + used["broker"]) / n * 1e6,
        "events_per_s_of_two_free_cores": 2 * n / (cpu_s + redis_s + used["broker"]),
        "others_share_of_machine": max(0.0, used["machine"] - used["own"]) / (wall_s * (os.cpu_count() or 1)),
        "lag_first": sum(lags[:10]) / max(1, len(lags[:10])),
        "lag_last": sum(lags[-10:]) / max(1, len(lags[-10:])),
        "lag_by_minute": [float(np.median(lags[at : at + 60])) for at in range(0, max(1, len(lags) - 30), 60)],
        "lag_growth_per_s": float(np.polyfit(np.arange(len(lags)), lags, 1)[0]) if len(lags) > 1 else 0.0,
        "records_folded": folded[0],
        "effect_records_folded": folded[1],
        "steps_us": dict(rows),
        "goal_events_per_s": 8000,
    }  # fmt: skip
    bounds: dict[str, tuple[str, float | bool]] = {"records_folded": (">=", n)}
    if options.minutes >= 1:
        # Growing by a hundredth of the rate, a lag of a minute would be reached in an hour and a half.
        bounds["lag_growth_per_s"] = ("<=", 0.01 * options.rate)
    return finish("ingest", figures, bounds)


if __name__ == "__main__":
    sys.exit(main())
