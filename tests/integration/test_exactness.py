"""Exactness at the edges: a lost connection to Redis, agents behind a rolled back Redis, dead letters, export."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest
from conftest import MakeNamespace
from crash import catalogue_items, send, send_catalogue, traffic
from typer.testing import CliRunner
from workers import STREAMS, Folds

from bench.traffic import events as events_of
from features.redis import connect
from liverank.cli import build
from liverank.errors import ConfigError
from liverank.files import read_events, read_items, write_events, write_items
from liverank.kafka import END, BatchConsumer, Producer, Record, Tp
from liverank.partition import partition as partition_of
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType
from streams.agents.positions import Positioned
from streams.dlq import DeadLetters
from streams.export import Exported, export_events, export_items
from streams.rebuild import rebuild
from tests.recount import decoded
from tests.recount.namespace import accepted, check, found, read_topic, settle
from tests.recount.program import PROGRAM

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def settings(make_namespace: MakeNamespace) -> Settings:
    return make_namespace(streams=STREAMS)


def _epochs(settings: Settings) -> list[int]:
    ns = settings.namespace
    with connect(settings) as client:
        return [
            int(client.hget(f"{ns}:{{{ns}.1.{p}}}:{kind}.meta", "epoch") or 0)
            for kind in "ui"
            for p in range(settings.stack.partitions)
        ]


def test_STR_4_a_lost_connection_to_redis_makes_the_owner_take_its_partitions_anew(
    settings: Settings, folds: Callable[..., Folds]
) -> None:
    """Redis may have come back a second older: what was published in that second is published again."""
    for prefix in "ab":
        send_catalogue(settings, prefix)
    worker = folds(settings).ready()
    send(settings, traffic(200, seed=1, prefix="a"))
    settle(settings, quiet_s=0.0)
    before = _epochs(settings)
    with connect(settings) as client:
        client.client_kill_filter(_type="normal", skipme=True)
    deadline_s = time.monotonic() + 60
    while not all(now > then for now, then in zip(_epochs(settings), before, strict=True)):
        assert worker.process.poll() is None, worker.log.read_text()[-3000:]
        assert time.monotonic() < deadline_s, (before, _epochs(settings))
        time.sleep(0.1)
    send(settings, traffic(200, seed=2, prefix="b"))
    settle(settings)
    worker.stop()
    check(settings)


class Counting:
    """A handler that writes down what it was given."""

    name = "counting"

    def __init__(self) -> None:
        self.offsets: list[int] = []

    def handle(self, records: Sequence[Record]) -> None:
        self.offsets += [record.offset for record in records]


def test_an_agent_handles_again_what_a_rolled_back_redis_lost(namespace: Settings) -> None:
    topic, group = namespace.topic("user-changes"), "test.agents"
    producer = Producer(namespace.kafka.bootstrap)
    for number in range(30):
        producer.produce(topic, key=b"k", value=b"%d" % number, partition=0)
    assert producer.flush(30) == 0
    records = [record for record in read_topic(namespace, topic) if record.partition == 0]
    handler = Counting()
    with connect(namespace) as client:
        agent = Positioned(handler, client, namespace, group=group)
        agent.handle(records[:10])
        agent.handle(records[10:20])
        assert handler.offsets == list(range(20))
        key = f"{namespace.namespace}:position:counting:0"
        assert client.hget(key, topic) == b"20"
        # The last second is lost, positions with it; then more comes.
        client.hset(key, topic, 5)
        agent.handle(records[20:25])
        assert handler.offsets[20:] == [*range(5, 20), *range(20, 25)]
        # Lost again, and nothing new comes: Kafka says what was handled, also to a worker that has just started.
        commit(namespace, group, Tp(topic, 0), 25)
        client.hset(key, topic, 12)
        fresh = Counting()
        again = Positioned(fresh, client, namespace, group=group)
        again.look([Tp(topic, 0)])
        assert fresh.offsets == list(range(12, 25))
        again.look([Tp(topic, 0)])
        assert len(fresh.offsets) == 13
        # The only position ever written is lost.
        client.hdel(key, topic)
        again.look([Tp(topic, 0)])
        assert fresh.offsets[13:] == list(range(25))


def commit(settings: Settings, group: str, tp: Tp, offset: int) -> None:
    """Commit a group's offset, as Faust does."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": settings.kafka.bootstrap, "group.id": group})
    consumer.commit(offsets=[TopicPartition(tp.topic, tp.partition, offset)], asynchronous=False)
    consumer.close()


