"""Policies that act on more than the shared linear posterior: per category, hybrid, logistic, in two levels."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from bandits.arms import ArmPartials
from bandits.items import ItemSums, WithItems, item_features, looks_at
from bandits.learned import LearnedSnapshot, read_snapshot
from bandits.logistic import LogisticPartial
from bandits.partials import Partial
from evaluation.exploration import exploration_report, verify_log
from liverank.hot import HotSettings
from liverank.ids import uuid7
from liverank.settings import RankerSettings
from liverank.v1 import decision_pb2, event_pb2
from liverank.v1 import personalization_pb2 as pb
from ranker.errors import NotReproducibleError, RankerConfigError
from ranker.learned import LearnedReader, learned_belief
from ranker.phi import DIM
from ranker.posterior import believe
from ranker.reproduce import differences, posterior_of, redraw, slot_faults
from ranker.serving import Rulebook, Serving, rulebook
from streams.statistics import StatisticsState
from tests.ranker_world import NOW_MS, MemoryUser, World
from tests.unit.test_exploration_log import Log

POLICIES = (
    "thompson_disjoint(n_draws=64)",
    "thompson_hybrid",
    "thompson_logistic",
    "linucb_disjoint(alpha=2.0)",
    "linucb_hybrid",
    "two_level",
    "thompson_doubt(n_draws=64,kind_sd=0.3)",
    "epsilon_greedy_items(epsilon=0.3)",
)
N_HEADS = 2


def exposures(n: int, seed: int = 3) -> list[event_pb2.Event]:
    """Slates of a world of 6 kinds that ask for all statistics."""
    rng = np.random.default_rng(seed)
    found = []
    for at in range(n):
        event = event_pb2.Event(event_id=f"r{at}", event_ts_ms=NOW_MS - 10_000 - at, surface="home")
        slate = event.exposure
        slate.base_model, slate.schema, slate.drawn = "m", "s", True
        slate.heads.extend(["click", "dismiss"])
        slate.statistics.extend([1, 2, 3])
        for _ in range(4):
            p = rng.uniform(0.02, 0.3, N_HEADS)
            slate.slots.add(
                item_id=f"i{rng.integers(40)}",
                category=f"kind{rng.integers(6)}",
                phi=rng.normal(size=DIM).clip(-2, 2) * 0.5,
                p_shown=p,
                p_first=p,
            )
        found.append(event)
    return found


def folded(events: list[event_pb2.Event], partition: int = 0) -> dict[bytes, bytes]:
    """Fields of the statistics after these slates, with a click on each third slate's second slot."""
    state = StatisticsState("#stats:m:s", {})
    fields: dict[bytes, bytes] = {}
    for event in events:
        slate = event.exposure
        phi = np.array([slot.phi for slot in slate.slots], dtype=np.float64)
        residuals = -np.array([slot.p_shown for slot in slate.slots], dtype=np.float64)
        state.shown(partition, slate, phi, residuals, event.event_ts_ms)
        if int(event.event_id[1:]) % 3 == 0:
            state.outcome(slate, 1, phi[1], 0, 1.0, event.event_ts_ms)
        fields |= state.dirty()
    return fields


class FakeRedis:
    """Hashes that a pipeline reads."""

    def __init__(self) -> None:
        self.hashes: dict[str, dict[bytes, bytes]] = {}
        self.n_whole = 0
        self._asked: list[Any] = []

    def pipeline(self, transaction: bool = True) -> FakeRedis:
        self._asked = []
        return self

    def hget(self, key: str, name: str) -> None:
        self._asked.append(self.hashes.get(key, {}).get(name.encode()))

    def hgetall(self, key: str) -> None:
        self.n_whole += 1
        self._asked.append(dict(self.hashes.get(key, {})))

    def execute(self) -> list[Any]:
        return self._asked


def published(redis: FakeRedis, model_id: str, parts: Mapping[int, dict[bytes, bytes]], version: bytes = b"1") -> None:
    from ranker.posterior import partial_key

    for partition, fields in parts.items():
        key = partial_key("test", 1, model_id, partition)
        redis.hashes.setdefault(key, {}).update({**fields, b"v": version})


