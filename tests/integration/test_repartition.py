"""Another number of partitions: nothing is lost, nothing is doubled, wherever the command is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter

import pytest
from conftest import MakeNamespace
from crash import send_catalogue, traffic
from workers import Folds

from features.archive import generations_of, partitions_of
from features.generation import read_note
from features.redis import connect
from features.state.params import state_params
from features.wire import feature_field, unpack_bytes
from liverank.contract import event_key
from liverank.kafka import Producer, Record, Tp, end_offsets
from liverank.partition import partition as partition_of
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event
from liverank.v1.stream_pb2 import Example
from streams.archive import Archiver
from streams.rebuild import rebuild
from streams.seal import Seals
from tests.recount.live import live_differences, logged, recount_of
from tests.recount.namespace import (
    Found,
    catalogue_of,
    check_same,
    found,
    partials_of,
    read_topic,
    same_item,
    state_keys,
)
from tests.recount.program import PROGRAM

STREAMS = {
    "attribution_window_s": 2, "session_timeout_s": 1, "archive_flush_s": 0.3, "seal_quiet_s": 0.5,
    "group_session_timeout_ms": 6000,
}  # fmt: skip


@pytest.fixture
def settings(make_namespace: MakeNamespace) -> Settings:
    made = make_namespace(streams=STREAMS)
    with connect(made) as client:
        client.set(f"{made.namespace}:program", PROGRAM.to_json())
    return made


@contextmanager
def archiving(settings: Settings, generation: int) -> Iterator[None]:
    with connect(settings) as client:
        archiver = Archiver(settings, generation, member="a0", seals=Seals(client, settings, generation))
        thread = threading.Thread(target=archiver.run)
        thread.start()
        try:
            yield
        finally:
            archiver.stop()
            thread.join(20)


def send(settings: Settings, generation: int, events: list[Event]) -> None:
    producer = Producer(settings.kafka.bootstrap)
    for event in events:
        producer.produce(settings.topic("events", generation), key=event_key(event), value=event.SerializeToString())
    assert producer.flush(30) == 0


def command(settings: Settings, *arguments: str, failpoint: str = "") -> subprocess.Popen[str]:
    env = {**os.environ, **settings.environment(), "LIVERANK_HOME": str(settings.home), "LIVERANK_FAILPOINT": failpoint}
    line = [sys.executable, "-c", "from liverank.cli import main; main()", "repartition", *arguments]
    return subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def killed(process: subprocess.Popen[str]) -> None:
    """Wait until it is, by the failpoint that it was given."""
    out, errors = process.communicate(timeout=90)
    assert process.returncode == -signal.SIGKILL, (out, errors)


@contextmanager
def foreign_user(settings: Settings, generation: int) -> Iterator[Callable[[], bool]]:
    """A state that no event made, in partition 0; yields whether it is still there."""
    key = f"{settings.namespace}:{{{settings.namespace}.{generation}.0}}:u:nobody"
    with connect(settings) as client:
        client.hset(key, "_h0", "x")
        yield lambda: bool(client.exists(key))
        client.delete(key)


def stands(settings: Settings, kind: str, generation: int, n: int) -> list[int]:
    """Next offset of every partition of a fold."""
    place = f"{settings.namespace}:{{{settings.namespace}.{generation}"
    with connect(settings) as client:
        found = [client.hget(f"{place}.{p}}}:{kind}.meta", "position") for p in range(n)]
    return [int(position.split(b":")[1]) + 1 if position else 0 for position in found]


def settled(settings: Settings, generation: int, n: int, quiet_s: float) -> None:
    """Wait until both folds have passed what is there, and windows have closed."""
    deadline_s = time.monotonic() + 60
    for kind, name in (("u", "events"), ("u", "events"), ("i", "item-effects")):
        topic = settings.topic(name, generation)
        ends = end_offsets(settings.kafka.bootstrap, [Tp(topic, p) for p in range(n)])
        while any(at < ends[Tp(topic, p)] for p, at in enumerate(stands(settings, kind, generation, n))):
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        if kind == "u":
            time.sleep(quiet_s / 2)


def records_of(settings: Settings, generation: int, n: int) -> list[Record]:
    """What a generation's user fold has folded."""
    wide = settings.model_copy(update={"stack": settings.stack.model_copy(update={"partitions": n})})
    positions = stands(settings, "u", generation, n)
    return [r for r in read_topic(wide, settings.topic("events", generation)) if r.offset < positions[r.partition]]


