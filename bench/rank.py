"""Whole Rank requests against a ranker process: ``python -m bench.rank``.

A real Kafka, Redis and Feast; 100,000 synthetic items with vectors, counters and neighbours, users with histories, a
compiled booster of the serving size. Requests (1,000 candidates -> 20) come in an open loop at Poisson times, so that a
slow reply delays nobody's start; latency counts from the time a request was due. The ranker is pinned to one core, the
load generator to another. Prints a stage table and CPU per request; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import lightgbm
import numpy as np
import psutil
from numpy.typing import NDArray

from bench.report import finish, table
from features.item_vectors import Space, activate_space
from features.online import EntityRow, OnlineWriter, Row
from features.program import FeatureProgram
from features.redis import connect, format_version
from features.state.params import StateParams
from features.wire import pack_floats, pack_int64, pack_string
from infra.stack import Stack
from infra.stack import namespace as namespaces
from liverank.kafka import Producer
from liverank.settings import Endpoints, KafkaSettings, RankerSettings, RedisSettings, Settings, resolve
from liverank.v1 import decision_pb2, event_pb2
from liverank.v1 import personalization_pb2 as pb
from liverank.v1.item_pb2 import Item, ItemChange
from liverank.v1.personalization_pb2_grpc import PersonalizationStub
from ranker.columns import COLUMNS, FEATURE_SERVICE, NEUTRAL, SLOT_COLUMN, build
from ranker.models import Manifest, publish_model
from ranker.models.store import file_hash
from ranker.phi import SCHEMA
from ranker.training.memory import Memory

DIM = 64
N_KINDS = 200
DAY_MS = 86_400_000
HEADS = ("click", "dismiss")


@dataclass
class Catalogue:
    """Synthetic items whose vectors cluster by kind."""

    items: dict[str, Item]
    vectors: NDArray[np.float32]
    kinds: NDArray[np.int64]


def make_items(n: int, now_ms: int, rng: np.random.Generator) -> Catalogue:
    """Items of Zipf-like kinds."""
    kinds = np.minimum(rng.zipf(1.3, n) - 1, N_KINDS - 1)
    vectors = rng.normal(size=(N_KINDS, DIM))[kinds] + 0.8 * rng.normal(size=(n, DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    items = {}
    for at in range(n):
        item_id = f"item-{at}"
        items[item_id] = Item(
            item_id=item_id,
            title=f"Item {at}",
            price=float(1 + at % 97),
            available=True,
            creator=f"creator-{at % 5000}",
            categories=[f"kind-{kinds[at]}"],
            published_ts_ms=now_ms - int(rng.uniform(0, 90 * DAY_MS)),
        )
    return Catalogue(items, vectors.astype(np.float32), kinds)


def fold_users(
    memory: Memory, catalogue: Catalogue, n_users: int, n_events: int, now_ms: int, rng: np.random.Generator
) -> None:
    """Histories by the workers' own functions: clicks near each user's three kinds, some likes and dismissals."""
    n = len(catalogue.items)
    of_kind = [np.flatnonzero(catalogue.kinds == kind) for kind in range(N_KINDS)]
    of_kind = [rows if len(rows) else np.arange(n) for rows in of_kind]
    tastes = rng.integers(0, N_KINDS, (n_users, 3))
    times = np.sort(now_ms - rng.uniform(60_000, 6 * DAY_MS, n_users * n_events).astype(np.int64))
    types = (event_pb2.EVENT_TYPE_CLICK, event_pb2.EVENT_TYPE_LIKE, event_pb2.EVENT_TYPE_DISMISS)
    for at, ts_ms in enumerate(times.tolist()):
        user = int(rng.integers(n_users))
        rows = of_kind[int(tastes[user, rng.integers(3)])]
        row = int(rows[min(int(rng.pareto(1.0) * 5), len(rows) - 1)])
        kind = types[int(rng.choice(3, p=(0.8, 0.12, 0.08)))]
        memory.observe(
            event_pb2.Event(
                event_id=f"e{at}", type=kind, user_id=f"user-{user}", item_id=f"item-{row}", event_ts_ms=ts_ms
            )
        )
    memory.advance(now_ms)


ItemPages = dict[str, tuple[dict[bytes, bytes], int]]


def item_pages(memory: Memory) -> ItemPages:
    """Public fields and newest event of every item that was acted upon, set in the memory's table too."""
    pages: ItemPages = {}
    for number, (item_id, state) in enumerate(memory._items.items(), start=1):
        fields = {name: data for name, data in state.dirty().items() if not name.startswith(b"_")}
        pages[item_id] = (fields, state.newest_event_ts_ms)
        named = [(name.decode(), data) for name, data in fields.items()]
        memory.table.set_pages(item_id, named, (0, number, 0, 0), state.newest_event_ts_ms)
    return pages


