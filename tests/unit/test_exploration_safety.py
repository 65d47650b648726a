"""Limits of exploration one by one: budgets of new items, gate, alarms."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY

from bandits import Everything, Explorable, Greedy, Problem, Reserved, Uniform, draw_slate, generator, recompute
from bandits.errors import InvalidPolicyError, InvalidStatisticsError
from bandits.partials import Partial
from bandits.posterior import Posterior, Prior
from features.redis import RedisUnavailableError
from liverank.ids import uuid7
from liverank.settings import RankerSettings
from liverank.v1 import decision_pb2
from liverank.v1 import personalization_pb2 as pb
from ranker import watch
from ranker.budget import CHUNK, NewItemBudget
from ranker.columns import COLUMNS, INDEX
from ranker.safety import DAY_MS, ExploreRules, dislikes, explorable
from ranker.serving import rulebook
from tests.ranker_world import NOW_MS, World


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


class Grants:
    """The two scripts of `NewItemBudget`, over one dictionary that several rankers share."""

    def __init__(self) -> None:
        self.granted: dict[str, int] = {}
        self.down = False

    def of(self, budget: NewItemBudget) -> NewItemBudget:
        grants = self

        class Lease:
            def run_many(self, calls: Sequence[Any], doing: str) -> list[int]:
                if grants.down:
                    raise RedisUnavailableError("down")
                out = []
                for _, (key, n, most, _) in calls:
                    give = max(0, min(n, most - grants.granted.get(key, 0)))
                    grants.granted[key] = grants.granted.get(key, 0) + give
                    out.append(give)
                return out

        class Return:
            def run_many(self, calls: Sequence[Any], doing: str) -> list[int]:
                for _, (key, n, _) in calls:
                    grants.granted[key] -= n
                return [1] * len(calls)

        budget._lease, budget._return = Lease(), Return()  # type: ignore[assignment]
        return budget


def budget_of(grants: Grants, rules: ExploreRules) -> NewItemBudget:
    return grants.of(NewItemBudget(None, "test", lambda: rules))


class TestBudget:
    def test_BAN_13_rankers_together_never_exceed_it(self) -> None:
        grants, rules = Grants(), ExploreRules(budget=37)
        rankers = [budget_of(grants, rules) for _ in range(3)]
        rng, spent = random.Random(1), 0
        for _ in range(2_000):
            ranker = rng.choice(rankers)
            if ranker.has("new"):
                ranker.spend("new")
                spent += 1
            if rng.random() < 0.3:
                ranker.step()
        assert spent == 37, "all of it is used, and no more"
        assert grants.granted == {"test:new-item:new": 37}

    def test_leases_are_small_and_returned_at_the_end(self) -> None:
        grants, rules = Grants(), ExploreRules(budget=1_000)
        ranker = budget_of(grants, rules)
        assert not ranker.has("a")
        ranker.step()
        assert ranker.has("a")
        assert grants.granted["test:new-item:a"] == CHUNK
        ranker.spend("a")
        ranker.close()
        assert grants.granted["test:new-item:a"] == 1

    def test_without_redis_nothing_new_is_explored_and_it_goes_on_later(self) -> None:
        grants, rules = Grants(), ExploreRules(budget=10)
        ranker = budget_of(grants, rules)
        grants.down = True
        assert not ranker.has("a")
        with pytest.raises(RedisUnavailableError):
            ranker.step()
        assert not ranker.has("a")
        grants.down = False
        ranker.step()
        assert ranker.has("a")

    def test_a_raised_budget_is_seen(self) -> None:
        rules = [ExploreRules(budget=1)]
        ranker = Grants().of(NewItemBudget(None, "test", lambda: rules[0]))
        ranker.has("a")
        ranker.step()
        ranker.spend("a")
        ranker.has("a")
        ranker.step()
        assert not ranker.has("a")
        rules[0] = ExploreRules(budget=2)
        ranker.has("a")
        ranker.step()
        assert ranker.has("a")

    def test_what_is_new(self) -> None:
        published = np.array([NOW_MS - DAY_MS, NOW_MS - 8 * DAY_MS, 0, NOW_MS + DAY_MS])
        assert ExploreRules(budget=5).is_new(published, NOW_MS).tolist() == [True, False, False, False]
        assert not ExploreRules(budget=0).is_new(published, NOW_MS).any()

    def test_BAN_13_slates_hold_new_items_only_while_the_budget_lasts(self) -> None:
        """Three new items of the lowest value: the reserved share shows each, and the budget ends it."""
        world = World(
            120, ranker=RankerSettings(greedy_slots=0, explore_cap=0.5, new_item_share=0.4, new_item_budget=6)
        )
        new = ["i3", "i50", "i77"]
        world.table.published_ms[:] = NOW_MS - 30 * DAY_MS
        for item in new:
            world.table.published_ms[world.table.rows[item]] = NOW_MS - DAY_MS // 2
            world.table._popularity[world.table.rows[item]] = 0.0
        grants = Grants()
        budget = budget_of(grants, rulebook(world.settings.ranker).exploring)
        world.pipeline._budget = budget
        rng, explored = random.Random(3), dict.fromkeys(new, 0)
        for at in range(200):
            request = pb.RankRequest(user_id=f"u{at % 9}", k=8, request_id=uuid7(NOW_MS, rng))
            world.pipeline.rank(request, remaining_ms=60_000)
            made = decision_pb2.Decision.FromString(world.producer.of("decisions")[-1][1])
            for slot in made.slots:
                if slot.item_id in explored and slot.explored:
                    assert slot.budgeted
                    explored[slot.item_id] += 1
                assert slot.budgeted <= slot.explored
            budget.step()
        assert explored == dict.fromkeys(new, 6)
        shadow = pb.RankRequest(user_id="u1", k=8, mode=decision_pb2.MODE_SHADOW)
        budget._held["i3"] = 1
        world.pipeline.rank(shadow, remaining_ms=60_000)
        assert budget._held["i3"] == 1, "looking is not showing"


class TestExplorable:
    def problem(self, allowed: Sequence[bool], **fields: Any) -> Problem:
        score = np.array([0.5, 0.4, 0.3, 0.2])
        posterior = Posterior(Partial(1, 1), [1.0], Prior())
        rule = Explorable(Everything(4), np.array(allowed), score)
        return Problem(value=score, phi=np.zeros((4, 1)), posterior=posterior, k=4, feasible=rule, cap=1.0, **fields)

    def test_only_greed_places_what_may_not_be_explored(self) -> None:
        for seed in range(50):
            slate = draw_slate(Uniform(), self.problem([False, False, True, True]), generator(seed))
            assert len(slate.order) == 4
            assert all(place in (2, 3) for place, out in zip(slate.order, slate.explored, strict=True) if out)
            again = recompute(Uniform(), self.problem([False, False, True, True]), generator(seed), slate.order)
            assert (again.propensity == slate.propensity).all()

    def test_nothing_explorable_is_greed(self) -> None:
        slate = draw_slate(Uniform(), self.problem([False] * 4), generator(1))
        assert slate.order == (0, 1, 2, 3)
        assert slate.propensity.tolist() == [1.0] * 4

    def test_shapes_are_checked(self) -> None:
        with pytest.raises(InvalidStatisticsError):
            Explorable(Everything(2), np.array([True]), np.zeros(2))
        with pytest.raises(InvalidPolicyError):
            Reserved(policy=Greedy(), reserved=np.array([True]), share=2.0)

    def test_the_reserved_share_is_exact(self) -> None:
        problem = self.problem([True] * 4, floor=0.0)
        reserved = Reserved(policy=Greedy(), reserved=np.array([False, False, True, True]), share=0.3)
        law = reserved.law(problem, problem.value, generator(1))
        assert law.weights(np.array([True] * 4)).tolist() == pytest.approx([0.7, 0, 0.15, 0.15])
        assert law.weights(np.array([True, True, True, False])).tolist() == pytest.approx([0.7, 0, 0.3, 0])
        assert law.weights(np.array([True, True, False, False])).tolist() == pytest.approx([1.0, 0, 0, 0])
        counts = np.zeros(4)
        for seed in range(4_000):
            counts[draw_slate(reserved, replace(problem, k=1), generator(seed)).order[0]] += 1
        assert np.abs(counts / 4_000 - [0.7, 0, 0.15, 0.15]).max() < 0.03

    def test_BAN_10_the_gate_keeps_to_the_lower_bound_of_greed(self) -> None:
        score, sd = np.array([1.0, 0.9, 0.9, 0.2]), np.array([0.1, 0.1, 0.6, 0.1])
        rules = ExploreRules(gate_slack=0.2, gate_sds=1.0)
        # Lower bounds .9, .8, .3, .1; the baseline's allows down to .72.
        assert explorable(score, sd, rules).tolist() == [True, True, False, False]
        assert explorable(score, sd, ExploreRules()).all()
        assert explorable(-score, sd, ExploreRules(gate_slack=0.5)).tolist() == [False, False, False, True]
        assert explorable(np.zeros(0), np.zeros(0), rules).shape == (0,)


class TestAlarms:
    def served(self, tamper: str = "") -> str:
        world = World(150, ranker=RankerSettings(greedy_slots=0, explore_cap=0.4, floor=0.1, arms={"uniform": 1.0}))
        inner = world.pipeline._watch
        rng = random.Random(4)

        class Tampered:
            def saw(self, policy: str, shown: Any, drawn: Any, **rest: Any) -> None:
                propensity = shown.propensity.copy()
                if tamper == "weight":  # an estimate from other draws, with a floor: too high for what is rare
                    propensity = np.where(shown.explored, propensity, propensity * 0.8)
                elif tamper == "floor":
                    propensity = np.where(shown.explored, shown.effective_floor / 2, propensity)
                inner.saw(f"{policy}{tamper}", replace(shown, propensity=propensity), drawn, **rest)

        world.pipeline._watch = Tampered()  # type: ignore[assignment]
        for at in range(watch.WINDOW // 10 + 1):
            request = pb.RankRequest(user_id=f"u{at % 20}", k=10, request_id=uuid7(NOW_MS, rng))
            world.pipeline.rank(request, remaining_ms=60_000)
        return f"uniform(){tamper}"

    def test_BAN_10_honest_propensities_raise_no_alarm(self) -> None:
        limits = ("floor", "cap", "relevance")
        breaches = sum(metric("liverank_exploration_breaches_total", limit=one) for one in limits)
        policy = self.served()
        assert metric("liverank_weight_alarm", policy=policy) == 0
        assert abs(metric("liverank_weight_mean", policy=policy, known="near_greed") - 1) < 0.1
        assert 0.3 < metric("liverank_exploration_share", policy=policy) < 0.5
        assert metric("liverank_slot_entropy_nats_count", policy=policy) > 0
        assert metric("liverank_exploration_cost_clicks_total", policy=policy) > 0
        assert metric("liverank_posterior_age_seconds") == -1
        after = sum(metric("liverank_exploration_breaches_total", limit=one) for one in limits)
        assert after == breaches

    def test_BAN_10_wrong_propensities_raise_the_alarm(self) -> None:
        assert metric("liverank_weight_alarm", policy=self.served("weight")) == 1

    def test_BAN_10_a_broken_floor_is_counted(self) -> None:
        before = metric("liverank_exploration_breaches_total", limit="floor")
        self.served("floor")
        assert metric("liverank_exploration_breaches_total", limit="floor") > before


class TestDislikes:
    def rows(self, *pairs: tuple[float, float]) -> Any:
        x = np.zeros((len(pairs), len(COLUMNS)), dtype=np.float32)
        for row, (seen, disliked) in enumerate(pairs):
            x[row, INDEX["item_windows:expected_30d"]] = seen
            x[row, INDEX["item_windows:negatives_30d"]] = disliked
        return x

    def test_BAN_8_a_young_arm_is_believed_less_and_an_old_one_is_the_models(self) -> None:
        rate, excess = dislikes(self.rows((0, 0), (0, 1), (20, 2), (10, 5), (20, 5), (2_000, 130), (5_000, 250)), 10.0)
        assert rate[:3].tolist() == [0.0, 0.0, 0.0], "one dismissal is one user's taste"
        assert excess.tolist() == pytest.approx([0, 1, 1, 4.5, 4, 30, 0])
        assert rate[3] > 0.1
        assert rate[3] > rate[4] > 0.05
        assert rate[5] < 0.001
        assert dislikes(self.rows((10, 5)), 0.0)[0].tolist() == [0.0]

    def selected(self, disliked: str = "") -> dict[str, float]:
        """How often each item is in the slates of 40 users; `disliked` has 5 dismissals in 10 looks."""
        world = World(120, ranker=RankerSettings(greedy_slots=0))
        table, plain = world.table, world.table.windows
        names = table.window_names
        table.window_names = (*names, "negatives_30d")

        def windows(rows: Any, as_of_ms: int) -> Any:
            out = np.column_stack([plain(rows, as_of_ms), np.zeros(len(rows), dtype=np.float32)])
            if disliked:
                row = table.rows[disliked]
                out[rows == row, names.index("expected_30d")], out[rows == row, -1] = 10.0, 5.0
            return out

        table.windows = windows  # type: ignore[method-assign]
        rng = random.Random(3)
        for at in range(40):
            request = pb.RankRequest(user_id=f"u{at}", k=8, request_id=uuid7(NOW_MS, rng))
            world.pipeline.rank(request, remaining_ms=60_000)
        made = [decision_pb2.Decision.FromString(value) for _, value in world.producer.of("decisions")]
        return {item: float(np.mean([item in {s.item_id for s in one.slots} for one in made])) for item in table.ids}

    def test_BAN_8_five_dismissals_of_a_new_arm_end_its_selection(self) -> None:
        """The best item of all is selected at most a quarter as often, by users who never met it; others stay."""
        before = self.selected()
        best = max(before, key=lambda item: before[item])
        assert before[best] > 0.8
        after = self.selected(best)
        assert after[best] <= 0.25 * before[best]
        others = [item for item in before if item != best and before[item] > 0.3]
        assert others
        assert all(after[item] >= before[item] - 0.35 for item in others)
