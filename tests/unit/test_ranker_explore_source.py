"""The source `explore`: a Thompson draw over everybody's click rates proposes new and uncertain items."""

from __future__ import annotations

import numpy as np
import pytest
from ranker_world import NOW_MS, MemoryTable, MemoryUser, World

from bandits.beta import informed_means
from liverank.settings import RankerSettings
from liverank.v1 import decision_pb2
from liverank.v1 import personalization_pb2 as pb
from ranker.affinity import affinities
from ranker.retrieval import Explore, Query
from ranker.retrieval.explore import MAX_ARMS, Arms


class Counted(MemoryTable):
    """Items of one kind with the counts that a test gives."""

    def __init__(self, shown: np.ndarray, clicked: np.ndarray) -> None:
        super().__init__(len(shown), n_categories=1)
        self.counts = np.stack([shown, clicked], axis=1).astype(np.float64)

    def examined(self, as_of_ms: int) -> np.ndarray:
        return self.counts


def query_of(table: MemoryTable, seed: int, allowed: np.ndarray | None = None) -> Query:
    user = MemoryUser()
    return Query(
        user=user,
        affinity=affinities(user, table, NOW_MS),
        table=table,
        as_of_ms=NOW_MS,
        allowed=table.available.copy() if allowed is None else allowed,
        seed=seed,
    )


def old_and_new(n_old: int = 900, n_new: int = 100) -> Counted:
    """Old items with 500 shown slots each at 5 %, then new ones that nobody saw."""
    rng = np.random.default_rng(4)
    shown = np.concatenate([np.full(n_old, 500.0), np.zeros(n_new)])
    return Counted(shown, np.concatenate([rng.binomial(500, 0.05, n_old).astype(float), np.zeros(n_new)]))


def test_BAN_1_arms_with_few_counts_are_proposed_until_they_are_known() -> None:
    table, source = old_and_new(), Explore(keep_s=0.0)
    found = [source.propose(query_of(table, seed), 40) for seed in range(50)]
    assert all(len(one) == 40 for one in found)
    new = np.mean([(one.rows >= 900).mean() for one in found])
    assert new > 0.5  # a tenth of the catalogue
    table.counts[900:] = (500.0, 10.0)  # seen often, and worse than the others
    rest = np.mean([(source.propose(query_of(table, seed), 40).rows >= 900).mean() for seed in range(50)])
    assert rest < 0.01


def test_BAN_1_the_draw_is_a_function_of_seed_and_counts() -> None:
    table, source = old_and_new(), Explore(keep_s=0.0)
    first, again = (source.propose(query_of(table, 7), 40) for _ in range(2))
    other = source.propose(query_of(table, 8), 40)
    assert first.rows.tolist() == again.rows.tolist()
    assert first.scores.tolist() == again.scores.tolist()
    assert first.rows.tolist() != other.rows.tolist()
    assert (np.diff(first.scores) <= 0).all()


def test_BAN_1_how_often_an_arm_comes_first_is_the_probability_that_its_rate_is_highest() -> None:
    shown = np.concatenate([[0.0, 20.0, 200.0], np.full(197, 2_000.0)])
    table = Counted(shown, np.concatenate([[0.0, 2.0, 20.0], np.full(197, 60.0)]))
    arms = Arms(table, NOW_MS)
    rng = np.random.default_rng(3)
    posterior = arms.posterior
    truth = np.bincount(rng.beta(posterior.alpha, posterior.beta, (20_000, 200)).argmax(axis=1), minlength=200) / 20_000
    source, first = Explore(), np.zeros(200)
    for seed in range(4_000):
        first[source.propose(query_of(table, seed), 5).rows[0]] += 1 / 4_000
    sd = np.sqrt(truth[:3] * (1 - truth[:3]) * (1 / 4_000 + 1 / 20_000))
    assert (np.abs(first[:3] - truth[:3]) < 4 * sd).all()


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_a_filter_leaves_allowed_arms_only_and_as_many_as_there_are(share: float) -> None:
    table = old_and_new()
    allowed = np.random.default_rng(1).random(1000) < share
    found = Explore(keep_s=0.0).propose(query_of(table, 3, allowed), 40)
    assert allowed[found.rows].all()
    assert len(found) == min(40, int(allowed.sum()))
    assert len(set(found.rows.tolist())) == len(found)