def booster_files(memory: Memory, n_users: int, now_ms: int, rng: np.random.Generator) -> dict[str, bytes]:
    """Boosters of the serving size (heads 150 x 31, light 100 x 31) over real candidate rows and invented labels."""
    items = memory.table
    rows = []
    for user in range(min(60, n_users)):
        row = memory.user(f"user-{user}", now_ms)
        some = rng.choice(len(items), 300, replace=False).astype(np.int32)
        rows.append(build(row, items, some, context=event_pb2.Context(), as_of_ms=now_ms))
    x = np.concatenate(rows)
    x[:, COLUMNS.index(SLOT_COLUMN)] = rng.integers(1, 21, len(x))
    files = {}
    for name, n_trees in (*((head, 150) for head in HEADS), ("light", 100)):
        z = np.tanh((x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6)) @ rng.normal(size=len(COLUMNS)) / 3
        y = rng.random(len(x)) < 1 / (1 + np.exp(2 - z))
        parameters = {"objective": "binary", "num_leaves": 31, "num_threads": 1, "verbosity": -1, "seed": 1}
        files[f"{name}.txt"] = lightgbm.train(parameters, lightgbm.Dataset(x, y), n_trees).model_to_string().encode()
    return files


def publish(
    settings: Settings, catalogue: Catalogue, memory: Memory, pages: ItemPages, n_users: int, now_ms: int
) -> None:
    """Catalogue to Kafka; vectors, item rows and user rows to Feast's online store."""
    producer = Producer(settings.kafka.bootstrap, linger_ms=20)
    topic = settings.topic("items")
    for item_id, item in catalogue.items.items():
        change = ItemChange(item_id=item_id, upsert=item)
        producer.produce(topic, key=item_id.encode(), value=change.SerializeToString())
    left = producer.flush(60)
    if left:
        sys.exit(f"{left} catalogue records were not delivered")
    client = connect(settings)
    space = Space("bench/synthetic", DIM, "v1")
    activate_space(client, settings, space)
    writer, version = OnlineWriter(client, settings.feast_project), format_version(1, 1, 0)
    name = pack_string(str(space))
    batch: list[Row] = []
    for item_id, vector in zip(catalogue.items, catalogue.vectors, strict=True):
        values = {"vector": pack_floats(vector), "space": name}
        batch.append(Row("item_semantic", "item_id", item_id, values, now_ms, version))
        if len(batch) == 2_000:
            writer.write(batch)
            batch = []
    for item_id, (fields, newest_ms) in pages.items():
        batch += EntityRow("item_id", item_id, fields, newest_ms, version).rows()
    for user in range(n_users):
        user_id = f"user-{user}"
        row = memory.user(user_id, now_ms)
        fields = {name: data for name, data in memory._fields[user_id].items() if not name.startswith(b"_")}
        batch += EntityRow("user_id", user_id, fields, row.newest_event_ts_ms or now_ms, version).rows()
        vectors = dict(zip(("vector_1w", "vector_1m", "vector_6m"), map(pack_floats, row.vectors), strict=True))
        vectors |= {"space": name, "computed_ms": pack_int64(now_ms)}
        batch.append(Row("user_vectors", "user_id", user_id, vectors, now_ms, version))
    writer.write(batch)


@dataclass
class Load:
    """What an open loop saw."""

    latency_ms: list[float] = field(default_factory=list)
    rungs: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    cpu_s: float = 0.0


def open_loop(
    stub: PersonalizationStub, ranker: psutil.Process, rate: float, seconds: float, n_users: int, seed: int
) -> Load:
    """Send requests at Poisson times, whatever became of the earlier ones."""
    rng = np.random.default_rng(seed)
    due_s = np.cumsum(rng.exponential(1 / rate, int(rate * seconds)))
    users = rng.integers(0, n_users, len(due_s))
    load, lock, left = Load(), threading.Lock(), threading.Semaphore(0)

    def ended(future: Any, due_at_s: float) -> None:
        ms = (time.perf_counter() - due_at_s) * 1000
        with lock:
            error = future.exception()
            if error is not None:
                load.errors[error.code().name] += 1
            else:
                load.latency_ms.append(ms)
                load.rungs.update(future.result().rungs)
        left.release()

    cpu_before = sum(ranker.cpu_times()[:2])
    start_s = time.perf_counter()
    for at, user in zip(due_s.tolist(), users.tolist(), strict=True):
        wait_s = start_s + at - time.perf_counter()
        if wait_s > 0:
            time.sleep(wait_s)
        request = pb.RankRequest(user_id=f"user-{user}", k=20, mode=decision_pb2.MODE_SERVE)
        future = stub.Rank.future(request, timeout=2.0)
        future.add_done_callback(lambda done, due_at_s=start_s + at: ended(done, due_at_s))
    for _ in due_s:
        left.acquire()
    load.seconds = time.perf_counter() - start_s
    load.cpu_s = sum(ranker.cpu_times()[:2]) - cpu_before
    return load


