"""Vowpal Wabbit in service: learned from label rows once each, published as snapshots, served, redrawn from the log."""

from __future__ import annotations

import random

import numpy as np
import pytest

from bandits.errors import CorruptStatisticsError
from bandits.vw import VowpalSettings
from bandits.vw_snapshot import VowpalSnapshot
from liverank.hot import HotSettings
from liverank.ids import uuid7
from liverank.kafka import Record
from liverank.settings import RankerSettings
from liverank.v1 import decision_pb2
from liverank.v1 import personalization_pb2 as pb
from liverank.v1.stream_pb2 import Example
from ranker.phi import DIM, SCHEMA
from ranker.reproduce import differences, redraw, slot_faults
from ranker.serving import rulebook
from ranker.vowpal import VowpalBelief, VowpalFeed
from streams.agents.policy_learner import learns
from streams.agents.vowpal_learner import VowpalLearner, vowpal_settings
from tests.ranker_world import NOW_MS, World


def wanted(dim: int) -> VowpalSettings:
    return vowpal_settings(RankerSettings(), dim)


def record(offset: int, partition: int = 0, **fields: object) -> Record:
    rng = np.random.default_rng([offset, partition])
    phi = rng.normal(size=DIM) / 3
    example = Example(
        **{  # type: ignore[arg-type]
            "request_id": f"r{offset}", "position": 1, "schema": SCHEMA, "propensity": 0.2, "drawn": True,
            "phi": phi.tolist(), "reward": float(phi[0] > 0), "exposure_ts_ms": 1_000 + offset, **fields,
        }
    )  # fmt: skip
    return Record("examples", partition, offset, b"u", example.SerializeToString(), (), 0)


