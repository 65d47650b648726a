"""Tracking, explanations, model swaps, decisions in the log: the parts around a Rank."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
from ranker_world import NOW_MS, MemoryRedis, MemoryUser, World

from bandits import Partial, Prior
from liverank.errors import UnavailableError
from liverank.ids import event_id_of, uuid7
from liverank.settings import Settings
from liverank.v1 import decision_pb2, event_pb2
from liverank.v1 import personalization_pb2 as pb
from ranker.columns import COLUMNS, FEATURE_SERVICE, NEUTRAL, SLOT_COLUMN
from ranker.decisions import fully_logged
from ranker.errors import ItemNotFoundError, RequestError, TrackUnavailableError
from ranker.explanation import explain_decision
from ranker.feeds import ServingFeed
from ranker.filters import Filters
from ranker.models import Manifest, load_model, models_dir, rate_manifest, write_model
from ranker.models.store import file_hash
from ranker.phi import DIM, SCHEMA
from ranker.posterior import BeliefReader, believe, partial_key
from ranker.replies import ReplyStore
from ranker.similar import similar
from ranker.tracking import Tracker


class AckingProducer:
    """Acknowledges at once, or never."""

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes | None, bytes]] = []
        self.silent = False
        self.full = False

    def produce(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes,
        on_delivery: Callable[[Exception | None, int, int], None] | None = None,
        **_: Any,
    ) -> None:
        if self.full:
            raise UnavailableError("the queue is full")
        self.records.append((topic, key, value))
        if on_delivery is not None and not self.silent:
            on_delivery(None, 0, len(self.records))

    def of(self, name: str) -> list[bytes]:
        return [value for topic, _, value in self.records if f".{name}" in topic]


def click(**fields: Any) -> event_pb2.Event:
    given = {"type": event_pb2.EVENT_TYPE_CLICK, "user_id": "u", "item_id": "i1", "event_ts_ms": NOW_MS, **fields}
    return event_pb2.Event(**given)


class TestTracker:
    @pytest.fixture
    def producer(self) -> AckingProducer:
        return AckingProducer()

    @pytest.fixture
    def redis(self) -> MemoryRedis:
        return MemoryRedis()

    @pytest.fixture
    def tracker(self, producer: AckingProducer, redis: MemoryRedis) -> Tracker:
        replies = ReplyStore(redis, "test", 1800)  # type: ignore[arg-type]
        return Tracker(producer, replies, Settings(namespace="test"), 1, lambda: NOW_MS)

    def test_ids_come_from_the_idempotency_key(self, tracker: Tracker, producer: AckingProducer) -> None:
        for _ in range(2):
            tracker.track(pb.TrackRequest(events=[click(), click()], idempotency_key="key"))
        ids = [event_pb2.Event.FromString(value).event_id for value in producer.of("events.")]
        assert ids == [event_id_of("key", 0), event_id_of("key", 1)] * 2

    def test_rejects_are_named_and_buried_the_rest_is_taken(self, tracker: Tracker, producer: AckingProducer) -> None:
        bad = [
            click(event_id="a", item_id=""),
            click(event_id="b", type=event_pb2.EVENT_TYPE_TICK),
            click(event_id="c", type=event_pb2.EVENT_TYPE_CONTROL),
            click(event_id="d", type=event_pb2.EVENT_TYPE_EXPOSURE),
            click(event_id="e", event_ts_ms=NOW_MS + 10 * 60_000),
            click(event_id="f", value=float("nan")),
            click(),
        ]
        reply = tracker.track(pb.TrackRequest(events=[*bad, click(event_id="good")]))
        assert reply.accepted == 1
        reasons = [each.reason for each in reply.rejected]
        assert reasons == [
            "missing_id",
            "not_allowed",
            "not_allowed",
            "not_allowed",
            "future",
            "not_finite",
            "missing_id",
        ]
        letters = [event_pb2.DeadLetter.FromString(value) for value in producer.of("dead-letter")]
        assert [letter.reason for letter in letters] == reasons
        assert letters[0].key == b"u"

    @pytest.mark.parametrize("n", [0, 1001])
    def test_number_of_events_is_bounded(self, tracker: Tracker, n: int) -> None:
        with pytest.raises(RequestError, match="1 to 1000"):
            tracker.track(pb.TrackRequest(events=[click(event_id="x")] * n))

    def test_no_acknowledgement_is_unavailable(self, tracker: Tracker, producer: AckingProducer) -> None:
        producer.silent = True
        with pytest.raises(TrackUnavailableError, match="same idempotency_key"):
            tracker.track(pb.TrackRequest(events=[click(event_id="x")]), timeout_s=0.01)
        producer.full = True
        with pytest.raises(TrackUnavailableError):
            tracker.track(pb.TrackRequest(events=[click(event_id="x")]))

    def test_impression_releases_the_exposure_first_and_once(
        self, redis: MemoryRedis, tracker: Tracker, producer: AckingProducer
    ) -> None:
        world = World(60)
        world.redis.data = redis.data
        reply = pb.RankReply.FromString(
            world.pipeline.rank(pb.RankRequest(user_id="u", k=3, mode=decision_pb2.MODE_PREFETCH), remaining_ms=1e6)
        )
        shown = click(event_id="i", type=event_pb2.EVENT_TYPE_IMPRESSION, request_id=reply.request_id, position=1)
        for _ in range(2):
            tracker.track(pb.TrackRequest(events=[shown]))
        ids = [event_pb2.Event.FromString(value).event_id for value in producer.of("events.")]
        assert ids == [reply.request_id, "i", "i"]


def booster(folder: Path) -> Manifest:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2_000, len(COLUMNS)))
    files = {}
    for name in ("click", "dismiss", "light"):
        y = rng.random(2_000) < 1 / (1 + np.exp(-x @ rng.normal(size=len(COLUMNS)) / 4))
        parameters = {"objective": "binary", "num_leaves": 8, "num_threads": 1, "verbosity": -1, "seed": 1}
        files[f"{name}.txt"] = lightgbm.train(parameters, lightgbm.Dataset(x, y), 20).model_to_string().encode()
    manifest = Manifest(
        kind="booster",
        heads=("click", "dismiss"),
        feature_service=FEATURE_SERVICE,
        feature_names=COLUMNS,
        slot_column=SLOT_COLUMN,
        neutral=dict(NEUTRAL),
        schema_id=SCHEMA,
        files={name: file_hash(data) for name, data in files.items()},
    )
    write_model(folder, manifest, files)
    return manifest


class TestExplanation:
    def test_RNK_11_contributions_sum_to_the_raw_score_from_the_logged_row(self, tmp_path: Path) -> None:
        model = load_model(tmp_path / booster(tmp_path).id)
        world = World(200, model=model)
        world.users["u"] = MemoryUser([("i0", 2, 1.0), ("i7", 10, -2.0)], table=world.table)
        data = world.pipeline.rank(pb.RankRequest(user_id="u", k=10, explain=True), remaining_ms=1e6)
        reply = pb.RankReply.FromString(data)
        made = decision_pb2.Decision.FromString(world.producer.of("decisions")[0][1])
        explained = explain_decision(made, model.clone())
        assert [each.explanation for each in reply.items] == explained
        for at, each in enumerate(explained):
            total = each.bias + sum(contribution.contribution for contribution in each.contributions)
            assert total == pytest.approx(each.raw_score, abs=1e-5)
            sizes = [abs(contribution.contribution) for contribution in each.contributions]
            assert sizes == sorted(sizes, reverse=True)
            x = np.array([made.slots[at].features], dtype=np.float32)
            assert model.predict(x, np.ones(1, dtype=np.int32))[0] == pytest.approx(
                list(made.slots[at].p_first), abs=1e-6
            )
        assert list(reply.rungs) == ["small_model"]
        assert made.drawn

    def test_without_its_model_the_logged_figures_remain(self) -> None:
        world = World(60)
        world.pipeline.rank(pb.RankRequest(user_id="u", k=3), remaining_ms=1e6)
        made = decision_pb2.Decision.FromString(world.producer.of("decisions")[0][1])
        explained = explain_decision(made, None)
        assert [each.propensity for each in explained] == [slot.propensity for slot in made.slots]
        assert not explained[0].contributions


class KeyRedis(MemoryRedis):
    """Hashes and pipelines too."""

    def __init__(self) -> None:
        super().__init__()
        self.hashes: dict[str, dict[str, bytes]] = {}

    def pipeline(self, transaction: bool = False) -> KeyRedis:
        self._answers: list[Any] = []
        return self

    def hget(self, key: str, name: str) -> None:
        self._answers.append(self.hashes.get(key, {}).get(name))

    def hmget(self, key: str, names: Sequence[str]) -> None:
        self._answers.append([self.hashes.get(key, {}).get(name) for name in names])

    def execute(self) -> list[Any]:
        self._check()
        return self._answers


class TestServingFeed:
    @pytest.fixture
    def feed(self, tmp_path: Path) -> ServingFeed:
        settings = Settings(namespace="test", home=tmp_path)
        self.redis = KeyRedis()
        self.space: str | None = ""
        self.folder = models_dir(settings)
        world = World(20)
        beliefs = BeliefReader(self.redis, "test", 4, Prior(sd=0.05, noise_sd=0.4))  # type: ignore[arg-type]
        return ServingFeed(settings, self.redis, world.book, beliefs, lambda: 1, lambda: self.space)  # type: ignore[arg-type]

    def activate(self, manifest: Manifest) -> None:
        write_model(self.folder, manifest, {})
        self.redis.data["test:model"] = manifest.id.encode()

    def test_model_and_belief_are_swapped_as_one(self, feed: ServingFeed) -> None:
        feed.step()
        assert feed.current() is None
        first = rate_manifest(feature_service=FEATURE_SERVICE, schema=SCHEMA)
        self.activate(first)
        feed.step()
        serving = feed.current()
        assert serving is not None
        assert serving.model.model_id == serving.belief.model_id == first.id
        feed.step()
        assert feed.current() is serving
        other = rate_manifest(feature_service=FEATURE_SERVICE, schema=SCHEMA, created_from={"data": "other"})
        self.activate(other)
        feed.step()
        swapped = feed.current()
        assert swapped is not None
        assert swapped.model.model_id == swapped.belief.model_id == other.id != first.id

    def test_a_model_waits_for_the_vectors(self, feed: ServingFeed) -> None:
        self.space = None
        self.activate(rate_manifest(feature_service=FEATURE_SERVICE, schema=SCHEMA))
        feed.step()
        assert not feed.loaded.is_set(), "nobody may be served yet"
        assert feed.refused == ("", "")
        self.space = ""
        feed.step()
        assert feed.loaded.is_set()
        assert feed.current() is not None

    def test_TRN_5_mismatched_model_is_refused_and_the_old_one_stays(self, feed: ServingFeed) -> None:
        self.activate(rate_manifest(feature_service=FEATURE_SERVICE, schema=SCHEMA))
        feed.step()
        before = feed.current()
        wrong = rate_manifest(feature_service=FEATURE_SERVICE, schema="another-schema")
        self.activate(wrong)
        feed.step()
        assert feed.current() is before
        model_id, reason = feed.refused
        assert model_id == wrong.id
        assert "schema" in reason

    def test_BAN_9_belief_is_the_sum_of_the_partials(self, feed: ServingFeed) -> None:
        manifest = rate_manifest(feature_service=FEATURE_SERVICE, schema=SCHEMA)
        self.activate(manifest)
        rng = np.random.default_rng(1)
        partials = []
        for partition in (0, 2, 3):
            partial = Partial(DIM, 2)
            partial.shown(rng.normal(size=(20, DIM)).clip(-2, 2), rng.normal(size=(20, 2)).clip(-1, 1))
            partials.append(partial)
            key = partial_key("test", 1, manifest.id, partition)
            self.redis.hashes[key] = {"v": b"0001", "d": partial.to_bytes()}
        feed.step()
        serving = feed.current()
        assert serving is not None
        expected = believe(
            manifest.id, partials, generation=1, head_weights=[1.0, -2.0], prior=Prior(sd=0.05, noise_sd=0.4)
        )
        assert serving.belief.snapshot_id == expected.snapshot_id
        assert serving.belief.posterior.n_shown == 60
        assert (serving.belief.without_learning().theta == 0).all()

    def test_redis_away_keeps_what_is_served(self, feed: ServingFeed) -> None:
        self.activate(rate_manifest(feature_service=FEATURE_SERVICE, schema=SCHEMA))
        feed.step()
        before = feed.current()
        self.redis.down = True
        with pytest.raises(UnavailableError):
            feed.step()
        assert feed.current() is before


class TestSimilar:
    def test_neighbours_by_use_and_by_content(self) -> None:
        world = World(120)
        reply = similar(pb.SimilarRequest(item_ids=["i0"], k=10), world.catalogue, Filters())
        assert len(reply.items) == 10
        assert "i0" not in {item.item_id for item in reply.items}
        assert reply.items[0].score >= reply.items[-1].score
        both = {source for item in reply.items for source in item.sources}
        assert both == {"co_occurrence", "semantic"}

    def test_unknown_item_and_bad_numbers(self) -> None:
        world = World(20)
        with pytest.raises(ItemNotFoundError, match="nope"):
            similar(pb.SimilarRequest(item_ids=["i0", "nope"], k=5), world.catalogue, Filters())
        with pytest.raises(RequestError):
            similar(pb.SimilarRequest(item_ids=[], k=5), world.catalogue, Filters())
        with pytest.raises(RequestError):
            similar(pb.SimilarRequest(item_ids=["i0"], k=0), world.catalogue, Filters())


def test_fully_logged_share_is_met() -> None:
    rng = random.Random(1)
    share = np.mean([fully_logged(uuid7(NOW_MS, rng), 0.01) for _ in range(20_000)])
    assert 0.007 < share < 0.013
    assert not fully_logged(uuid7(NOW_MS, rng), 0.0)
    assert fully_logged(uuid7(NOW_MS, rng), 1.0)