def stage_sums(metrics_port: int) -> dict[str, tuple[float, float]]:
    """Sum of ms and count by stage, from the ranker's metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    found: dict[str, list[float]] = {}
    for line in lines:
        for place, suffix in enumerate(("sum", "count")):
            head = f'liverank_rank_stage_ms_{suffix}{{stage="'
            if line.startswith(head):
                stage, _, value = line[len(head) :].partition('"} ')
                found.setdefault(stage, [0.0, 0.0])[place] = float(value)
    return {stage: (total, count) for stage, (total, count) in found.items()}


def start_ranker(settings: Settings, core: int | None) -> tuple[subprocess.Popen[bytes], int]:
    """A ranker process on one core; returns when it serves."""
    metrics_port = int(settings.ranker.http.rpartition(":")[2]) + 1
    environment = os.environ | {
        "LIVERANK_NAMESPACE": settings.namespace,
        "LIVERANK_HOME": str(settings.home),
        "LIVERANK_KAFKA__BOOTSTRAP": settings.kafka.bootstrap,
        "LIVERANK_REDIS__URL": settings.redis.url,
        "LIVERANK_RANKER__GRPC": settings.ranker.grpc,
        "LIVERANK_RANKER__HTTP": settings.ranker.http,
        "LIVERANK_METRICS_PORT": str(metrics_port),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "ranker.server", "--id", "0"]
    process = subprocess.Popen(command, env=environment)
    if core is not None:
        os.sched_setaffinity(process.pid, {core})
    until_s = time.monotonic() + 300
    while time.monotonic() < until_s:
        if process.poll() is not None:
            sys.exit("the ranker ended; see its log above")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/ready", timeout=1) as answer:
                if answer.status == 200:
                    return process, metrics_port
        except OSError:
            time.sleep(0.2)
    process.kill()
    sys.exit("the ranker was not ready within 300 s")


def quantile(values: Sequence[float], share: float) -> float:
    """A quantile, NaN of nothing."""
    return float(np.quantile(values, share)) if values else float("nan")


def measure(settings: Settings, rates: Sequence[float], seconds: float, n_users: int, n_items: int) -> dict[str, Any]:
    """Start a ranker, warm it up, run each rate; print tables."""
    cores = sorted(os.sched_getaffinity(0))
    process, metrics_port = start_ranker(settings, cores[0] if len(cores) > 1 else None)
    if len(cores) > 1:
        os.sched_setaffinity(0, set(cores[1:]))
    figures: dict[str, Any] = {}
    try:
        ranker = psutil.Process(process.pid)
        with grpc.insecure_channel(settings.ranker.grpc) as channel:
            stub = PersonalizationStub(channel)  # type: ignore[no-untyped-call]
            debug = stub.Rank(pb.RankRequest(user_id="user-0", k=20, debug=True), timeout=10)
            figures["candidates"] = debug.debug.counts["candidates"]
            figures["ann_recall"] = wait_for_graph(metrics_port) if settings.ranker.exact_below <= n_items else None
            open_loop(stub, ranker, 20, 5, n_users, seed=0)
            idle_before, idle_from_s = sum(ranker.cpu_times()[:2]), time.perf_counter()
            time.sleep(3)
            idle = (sum(ranker.cpu_times()[:2]) - idle_before) / (time.perf_counter() - idle_from_s)
            figures["idle_cpu_share"] = idle
            rows = []
            for rate in rates:
                before = stage_sums(metrics_port)
                load = open_loop(stub, ranker, rate, seconds, n_users, seed=int(rate))
                after = stage_sums(metrics_port)
                n = len(load.latency_ms)
                figures[f"rps_{rate:g}"] = one = {
                    "p50_ms": quantile(load.latency_ms, 0.5),
                    "p95_ms": quantile(load.latency_ms, 0.95),
                    "p99_ms": quantile(load.latency_ms, 0.99),
                    "cpu_ms_per_request": 1000 * (load.cpu_s - idle * load.seconds) / max(n, 1),
                    "achieved_rps": n / load.seconds,
                    "errors": sum(load.errors.values()),
                    "rungs": dict(load.rungs),
                }
                rows.append([f"{rate:g}", *(one[key] for key in ("p50_ms", "p95_ms", "p99_ms", "cpu_ms_per_request"))])
            stages = {}
            for stage, (total, count) in after.items():
                was = before.get(stage, (0.0, 0.0))
                if count > was[1]:
                    stages[stage] = (total - was[0]) / (count - was[1])
        figures["stage_ms"] = stages
        sys.stdout.write(table(["rps", "p50 ms", "p95 ms", "p99 ms", "CPU ms"], rows) + "\n\n")
        sys.stdout.write(table(["stage", "ms"], [[stage, ms] for stage, ms in stages.items()]) + "\n\n")
    finally:
        process.terminate()
        process.wait(30)
    return figures


def wait_for_graph(metrics_port: int) -> float | None:
    """Recall of the vector graph once it was built and probed; None where that takes over 3 min."""
    until_s = time.monotonic() + 180
    while time.monotonic() < until_s:
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=5) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith("liverank_ann_recall ") and float(line.split()[1]) > 0:
                    return float(line.split()[1])
        time.sleep(1)
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.rank", description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--events", type=int, default=120, help="events a user")
    parser.add_argument("--rates", default="10,20,50", help="requests a second, several runs")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run")
    parser.add_argument("--home", default="", help="use the stack that is up there; empty = start one")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="liverank-bench-") as folder:
        local = None
        home = Path(given.home).resolve() if given.home else Path(folder)
        if not given.home:
            local = Stack(Settings(home=home, namespace="bench"))
            local.up(("kafka", "redis"))
        try:
            found = Endpoints.read(home)
            if found is None:
                sys.exit(f"no stack is up in {home}: run `liverank up`, or leave --home out")
            return run(given, Path(folder), found)
        finally:
            if local is not None:
                local.down()


def run(given: argparse.Namespace, folder: Path, endpoints: Endpoints) -> int:
    """Fill a namespace of its own, measure, remove it."""
    port = 20_000 + secrets.randbelow(20_000)
    settings = resolve(
        Settings(
            namespace=f"bench-{secrets.token_hex(3)}",
            home=folder,
            kafka=KafkaSettings(bootstrap=endpoints.kafka),
            redis=RedisSettings(url=endpoints.redis),
            ranker=RankerSettings(grpc=f"127.0.0.1:{port}", http=f"127.0.0.1:{port + 1}"),
        )
    )
    rng, now_ms = np.random.default_rng(11), time.time_ns() // 1_000_000
    namespaces.create(settings)
    namespaces.apply_features(settings)
    try:
        stored = connect(settings).get(f"{settings.namespace}:program")
        program = FeatureProgram.from_json(stored)
        catalogue = make_items(given.items, now_ms, rng)
        memory = Memory(
            program=program,
            params=StateParams(),
            items=catalogue.items,
            vectors=dict(zip(catalogue.items, catalogue.vectors, strict=True)),
            space=str(Space("bench/synthetic", DIM, "v1")),
        )
        fold_users(memory, catalogue, given.users, given.events, now_ms, rng)
        pages = item_pages(memory)
        files = booster_files(memory, given.users, now_ms, rng)
        manifest = Manifest(
            kind="booster",
            heads=HEADS,
            feature_service=FEATURE_SERVICE,
            feature_names=COLUMNS,
            slot_column=SLOT_COLUMN,
            neutral=dict(NEUTRAL),
            schema_id=SCHEMA,
            files={name: file_hash(data) for name, data in files.items()},
        )
        publish(settings, catalogue, memory, pages, given.users, now_ms)
        publish_model(settings, manifest, files)
        figures = measure(
            settings, [float(rate) for rate in given.rates.split(",")], given.seconds, given.users, given.items
        )
    finally:
        namespaces.remove(settings)
    figures |= {"items": given.items, "users": given.users, "k": 20}
    # First form: report. The bounds (p50 <= 8 ms, p99 <= 20 ms at 50 rps, CPU <= 6.5 ms) come with the serving issue.
    return finish("rank", figures, ())


if __name__ == "__main__":
    sys.exit(main())
