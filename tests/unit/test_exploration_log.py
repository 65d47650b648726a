"""The log of exploration: draws made again bit by bit, mean weights, report, arms, plots."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from bandits import Partial
from evaluation.exploration import (
    Outcome,
    Thinned,
    arm_table,
    arms_of,
    draw_plots,
    exploration_report,
    report_tables,
    verify_log,
)
from liverank.errors import ConfigError
from liverank.hot import HotSettings
from liverank.ids import uuid7
from liverank.settings import RankerSettings
from liverank.v1 import decision_pb2
from liverank.v1 import personalization_pb2 as pb
from ranker.errors import NotReproducibleError
from ranker.phi import DIM
from ranker.posterior import believe
from ranker.reproduce import differences, posterior_of, redraw, slot_faults, slot_laws
from ranker.serving import Serving, rulebook
from tests.ranker_world import NOW_MS, MemoryUser, World

POLICIES = (
    "thompson",
    "linucb(alpha=2.0)",
    "epsilon_greedy(epsilon=0.3)",
    "boltzmann",
    "uniform",
    "greedy",
    "two_level",
)
N_REQUESTS = 420


class Log:
    """Decisions and snapshots that a memory world wrote, and outcomes that a test gives."""

    now_ms = NOW_MS + 60_000

    def __init__(self, world: World, outcomes: Mapping[tuple[str, int], Outcome] | None = None) -> None:
        self.made = [decision_pb2.Decision.FromString(value) for _, value in world.producer.of("decisions")]
        self._snapshots = {key.decode(): value for key, value in world.producer.of("policy-snapshots") if key}
        self._outcomes = outcomes or {}

    def decisions(self, days: float, *, drawn: bool = True) -> Iterator[decision_pb2.Decision]:
        return iter(self.made)

    def snapshots(self, wanted: Sequence[str]) -> Mapping[str, bytes]:
        return {one: self._snapshots[one] for one in wanted if one in self._snapshots}

    def outcomes(self, days: float) -> Mapping[tuple[str, int], Outcome]:
        return self._outcomes


class Leases:
    """Enough budget for everything that is new."""

    def __init__(self) -> None:
        self.spent: list[str] = []

    def has(self, item_id: str) -> bool:
        return True

    def spend(self, item_id: str) -> None:
        self.spent.append(item_id)


def learned(world: World, seed: int = 3) -> World:
    """A world whose posterior has seen slots."""
    rng = np.random.default_rng(seed)
    partial = Partial(DIM, 2)
    partial.shown(rng.normal(size=(400, DIM)).clip(-2, 2), 0.3 * rng.normal(size=(400, 2)), ts_ms=NOW_MS - 5_000)
    belief = believe(
        world.model.model_id,
        [partial],
        generation=1,
        head_weights=world.book.weights.of(world.model.heads).tolist(),
        prior=world.book.prior,
    )
    world.serving = Serving(model=world.model, belief=belief)
    return world


def serve(world: World, n: int, *, surface: Callable[[int], str] = lambda at: "home", seed: int = 1) -> Log:
    rng = random.Random(seed)
    for at in range(n):
        world.users.setdefault(
            f"u{at % 30}", MemoryUser([(f"i{(7 * at) % len(world.table)}", 2, 1.0)], table=world.table)
        )
        request = pb.RankRequest(user_id=f"u{at % 30}", k=8, surface=surface(at), request_id=uuid7(NOW_MS, rng))
        world.pipeline.rank(request, remaining_ms=60_000)
    return Log(world)


@pytest.fixture(scope="module")
def log() -> Log:
    """Every policy and every limit at once, all candidates logged."""
    ranker = RankerSettings(
        greedy_slots=1, full_log_share=1.0, explore_cap=0.4, floor=0.1, relevance_floor=0.3, new_item_budget=50
    )
    world = learned(World(250, ranker=ranker))
    world.pipeline._budget = Leases()  # type: ignore[assignment]
    hot = HotSettings(policies={f"s{at}/*": policy for at, policy in enumerate(POLICIES)})
    book = rulebook(ranker, hot, version=1)
    gated = rulebook(ranker, hot.model_copy(update={"ranker": {"gate_slack": 0.5, "gate_sds": 0.5}}), version=2)
    books = [book, gated]
    world.pipeline._rules = lambda: books[len(world.producer.of("decisions")) % 2]
    return serve(world, 120, surface=lambda at: f"s{at % len(POLICIES)}")


@pytest.fixture(scope="module")
def thompson() -> Log:
    """Enough decisions of one policy for a mean weight."""
    ranker = RankerSettings(arms={"thompson": 1.0}, greedy_slots=0, explore_cap=0.3, floor=0.1, full_log_share=0.1)
    return serve(learned(World(250, ranker=ranker)), N_REQUESTS, seed=17)


class TestRedraw:
    def test_BAN_5_every_draw_is_made_again_bit_by_bit(self, log: Log) -> None:
        assert {made.policy.partition("(")[0] for made in log.made} == {name.partition("(")[0] for name in POLICIES}
        assert any(made.reserved_share for made in log.made)
        assert any(one.not_explorable for made in log.made for one in made.candidates)
        assert any(slot.explored for made in log.made for slot in made.slots)
        for made in log.made:
            data = log.snapshots([made.snapshot])[made.snapshot]
            assert differences(made, redraw(made, data)) == []
            assert slot_faults(made, posterior_of(made, data)) == []

    def test_BAN_5_laws_sum_to_one_and_hold_what_was_logged(self, log: Log) -> None:
        for made in log.made[:30]:
            found = redraw(made, log.snapshots([made.snapshot])[made.snapshot])
            drawn = [slot for slot in made.slots if not slot.pinned]
            laws = slot_laws(found, made.seed)
            assert len(laws) == len(drawn)
            for law, slot, place in zip(laws, drawn, found.order[len(made.slots) - len(drawn) :], strict=True):
                assert abs(law.sum() - 1) < 1e-9
                assert abs(law[place] - slot.propensity) < 1e-12
                assert (law[law > 0] >= slot.effective_floor - 1e-15).all()

    def test_what_cannot_be_drawn_again_says_so(self, log: Log) -> None:
        made = decision_pb2.Decision()
        made.CopyFrom(log.made[0])
        data = log.snapshots([made.snapshot])[made.snapshot]
        del made.candidates[:]
        with pytest.raises(NotReproducibleError, match="not sampled"):
            redraw(made, data)
        with pytest.raises(NotReproducibleError, match="cannot be used"):
            redraw(log.made[0], data[:-1])
        made.CopyFrom(log.made[0])
        made.base_model = "other"
        with pytest.raises(NotReproducibleError, match="its snapshot of"):
            redraw(made, data)

    def test_USE_4_the_explained_belief_is_that_of_the_snapshot(self, log: Log) -> None:
        for made in log.made[:20]:
            posterior = posterior_of(made, log.snapshots([made.snapshot])[made.snapshot])
            phi = np.array([list(slot.phi) for slot in made.slots])
            assert np.allclose([slot.posterior_mean for slot in made.slots], posterior.mean(phi), atol=1e-12)
            assert np.allclose([slot.posterior_sd for slot in made.slots], posterior.sd(phi), atol=1e-12)


class TestLimits:
    def test_BAN_10_explored_items_lie_above_the_relevance_floor_and_under_the_cap(self, log: Log) -> None:
        n_explored = 0
        for made in log.made:
            found = redraw(made, log.snapshots([made.snapshot])[made.snapshot])
            least = np.quantile(found.slate.score, 0.3)
            reserved = {one.item_id for one in made.candidates if one.reserved}
            for slot in made.slots:
                if slot.explored:
                    n_explored += 1
                    assert slot.score >= least or slot.item_id in reserved
            for law in slot_laws(found, made.seed):
                assert 1 - law.max() <= made.cap + 1e-9 or law.max() < 0.6  # the largest is greed's where the cap binds
        assert n_explored > 20

    def test_BAN_10_no_drawn_slot_gives_more_than_the_cap_to_exploration(self, log: Log) -> None:
        for made in log.made:
            found = redraw(made, log.snapshots([made.snapshot])[made.snapshot])
            first = min(made.greedy_slots, len(made.slots))
            for slot, law in enumerate(slot_laws(found, made.seed), first):
                prefix = list(found.order[:slot])
                mask = found.rules.mask(prefix)
                mask[prefix] = False
                greedy = int(np.where(mask, found.slate.score, -np.inf).argmax())
                assert 1 - law[greedy] <= made.cap + 1e-9

    def test_greedy_score_is_what_greed_would_have_had(self, log: Log) -> None:
        for made in log.made:
            for slot in made.slots:
                assert slot.greedy_score >= slot.score if slot.explored else slot.greedy_score == slot.score


class TestVerify:
    def test_a_sound_log_passes(self, thompson: Log) -> None:
        found = verify_log(thompson, sample=100, min_rows=400)
        assert found.faults == []
        assert found.n_decisions == N_REQUESTS
        assert 10 <= found.n_redrawn == found.n_full
        (group,) = found.groups
        assert [slot.position for slot in group.slots] == list(range(1, 9))
        assert all(slot.passed for slot in group.slots)
        assert found.lines()[-1] == "the log is sound"

    def test_too_few_rows_are_said(self, thompson: Log) -> None:
        assert "too few" in " ".join(verify_log(thompson).lines())

    @pytest.mark.parametrize("fault", ["propensity", "order", "mean", "cap"])
    def test_one_wrong_number_is_found(self, log: Log, fault: str) -> None:
        bad = Log.__new__(Log)
        bad.__dict__ |= log.__dict__
        made = decision_pb2.Decision()
        made.CopyFrom(log.made[3])
        slot = made.slots[-1]
        if fault == "propensity":
            slot.propensity = float(np.nextafter(slot.propensity, 0.0))
        elif fault == "order":
            first, second = made.slots[1].item_id, made.slots[2].item_id
            made.slots[1].item_id, made.slots[2].item_id = second, first
        elif fault == "mean":
            del made.candidates[:]
            slot.posterior_mean += 1e-6
        else:
            slot.explored, slot.pinned, slot.propensity = True, False, 0.9
        bad.made = [*log.made[:3], made]
        found = verify_log(bad)
        assert found.n_faults >= 1
        assert made.request_id in found.faults[0]

    def test_a_rule_applied_after_the_draw_is_found_by_the_mean_weight(self, thompson: Log) -> None:
        """A hard rule that is applied afterwards puts greed's item back in half of the explored slots."""
        bad = Log.__new__(Log)
        bad.__dict__ |= thompson.__dict__
        bad.made, rng = [], random.Random(5)
        for one in thompson.made:
            made = decision_pb2.Decision()
            made.CopyFrom(one)
            del made.candidates[:]
            for slot in made.slots:
                if not slot.explored and rng.random() < 0.25:
                    slot.explored, slot.propensity = True, max(slot.effective_floor, 0.3)
            bad.made.append(made)
        found = verify_log(bad, min_rows=400)
        assert any("mean weight" in fault for fault in found.faults)


