"""A small catalogue, users and a log in memory, for tests of the ranker without any store."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandits import Prior
from liverank.settings import RankerSettings, Settings
from liverank.v1 import event_pb2, item_pb2, stream_pb2
from ranker.catalogue import Catalogue
from ranker.decisions import DecisionLog
from ranker.models import Model
from ranker.pipeline import Pipeline
from ranker.posterior import Belief, believe
from ranker.replies import ReplyStore
from ranker.retrieval import IndexSettings, Source, VectorIndex, standard_sources
from ranker.serving import Serving, fallback_model, rulebook
from ranker.users import Nobody, Users

NOW_MS = 1_750_000_000_000
DAY_MS = 86_400_000
EVERYWHERE = 0xFFFF_FFFF_FFFF_FFFF
ITEM_WINDOWS = ("impressions_1d", "impressions_7d", "clicks_1d", "clicks_7d", "clicks_30d", "expected_30d")


def hash_of(item_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=8).digest(), "big", signed=True)


class MemoryTable:
    """A catalogue of `n` items in `n_categories` kinds; vectors cluster by kind."""

    def __init__(self, n: int = 300, n_categories: int = 6, dim: int = 8, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.ids = [f"i{at}" for at in range(n)]
        self.rows = {item_id: at for at, item_id in enumerate(self.ids)}
        self._hashes = {hash_of(item_id): at for at, item_id in enumerate(self.ids)}
        self.available = np.ones(n, dtype=np.bool_)
        self.price = rng.uniform(1, 100, n).astype(np.float64)
        self.creator_names = ["", *(f"creator{at}" for at in range(20))]
        self.creator = rng.integers(1, 21, n).astype(np.int32)
        self.category_names = ["", *(f"kind{at}" for at in range(n_categories))]
        self.categories = np.zeros((n, 4), dtype=np.int32)
        self.categories[:, 0] = 1 + np.arange(n) % n_categories
        self.published_ms = NOW_MS - (rng.uniform(0, 60, n) * DAY_MS).astype(np.int64)
        centres = rng.normal(size=(n_categories, dim))
        vectors = centres[np.arange(n) % n_categories] + 0.5 * rng.normal(size=(n, dim))
        self.vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        self.has_vector = np.ones(n, dtype=np.bool_)
        self.regions = np.full(n, EVERYWHERE, dtype=np.uint64)
        self.attributes: list[Mapping[str, event_pb2.Attribute] | None] = [None] * n
        self.variants: dict[int, tuple[str, ...]] = {}
        self.variant_clicks: dict[int, NDArray[np.float64]] = {}
        self.version = np.arange(n, dtype=np.int64)
        self.window_names = ITEM_WINDOWS
        self.space = "test/8/v1"
        self._popularity = rng.gamma(0.5, 20, n).astype(np.float32)
        self._trend = np.where(rng.random(n) < 0.1, rng.random(n), 0).astype(np.float32)
        self.pairs: dict[int, tuple[NDArray[np.int32], NDArray[np.float32]]] = {
            at: (
                np.array([(at + n_categories * step) % n for step in (1, 2, 3)], dtype=np.int32),
                np.array([3, 2, 1], dtype=np.float32),
            )
            for at in range(n)
        }

    def __len__(self) -> int:
        return len(self.ids)

    def rows_of_hashes(self, hashes: NDArray[np.int64]) -> NDArray[np.int32]:
        return np.array([self._hashes.get(int(each), -1) for each in hashes], dtype=np.int32)

    def category_code(self, name: str) -> int:
        return self.category_names.index(name) if name in self.category_names else -1

    def creator_code(self, name: str) -> int:
        return self.creator_names.index(name) if name in self.creator_names else -1

    def region_bit(self, name: str) -> int:
        return {"de": 1, "fr": 2}.get(name, 0)

    def windows(self, rows: NDArray[np.int32], as_of_ms: int) -> NDArray[np.float32]:
        popularity = self._popularity[rows][:, None]
        return (popularity * np.array([[1.0, 5.0, 0.2, 1.0, 2.0, 20.0]])).astype(np.float32)

    def trend(self, as_of_ms: int) -> NDArray[np.float32]:
        return self._trend

    def popularity(self, as_of_ms: int) -> NDArray[np.float32]:
        return self._popularity

    def demand(self, rows: NDArray[np.int32], as_of_ms: int) -> NDArray[np.float32]:
        return np.outer(self._popularity[rows], [0.1, 1.0, 3.0, 9.0]).astype(np.float32)

    def variant_counts(self, row: int, device: str, surface: str) -> NDArray[np.float64]:
        return self.variant_clicks.get(row, np.zeros((len(self.variants[row]), 3, 2)))

    def examined(self, as_of_ms: int, surface: str = "") -> NDArray[np.float64]:
        return np.outer(self._popularity, [20.0, 2.0]).astype(np.float64)

    def neighbours(self, row: int, as_of_ms: int | None = None) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        return self.pairs[row]

    def apply_change(self, change: item_pb2.ItemChange, version: int) -> None:
        row = self.rows[change.item_id]
        self.available[row] = change.HasField("upsert") and change.upsert.available
        self.version[row] = version

    def apply_row(self, row: stream_pb2.ItemRow) -> None:
        raise NotImplementedError

    def set_vectors(self, ids: Sequence[str], matrix: NDArray[np.float32], space: str) -> None:
        for item_id, vector in zip(ids, matrix, strict=True):
            self.vectors[self.rows[item_id]] = vector
            self.has_vector[self.rows[item_id]] = True


HISTORY = Nobody.history.dtype
SEEN = Nobody.seen.dtype


class MemoryUser(Nobody):
    """A user with the history, seen marks and vectors that a test gives."""

    window_names = ("clicks_1d", "negatives_1d")

    def __init__(
        self,
        signals: Sequence[tuple[str, int, float]] = (),
        *,
        table: MemoryTable | None = None,
        age_ms: int = 60_000,
        shown: Mapping[str, int] | None = None,
        dismissed: Sequence[str] = (),
        consumed: Sequence[str] = (),
    ) -> None:
        self.history = np.zeros(len(signals), dtype=HISTORY)
        for at, (item_id, kind, weight) in enumerate(signals):
            self.history[at] = (hash_of(item_id), NOW_MS - age_ms * (at + 1), kind, weight, 0)
        self.signals = self.history
        marks = sorted({*(shown or {}), *dismissed, *consumed})
        self.seen = np.zeros(len(marks), dtype=SEEN)
        for at, item_id in enumerate(marks):
            self.seen[at] = (
                hash_of(item_id),
                (shown or {}).get(item_id, 0),
                False,
                item_id in consumed,
                item_id in dismissed,
            )
        self.newest_event_ts_ms = NOW_MS - age_ms if signals else 0
        if table is not None:
            liked = [table.rows[item_id] for item_id, _, weight in signals if weight > 0]
            mean = table.vectors[liked].mean(axis=0) if liked else np.zeros(table.vectors.shape[1])
            self.vectors = np.tile(mean, (3, 1)).astype(np.float32)
            self.space = table.space

    def windows(self, as_of_ms: int) -> NDArray[np.float64]:
        return np.array([float((self.history["weight"] > 0).sum()), float((self.history["weight"] < 0).sum())])

    def ages_ms(self, as_of_ms: int) -> Mapping[str, int]:
        return {"user_activity": as_of_ms - self.newest_event_ts_ms, "user_vectors": 500}


class MemoryProducer:
    """Keeps what was produced."""

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes | None, bytes]] = []
        self.last_failure_s = float("-inf")
        self.queue_fill = 0.0

    def produce(self, topic: str, *, key: bytes | None, value: bytes, **_: Any) -> None:
        self.records.append((topic, key, value))

    def poll(self, timeout_s: float = 0.0) -> int:
        return 0

    def of(self, name: str) -> list[tuple[bytes | None, bytes]]:
        return [(key, value) for topic, key, value in self.records if f".{name}" in topic]


class MemoryRedis:
    """The commands that replies need."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.down = False

    def _check(self) -> None:
        if self.down:
            raise OSError("down")

    def get(self, key: str) -> bytes | None:
        self._check()
        return self.data.get(key)

    def set(self, key: str, value: bytes, nx: bool = False, ex: int | None = None) -> bool:
        self._check()
        if nx and key in self.data:
            return False
        self.data[key] = value
        return True

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        self._check()
        return [self.data.get(key) for key in keys]