def world_of(policies: Mapping[str, str], *, ranker: RankerSettings, model_id: str = "") -> tuple[World, Rulebook]:
    """A world whose beliefs come from folded slates in two partitions."""
    world = World(250, ranker=ranker)
    book = rulebook(ranker, HotSettings(policies=dict(policies)), version=1)
    world.pipeline._rules = lambda: book
    redis = FakeRedis()
    events = exposures(120)
    parts = {0: folded(events[::2]), 3: folded(events[1::2], 3)}
    published(redis, world.model.model_id, parts)
    weights = book.weights.of(world.model.heads).tolist()
    reader = LearnedReader(redis, "test", 8)  # type: ignore[arg-type]
    learned = reader.read(world.model.model_id, 1, weights, book.priors, {})
    shared = [Partial.from_bytes(fields[b"d"]) for fields in parts.values()]
    belief = believe(world.model.model_id, shared, generation=1, head_weights=weights, prior=book.prior)
    world.serving = Serving(model=world.model, belief=belief, learned=learned)
    return world, book


def serve(world: World, n: int, n_surfaces: int, seed: int = 1) -> Log:
    rng = random.Random(seed)
    for at in range(n):
        user = f"u{at % 20}"
        world.users.setdefault(user, MemoryUser([(f"i{(7 * at) % len(world.table)}", 2, 1.0)], table=world.table))
        request = pb.RankRequest(user_id=user, k=8, surface=f"s{at % n_surfaces}", request_id=uuid7(NOW_MS, rng))
        world.pipeline.rank(request, remaining_ms=60_000)
    return Log(world)


@pytest.fixture(scope="module")
def log() -> Log:
    """All policies by surface, every candidate logged."""
    ranker = RankerSettings(greedy_slots=1, full_log_share=1.0, explore_cap=0.4, floor=0.1, relevance_floor=0.2)
    world, _ = world_of({f"s{at}/*": policy for at, policy in enumerate(POLICIES)}, ranker=ranker)
    return serve(world, 90, len(POLICIES))