def test_of_a_large_catalogue_those_arms_are_drawn_that_may_be_best() -> None:
    n = 25_000
    shown = np.full(n, 1_000.0)
    shown[:500] = 0.0
    table = Counted(shown, 0.02 * shown)
    arms = Arms(table, NOW_MS)
    assert len(arms.rows) == MAX_ARMS
    assert set(range(500)) <= set(arms.rows.tolist())
    table.available[:100] = False
    assert not set(range(100)) & set(Arms(table, NOW_MS).rows.tolist())


def test_an_empty_catalogue_and_clicks_without_slots_are_no_fault() -> None:
    nothing = Counted(np.zeros(3), np.zeros(3))
    nothing.available[:] = False
    assert len(Explore(keep_s=0.0).propose(query_of(nothing, 1), 10)) == 0
    imported = Counted(np.zeros(50), np.full(50, 1e6))  # clicks that no exposure caused
    assert Arms(imported, NOW_MS).posterior.mean(np.zeros((50, 0))).max() < 0.1


def test_BAN_13_an_arm_starts_at_the_rate_of_its_kind() -> None:
    groups = np.repeat([0, 1, 2], 100)
    shown = np.where(groups == 2, 0.0, 200.0)
    clicked = np.where(groups == 0, 2.0, np.where(groups == 1, 40.0, 0.0))
    means = informed_means(shown, clicked, groups)
    assert means[0] == pytest.approx(0.01, rel=0.1)
    assert means[100] == pytest.approx(0.2, rel=0.02)
    assert means[200] == pytest.approx(0.105, rel=0.02)  # nothing is known of it: as all together
    assert informed_means(np.zeros(2), np.zeros(2), np.array([0, 1])).tolist() == pytest.approx([0.05, 0.05])


def decide(world: World) -> tuple[pb.RankReply, decision_pb2.Decision]:
    request = pb.RankRequest(user_id="u1", surface="home", k=10, debug=True)
    reply = pb.RankReply.FromString(world.pipeline.rank(request))
    return reply, decision_pb2.Decision.FromString(world.producer.of("decisions")[-1][1])


def test_BAN_1_what_the_source_draws_reaches_the_shortlist_and_may_be_shown() -> None:
    world = World(300, ranker=RankerSettings(greedy_until_shown=0))
    world.table._popularity[280:] = 0.0  # nobody saw these
    shortlisted = shown = 0
    for _ in range(40):
        reply, made = decide(world)
        proposed = [slot for slot in made.slots if "explore" in slot.sources]
        assert all(0 < slot.propensity <= 1 for slot in proposed)
        shortlisted += any(int(one.item_id[1:]) >= 280 for one in made.candidates)
        shown += any("explore" in item.sources for item in reply.items)
        assert reply.debug.counts["explore"] > 0
    assert shortlisted == 40
    assert shown > 0


@pytest.mark.parametrize("off", [{"explore_candidates": 0}, {"excluded_surfaces": ("home",)}])
def test_BAN_10_without_exploration_the_source_proposes_nothing(off: dict[str, object]) -> None:
    world = World(300, ranker=RankerSettings(**off))  # type: ignore[arg-type]
    reply, _ = decide(world)
    assert reply.debug.counts.get("explore", 0) == 0
    assert not any("explore" in item.sources for item in reply.items)


def test_without_consent_nothing_is_drawn_not_even_candidates() -> None:
    world = World(300)
    request = pb.RankRequest(user_id="u1", surface="home", k=10, debug=True, consent=pb.CONSENT_DENIED)
    reply = pb.RankReply.FromString(world.pipeline.rank(request))
    assert len(reply.items) == 10
    assert reply.debug.counts.get("explore", 0) == 0
