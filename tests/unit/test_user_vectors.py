"""User vectors: exact windows, negatives, evidence; the vector cache of the near-line agent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from features.errors import SpaceError
from features.hashing import item_hash
from features.item_vectors import ItemVectors, Space, active_space
from features.state.history import HISTORY, SIGNAL_FIELDS, Entry, History, decode_signals
from features.vectors import DAY_MS, NEGATIVE_SHARE, user_vectors
from features.wire import entity_key, feature_field, pack_floats, pack_string
from liverank.settings import Settings

NOW = 1_700_000_000_000
DIM = 16
RNG = np.random.default_rng(11)
ITEMS = RNG.normal(size=(400, DIM)).astype(np.float32)
ITEMS /= np.linalg.norm(ITEMS, axis=1, keepdims=True)


def lookup(hashes: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    found = (hashes >= 0) & (hashes < len(ITEMS))
    return np.where(found[:, None], ITEMS[np.where(found, hashes, 0)], 0).astype(np.float32), found


def history(*entries: tuple[int, float, float]) -> NDArray[Any]:
    """(item row, age in days, weight)"""
    out = np.zeros(len(entries), HISTORY)
    for at, (row, age_days, weight) in enumerate(entries):
        out[at]["item_hash"], out[at]["event_ts_ms"], out[at]["weight"] = row, NOW - int(age_days * DAY_MS), weight
    return out


@pytest.mark.parametrize("n_newer", [0, 100])
@pytest.mark.parametrize(("age_days", "moved"), [(8, [0, 1, 1]), (32, [0, 0, 1]), (190, [0, 0, 0]), (1, [1, 1, 1])])
def test_EMB_1_an_event_moves_the_windows_of_its_age_alone(n_newer: int, age_days: float, moved: list[int]) -> None:
    newer = [(i, 0.01 * i, 1.0) for i in range(n_newer)]
    before = user_vectors(history(*newer), lookup, NOW)
    after = user_vectors(history(*newer, (300, age_days, 1.0)), lookup, NOW)
    assert after.shape == (3, DIM)
    assert after.dtype == np.float32
    changed = (before != after).any(axis=1)
    assert changed.tolist() == [bool(x) for x in moved]
    if n_newer == 0:
        assert after.any(axis=1).tolist() == [bool(x) for x in moved]


def test_EMB_1_an_old_event_counts_behind_a_thousand_newer_ones() -> None:
    """Through the state: only 128 signals are kept whole, of each older week a sample that stands for all."""

    def vectors(age_days: float | None) -> NDArray[np.float32]:
        kept = History({})
        if age_days is not None:
            kept.add(Entry(NOW - int(age_days * DAY_MS), 300, 2, 16, 0, 0))
        for n in range(1_000):
            kept.add(Entry(NOW - n * 60_000, n % 90, 2, 16, 0, 0))
        return user_vectors(decode_signals(*map(kept.dirty().get, SIGNAL_FIELDS)), lookup, NOW)

    without = vectors(None)
    for age_days, moved in ((8, [0, 1, 1]), (32, [0, 0, 1]), (190, [0, 0, 0])):
        assert (vectors(age_days) != without).any(axis=1).tolist() == [bool(x) for x in moved]


@pytest.mark.parametrize("drift", [False, True])
def test_EMB_3_vectors_of_ten_thousand_events_from_what_is_kept(
    drift: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cosine to the recomputation over all events, of a person with three of twelve kinds, the same ones or others
    every month; and equality with the recomputation over the kept entries by hand.
    """
    rng = np.random.default_rng(17)
    kinds = rng.normal(size=(12, 64))
    items = kinds[np.arange(600) % 12] + 0.5 * rng.normal(size=(600, 64))
    items = (items / np.linalg.norm(items, axis=1, keepdims=True)).astype(np.float32)

    def find(hashes: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        return items[hashes], np.ones(len(hashes), dtype=bool)

    times = np.sort(NOW - rng.integers(0, 180 * DAY_MS, 10_000))
    month = (NOW - times) // (30 * DAY_MS) if drift else np.zeros(10_000, dtype=np.int64)
    rows = (rng.integers(0, 3, 10_000) + 3 * month) % 12 + 12 * rng.integers(0, 50, 10_000)
    weights = rng.choice([-32, -8, 16, 16, 16, 32, 80], 10_000)
    kept, everything = History({}), np.zeros(10_000, HISTORY)
    for at in rng.permutation(10_000).tolist():
        kept.add(Entry(int(times[at]), int(rows[at]), 2, int(weights[at]), 0, 0))
    everything["item_hash"], everything["event_ts_ms"], everything["weight"] = rows, times, weights / 16
    entries = decode_signals(*map(kept.dirty().get, SIGNAL_FIELDS))
    assert len(entries) <= 128 + 27 * 24
    got, wanted = user_vectors(entries, find, NOW), user_vectors(everything, find, NOW)
    cosines = (got * wanted).sum(axis=1) / np.linalg.norm(got, axis=1) / np.linalg.norm(wanted, axis=1)
    with capsys.disabled():
        print(f" [cosines {cosines.round(4).tolist()} from {len(entries)} of 10,000]", end="")
    assert cosines.min() >= 0.98
    for window, days in enumerate((7, 30, 180)):
        mine = entries[NOW - entries["event_ts_ms"] < days * DAY_MS]
        weight = np.where(mine["weight"] < 0, NEGATIVE_SHARE, 1.0) * mine["weight"].astype(np.float64)
        total = weight @ items[mine["item_hash"]].astype(np.float64)
        np.testing.assert_allclose(got[window], total / (np.linalg.norm(total) + 1.0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("window", "days"), [(0, 7), (1, 30), (2, 180)])
def test_EMB_1_windows_end_to_the_millisecond(window: int, days: int) -> None:
    entry = history((1, days, 1.0))
    assert not user_vectors(entry, lookup, NOW)[window].any()
    assert user_vectors(entry, lookup, NOW - 1)[window].any()
    assert not user_vectors(history((1, -1 / DAY_MS, 1.0)), lookup, NOW)[window].any()
    assert user_vectors(history((1, 0, 1.0)), lookup, NOW)[window].any()


def test_vectors_are_the_weighted_sum_and_grow_with_the_evidence() -> None:
    entries = history((1, 1, 1.0), (2, 2, 5.0), (3, 3, -2.0))
    total = 1.0 * ITEMS[1] + 5.0 * ITEMS[2] - 2.0 * NEGATIVE_SHARE * ITEMS[3]
    expected = total / (np.linalg.norm(total) + 1.0)
    np.testing.assert_allclose(user_vectors(entries, lookup, NOW)[0], expected, rtol=1e-5, atol=1e-6)
    one = np.linalg.norm(user_vectors(history((1, 1, 1.0)), lookup, NOW)[0])
    many = np.linalg.norm(user_vectors(history(*[(1, 1, 1.0)] * 50), lookup, NOW)[0])
    assert one == pytest.approx(0.5, abs=1e-5)
    assert 0.9 < many < 1.0


def test_vectors_do_not_depend_on_the_order_of_entries() -> None:
    entries = history(*[(i % 90, (i * 37 % 170) + 0.5, (-1) ** i * (1 + i % 3)) for i in range(128)])
    expected = user_vectors(entries, lookup, NOW)
    for seed in range(5):
        shuffled = np.random.default_rng(seed).permutation(entries)
        np.testing.assert_array_equal(user_vectors(shuffled, lookup, NOW), expected)


def test_items_without_a_vector_and_empty_histories_give_zeros() -> None:
    assert not user_vectors(history(), lookup, NOW).any()
    assert not user_vectors(history((9_999, 1, 1.0)), lookup, NOW).any()
    assert not user_vectors(history((1, 1, 1.0), (1, 1, -1.0 / NEGATIVE_SHARE)), lookup, NOW).any()


def test_EMB_4_three_dismissals_push_a_category_away() -> None:
    rng = np.random.default_rng(4)
    centres = rng.normal(size=(4, DIM))
    kind = np.arange(400) % 4
    items = (centres[kind] + 0.6 * rng.normal(size=(400, DIM))).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    centroid = items[kind == 0].mean(axis=0)
    centroid /= np.linalg.norm(centroid)

    def find(hashes: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        return items[hashes], np.ones(len(hashes), dtype=bool)

    def judged(entries: NDArray[Any]) -> list[tuple[float, float]]:
        out = []
        for vector in user_vectors(entries, find, NOW):
            top = np.argsort(items @ vector)[::-1][:100]
            out.append((float(vector @ centroid / np.linalg.norm(vector)), float((kind[top] == 0).mean())))
        return out

    clicks = [(i, 1.0 + i % 5, 1.0) for i in range(24)]  # equally many of each kind
    before = judged(history(*clicks))
    after = judged(history(*clicks, *[(100 + 4 * i, 0.1, -2.0) for i in range(3)]))
    for (cosine_before, share_before), (cosine_after, share_after) in zip(before, after, strict=True):
        assert cosine_after < cosine_before
        assert share_after < share_before


class FakeRedis:
    """The three commands that reading vectors needs, over a dict; counts round trips."""

    def __init__(self) -> None:
        self.hashes: dict[bytes, dict[bytes, bytes]] = {}
        self.space: bytes | None = None
        self.trips = 0
        self._queue: list[tuple[bytes, list[bytes]]] = []

    def get(self, _key: str) -> bytes | None:
        return self.space

    def pipeline(self, transaction: bool = True) -> FakeRedis:
        return self

    def hmget(self, key: bytes, fields: list[bytes]) -> None:
        self._queue.append((key, fields))

    def execute(self) -> list[list[bytes | None]]:
        self.trips += 1
        queue, self._queue = self._queue, []
        return [[self.hashes.get(key, {}).get(field) for field in fields] for key, fields in queue]

    def put(self, settings: Settings, item_id: str, vector: NDArray[np.float32], space: str) -> None:
        row = {
            feature_field("item_semantic", "vector"): pack_floats(vector),
            feature_field("item_semantic", "space"): pack_string(space),
        }
        self.hashes[entity_key(settings.feast_project, ("item_id",), (item_id,))] = row


def test_item_vectors_are_cached_refetched_when_missing_and_follow_the_space() -> None:
    settings, redis, clock = Settings(), FakeRedis(), [100.0]
    names = {item_hash(f"i{i}"): f"i{i}" for i in range(3_000)}
    vectors = ItemVectors(redis, settings, names.get, monotonic=lambda: clock[0])  # type: ignore[arg-type]
    hashes = np.array([item_hash("i0"), item_hash("i1"), 12345], dtype=np.int64)
    assert vectors.refresh(hashes.tolist()) is None
    assert vectors.lookup(hashes)[0].shape == (3, 0)

    redis.space = b"stub/s/16/t1"
    redis.put(settings, "i0", ITEMS[0], "stub/s/16/t1")
    redis.put(settings, "i1", ITEMS[1], "stub/other/16/t1")
    clock[0] += 1.5
    assert vectors.refresh(hashes.tolist()) == Space("stub/s", 16, "t1")
    found = vectors.lookup(hashes)
    np.testing.assert_array_equal(found[0], np.stack([ITEMS[0], np.zeros(DIM), np.zeros(DIM)]).astype(np.float32))
    assert found[1].tolist() == [True, False, False]

    trips = redis.trips
    vectors.refresh(hashes.tolist())
    assert redis.trips == trips  # a miss is believed for 2 s
    redis.put(settings, "i1", ITEMS[1], "stub/s/16/t1")
    clock[0] += 2.5
    vectors.refresh(hashes.tolist())
    assert vectors.lookup(hashes)[1].tolist() == [True, True, False]

    redis.space = b"stub/wide/32/t1"
    clock[0] += 1.5
    vectors.refresh(hashes.tolist())
    assert vectors.lookup(hashes)[0].shape == (3, 32)

    redis.put(settings, "i2", ITEMS[2], "stub/wide/32/t1")
    with pytest.raises(SpaceError, match="16 values"):
        vectors.refresh([item_hash("i2")])


def test_the_vector_cache_is_bounded() -> None:
    settings, redis = Settings(), FakeRedis()
    redis.space = b"stub/s/16/t1"
    names = {item_hash(f"i{i}"): f"i{i}" for i in range(500)}
    for i in range(500):
        redis.put(settings, f"i{i}", ITEMS[i % 400], "stub/s/16/t1")
    vectors = ItemVectors(redis, settings, names.get, capacity=100)  # type: ignore[arg-type]
    for start in range(0, 500, 50):
        batch = np.array([item_hash(f"i{i}") for i in range(start, start + 50)], dtype=np.int64)
        vectors.refresh(batch.tolist())
        assert vectors.lookup(batch)[1].all()
        assert len(vectors._rows) <= 150


def test_a_space_name_must_have_three_parts() -> None:
    redis = FakeRedis()
    redis.space = b"nonsense"
    with pytest.raises(SpaceError, match="liverank enrich"):
        active_space(redis, Settings())  # type: ignore[arg-type]