def sources_of(index: VectorIndex) -> list[Source]:
    return standard_sources(index)


class World:
    """A ranker over memory."""

    def __init__(
        self, n: int = 300, *, model: Model | None = None, ranker: RankerSettings | None = None, exact: bool = True
    ) -> None:
        self.settings = Settings(namespace="test", ranker=ranker or RankerSettings())
        self.table = MemoryTable(n)
        self.catalogue = Catalogue(self.table, VectorIndex(IndexSettings(exact_below=10**9 if exact else 1)))
        self.users: dict[str, MemoryUser] = {}
        self.model = model or fallback_model()
        self.book = rulebook(self.settings.ranker)
        self.belief: Belief = believe(
            self.model.model_id,
            [],
            generation=1,
            head_weights=self.book.weights.of(self.model.heads).tolist(),
            prior=Prior(sd=0.05, noise_sd=0.4),
        )
        self.serving: Serving | None = Serving(model=self.model, belief=self.belief)
        self.producer = MemoryProducer()
        self.redis = MemoryRedis()
        self.reader_error: Exception | None = None
        self.log = DecisionLog(self.producer, self.settings, 1)
        self.now_ms = NOW_MS
        self.pipeline = Pipeline(
            settings=self.settings,
            book=self.book,
            catalogue=self.catalogue,
            users=Users(self._read),
            sources=sources_of(self.catalogue.index),
            serving=lambda: self.serving,
            log=self.log,
            replies=ReplyStore(self.redis, "test", 1800),  # type: ignore[arg-type]
            clock_ms=lambda: self.now_ms,
            rng=random.Random(1),
        )
        self.pipeline.cost.estimate_ms = 1.0

    def _read(self, user_id: str) -> MemoryUser:
        if self.reader_error is not None:
            raise self.reader_error
        return self.users.get(user_id, MemoryUser())