class TestLearner:
    def test_it_learns_what_earns(self) -> None:
        learner = VowpalLearner(None, wanted)
        for offset in range(1_500):
            learner.take(record(offset))
        snapshot = learner.snapshot()
        assert snapshot is not None
        phi = np.zeros((2, DIM))
        phi[0, 0], phi[1, 0] = 0.7, -0.7
        pmf = snapshot.load().pmf(phi)
        assert pmf[0] > 0.75
        assert (snapshot.n_learned, snapshot.newest_ms, dict(snapshot.positions)) == (1_500, 2_499, {0: 1_500})

    def test_the_next_owner_goes_on_as_if_nothing_had_happened(self) -> None:
        whole, first = VowpalLearner(None, wanted), VowpalLearner(None, wanted)
        rows = [record(at // 2, at % 2) for at in range(400)]
        for row in rows:
            whole.take(row)
        for row in rows[:150]:
            first.take(row)
        saved = first.snapshot()
        assert saved is not None
        second = VowpalLearner(VowpalSnapshot.from_bytes(saved.to_bytes()), wanted)
        for row in rows:
            if row.offset >= second.positions.get(row.partition, 0):
                second.take(row)
        assert (second.n_learned, second.positions, second.n_read) == (400, whole.positions, whole.n_read)
        phi = np.random.default_rng(1).normal(size=(20, DIM)) / 3
        mine, theirs = second.snapshot(), whole.snapshot()
        assert mine is not None
        assert theirs is not None
        assert np.allclose(mine.load().pmf(phi), theirs.load().pmf(phi), atol=1e-6)

    @pytest.mark.parametrize(
        "fields", [{"drawn": False}, {"pinned": True}, {"correction": True}, {"phi": []}, {"propensity": 0.0}]
    )
    def test_what_says_nothing_is_passed_over(self, fields: dict[str, object]) -> None:
        learner = VowpalLearner(None, wanted)
        learner.take(record(0))
        assert not learner.take(record(1, **fields))
        assert (learner.n_learned, learner.positions) == (1, {0: 2})
        assert not learner.take(Record("examples", 0, 2, b"u", b"\xff\xff", (), 0))
        assert learner.positions == {0: 3}

    def test_other_settings_or_another_schema_begin_anew(self) -> None:
        learner = VowpalLearner(None, wanted)
        for offset in range(5):
            learner.take(record(offset))
        saved = learner.snapshot()
        other = VowpalLearner(saved, lambda dim: VowpalSettings(dim=dim, exploration="bag"))
        assert other.snapshot() is None
        other.take(record(5))
        assert other.n_learned == 1
        learner.take(record(5, schema="other", phi=[1.0, 0.5]))
        found = learner.snapshot()
        assert found is not None
        assert (found.schema, found.n_learned, found.settings.dim) == ("other", 1, 2)

    def test_snapshots_are_named_by_their_bytes_and_checked(self) -> None:
        learner = VowpalLearner(None, wanted)
        learner.take(record(0))
        saved = learner.snapshot()
        assert saved is not None
        data = saved.to_bytes()
        again = VowpalSnapshot.from_bytes(data)
        assert (again.id, again.to_bytes(), again.settings) == (saved.id, data, saved.settings)
        for bad in (b"", data[:20], b"LRVX" + data[4:], data[:4] + b"\xff" + data[5:], data[:12] + b"x" + data[13:]):
            with pytest.raises(CorruptStatisticsError):
                VowpalSnapshot.from_bytes(bad).load()
        with pytest.raises(CorruptStatisticsError):
            VowpalSnapshot.from_bytes(data[:-1]).load()

    def test_who_asks_for_it(self) -> None:
        assert not learns(RankerSettings(), {})
        assert learns(RankerSettings(), {"home/*": "vowpal"})
        assert learns(RankerSettings(arms={"vowpal": 1.0}), {})


class Published:
    """What the learner left in Redis."""

    def __init__(self, data: bytes) -> None:
        self.data, self.reads, self.number = data, 0, b"0001.0000000000000001.000000"

    def version(self, name: str) -> bytes:
        return self.number

    def read(self, name: str) -> tuple[bytes, bytes]:
        self.reads += 1
        return self.number, self.data


def published() -> Published:
    learner = VowpalLearner(None, wanted)
    for offset in range(300):
        learner.take(record(offset))
    snapshot = learner.snapshot()
    assert snapshot is not None
    return Published(snapshot.to_bytes())


class TestServing:
    def test_the_feed_loads_only_where_a_policy_says_so(self) -> None:
        models = published()
        books = [rulebook(RankerSettings())]
        feed = VowpalFeed(models, lambda: books[0])  # type: ignore[arg-type]
        feed.step()
        assert (feed.current(), models.reads) == (None, 0)
        books[0] = rulebook(RankerSettings(), HotSettings(policies={"home/*": "vowpal"}))
        feed.step()
        feed.step()
        found = feed.current()
        assert found is not None
        assert (found.n_learned, models.reads) == (300, 1)
        for step in range(2, 7):
            models.number = b"0001.%016d.000000" % step
            feed.step()
        assert len(feed._old) == 2

    def test_BAN_3_vowpal_is_served_and_its_draws_are_made_again(self) -> None:
        ranker = RankerSettings(greedy_slots=0, explore_cap=1.0, full_log_share=1.0)
        world = World(150, ranker=ranker)
        hot = HotSettings(policies={"home/*": "vowpal"})
        book = rulebook(ranker, hot, version=1)
        world.pipeline._rules = lambda: book
        rng = random.Random(2)

        def rank() -> decision_pb2.Decision:
            request = pb.RankRequest(user_id="u", k=8, surface="home", request_id=uuid7(NOW_MS, rng))
            world.pipeline.rank(request, remaining_ms=60_000)
            return decision_pb2.Decision.FromString(world.producer.of("decisions")[-1][1])

        assert rank().policy == "thompson(n_draws=128)", "nothing was learned yet"
        data = published().data
        snapshot = VowpalSnapshot.from_bytes(data)
        belief = VowpalBelief(
            model=snapshot.load(), snapshot_id=snapshot.id, snapshot_bytes=data, newest_ms=1_299, n_learned=300
        )
        world.pipeline._vowpal = lambda: belief
        kept = {key.decode(): value for key, value in world.producer.of("policy-snapshots") if key}
        for _ in range(15):
            made = rank()
            assert (made.policy, made.snapshot) == ("vowpal()", snapshot.id)
            assert differences(made, redraw(made, data)) == []
            assert slot_faults(made, None) == []
        kept = {key.decode(): value for key, value in world.producer.of("policy-snapshots") if key}
        assert kept[snapshot.id] == data, "the snapshot is in the log before the decisions that cite it"
