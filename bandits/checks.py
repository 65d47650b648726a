"""Laws that every registered policy must keep, as functions that raise AssertionError.

`CHECKS` is run against every case by the contract tests; `cases` refuses to leave a registered policy out. A new
policy is covered as soon as it is registered; one that needs its own kind of posterior brings a maker of problems.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import erfc, sqrt
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bandits.errors import BanditsError, InvalidStatisticsError
from bandits.feasible import GroupCaps
from bandits.partials import Partial, on_phi_grid
from bandits.policy import Policy, parse, registered, specification
from bandits.posterior import Posterior, Prior, RewardPosterior
from bandits.slates import Problem, draw_slate, fill_slate, generator, recompute, slot_pmf
from bandits.snapshot import Snapshot
from bandits.variants import OneOfEach

Floats: TypeAlias = NDArray[np.float64]
PosteriorMaker: TypeAlias = Callable[[], RewardPosterior]

N, DIM, SLOTS = 9, 4, 5
WEIGHTS = (1.0, -2.0)


@dataclass(frozen=True)
class Case:
    """A registered policy with its parameters at their defaults, and the posterior that it is checked with."""

    policy: Policy
    posterior: RewardPosterior

    def problem(self, seed: int, **changes: Any) -> Problem:
        """A seeded problem of 9 candidates and 5 slots under two group rules."""
        rng = np.random.default_rng(seed)
        groups = np.stack([rng.integers(0, 4, N), rng.integers(-1, 6, N)])
        settings: dict[str, Any] = {
            "value": rng.uniform(0.0, 0.3, N),
            "phi": on_phi_grid(rng.normal(size=(N, DIM)) * 0.5),
            "posterior": self.posterior,
            "k": SLOTS,
            "feasible": GroupCaps(rng.random(N) < 0.9, groups, [2, 3]),
            "floor": 0.1,
            "cap": 1.0,
        }
        n = len(changes.get("value", settings["value"]))
        settings["arms"] = np.arange(n) % 2
        settings["item_looks"], settings["kind_looks"] = np.arange(n) % 3.0, np.arange(n) % 2 * 4.0
        return Problem(**(settings | changes))


def learned_partial(seed: int = 5) -> Partial:
    """Statistics of 60 seeded slots."""
    rng = np.random.default_rng(seed)
    partial = Partial(DIM, len(WEIGHTS))
    partial.shown(rng.normal(size=(60, DIM)) * 0.5, rng.normal(size=(60, len(WEIGHTS))) * 0.3)
    return partial


def linear() -> RewardPosterior:
    """The default posterior to check policies with."""
    return Posterior(learned_partial(), WEIGHTS, Prior())


def cases(makers: Mapping[str, PosteriorMaker] | None = None) -> dict[str, Case]:
    """One case per registered policy.

    Parameters
    ----------
    makers : mapping of policy name to maker of a posterior, optional
        For policies that cannot act on the linear posterior.

    Raises
    ------
    AssertionError
        A maker for a policy that is not registered.
    """
    special = dict(makers or {})
    found = {name: Case(policy(), special.pop(name, linear)()) for name, policy in registered().items()}
    assert not special, f"makers for policies that are not registered: {sorted(special)}"
    return found


def check_parameters_round_trip(case: Case) -> None:
    """The specification that a decision logs makes the same policy again."""
    assert parse(specification(case.policy)) == case.policy
    assert parse(case.policy.name) == type(case.policy)()


def check_every_parameter_acts(case: Case) -> None:
    """A changed parameter changes the law of some problem."""
    for item in dataclasses.fields(case.policy):  # type: ignore[arg-type]
        value = getattr(case.policy, item.name)
        other = dataclasses.replace(case.policy, **{item.name: value * 2 if value else type(value)(1)})  # type: ignore[type-var]
        assert any(
            not np.array_equal(_first_pmf(case.policy, case.problem(seed)), _first_pmf(other, case.problem(seed)))
            for seed in range(20)
        ), f"{item.name} of {case.policy.name} has no effect"


def check_inputs_untouched(case: Case) -> None:
    """A draw changes none of its input."""
    problem = case.problem(1)
    value, phi, mean = problem.value.copy(), problem.phi.copy(), case.posterior.mean(problem.phi)
    draw_slate(case.policy, problem, generator(1))
    assert np.array_equal(value, problem.value)
    assert np.array_equal(phi, problem.phi)
    assert np.array_equal(mean, case.posterior.mean(problem.phi))


def check_same_seed_same_slate(case: Case) -> None:
    """The seed decides; recomputing the order from the seed gives the same bits."""
    for seed in range(20):
        problem = case.problem(seed, n_greedy_slots=seed % 3, cap=0.1 if seed % 2 else 1.0)
        first = draw_slate(case.policy, problem, generator(seed))
        again = draw_slate(case.policy, case.problem(seed, n_greedy_slots=seed % 3, cap=problem.cap), generator(seed))
        given = recompute(case.policy, problem, generator(seed), first.order)
        for other in (again, given):
            assert other.order == first.order
            for name in ("propensity", "pinned", "explored", "effective_floor", "floor_share", "n_feasible", "score"):
                assert np.array_equal(getattr(first, name), getattr(other, name)), name
    slates = {draw_slate(case.policy, case.problem(3), generator(seed)).order for seed in range(200)}
    assert len(slates) > 1, "the seed has no effect, although there is a floor"


def check_snapshot_mid_stream(case: Case) -> None:
    """A posterior read from a snapshot, with learning going on after it, draws what the original draws."""
    if not isinstance(case.posterior, Posterior):
        return
    partial = learned_partial()
    snapshot = Snapshot(base_model="m", schema="s", generation=1, prior=Prior(), partial=partial)
    restored = Snapshot.from_bytes(snapshot.to_bytes())
    assert restored.id == snapshot.id
    for statistics in (partial, restored.partial):
        statistics.shown(np.full(DIM, 0.25), np.full(len(WEIGHTS), -0.125))
    slates = [
        draw_slate(case.policy, case.problem(4, posterior=one.posterior(WEIGHTS)), generator(9))
        for one in (snapshot, restored)
    ]
    assert slates[0].order == slates[1].order
    assert np.array_equal(slates[0].propensity, slates[1].propensity)


def check_probabilities(case: Case) -> None:
    """Every slot's law sums to 1 over the feasible set, keeps floor and cap, and is what is logged; pinned slots have
    1.
    """
    for seed in range(30):
        cap = (1.0, 0.1, 0.3)[seed % 3]
        problem = case.problem(seed, cap=cap, n_greedy_slots=seed % 2)
        slate = draw_slate(case.policy, problem, generator(seed))
        law = case.policy.law(problem, slate.score, generator(seed))
        assert ((slate.propensity > 0) & (slate.propensity <= 1)).all()
        assert (slate.propensity[slate.pinned] == 1.0).all()
        assert slate.pinned.sum() == min(problem.n_greedy_slots, len(slate.order))
        for slot, chosen in enumerate(slate.order):
            feasible = _feasible(problem, slate.order[:slot])
            greedy = int(np.where(feasible, slate.score, -np.inf).argmax())
            assert slate.n_feasible[slot] == feasible.sum()
            assert bool(slate.explored[slot]) == (chosen != greedy)
            if slate.pinned[slot]:
                assert chosen == greedy
                continue
            pmf = slot_pmf(law, slate.score, feasible, floor=problem.floor, cap=cap)
            assert abs(pmf.sum() - 1.0) < 1e-12
            assert (pmf[~feasible] == 0.0).all()
            assert pmf[feasible].min() >= slate.effective_floor[slot] * (1 - 1e-9)
            assert slate.effective_floor[slot] >= slate.floor_share[slot] / slate.n_feasible[slot] * (1 - 1e-9) > 0
            assert 1.0 - pmf[greedy] <= cap + 1e-12
            assert abs(pmf[chosen] - slate.propensity[slot]) < 1e-12


def check_observed_frequency(case: Case, n_slates: int = 20_000, n_laws: int = 20, alpha: float = 1e-3) -> None:
    """Counts per candidate and slot stand with the sum of the laws: 200,000 drawn slots over two caps, Bonferroni
    over all cells, fixed seeds.
    """
    per_law = n_slates // n_laws
    for cap in (1.0, 0.1):
        z_scores = frequency_z_scores(case, n_laws, per_law, cap)
        limit = z_limit(alpha / z_scores.size)
        worst = float(np.abs(z_scores).max())
        assert worst < limit, (
            f"a count lies {worst:.1f} standard errors off its logged probabilities, {limit:.1f} allowed"
        )


def frequency_z_scores(case: Case, n_laws: int, per_law: int, cap: float) -> Floats:
    """(count - sum of logged pmf) / sd per cell (slot, candidate) with at least 10 expected; 5 * n_laws * per_law
    slots are drawn.
    """
    counts, expected, variance = (np.zeros((SLOTS, N)) for _ in range(3))
    for seed in range(n_laws):
        problem = case.problem(seed % 7, cap=cap)
        rng = generator(1_000 + seed)
        score = problem.value + problem.posterior.mean(problem.phi)
        law = case.policy.law(problem, score, rng)
        visits: dict[tuple[int, ...], int] = defaultdict(int)
        for uniforms in rng.random((per_law, SLOTS)).tolist():
            order = fill_slate(problem, score, law, uniforms).order
            for slot, chosen in enumerate(order):
                counts[slot, chosen] += 1
                visits[order[:slot]] += 1
        for prefix, times in visits.items():
            pmf = slot_pmf(law, score, _feasible(problem, prefix), floor=problem.floor, cap=cap)
            expected[len(prefix)] += times * pmf
            variance[len(prefix)] += times * pmf * (1.0 - pmf)
    cells = (expected >= 10.0) & (variance >= 10.0)
    z_scores: Floats = (counts[cells] - expected[cells]) / np.sqrt(variance[cells])
    return z_scores


def check_relabelling(case: Case) -> None:
    """Renaming candidates renames the answers."""
    problem = case.problem(2, feasible=None)
    order = np.random.default_rng(0).permutation(N)
    assert problem.arms is not None
    assert problem.item_looks is not None
    assert problem.kind_looks is not None
    renamed = case.problem(
        2,
        feasible=None,
        value=problem.value[order],
        phi=problem.phi[order],
        arms=problem.arms[order],
        item_looks=problem.item_looks[order],
        kind_looks=problem.kind_looks[order],
    )
    before, after = _first_pmf(case.policy, problem), _first_pmf(case.policy, renamed)
    assert np.abs(before[order] - after).max() < 1e-6


def check_none_one_new_removed(case: Case) -> None:
    """No candidate, nothing feasible, one candidate, more slots than candidates, one candidate more, one less."""
    problem = case.problem(6, feasible=None)
    nothing = GroupCaps(np.zeros(N, dtype=np.bool_), np.zeros((0, N), dtype=np.int64), [])
    assert draw_slate(case.policy, case.problem(6, feasible=nothing), generator(0)).order == ()
    one = case.problem(6, feasible=None, value=problem.value[:1], phi=problem.phi[:1])
    slate = draw_slate(case.policy, one, generator(0))
    assert slate.order == (0,)
    assert abs(slate.propensity[0] - 1.0) < 1e-12
    for n in (2, N - 1, N):
        fewer = case.problem(6, feasible=None, k=N + 3, value=problem.value[:n], phi=problem.phi[:n])
        slate = draw_slate(case.policy, fewer, generator(1))
        assert sorted(slate.order) == list(range(n))
        assert abs(slate.propensity[-1] - 1.0) < 1e-12


def check_bad_input_is_refused(case: Case) -> None:
    """NaN, infinities and wrong shapes raise; the next draw is as before."""
    problem = case.problem(8)
    before = draw_slate(case.policy, problem, generator(3))
    poisoned = problem.phi.copy()
    poisoned[2, 1] = np.nan
    wrong: list[dict[str, Any]] = [
        {"phi": poisoned},
        {"value": np.where(np.arange(N) == 3, np.inf, problem.value)},
        {"value": problem.value[:-1]},
        {"phi": problem.phi[:, :-1]},
        {"arms": np.zeros(N + 1, dtype=np.int64)},
        {"floor": 1.5},
        {"cap": -0.1},
    ]
    for changes in wrong:
        try:
            draw_slate(case.policy, case.problem(8, **changes), generator(3))
        except (InvalidStatisticsError, BanditsError):
            continue
        raise AssertionError(f"{sorted(changes)} was not refused")
    after = draw_slate(case.policy, problem, generator(3))
    assert after.order == before.order
    assert np.array_equal(after.propensity, before.propensity)


def check_variants(case: Case) -> None:
    """One variant of each placed item: slot by slot one of its own, the law over its variants sums to 1, keeps the
    floor and is what is logged, and recomputing gives the same bits.
    """
    items = np.array([0, 0, 0, 1, 1, 2, 3, 3, 3])
    for seed in range(20):
        problem = case.problem(seed, k=4, feasible=OneOfEach(items))
        slate = draw_slate(case.policy, problem, generator(seed))
        law = case.policy.law(problem, slate.score, generator(seed))
        assert items[list(slate.order)].tolist() == [0, 1, 2, 3]
        for slot, chosen in enumerate(slate.order):
            own = items == slot
            pmf = slot_pmf(law, slate.score, own, floor=problem.floor, cap=problem.cap)
            assert abs(pmf.sum() - 1.0) < 1e-12
            assert (pmf[~own] == 0.0).all()
            assert pmf[own].min() >= problem.floor / own.sum() * (1 - 1e-9)
            assert abs(pmf[chosen] - slate.propensity[slot]) < 1e-12
        again = recompute(case.policy, case.problem(seed, k=4, feasible=OneOfEach(items)), generator(seed), slate.order)
        assert np.array_equal(again.propensity, slate.propensity)


def check_better_than_uniform(case: Case) -> None:
    """Of what greed gains over uniform in a first slot, by the posterior's own belief, a policy earns a half or more;
    the uniform policy earns nothing of it, within a twentieth.
    """
    earned, possible = 0.0, 0.0
    for seed in range(100):
        problem = case.problem(seed)
        score, feasible = problem.value + problem.posterior.mean(problem.phi), _feasible(problem, ())
        uniform = score[feasible].mean()
        earned += float(_first_pmf(case.policy, problem) @ score) - uniform
        possible += score[feasible].max() - uniform
    share = earned / possible
    assert abs(share) < 0.05 if case.policy.name == "uniform" else share >= 0.5, f"a share of {share:.2f}"


CHECKS: tuple[Callable[[Case], None], ...] = (
    check_parameters_round_trip,
    check_every_parameter_acts,
    check_inputs_untouched,
    check_same_seed_same_slate,
    check_snapshot_mid_stream,
    check_probabilities,
    check_observed_frequency,
    check_relabelling,
    check_none_one_new_removed,
    check_variants,
    check_better_than_uniform,
    check_bad_input_is_refused,
)


def _first_pmf(policy: Policy, problem: Problem) -> Floats:
    score = problem.value + problem.posterior.mean(problem.phi)
    law = policy.law(problem, score, generator(11))
    return slot_pmf(law, score, _feasible(problem, ()), floor=problem.floor, cap=problem.cap)


def _feasible(problem: Problem, prefix: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.ones(problem.n, dtype=np.bool_) if problem.feasible is None else problem.feasible.mask(prefix).copy()
    mask[list(prefix)] = False
    return mask


def z_limit(alpha: float) -> float:
    """z with P(|Z| > z) = alpha for a normal Z, by bisection of erfc."""
    low, high = 0.0, 40.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if erfc(middle / sqrt(2)) > alpha else (low, middle)
    return high