@pytest.fixture
def cli(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command against the namespace and returns what it prints."""
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(build(), list(arguments), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def _bad_events(now_ms: int) -> list[Event]:
    click = EventType.EVENT_TYPE_CLICK
    return [
        Event(event_id="future", type=click, user_id="u", item_id="i1", event_ts_ms=now_ms + 3_600_000),
        Event(event_id="nameless", type=click, user_id="u", event_ts_ms=now_ms),
        Event(event_id="good", type=click, user_id="u", item_id="i1", event_ts_ms=now_ms),
    ]


def test_dead_letters_are_listed_shown_mended_replayed_and_dropped(
    settings: Settings, folds: Callable[..., Folds], cli: Callable[..., str], tmp_path: Path
) -> None:
    now_ms = int(time.time() * 1000)
    worker = folds(settings).ready()
    send(settings, _bad_events(now_ms))
    settle(settings, quiet_s=0.0)
    groups = {group["reason"]: group for group in json.loads(cli("dlq", "list", "--json"))}
    assert {reason: group["open"] for reason, group in groups.items()} == {"future": 1, "missing_id": 1}
    name = groups["missing_id"]["newest"]
    shown = json.loads(cli("dlq", "show", name, "--json"))
    assert shown["reason"] == "missing_id"
    assert shown["topic"] == settings.topic("events", 1)
    assert shown["sent"]["event_id"] == "nameless"
    mended = tmp_path / "mended.json"
    mended.write_text(json.dumps({**shown["sent"], "item_id": "i7"}))
    assert json.loads(cli("dlq", "replay", name, "--with", str(mended), "--json")) == {"replayed": 1, "left": []}
    assert json.loads(cli("dlq", "drop", "--reason", "future", "--json")) == {"dropped": 1}
    settle(settings, quiet_s=0.0)
    states = {row["name"]: row["state"] for row in json.loads(cli("dlq", "list", "--all", "--json"))}
    assert sorted(states.values()) == ["dropped", "replayed"]
    # A replay of the same letter is a repeat for the fold.
    cli("dlq", "replay", name, "--with", str(mended))
    settle(settings)
    worker.stop()
    found = check(settings)
    assert found["rows"] == 3  # the user, i1, i7
    assert [letter.state for letter in DeadLetters(settings).read() if letter.body.reason == "future"] == ["dropped"]


def test_export_gives_back_what_was_imported_and_what_came(
    settings: Settings, folds: Callable[..., Folds], cli: Callable[..., str], tmp_path: Path
) -> None:
    send_catalogue(settings, "a")
    events = traffic(300, seed=5, prefix="a")
    send(settings, events[:200])
    send(settings, events[200:], foreign=True)
    worker = folds(settings).ready()
    settle(settings, quiet_s=0.0)
    worker.stop()
    for suffix in (".jsonl.gz", ".jsonl.zst", ".parquet"):
        file, items = tmp_path / f"events{suffix}", tmp_path / f"items{suffix}"
        told = json.loads(cli("export", str(file), "--items", str(items), "--json"))
        back = list(read_events(file))
        assert told["events"] == len(back) == len(events)
        wanted = sorted(event.SerializeToString(deterministic=True) for event in events)
        assert sorted(event.SerializeToString(deterministic=True) for event in back) == wanted, suffix
        assert told["items"] == len(list(read_items(items))) == 40
    report = Exported()
    user = events[0].user_id
    mine = list(export_events(settings, [1], user_id=user, exposures=False, report=report))
    assert {event.user_id for event in mine} <= {user}
    assert report.events == len(mine)
    assert len(list(export_items(settings))) == 40
    assert write_events(tmp_path / "again.jsonl", mine) == len(mine)


def test_nothing_reads_past_the_end_of_the_log(settings: Settings) -> None:
    """An empty namespace exports nothing and says so at once."""
    assert list(export_events(settings, [0, 1])) == []
    assert list(DeadLetters(settings).read()) == []
    consumer = BatchConsumer(settings.kafka.bootstrap, group="test.end")
    consumer.assign({Tp(settings.topic("events", 1), 0): END})
    consumer.close()


IMPORT = """
import os, signal, sys
from pathlib import Path
from liverank.files import read_events, read_items
from liverank.settings import Settings
from streams.history import import_history
settings, folder, step = Settings.model_validate_json(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def tell(name, done, total):
    print(name, flush=True)
    if name == step and (name != "fold" or done < total):
        os.kill(os.getpid(), signal.SIGKILL)

import_history(settings, read_events(folder / "e.parquet"), items=read_items(folder / "i.parquet"), on_progress=tell)
"""


def test_USE_6_kill_9_of_an_import_leaves_nothing_that_a_worker_takes_and_the_next_one_goes_on(
    settings: Settings, folds: Callable[..., Folds], tmp_path: Path
) -> None:
    with connect(settings) as client:
        client.set(f"{settings.namespace}:program", PROGRAM.to_json())
    events = [event for event in traffic(2200, seed=9, prefix="a") if not event.HasField("exposure")]
    write_events(tmp_path / "e.parquet", events)
    write_items(tmp_path / "i.parquet", catalogue_items("a"))

    def run(step: str) -> tuple[int, set[str]]:
        program = [sys.executable, "-c", IMPORT, settings.model_dump_json(), str(tmp_path), step]
        done = subprocess.run(program, timeout=120, capture_output=True, text=True, cwd=CHECKOUT, check=False)
        with connect(settings) as client:
            client.delete(f"{settings.namespace}:maintenance")  # else it frees itself after 30 s
        return done.returncode, set(done.stdout.split())

    # What was done is not done again: the run that is killed at the first items leaves all users folded.
    expected = {
        "fold": {"fold"},
        "items": {"fold", "items"},
        "vectors": {"items", "vectors"},
        "finish": {"vectors", "finish"},
    }
    for step, told in expected.items():
        assert run(step) == (-signal.SIGKILL, {"read"} | told)
        with pytest.raises(ConfigError, match="liverank import"):
            rebuild(settings)
        refused = folds(settings)
        refused.process.wait(timeout=60)
        assert "StateLostError" in refused.log.read_text(), step
    assert run("never") == (0, {"read", "vectors", "finish"})
    worker = folds(settings).ready()
    settle(settings)
    worker.stop()
    clicks = Counter(event.user_id for event in {e.event_id: e for e in events}.values())
    with connect(settings) as client:
        ns = settings.namespace
        for user, n in clicks.items():
            place = f"{ns}:{{{ns}.1.{partition_of(user.encode(), settings.stack.partitions)}}}:u:{user}"
            fields = client.hgetall(place)
            session = decoded.last_session(fields)
            assert session is not None
            assert session.events == n, user


@pytest.mark.timeout(600)
def test_ING_4_ten_thousand_events_twice_give_the_same_features_as_once(
    settings: Settings, folds: Callable[..., Folds]
) -> None:
    """Every window is closed before the repeats come; one event too old to be recognised is a dead letter."""
    for prefix in "abcd":
        send_catalogue(settings, prefix)
    worker = folds(settings).ready()
    events = [event for number, prefix in enumerate("abcd") for event in traffic(2400, seed=20 + number, prefix=prefix)]
    assert len(events) >= 10_000
    send(settings, events)
    settle(settings)
    once, labels = found(settings), len(accepted(settings))
    ancient = Event(
        event_id="ancient", type=EventType.EVENT_TYPE_CLICK, user_id=events[0].user_id, item_id=events[0].item_id,
        event_ts_ms=int(time.time() * 1000) - 8 * 86_400_000,
    )  # fmt: skip
    send(settings, [*events, ancient])
    settle(settings)
    worker.stop()
    twice = found(settings)
    assert twice.rows == once.rows
    assert twice.partials == once.partials
    assert len(accepted(settings)) == labels > 5000
    assert [letter.body.reason for letter in DeadLetters(settings).read()] == ["beyond_dedup_horizon"]


@pytest.mark.timeout(900)
def test_memory_stays_bounded_while_ten_minutes_of_backlog_are_folded(
    settings: Settings, folds: Callable[..., Folds]
) -> None:
    """42,000 events (70 a second for 10 minutes) of 3,000 users wait; the worker's cache holds 500 states."""
    bounded = settings.model_copy(update={"streams": settings.streams.model_copy(update={"cache_states": 500})})
    now_ms = int(time.time() * 1000)
    backlog = events_of(
        42_000, n_users=3_000, n_items=1_000, seed=3, start_ms=now_ms - 600_000, end_ms=now_ms, exposures=0.05
    )
    producer = Producer(settings.kafka.bootstrap, linger_ms=20)
    size = 0
    for event in backlog:
        value = event.SerializeToString()
        size += len(value)
        producer.produce(settings.topic("events", 1), key=event.user_id.encode(), value=value)
    assert producer.flush(60) == 0
    worker = folds(bounded).ready()
    process, most = psutil.Process(worker.process.pid), 0
    start = process.memory_info().rss
    waiting = threading.Thread(target=settle, args=(settings,), kwargs={"timeout_s": 600.0, "quiet_s": 0.0})
    waiting.start()
    while waiting.is_alive():
        most = max(most, process.memory_info().rss)
        waiting.join(0.2)
    worker.stop()
    assert sum(1 for key in found(settings).rows if key[0] == "u") > 2_500
    grown_mb = (most - start) / 2**20
    assert grown_mb < 150, f"{grown_mb:.0f} MB more for a backlog of {size / 2**20:.0f} MB"
