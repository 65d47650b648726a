"""The Faust agents in a real worker process: catalogue rows, near-line vectors, label rows, dead letters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from features.apply import apply
from features.examples import examples_dir, read_examples
from features.item_vectors import active_space, read_vectors
from features.redis import connect
from features.vectors import NEGATIVE_SHARE
from features.wire import entity_key, feature_field, unpack_floats, unpack_int64, unpack_string
from infra.stack.ports import choose as free_port
from liverank.kafka import Producer
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType, Exposure, ExposureSlot
from liverank.v1.item_pb2 import Item, ItemChange

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0


@contextmanager
def worker(settings: Settings) -> Iterator[str]:
    """A worker process; yields the address of its metrics."""
    port = free_port()
    env = {**os.environ, **settings.environment(), "LIVERANK_METRICS_PORT": str(port)}
    log = settings.home / "worker.log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "streams.worker", "--id", "0"]
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=out)
    try:
        address = f"http://127.0.0.1:{port}"
        until(lambda: process.poll() is not None or _get(f"{address}/ready") is not None, "the worker is ready", log)
        assert process.poll() is None, log.read_text()[-3_000:]
        yield address
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()[-3_000:]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def _get(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return str(reply.read().decode())
    except (urllib.error.URLError, OSError):
        return None


def until(holds: Callable[[], object], what: str, log: Path | None = None) -> float:
    """Wait until it holds; returns how long it took, s."""
    start_s = time.monotonic()
    while not holds():
        if time.monotonic() - start_s > PATIENCE_S:
            pytest.fail(f"after {PATIENCE_S:g} s: not {what}\n{log.read_text()[-3_000:] if log else ''}")
        time.sleep(0.02)
    return time.monotonic() - start_s


def test_EMB_2_agents_follow_the_folds(
    make_namespace: Callable[..., Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_namespace(streams={"attribution_window_s": 2})
    apply(settings)
    client = connect(settings)
    producer = Producer(settings.kafka.bootstrap, linger_ms=0)

    def row(join_key: str, entity: str, view: str, feature: str) -> bytes | None:
        key = entity_key(settings.feast_project, (join_key,), (entity,))
        found = client.hget(key, feature_field(view, feature))  # type: ignore[arg-type]
        return found if isinstance(found, bytes) else None

    def send(topic: str, key: str, value: bytes) -> None:
        producer.produce(topic, key=key.encode(), value=value)
        assert producer.flush(10) == 0

    def act(kind: str, item: str, number: int, **fields: object) -> None:
        event = Event(event_id=f"e{number}", type=EventType.Value(f"EVENT_TYPE_{kind}"), user_id="u1", item_id=item)
        event.event_ts_ms = time.time_ns() // 1_000_000
        event.MergeFrom(Event(**fields))  # type: ignore[arg-type]
        send(settings.topic("events", 1), "u1", event.SerializeToString())

    with worker(settings) as address:
        for item, title in (("i1", "space horror"), ("i2", "romantic comedy")):
            change = ItemChange(item_id=item, upsert=Item(title=title, available=True))
            send(settings.topic("items"), item, change.SerializeToString())
        send(settings.topic("items"), "bad", b"\xff\xff")
        until(lambda: row("item_id", "i2", "item_semantic", "vector"), "new items have vectors")
        assert unpack_string(row("item_id", "i1", "item_catalogue", "title")) == "space horror"
        space = active_space(client, settings)
        assert space is not None
        vectors = read_vectors(client, settings, ["i1", "i2"], space)

        act("CLICK", "i1", 1)
        until(lambda: row("user_id", "u1", "user_vectors", "vector_1w"), "the first vectors")
        np.testing.assert_allclose(
            unpack_floats(row("user_id", "u1", "user_vectors", "vector_1w")), vectors["i1"] / 2, atol=1e-6
        )
        delays = []
        for number in range(2, 12):
            before = row("user_id", "u1", "user_vectors", "computed_ms")
            act("DISMISS" if number % 2 else "CLICK", "i2", number)
            delays.append(
                until(lambda old=before: row("user_id", "u1", "user_vectors", "computed_ms") != old, "new vectors")
            )
        # 5 clicks of 1 and 5 dismissals of -2
        total = vectors["i1"] + (5 - 10 * NEGATIVE_SHARE) * vectors["i2"]
        for feature in ("vector_1w", "vector_1m", "vector_6m"):
            got = unpack_floats(row("user_id", "u1", "user_vectors", feature))
            np.testing.assert_allclose(got, total / (np.linalg.norm(total) + 1), atol=1e-5)
        assert unpack_int64(row("user_id", "u1", "user_vectors", "computed_ms")) > 0
        with capsys.disabled():
            print(
                f"\n  event -> user vectors: median {np.median(delays) * 1000:.0f} ms, max {max(delays) * 1000:.0f} ms"
            )
        assert max(delays) < 5.0

        slots = [ExposureSlot(item_id=item, propensity=0.5, catalogue_version=-1) for item in ("i1", "i2")]
        exposure = Event(
            event_id="r1",
            request_id="r1",
            type=EventType.EVENT_TYPE_EXPOSURE,
            user_id="u1",
            event_ts_ms=time.time_ns() // 1_000_000,
            exposure=Exposure(policy="p", drawn=True, slots=slots),
        )
        send(settings.topic("events", 1), "u1", exposure.SerializeToString())
        act("CLICK", "i2", 99, request_id="r1", position=2)
        until(lambda: read_examples(examples_dir(settings)).num_rows == 2, "the label rows on disk")
        rows = read_examples(examples_dir(settings)).to_pylist()
        assert [(r["item_id"], r["outcome_click"]) for r in rows] == [("i1", 0.0), ("i2", 1.0)]
        until(
            lambda: 'liverank_dead_letters_total{reason="malformed"' in (_get(f"{address}/metrics") or ""),
            "the bad item is counted",
        )
        for reader, topic in (("vectors", "user-changes"), ("catalogue", "items"), ("examples", "examples")):
            assert list(client.scan_iter(f"{settings.namespace}:position:{reader}:*")), (reader, topic)
