"""Enrichment on the real stack: topic -> provider -> Parquet -> Feast -> active space; near-line vectors after it."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping

import numpy as np
import pytest

from features.apply import apply, open_store
from features.hashing import item_hash
from features.item_vectors import ItemVectors, active_space, read_vectors
from features.llm import job
from features.near_line import Change, NearLine
from features.online import OnlineWriter, Row
from features.redis import Redis, connect, format_version
from features.state.history import Entry, History
from features.user_row import UserRowReader
from features.vectors import user_vectors
from features.wire import pack_bytes
from liverank.kafka import Producer, Record
from liverank.settings import Settings
from liverank.v1.event_pb2 import EventType
from liverank.v1.item_pb2 import Item, ItemChange, ItemRemoved
from liverank.v1.stream_pb2 import Number, UserChange
from streams.agents.dead import DeadLetterWriter
from streams.agents.vectors import PACE, VectorHandler

TITLES = ["Alien horror in space", "Space horror aliens", "Romantic comedy in Paris", "A love story in France"]


def send_catalogue(settings: Settings) -> None:
    producer = Producer(settings.kafka.bootstrap)
    changes = [ItemChange(item_id=f"i{i}", upsert=Item(title=title)) for i, title in enumerate(TITLES)]
    changes.insert(0, ItemChange(item_id="i0", upsert=Item(title="an older title")))
    changes += [
        ItemChange(item_id="gone", upsert=Item(title="gone soon")),
        ItemChange(item_id="gone", removed=ItemRemoved()),
    ]
    for change in changes:
        producer.produce(settings.topic("items"), key=change.item_id.encode(), value=change.SerializeToString())
    assert producer.flush(10) == 0


def enriched(namespace: Settings) -> tuple[Redis, list[Item]]:
    """A namespace whose catalogue has vectors: a client, and the items."""
    apply(namespace)
    send_catalogue(namespace)
    items = job.catalogue(namespace, None)
    job.enrich(namespace, items)
    return connect(namespace), items


def test_LLM_3_vectors_of_the_catalogue_are_served_by_feast(namespace: Settings) -> None:
    apply(namespace)
    send_catalogue(namespace)
    items = job.catalogue(namespace, None)
    assert [(item.item_id, item.title) for item in items] == [(f"i{i}", title) for i, title in enumerate(TITLES)]

    report = job.enrich(namespace, items)
    assert (report.rows, report.cost) == (4, 0.0)
    client = connect(namespace)
    space = active_space(client, namespace)
    assert space is not None
    assert str(space) == report.space == "local/l2_supercat/64/t1"

    rows = (
        open_store(namespace)
        .get_online_features(
            features=["item_semantic:vector", "item_semantic:space"],
            entity_rows=[{"item_id": f"i{i}"} for i in range(4)],
        )
        .to_dict()
    )
    assert rows["space"] == [str(space)] * 4
    vectors = np.asarray(rows["vector"], dtype=np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    ours = read_vectors(client, namespace, [f"i{i}" for i in range(4)], space)
    for i in range(4):
        np.testing.assert_array_equal(ours[f"i{i}"], vectors[i])
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]

    again = job.enrich(namespace, items)
    assert (again.calls, again.tally.from_cache, again.users) == (0, 4, 0)


def test_EMB_1_near_line_vectors_are_written_once_and_never_by_an_older_change(namespace: Settings) -> None:
    client, items = enriched(namespace)
    now_ms = time.time_ns() // 1_000_000
    history = History({})
    history.add(Entry(now_ms - 1_000, item_hash("i0"), int(EventType.EVENT_TYPE_CLICK), 16, 0, 0))
    history.add(Entry(now_ms - 8 * 86_400_000, item_hash("i2"), int(EventType.EVENT_TYPE_CLICK), 16, 0, 0))
    pages = {name.decode().split(":")[1]: pack_bytes(data) for name, data in history.dirty().items()}
    writer = OnlineWriter(client, namespace.feast_project)
    writer.write([Row("user_history", "user_id", "u1", pages, now_ms - 1_000, format_version(1, 5, 0))])

    names = {item_hash(item.item_id): item.item_id for item in items}
    near_line = NearLine(client, namespace, ItemVectors(client, namespace, names.get))
    assert near_line.write({"u1": Change(format_version(1, 5, 0), now_ms, now_ms - 1_000)}) == 1
    assert near_line.write({"u1": Change(format_version(1, 4, 0), now_ms + 9, now_ms)}) == 0
    features = [f"user_vectors:{name}" for name in ("vector_1w", "vector_1m", "vector_6m", "space", "computed_ms")]
    row = open_store(namespace).get_online_features(features=features, entity_rows=[{"user_id": "u1"}]).to_dict()
    assert row["computed_ms"] == [now_ms]
    week, month = np.asarray(row["vector_1w"][0]), np.asarray(row["vector_1m"][0])
    vectors = read_vectors(
        client, namespace, ["i0", "i2"], active_space(client, namespace) or (_ for _ in ()).throw(KeyError)
    )
    np.testing.assert_allclose(week, vectors["i0"] / 2, atol=1e-6)
    total = vectors["i0"] + vectors["i2"]
    np.testing.assert_allclose(month, total / (np.linalg.norm(total) + 1), atol=1e-6)
    np.testing.assert_array_equal(month, np.asarray(row["vector_6m"][0]))


def test_vectors_of_a_row_that_redis_lost_are_computed_again_when_it_is_back(namespace: Settings) -> None:
    """A rolled back Redis holds an older row than the change says; the fold writes the row again and tells again."""
    client, items = enriched(namespace)
    now_ms = time.time_ns() // 1_000_000
    writer = OnlineWriter(client, namespace.feast_project)

    def state(item: str, offset: int) -> None:
        history = History({})
        history.add(Entry(now_ms, item_hash(item), int(EventType.EVENT_TYPE_CLICK), 16, 0, 0))
        pages = {name.decode().split(":")[1]: pack_bytes(data) for name, data in history.dirty().items()}
        writer.write([Row("user_history", "user_id", "u1", pages, now_ms, format_version(1, offset, 0))])

    def week() -> np.ndarray:
        found = open_store(namespace).get_online_features(["user_vectors:vector_1w"], entity_rows=[{"user_id": "u1"}])
        return np.asarray(found.to_dict()["vector_1w"][0])

    names = {item_hash(item.item_id): item.item_id for item in items}
    vectors = ItemVectors(client, namespace, names.get)
    near_line = NearLine(client, namespace, vectors, lambda: time.time_ns() // 1_000_000)
    change = Change(format_version(1, 6, 0), now_ms, now_ms)
    state("i0", 5)
    assert near_line.write({"u1": change}) == 1
    older = week()
    state("i2", 6)
    assert near_line.write({"u1": change}) == 1
    assert not np.allclose(older, week())
    assert near_line.write({"u1": change}) == 0


def test_EMB_8_a_backlog_is_drained_with_one_row_a_user(
    namespace: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten minutes of changes at 100/s that waited for the agent, while the folds went on: each user's vectors are
    written once, for the last state; a change after that is written again.
    """
    client, items = enriched(namespace)
    rng, now_ms, n_users, n_changes = random.Random(8), time.time_ns() // 1_000_000, 300, 60_000
    last = {}
    backlog = []
    for offset in range(n_changes):
        user, at_ms = f"u{int(n_users * rng.random() ** 2)}", now_ms - 600_000 + 10 * offset
        last[user] = (offset, at_ms)
        number = Number(generation=1, partition=0, offset=offset)
        value = UserChange(number=number, user_id=user, clock_ms=at_ms, newest_event_ts_ms=at_ms).SerializeToString()
        backlog.append(Record("t", 0, offset, b"", value, (), at_ms))
    writer = OnlineWriter(client, namespace.feast_project)

    def state(user: str, offset: int, at_ms: int) -> None:
        history = History({})
        for n in range(5):
            history.add(Entry(at_ms - n, item_hash(f"i{(offset + n) % 4}"), 2, 16, 0, 0))
        pages = {name.decode().split(":")[1]: pack_bytes(data) for name, data in history.dirty().items()}
        writer.write([Row("user_history", "user_id", user, pages, at_ms, format_version(1, offset, 0))])

    for user, (offset, at_ms) in last.items():
        state(user, offset, at_ms)
    names = {item_hash(item.item_id): item.item_id for item in items}
    vectors = ItemVectors(client, namespace, names.get)
    near_line = Counting(client, namespace, vectors, lambda: time.time_ns() // 1_000_000)
    handler = VectorHandler(near_line, DeadLetterWriter(namespace))
    start_s = time.monotonic()
    for start in range(0, n_changes, PACE.records):
        handler.handle(backlog[start : start + PACE.records])
    seconds = time.monotonic() - start_s
    assert near_line.taken == len(last)
    with capsys.disabled():
        print(f" [{n_changes:,} changes of {len(last)} users in {seconds:.1f} s, {near_line.taken} rows]", end="")
    replayed = NearLine(client, namespace, vectors)
    reader = UserRowReader(open_store(namespace))
    got = {user: reader.read(user) for user in last}
    for user, (offset, at_ms) in last.items():
        assert got[user].computed_ms >= now_ms
        wanted = user_vectors(got[user].signals, vectors.lookup, got[user].computed_ms)
        np.testing.assert_allclose(got[user].vectors, wanted, atol=1e-6)
        # As exact as computing every change: the last one has nothing to add.
        assert replayed.write({user: Change(format_version(1, offset - 1, 0), at_ms, at_ms)}) == 0
    state("u0", n_changes, now_ms + 1)
    number = Number(generation=1, partition=0, offset=n_changes)
    change = UserChange(number=number, user_id="u0", clock_ms=now_ms + 1, newest_event_ts_ms=now_ms + 1)
    handler.handle([Record("t", 0, n_changes, b"", change.SerializeToString(), (), now_ms)])
    assert near_line.taken == len(last) + 1


class Counting(NearLine):
    """Counts the rows that were taken."""

    taken = 0

    def write(self, changes: Mapping[str, Change]) -> int:
        """See `NearLine.write`."""
        written = super().write(changes)
        self.taken += written
        return written