class TestServed:
    def test_BAN_1_BAN_2_BAN_5_BAN_11_each_policy_is_served_and_drawn_again_bit_by_bit(self, log: Log) -> None:
        assert {made.policy.partition("(")[0] for made in log.made} == {name.partition("(")[0] for name in POLICIES}
        kinds = set()
        for made in log.made:
            assert made.drawn
            data = log.snapshots([made.snapshot])[made.snapshot]
            kinds.add(type(read_snapshot(data)).__name__ + getattr(read_snapshot(data), "learner", ""))
            assert differences(made, redraw(made, data)) == []
            assert slot_faults(made, posterior_of(made, data)) == []
            assert made.candidates[0].category_name.startswith("kind")
            assert all(one.HasField("item_looks") and np.isfinite(one.kind_looks) for one in made.candidates)
        assert kinds == {"Snapshot", *(f"LearnedSnapshot{one}" for one in ("disjoint", "hybrid", "logistic", "items"))}
        assert any(slot.explored for made in log.made for slot in made.slots)

    def test_BAN_5_what_a_decision_says_of_looks_is_what_its_draw_doubted(self, log: Log) -> None:
        doubted = next(made for made in log.made if made.policy.startswith("thompson_doubt"))
        altered = decision_pb2.Decision()
        altered.CopyFrom(doubted)
        for one in altered.candidates:
            one.kind_looks = 1e9
        data = log.snapshots([doubted.snapshot])[doubted.snapshot]
        assert differences(altered, redraw(altered, data)) != []
        for one in altered.candidates:
            one.ClearField("kind_looks")  # an older log
        assert redraw(altered, data).problem.kind_looks is None

    def test_BAN_5_verification_reads_their_snapshots(self, log: Log) -> None:
        found = verify_log(log, days=1, sample=len(log.made))
        assert found.faults == []
        assert found.n_redrawn == len(log.made)
        assert found.n_no_snapshot == 0
        report = exploration_report(log)
        assert {group.policy.partition("(")[0] for group in report.groups} == {
            one.partition("(")[0] for one in POLICIES
        }
        assert all(np.isfinite(group.entropy) for group in report.groups)

    def test_an_altered_snapshot_or_candidate_is_found(self, log: Log) -> None:
        made = decision_pb2.Decision()
        made.CopyFrom(next(one for one in log.made if one.policy.startswith("linucb_disjoint")))
        data = log.snapshots([made.snapshot])[made.snapshot]
        with pytest.raises(NotReproducibleError):
            redraw(made, data[:-9] + b"x" + data[-8:])
        for one in made.candidates:
            one.category_name = "kind0"
        assert differences(made, redraw(made, data)) != []

    def test_another_kind_of_posterior_does_not_judge_a_policy(self, log: Log) -> None:
        from bandits import Greedy, LinUCB, parse

        made = next(one for one in log.made if one.policy.startswith("thompson_disjoint"))
        data = log.snapshots([made.snapshot])[made.snapshot]
        for other in (LinUCB(), parse("linucb_hybrid")):
            with pytest.raises(NotReproducibleError, match="acts on the"):
                redraw(made, data, with_policy=other)
        assert redraw(made, data, with_policy=Greedy()).slate.propensity.max() <= 1
        assert redraw(made, data, with_policy=parse("linucb_disjoint")).slate.order

    def test_BAN_2_exposures_ask_for_what_policies_act_on(self, log: Log) -> None:
        ranker = RankerSettings(arms={"thompson_disjoint": 1.0})
        world, book = world_of({}, ranker=ranker)
        assert set(book.priors) == {"disjoint"}
        serve(world, 3, 1)
        for _, value in world.producer.of("events"):
            slate = event_pb2.Event.FromString(value).exposure
            assert list(slate.statistics) == [event_pb2.EXTRA_STATISTICS_ARMS]
            assert all(slot.category.startswith("kind") for slot in slate.slots)
        plain, book = world_of({}, ranker=RankerSettings())
        assert book.statistics == ()
        serve(plain, 2, 1)
        for _, value in plain.producer.of("events"):
            slate = event_pb2.Event.FromString(value).exposure
            assert not slate.statistics
            assert not any(slot.category for slot in slate.slots)
        kept = rulebook(RankerSettings(statistics=["arms", "items", "logistic"]))
        assert len(kept.statistics) == 3
        assert kept.priors == {}

    def test_a_policy_whose_statistics_were_not_read_yet_gives_way_to_thompson(self) -> None:
        world, _ = world_of({"*/*": "linucb_hybrid"}, ranker=RankerSettings(full_log_share=1.0))
        assert world.serving is not None
        world.serving = Serving(model=world.serving.model, belief=world.serving.belief)
        log = serve(world, 3, 1)
        assert {made.policy for made in log.made} == {"thompson(n_draws=128)"}
        for made in log.made:
            assert differences(made, redraw(made, log.snapshots([made.snapshot])[made.snapshot])) == []


class TestArmsOfSurfaces:
    def test_BAN_1_users_are_dealt_out_by_surface(self) -> None:
        shares = {"s0": {"linucb_hybrid": 0.5, "greedy": 0.5}, "s1": {"thompson_logistic": 1.0}}
        ranker = RankerSettings(arms={"thompson": 0.5, "boltzmann": 0.5}, surface_arms=shares)
        world, book = world_of({"s1/*": "linucb_disjoint"}, ranker=ranker)
        assert set(book.priors) == {"hybrid", "logistic", "disjoint"}
        log = serve(world, 240, 3)
        seen: dict[str, set[tuple[str, str]]] = {}
        for made in log.made:
            seen.setdefault(made.surface, set()).add((made.arm, made.policy.partition("(")[0]))
        assert seen == {
            "s0": {("linucb_hybrid", "linucb_hybrid"), ("greedy", "greedy")},
            "s1": {("thompson_logistic", "linucb_disjoint")},  # an entry for the surface is more exact than the arm's
            "s2": {("thompson", "thompson"), ("boltzmann", "boltzmann")},
        }

    def test_dealt_out_anew_on_each_surface_and_as_before_elsewhere(self) -> None:
        shares = {"a": 0.5, "b": 0.5}
        both = {"thompson": 0.5, "greedy": 0.5}
        book = rulebook(RankerSettings(arms=both, surface_arms=dict.fromkeys(shares, both)))
        users = [f"u{at}" for at in range(4_000)]
        arms = {name: np.array([book.arm(name, user).name == "greedy" for user in users]) for name in ("a", "b", "c")}
        plain = rulebook(RankerSettings(arms=both))
        assert [plain.arm("a", user).name == "greedy" for user in users] == arms["c"].tolist()
        for one, other in (("a", "b"), ("a", "c"), ("b", "c")):
            assert abs(arms[one].mean() - 0.5) < 0.03
            assert abs((arms[one] == arms[other]).mean() - 0.5) < 0.03  # independent of each other

    @pytest.mark.parametrize("shares", [{"thompson": 0.5}, {"nobody": 1.0}, {}])
    def test_wrong_shares_are_refused(self, shares: dict[str, float]) -> None:
        with pytest.raises(RankerConfigError):
            rulebook(RankerSettings(), HotSettings(ranker={"surface_arms": {"home": shares}}))