class TestReport:
    def outcomes(self, log: Log) -> dict[tuple[str, int], Outcome]:
        rng = random.Random(2)
        found = {}
        for made in log.made[:-5]:
            for position, _ in enumerate(made.slots, 1):
                clicked = rng.random() < 0.2
                found[made.request_id, position] = Outcome(float(clicked), clicked, False)
        return found

    def test_BAN_7_report_has_arms_pulls_reward_regret_and_the_state_of_the_log(self, thompson: Log) -> None:
        source = Log.__new__(Log)
        source.__dict__ |= thompson.__dict__
        source._outcomes = self.outcomes(thompson)
        made = exploration_report(source)
        (group,) = made.groups
        assert (group.surface, group.arm, group.n_decisions) == ("home", "thompson", N_REQUESTS)
        assert group.pulls == 8 * (N_REQUESTS - 5)
        assert group.reward.low < 8 * 0.2 < group.reward.high
        assert abs(group.regret.value) < 0.02, "rewards do not depend on the item here"
        assert group.cost.value > 0
        assert 0 < group.explored_share <= 0.3 + 0.03
        assert 0 < group.entropy < np.log(60)
        assert abs(group.weights.near_greed - 1) < 0.05
        (belief,) = made.beliefs
        assert (belief.n_shown, belief.age_s) == (400, 5.0)
        console = Console(width=250, record=True, file=io.StringIO())
        for table in report_tables(made):
            console.print(table)
        text = console.export_text()
        for word in ("Arms", "pulls", "regret", "entropy", "mean weight", "largest weight", "age", "5.0 s"):
            assert word in text

    def test_BAN_7_plots(self, thompson: Log, tmp_path: Path) -> None:
        made = exploration_report(thompson)
        for kind in ("png", "svg"):
            paths = draw_plots(made, tmp_path, kind)
            assert all(path.stat().st_size > 1_000 for path in paths)
        with pytest.raises(ConfigError, match="png or svg"):
            draw_plots(made, tmp_path, "gif")

    def test_regret_sees_a_policy_that_explores_what_is_bad(self, thompson: Log) -> None:
        source = Log.__new__(Log)
        source.__dict__ |= thompson.__dict__
        source._outcomes = {
            (made.request_id, position): Outcome(float(not slot.explored), not slot.explored, False)
            for made in thompson.made
            for position, slot in enumerate(made.slots, 1)
        }
        (group,) = exploration_report(source).groups
        assert group.regret.low > 0
        assert abs(group.regret.value - group.explored_share) < 0.01

    def test_arms(self, thompson: Log) -> None:
        source = Log.__new__(Log)
        source.__dict__ |= thompson.__dict__
        source._outcomes = self.outcomes(thompson)
        arms = arms_of(source)
        assert sum(arm.pulls for arm in arms) == 8 * N_REQUESTS
        assert arms[0].pulls == max(arm.pulls for arm in arms)
        assert arms[0].low <= arms[0].mean <= arms[0].high
        assert [arm.arm for arm in arms_of(source, by="policy")] == ["thompson(n_draws=128)"]
        assert len(arms_of(source, by="position")) == 8
        assert arm_table(arms[:3], "item").row_count == 3

    def test_an_empty_log_is_reported(self) -> None:
        source = Log(World(20))
        made = exploration_report(source)
        assert made.groups == []
        assert verify_log(source).lines()[-1] == "the log is sound"
        assert arms_of(source) == []


def test_json_of_a_report_is_plain(thompson: Log) -> None:
    import json

    def finite(value: Any) -> str:
        return json.dumps(value)

    assert "thompson" in finite(exploration_report(thompson).to_json())
    assert '"n_faults"' in finite(verify_log(thompson).to_json())


def test_a_log_of_any_length_is_read_in_bounded_memory(thompson: Log) -> None:
    whole, part = Thinned(10_000), Thinned(100)
    for made in thompson.made:
        whole.offer(made)
        part.offer(made)
    assert (len(whole.decisions), whole.share) == (N_REQUESTS, 1.0)
    assert 40 <= len(part.decisions) <= 100
    assert part.share in (0.25, 0.125)
    assert abs(len(part.decisions) / N_REQUESTS - part.share) < 0.07
    assert not any(made.candidates or made.slots[0].features for made in whole.decisions)
    made = exploration_report(thompson, most=100)
    assert (made.n_seen, made.share) == (N_REQUESTS, part.share)
    assert made.groups[0].n_decisions == len(part.decisions)
