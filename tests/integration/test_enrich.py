"""Enrichment on the real stack: topic -> provider -> Parquet -> Feast -> active space; near-line vectors after it."""

from __future__ import annotations

import time

import numpy as np
import pytest

from features.apply import apply, open_store
from features.hashing import item_hash
from features.item_vectors import ItemVectors, active_space, read_vectors
from features.llm import job
from features.near_line import Change, NearLine
from features.online import OnlineWriter, Row
from features.redis import connect, format_version
from features.state.history import Entry, History
from features.wire import pack_bytes
from liverank.kafka import Producer
from liverank.settings import Settings
from liverank.v1.event_pb2 import EventType
from liverank.v1.item_pb2 import Item, ItemChange, ItemRemoved

pytestmark = pytest.mark.filterwarnings("ignore:Stream feature views are experimental")
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
    apply(namespace)
    send_catalogue(namespace)
    items = job.catalogue(namespace, None)
    job.enrich(namespace, items)
    client = connect(namespace)
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
