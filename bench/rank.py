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
from features.online import OnlineWriter, Row
from features.program import FeatureProgram
from features.redis import connect, format_version
from features.state.params import StateParams
from features.wire import pack_floats, pack_int64, pack_string
from infra.stack import Stack
from infra.stack import namespace as namespaces
from liverank.kafka import Producer
from liverank.settings import Endpoints, Settings, resolve
from liverank.v1 import decision_pb2, event_pb2
from liverank.v1 import personalization_pb2 as pb
from liverank.v1.item_pb2 import Item, ItemChange
from liverank.v1.personalization_pb2_grpc import PersonalizationStub
from ranker.columns import COLUMNS, FEATURE_SERVICE, NEUTRAL, SLOT_COLUMN, build
from ranker.models import Manifest, publish_model
from ranker.models.store import file_hash
from ranker.phi import SCHEMA
from ranker.training.memory import Memory
from streams.rows import rows_of

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
            event_pb2.Event(event_id=f"e{at}", type=kind, user_id=f"user-{user}", item_id=f"item-{row}", event_ts_ms=ts_ms)
        )
    memory.advance(now_ms)


def booster_files(memory: Memory, n_users: int, now_ms: int, rng: np.random.Generator) -> dict[str, bytes]:
    """Boosters of the serving size (heads 150 x 31, light 100 x 31) over real candidate rows and invented labels."""
    items = memory.refresh()
    rows = []
    for user in range(min(60, n_users)):
        row = memory.user(f"user-{user}", now_ms)
        some = rng.choice(len(items), 300, replace=False).astype(np.int32)
        rows.append(build(row, items, some, context=event_pb2.Context(), as_of_ms=now_ms))
    x = np.concatenate(rows)
    x[:, COLUMNS.index(SLOT_COLUMN)] = rng.integers(1, 21, len(x))
    files = {}
    for name, n_trees in ((*((head, 150) for head in HEADS), ("light", 100))):
        z = np.tanh((x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6)) @ rng.normal(size=len(COLUMNS)) / 3
        y = rng.random(len(x)) < 1 / (1 + np.exp(2 - z))
        parameters = {"objective": "binary", "num_leaves": 31, "num_threads": 1, "verbosity": -1, "seed": 1}
        files[f"{name}.txt"] = lightgbm.train(parameters, lightgbm.Dataset(x, y), n_trees).model_to_string().encode()
    return files


def publish(settings: Settings, catalogue: Catalogue, memory: Memory, n_users: int, now_ms: int) -> None:
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
    for item_id, state in memory._items.items():
        fields = {name: data for name, data in state.fields().items() if not name.startswith(b"_")}
        batch += rows_of("item_id", item_id, fields, state.newest_event_ts_ms, version)
    for user in range(n_users):
        user_id = f"user-{user}"
        row = memory.user(user_id, now_ms)
        fields = {name: data for name, data in memory._fields[user_id].items() if not name.startswith(b"_")}
        batch += rows_of("user_id", user_id, fields, row.newest_event_ts_ms or now_ms, version)
        vectors = dict(zip(("vector_1w", "vector_1m", "vector_6m"), map(pack_floats, row.vectors), strict=True))
        vectors |= {"space": name, "computed_ms": pack_int64(now_ms)}
        batch.append(Row("user_vectors", "user_id", user_id, vectors, now_ms, version))
    writer.write(batch)
