"""Any problem, any rules: slates stay lawful; any split of the same slots gives the same sums."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bandits import (
    Boltzmann,
    EpsilonGreedy,
    GroupCaps,
    LinUCB,
    Partial,
    Posterior,
    Prior,
    Problem,
    Thompson,
    draw_slate,
    generator,
    recompute,
    total,
)

POLICIES = [Thompson(n_draws=8), LinUCB(), EpsilonGreedy(), Boltzmann()]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    n, dim = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    partial = Partial(dim, 1)
    partial.shown(rng.normal(size=(5, dim)), rng.normal(size=(5, 1)) * 0.3)
    rules = None
    if draw(st.booleans()):
        n_rules = draw(st.integers(0, 3))
        rules = GroupCaps(
            rng.random(n) < 0.8, rng.integers(-1, 3, (n_rules, n)), [draw(st.integers(1, 3)) for _ in range(n_rules)]
        )
    value = np.round(rng.uniform(0, 0.3, n), draw(st.integers(1, 6)))  # few decimals: ties
    return Problem(
        value=value,
        phi=np.round(rng.normal(size=(n, dim)), draw(st.integers(0, 4))),
        posterior=Posterior(partial, [1.0], Prior()),
        k=draw(st.integers(0, 14)),
        feasible=rules,
        floor=draw(st.sampled_from([0.0, 0.02, 0.5, 1.0])),
        cap=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        n_greedy_slots=draw(st.integers(0, 3)),
    )


@settings(max_examples=300, deadline=None)
@given(problem=problems(), policy=st.sampled_from(POLICIES), seed=st.integers(0, 2**64 - 1))
def test_slates_are_lawful(problem: Problem, policy: Thompson, seed: int) -> None:
    slate = draw_slate(policy, problem, generator(seed))
    assert len(set(slate.order)) == len(slate.order) <= min(problem.k, problem.n)
    placed: list[int] = []
    for slot, chosen in enumerate(slate.order):
        mask = np.ones(problem.n, dtype=bool) if problem.feasible is None else problem.feasible.mask(placed).copy()
        mask[placed] = False
        assert mask[chosen]
        best = slate.score[mask].max()
        assert bool(slate.explored[slot]) or slate.score[chosen] == best
        if slate.explored[slot] and not slate.pinned[slot]:
            assert slate.propensity[slot] <= problem.cap + 1e-12
        placed.append(chosen)
    if len(slate.order) < problem.k and problem.feasible is not None:
        rest = problem.feasible.mask(placed).copy()
        rest[placed] = False
        assert not rest.any()
    assert ((slate.propensity > 0) & (slate.propensity <= 1)).all()
    assert (slate.propensity[slate.pinned] == 1.0).all()
    assert (slate.propensity[~slate.pinned] >= slate.effective_floor[~slate.pinned] * (1 - 1e-9)).all()
    again = recompute(policy, problem, generator(seed), slate.order)
    assert np.array_equal(again.propensity, slate.propensity)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), n_parts=st.integers(1, 6), order=st.randoms(use_true_random=False))
def test_sums_do_not_depend_on_split_or_order(seed: int, n_parts: int, order: object) -> None:
    rng = np.random.default_rng(seed)
    phi, residuals = rng.normal(size=(40, 3)), rng.normal(size=(40, 2))
    steps = [("shown", row) for row in range(40)] + [("outcome", int(row)) for row in rng.integers(0, 40, 25)]
    order.shuffle(steps)  # type: ignore[attr-defined]
    parts = [Partial(3, 2) for _ in range(n_parts)]
    whole = Partial(3, 2)
    for kind, row in steps:
        for target in (whole, parts[row % n_parts]):
            if kind == "shown":
                target.shown(phi[row], residuals[row])
            else:
                target.outcome(phi[row], row % 2, 1.0)
    assert total(parts) == whole
    assert Partial.from_bytes(whole.to_bytes()) == whole
