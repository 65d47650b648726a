"""The engine on a real Kafka and a real Redis, with counting folds: exact while workers come and go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeNamespace

from features.redis import connect
from liverank.kafka import Producer
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType
from liverank.v1.stream_pb2 import Example
from tests.recount.namespace import read_topic

HERE = Path(__file__).parent
BASE_MS = 1_780_000_000_000


class Worker:
    """A counting worker in a process of its own."""

    def __init__(self, settings: Settings, member: str = "w0", *names: str, failpoint: str = "") -> None:
        env = {**os.environ, "LIVERANK_FAILPOINT": failpoint}
        self.log = settings.home / f"{member}-{time.monotonic_ns()}.log"
        program = [sys.executable, str(HERE / "counting.py"), settings.model_dump_json(), member, *names]
        with self.log.open("w") as errors:
            self.process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=errors, env=env, text=True)

    def ready(self) -> Worker:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "ready\n", (line, self.log.read_text()[-3000:])
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=30)
        return self.process.returncode


@pytest.fixture
def spawn() -> Iterator[Callable[..., Worker]]:
    made: list[Worker] = []

    def make(*args: Any, **kwargs: Any) -> Worker:
        made.append(Worker(*args, **kwargs))
        return made[-1]

    yield make
    for worker in made:
        if worker.process.poll() is None:
            worker.kill()
        if worker.process.stdout is not None:
            worker.process.stdout.close()


def produce(settings: Settings, n: int, start: int = 0, *, n_users: int = 40, n_items: int = 15) -> None:
    producer = Producer(settings.kafka.bootstrap)
    for i in range(start, start + n):
        user = f"user-{i * 7919 % n_users}"
        event = Event(
            event_id=f"e{i}", type=EventType.EVENT_TYPE_CLICK, user_id=user, item_id=f"item-{i * 31 % n_items}",
            event_ts_ms=BASE_MS + i,
        )  # fmt: skip
        producer.produce(settings.topic("events", 1), key=user.encode(), value=event.SerializeToString())
    assert producer.flush(30) == 0


def states(settings: Settings, kind: str) -> dict[str, dict[str, Any]]:
    found = {}
    with connect(settings) as client:
        for key in client.scan_iter(match=f"{settings.namespace}:{{*:{kind}:*", count=1000):
            name = key.decode().split(f":{kind}:", 1)[1]
            found[name] = json.loads(client.hget(key, "_doc"))
    return found


def rows(settings: Settings, join: str, ids: list[str]) -> dict[str, int]:
    from features.wire import entity_key, feature_field, unpack_int64

    with connect(settings) as client:
        found = {}
        for name in ids:
            data = client.hget(entity_key(settings.feast_project, (join,), (name,)), feature_field("counts", "n"))
            found[name] = 0 if data is None else unpack_int64(data)
        return found


def distinct(settings: Settings, topic: str) -> Counter[str]:
    """What a reader that keeps the highest number per source sees: request ids, each counted once per acceptance."""
    highest: dict[tuple[int, int], tuple[int, int, int]] = {}
    seen: Counter[str] = Counter()
    for record in read_topic(settings, settings.topic(topic)):
        example = Example.FromString(record.value)
        number = example.number
        place = (number.offset, number.step, number.index)
        source = (record.partition, number.partition)
        if place > highest.get(source, (-1, 0, 0)):
            highest[source] = place
            seen[example.request_id] += 1
    return seen


def expected(n: int, *, n_users: int = 40, n_items: int = 15) -> tuple[Counter[str], Counter[str]]:
    users, items = Counter[str](), Counter[str]()
    for i in range(n):
        users[f"user-{i * 7919 % n_users}"] += 1
        items[f"item-{i * 31 % n_items}"] += 1
    return users, items


def settle(settings: Settings, n: int, timeout_s: float = 40.0, **sizes: int) -> None:
    """Wait until everything of `n` events is folded, windows closed, effects counted and statistics published."""
    users, items = expected(n, **sizes)
    deadline_s = time.monotonic() + timeout_s
    while True:
        u, i = states(settings, "u"), states(settings, "i")
        done = {k: d["n"] for k, d in u.items() if not k.startswith("#")} == dict(users)
        done = done and {k: d["n"] for k, d in i.items()} == dict(items)
        done = done and all(d.get("due") is None for d in u.values())
        done = done and rows(settings, "user_id", list(users)) == dict(users)
        done = done and rows(settings, "item_id", list(items)) == dict(items)
        if done:
            break
        if time.monotonic() > deadline_s:
            pytest.fail(f"not settled: users {sum(d['n'] for k, d in u.items() if k[0] != '#')} of {n}, "
                        f"items {sum(d['n'] for d in i.values())}, "
                        f"rows {sum(rows(settings, 'user_id', list(users)).values())}")  # fmt: skip
        time.sleep(0.1)


def check(settings: Settings, n: int) -> None:
    """Everything equals the recount, for readers of every kind."""
    users, _ = expected(n)
    assert distinct(settings, "examples") == Counter({f"e{i}": 1 for i in range(n)})
    closed = distinct(settings, "user-changes")
    assert all(count == 1 for count in closed.values())
    folded = states(settings, "u")
    assert sum(doc["closed"] for doc in folded.values()) == len(closed)
    assert sum(doc["n"] for name, doc in folded.items() if name.startswith("#")) == n
    with connect(settings) as client:
        published = [
            int(client.hget(f"{settings.namespace}:#total:{p}", "n") or 0) for p in range(settings.stack.partitions)
        ]
    assert sum(published) == n
    assert rows(settings, "user_id", list(users)) == dict(users)


def test_counts_are_exact_without_faults(namespace: Settings, spawn: Callable[..., Worker]) -> None:
    worker = spawn(namespace).ready()
    produce(namespace, 2000)
    settle(namespace, 2000)
    assert worker.stop() == 0
    check(namespace, 2000)


def test_STR_8_workers_join_and_leave_and_nothing_is_lost_or_doubled(
    make_namespace: MakeNamespace, spawn: Callable[..., Worker]
) -> None:
    settings = make_namespace(streams={"group_session_timeout_ms": 6000})
    first = spawn(settings, "w0").ready()
    produce(settings, 500)
    second = spawn(settings, "w1").ready()
    produce(settings, 500, start=500)
    third = spawn(settings, "w2").ready()
    produce(settings, 500, start=1000)
    assert first.stop() == 0
    produce(settings, 300, start=1500)
    third.kill()
    produce(settings, 200, start=1800)
    settle(settings, 2000)
    assert second.stop() == 0
    check(settings, 2000)