class TestBelief:
    WEIGHTS = (1.0, -2.0)

    def read(self, parts: Mapping[int, dict[bytes, bytes]], **changes: Any) -> Any:
        redis = FakeRedis()
        published(redis, "m", parts)
        book = rulebook(RankerSettings(arms={"thompson_hybrid": 0.3, "thompson_logistic": 0.3, "thompson_doubt": 0.4}))
        return LearnedReader(redis, "test", 8).read("m", 1, self.WEIGHTS, book.priors, {}, **changes)  # type: ignore[arg-type]

    def test_BAN_9_partitions_in_any_cut_and_order_name_one_snapshot(self) -> None:
        events = exposures(60)
        shuffled = random.Random(1).sample(events, len(events))
        one = self.read({0: folded(events)})
        other = self.read({1: folded(shuffled[:20]), 4: folded(shuffled[20:], 4)})
        assert one.keys() == other.keys() == {"hybrid", "logistic", "items"}
        for learner in one:
            assert one[learner].snapshot_id == other[learner].snapshot_id
            assert one[learner].n_shown == 240

    def test_sums_equal_a_recount(self) -> None:
        events = exposures(40)
        arms, logistic = ArmPartials(DIM, N_HEADS), LogisticPartial(DIM, N_HEADS)
        shared, items = Partial(DIM + 1, N_HEADS), ItemSums(DIM + 1, N_HEADS)
        for event in events:
            for at, slot in enumerate(event.exposure.slots):
                p, phi = np.array(slot.p_shown, dtype=np.float64), np.array(slot.phi, dtype=np.float64)
                clicked = int(event.event_id[1:]) % 3 == 0 and at == 1
                arms.shown(slot.category, phi, -p, event.event_ts_ms)
                x, looks = item_features(phi[None], p[:1])[0], looks_at([at + 1])
                shared.shown(x, -p, event.event_ts_ms)
                items.shown([slot.item_id], looks, x, -p, event.event_ts_ms)
                logistic.shown(phi[None], p[None], event.event_ts_ms)
                if clicked:
                    arms.outcome(slot.category, phi, 0, 1.0, event.event_ts_ms)
                    shared.outcome(x, 0, 1.0, event.event_ts_ms)
                    items.outcome(slot.item_id, float(looks[0]), 0, 1.0, event.event_ts_ms)
                    logistic.outcome(phi, 0, 1.0, event.event_ts_ms)
        found = self.read({0: folded(events)})
        assert found["hybrid"].snapshot.sums == arms
        assert found["logistic"].snapshot.sums == logistic
        assert found["items"].snapshot.sums == WithItems(shared=shared, items=items)

    def test_BAN_9_weights_act_when_read(self) -> None:
        found = self.read({0: folded(exposures(40))})
        phi, p = np.eye(DIM)[:6], np.full((6, N_HEADS), 0.1)
        arms, items = [f"kind{at}" for at in range(6)], [f"i{at}" for at in range(6)]
        for one in found.values():
            plus, doubled = (
                one.under(weights).bind(arms, p, items).mean(phi) for weights in ([1.0, -2.0], [2.0, -4.0])
            )
            assert np.allclose(doubled, 2 * plus, rtol=1e-9)
            assert np.abs(plus).max() > 0
            silent = one.under(self.WEIGHTS, silent=True).bind(arms, p, items)
            assert np.abs(silent.mean(phi)).max() < 1e-15
            again = LearnedSnapshot.from_bytes(one.snapshot_bytes).posterior([3.0, 1.0]).bind(arms, p, items)
            assert (again.mean(phi) == one.under([3.0, 1.0]).bind(arms, p, items).mean(phi)).all()
            assert (again.sd(phi) > 0).all()

    def test_a_start_is_added(self) -> None:
        start = ArmPartials(DIM, N_HEADS)
        start.shown("kind9", np.eye(DIM)[0], [0.5, 0.0])
        logistic = LogisticPartial(DIM, N_HEADS)
        logistic.shown(np.eye(DIM)[:1], np.full((1, N_HEADS), 0.1))
        per_item = WithItems(shared=Partial(DIM + 1, N_HEADS), items=ItemSums(DIM + 1, N_HEADS))
        per_item.shared.shown(np.eye(DIM + 1)[0], [0.5, 0.0])
        per_item.items.shown(["i99"], [1.0], np.eye(DIM + 1)[0], [0.5, 0.0])
        files = {
            "start.arms": start.to_bytes(),
            "start.items": per_item.to_bytes(),
            "start.logistic": logistic.to_bytes(),
        }
        plain, more = (self.read({0: folded(exposures(10))}, start=get) for get in (lambda _: None, files.get))
        for learner in plain:
            assert more[learner].n_shown == plain[learner].n_shown + 1
            assert more[learner].snapshot_id != plain[learner].snapshot_id
        bound = (one["items"].under(self.WEIGHTS).bind([""], np.full((1, 2), 0.3), ["i99"]) for one in (plain, more))
        doubts = [float(each.sd(np.zeros((1, DIM)))[0]) for each in bound]
        assert doubts[1] < doubts[0]

    def test_reads_only_what_moved_and_not_too_often(self) -> None:
        redis, now = FakeRedis(), [0.0]
        events = exposures(30)
        published(redis, "m", {0: folded(events[:10]), 1: folded(events[10:20], 1)})
        priors = rulebook(RankerSettings(arms={"linucb_disjoint": 1.0})).priors
        reader = LearnedReader(redis, "test", 4, clock_s=lambda: now[0])  # type: ignore[arg-type]
        first = reader.read("m", 1, self.WEIGHTS, priors, {})
        published(redis, "m", {1: folded(events[10:], 1)}, b"2")
        assert reader.read("m", 1, self.WEIGHTS, priors, first) is first
        now[0] = 2.0
        second = reader.read("m", 1, self.WEIGHTS, priors, first)
        assert (first["disjoint"].n_shown, second["disjoint"].n_shown) == (80, 120)
        assert redis.n_whole == 3
        now[0] = 4.0
        assert reader.read("m", 1, self.WEIGHTS, priors, second) is second

    def test_an_arm_that_left_is_not_read(self) -> None:
        fields = folded(exposures(10))
        fields[b"a:kind0"] = b""
        found = self.read({0: fields})
        assert "kind0" not in found["hybrid"].snapshot.sums.statistics()

    def test_old_statistics_stay_readable(self) -> None:
        fields = {name: data for name, data in folded(exposures(10)).items() if name in (b"d", b"p")}
        state = StatisticsState("#stats:m:s", fields)
        assert state.arms is None
        assert state.logistic is None
        event = exposures(1, seed=9)[0]
        phi = np.array([slot.phi for slot in event.exposure.slots], dtype=np.float64)
        state.shown(0, event.exposure, phi, np.zeros((4, N_HEADS)), NOW_MS)
        assert state.partial is not None
        assert (state.partial.n_shown, state.arms.n_shown, state.logistic.n_shown) == (44, 4, 4)
        assert self.read({0: fields})["logistic"].n_shown == 0
        again = StatisticsState("#stats:m:s", state.dirty())
        assert (again.arms, again.logistic) == (state.arms, state.logistic)

    def test_bound_of_the_bytes(self) -> None:
        full = ArmPartials(DIM, 5)
        for at in range(512):
            full.shown(f"category-{at}", np.ones(DIM), np.zeros(5))
        prior = rulebook(RankerSettings(arms={"linucb_disjoint": 1.0})).priors["disjoint"]
        belief = learned_belief("m" * 64, "disjoint", full, generation=1, prior=prior, head_weights=[1.0] * 5)
        assert len(belief.snapshot_bytes) < 3_000_000