def test_STR_8_repartition_loses_and_doubles_nothing(settings: Settings, folds: Callable[..., Folds]) -> None:
    send_catalogue(settings)
    before, after = traffic(500, seed=51), traffic(400, seed=52)
    with archiving(settings, 1):
        worker = folds(settings).ready()
        send(settings, 1, before)
        killed(command(settings, "--partitions", "6", failpoint="repartition.in_build"))
        with foreign_user(settings, 2) as still_there:  # whoever folds its partition again deletes it first
            killed(command(settings, "--partitions", "6", failpoint="repartition.in_build"))
            assert still_there()
        killed(command(settings, "--partitions", "6", failpoint="repartition.before_switch"))
    with connect(settings) as client:
        note = read_note(client, settings.namespace)
    assert note is not None
    assert note.phase == "switch"
    send(settings, 1, after[:50])  # a producer that was not told: behind the seals
    old = records_of(settings, 1, 4)
    assert all(record.offset <= note.ends[record.partition] for record in old)
    second = command(settings, "--partitions", "6", "--json")
    out, errors = second.communicate(timeout=60)
    assert second.returncode == 0, (out, errors)
    report = json.loads(out)
    assert (report["generation"], report["partitions"], report["late"]) == (2, 6, 50)
    assert worker.process.wait(10) == 1  # its generation is over
    assert "generation 2 is live" in worker.log.read_text()
    with archiving(settings, 2):
        worker = folds(settings).ready()
        send(settings, 2, [*after, *before[::7]])
        settled(settings, 2, 6, 4.5)
        worker.stop()
    check_whole(settings, old)
    assert generations_of(settings, "events") == [1, 2]
    assert partitions_of(settings, "events", 1) == list(range(6))
    live = held(settings)
    redone = rebuild(settings)
    assert redone.before > 0
    check_same(held(settings), live)


def held(settings: Settings) -> Found:
    """What the namespace holds; the statistics of the generation before are there for an hour."""
    have = found(settings)
    have.partials = {name: fields for name, fields in have.partials.items() if name.startswith("bandit:2:")}
    return have


def taken_by_readers(settings: Settings) -> list[Example]:
    """Label rows by the highest number of every (generation, source, own partition)."""
    highest: dict[tuple[int, int, int], tuple[int, int, int]] = {}
    taken = []
    for record in read_topic(settings, settings.topic("examples")):
        example = Example.FromString(record.value)
        number = example.number
        place = (number.offset, number.step, number.index)
        source = (record.partition, number.generation, number.partition)
        if place > highest.get(source, (-1, 0, 0)):
            highest[source] = place
            taken.append(example)
    return taken


def check_whole(settings: Settings, old: list[Record]) -> None:
    """Everything equals a recount of both logs: the old one dealt anew, then the new one."""
    have, more = held(settings), logged(records_of(settings, 2, 6), 6)
    dealt = sorted((each for part in logged(old, 4).partitions.values() for each in part), key=itemgetter(1))
    whole = {p: [] for p in range(6)}
    for each in dealt:
        event = each.event
        for p in range(6) if event is None else (partition_of(event_key(event), 6),):
            whole[p].append(each)
    for p, records in more.partitions.items():
        whole[p] += records
    different = live_differences(
        recount_of(more._replace(partitions=whole), catalogue_of(settings), state_params(settings)), program=PROGRAM,
        states=state_keys(have), partials=partials_of(have), examples=taken_by_readers(settings),
        as_of_ms=int(time.time() * 1000) + 60_000,
    )  # fmt: skip
    assert not different, different[:5]
    for (kind, name), fields in state_keys(have).items():
        if name[:1] in ("#", "\x01"):
            continue
        public = {field: page for field, page in fields.items() if not field.startswith(b"_")}
        row = {f: unpack_bytes(have.rows[kind, name][feature_field(*f.decode().split(":", 1))]) for f in public}
        if kind == "i":  # a row that has not changed since is of the old generation's bytes
            same_item(name, row, public)
        else:
            assert row == public, name
