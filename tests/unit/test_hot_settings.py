"""Hot settings: what may be changed, how a ranker follows, and what requests see of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from features.hot_settings import HotStore, changes_between
from liverank.errors import ConfigError, StaleError, UnavailableError
from liverank.hot import COLD, HotSettings, policy_key, policy_of
from liverank.settings import RankerSettings
from liverank.v1 import decision_pb2
from liverank.v1 import personalization_pb2 as pb
from ranker.errors import RankerConfigError
from ranker.hot import HotFeed
from ranker.serving import Rulebook, rulebook
from tests.ranker_world import World


class HashRedis:
    """One hash, and the script of `HotStore` in Python."""

    def __init__(self) -> None:
        self.hash: dict[str, bytes] = {}
        self.down = False

    def hget(self, key: str, name: str) -> bytes | None:
        if self.down:
            raise OSError("down")
        return self.hash.get(name)

    def hmget(self, key: str, names: list[str]) -> list[bytes | None]:
        return [self.hash.get(name) for name in names]


def store_of(redis: HashRedis) -> HotStore:
    store = HotStore(redis, "test")  # type: ignore[arg-type]

    class Write:
        def run_many(self, calls: Any, doing: str) -> list[int]:
            _, over, body, line, kept = calls[0][1]
            have = int(redis.hash.get("v", b"0"))
            if have != over:
                return [-1]
            redis.hash |= {"v": b"%d" % (have + 1), "d": body.encode(), f"a{have + 1}": line.encode()}
            redis.hash.pop(f"a{have + 1 - kept}", None)
            return [have + 1]

    store._write = Write()  # type: ignore[assignment]
    return store


class TestDocument:
    def test_it_lies_over_the_settings(self) -> None:
        base = RankerSettings(floor=0.03)
        assert HotSettings().over(base) == base
        changed = HotSettings(ranker={"explore_cap": 0.2, "head_weights": {"click": 2.0}}).over(base)
        assert (changed.floor, changed.explore_cap, changed.head_weights) == (0.03, 0.2, {"click": 2.0})

    @pytest.mark.parametrize("name", sorted(COLD))
    def test_what_a_process_reads_once_cannot_be_hot(self, name: str) -> None:
        assert name in RankerSettings.model_fields
        with pytest.raises(ConfigError, match="restart"):
            HotSettings(ranker={name: getattr(RankerSettings(), name)}).over(RankerSettings())

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"flor": 0.1}, "did you mean floor"),
            ({"floor": 2}, "floor: "),
            ({"arms": {"thompson": 0.5}}, "must sum to 1"),
            ({"arms": {"magic": 1.0}}, "not one of"),
            ({"liking": "much"}, "liking: "),
        ],
    )
    def test_OPS_10_invalid_settings_are_refused_with_a_reason(self, change: dict[str, Any], reason: str) -> None:
        with pytest.raises(ConfigError, match=reason):
            rulebook(RankerSettings(), HotSettings(ranker=change))

    def test_policies_are_found_by_the_most_exact_entry(self) -> None:
        policies = {"*/*": "greedy", "home/*": "linucb", "*/b": "boltzmann", "home/b": "thompson"}
        assert policy_of(policies, "home", "b") == "thompson"
        assert policy_of(policies, "home", "a") == "linucb"
        assert policy_of(policies, "shop", "b") == "boltzmann"
        assert policy_of(policies, "shop", "a") == "greedy"
        assert policy_of({}, "shop", "a") is None
        with pytest.raises(ConfigError):
            policy_key("a/b", "c")
        with pytest.raises(RankerConfigError, match="magic"):
            rulebook(RankerSettings(), HotSettings(policies={"home/*": "magic"}))


class TestStore:
    def test_OPS_10_every_change_has_its_line_and_can_be_taken_back(self) -> None:
        store = store_of(HashRedis())
        assert (store.version(), store.read(), list(store.log())) == (0, (0, HotSettings()), [])
        first = HotSettings(ranker={"floor": 0.05})
        store.write(first, over=0, who="ann", why="more of the new")
        store.write(HotSettings(exploration=False), over=1, who="bob")
        newest, oldest = store.log()
        assert (newest.version, newest.who, dict(newest.changed)) == (
            2,
            "bob",
            {"exploration": (True, False), "ranker.floor": (0.05, None)},
        )
        assert (oldest.who, oldest.why, oldest.document) == ("ann", "more of the new", first)
        assert store.at(1) == first
        assert store.at(0) == HotSettings()

    def test_two_writers_do_not_overwrite_each_other(self) -> None:
        store = store_of(HashRedis())
        store.write(HotSettings(ranker={"floor": 0.05}), over=0, who="ann")
        with pytest.raises(StaleError, match="look again"):
            store.write(HotSettings(exploration=False), over=0, who="bob")
        assert store.read() == (1, HotSettings(ranker={"floor": 0.05}))

    def test_an_unreadable_document_can_be_replaced(self) -> None:
        redis = HashRedis()
        store = store_of(redis)
        store.write(HotSettings(), over=0, who="ann")
        redis.hash["d"] = b"{"
        store.write(HotSettings(exploration=False), over=1, who="ann")
        assert store.read() == (2, HotSettings(exploration=False))

    def test_what_changed(self) -> None:
        before = HotSettings(policies={"home/*": "linucb"}, ranker={"floor": 0.1})
        after = HotSettings(policies={"home/*": "greedy"}, ranker={"floor": 0.1, "liking": 0.0})
        assert changes_between(before, after) == {
            "policies.home/*": ("linucb", "greedy"),
            "ranker.liking": (None, 0.0),
        }


class TestFeed:
    def test_a_change_is_applied_and_an_invalid_one_is_not(self) -> None:
        redis = HashRedis()
        store = store_of(redis)
        feed = HotFeed(store, RankerSettings())
        feed.step()
        assert feed.loaded.is_set()
        assert feed.current().version == 0
        store.write(HotSettings(ranker={"floor": 0.07}), over=0, who="ann")
        feed.step()
        assert (feed.current().version, feed.current().exploring.floor) == (1, 0.07)
        store.write(HotSettings(ranker={"floor": 7}), over=1, who="ann")  # by hand, past the command's check
        feed.step()
        assert (feed.current().version, feed.current().exploring.floor) == (1, 0.07)
        assert "floor" in feed.reason
        store.write(HotSettings(exploration=False), over=2, who="ann")
        feed.step()
        assert (feed.current().version, feed.current().exploring.on, feed.reason) == (3, False, "")

    def test_without_redis_the_last_rules_hold(self) -> None:
        redis = HashRedis()
        store = store_of(redis)
        feed = HotFeed(store, RankerSettings())
        store.write(HotSettings(exploration=False), over=0, who="ann")
        feed.step()
        redis.down = True
        with pytest.raises(UnavailableError):
            feed.step()
        assert not feed.current().exploring.on


def ranked(world: World, book: Rulebook, **fields: Any) -> tuple[pb.RankReply, decision_pb2.Decision]:
    world.pipeline._rules = lambda: book
    request = pb.RankRequest(**{"user_id": "u1", "k": 10, "surface": "home", **fields})
    reply = pb.RankReply.FromString(world.pipeline.rank(request, remaining_ms=10_000))
    return reply, decision_pb2.Decision.FromString(world.producer.of("decisions")[-1][1])


class TestRequests:
    def test_BAN_10_the_kill_switch_makes_every_slot_greedy_and_learning_goes_on(self) -> None:
        world = World(ranker=RankerSettings(greedy_slots=0, explore_cap=1.0))
        off = rulebook(world.settings.ranker, HotSettings(exploration=False), version=4)
        reply, made = ranked(world, off)
        assert (reply.policy, made.policy, made.drawn, made.config_version) == ("greedy", "greedy()", True, 4)
        assert all(slot.pinned and slot.propensity == 1 and not slot.explored for slot in made.slots)
        scores = [slot.score for slot in made.slots]
        assert [slot.greedy_score for slot in made.slots] == scores
        assert world.producer.of("events"), "an exposure is written: counters and statistics go on"

    def test_BAN_10_nothing_is_explored_on_excluded_surfaces(self) -> None:
        world = World(ranker=RankerSettings(greedy_slots=0))
        book = rulebook(world.settings.ranker, HotSettings(ranker={"excluded_surfaces": ["checkout"]}))
        assert ranked(world, book, surface="checkout")[1].policy == "greedy()"
        assert ranked(world, book, surface="home")[1].policy != "greedy()"

    def test_policy_per_surface_and_arm(self) -> None:
        world = World(ranker=RankerSettings(arms={"thompson": 1.0}))
        hot = HotSettings(policies={"home/thompson": "linucb(alpha=2)", "shop/*": "boltzmann"})
        book = rulebook(world.settings.ranker, hot)
        assert ranked(world, book, surface="home")[1].policy == "linucb(alpha=2.0)"
        assert ranked(world, book, surface="shop")[1].policy.startswith("boltzmann(")
        assert ranked(world, book, surface="mail")[1].policy == "thompson(n_draws=128)"
        assert ranked(world, book, surface="mail")[1].arm == "thompson"

    def test_RNK_10_weights_act_on_the_next_request_and_on_the_posterior(self) -> None:
        world = World()
        model = world.model.model_id
        before = ranked(world, rulebook(world.settings.ranker))[1]
        hot = HotSettings(ranker={"head_weights": {"click": 3.0, "dismiss": -2.0}})
        after = ranked(world, rulebook(world.settings.ranker, hot))[1]
        assert list(before.head_weights) != list(after.head_weights)
        assert after.base_model == before.base_model == model
        assert after.snapshot == before.snapshot
        assert max(slot.score for slot in after.slots) > 2 * max(slot.score for slot in before.slots)
        assert np.allclose(world.belief.under([3.0, -2.0]).head_weights, [3.0, -2.0])
