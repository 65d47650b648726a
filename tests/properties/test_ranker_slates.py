"""Hard rules over many slates: alone and together, for every policy, with exact propensities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ranker_world import MemoryTable

from bandits import Partial, Posterior, Prior, Problem, draw_slate, parse, recompute
from bandits.slates import generator
from liverank.settings import Quota
from ranker.quotas import BoundQuota
from ranker.rules import ListRules, shortlist, slate_rules

N_CASES = 2_600  # times 7 rule sets: 18,200 slates
FREE = ListRules(creator_share=1.0, category_share=1.0, duplicate_cosine=2.0)


def quota(every: int, *, least: float = 0.0, most: float = 1.0) -> BoundQuota:
    """About every n-th row of a table."""
    rule = Quota(name=f"every {every}", field="category", values=("any",), least=least, most=most)
    return BoundQuota(quota=rule, members=lambda rows: rows % every == 0)


ALONE = {
    "creator": ListRules(creator_share=0.2, category_share=1.0, duplicate_cosine=2.0),
    "category": ListRules(creator_share=1.0, category_share=0.3, duplicate_cosine=2.0),
    "duplicates": ListRules(creator_share=1.0, category_share=1.0, duplicate_cosine=0.6),
    "together": ListRules(creator_share=0.2, category_share=0.3, duplicate_cosine=0.6),
    "ceiling": replace(FREE, quotas=(quota(2, most=0.3), quota(3, most=0.0))),
    "floor": replace(FREE, quotas=(quota(2, least=0.3),)),
    "all": ListRules(
        creator_share=0.2,
        category_share=0.6,
        duplicate_cosine=0.6,
        quotas=(quota(2, least=0.2, most=0.5), quota(3, least=0.1), quota(5, most=0.0)),
    ),
}


def violations(table: MemoryTable, rows: np.ndarray, k: int, rules: ListRules) -> list[str]:
    found = []
    if not table.available[rows].all():
        found.append("unavailable")
    if len(set(rows.tolist())) != len(rows):
        found.append("repeat")
    for name, codes, share in (
        ("creator", table.creator[rows], rules.creator_share),
        ("category", table.categories[rows, 0], rules.category_share),
    ):
        counts = np.bincount(codes)[1:]
        if len(counts) and counts.max(initial=0) > rules.cap(share, k):
            found.append(name)
    for bound in rules.quotas:
        if bound.over(rows, k).members.sum() > bound.over(rows, k).most:
            found.append(bound.quota.name)
    cosines = table.vectors[rows] @ table.vectors[rows].T
    np.fill_diagonal(cosines, 0)
    if rules.duplicate_cosine <= 1 and (cosines >= rules.duplicate_cosine).any():
        found.append("duplicates")
    return found


@pytest.mark.parametrize("name", sorted(ALONE))
def test_RNK_5_no_violation_over_ten_thousand_slates(name: str) -> None:
    rules = ALONE[name]
    rng = np.random.default_rng(sorted(ALONE).index(name))
    tables = [MemoryTable(120, n_categories=n, seed=seed) for seed, n in enumerate((2, 5, 9))]
    posterior = Posterior(Partial(4, 1), [1.0], Prior())
    policies = [parse(text) for text in ("thompson(n_draws=16)", "linucb", "epsilon_greedy", "greedy")]
    shorter = 0
    for case in range(N_CASES):
        table = tables[case % 3]
        table.available[:] = rng.random(120) > 0.2
        rows = rng.choice(120, size=int(rng.integers(1, 50)), replace=False).astype(np.int32)
        k = int(rng.integers(1, 21))
        problem = Problem(
            value=rng.normal(size=len(rows)),
            phi=rng.normal(size=(len(rows), 4)),
            posterior=posterior,
            k=k,
            feasible=slate_rules(table, rows, k, rules),
            floor=0.1,
            cap=1.0,
        )
        policy = policies[case % 4]
        slate = draw_slate(policy, problem, generator(case))
        order = np.array(slate.order, dtype=np.int64)
        assert not violations(table, rows[order], k, rules)
        if name == "floor":
            owed = rules.quotas[0].over(rows, k)
            there = int((owed.members & table.available[rows]).sum())
            assert int(owed.members[order].sum()) >= min(owed.least, there)
        # A slate is shorter than k only where nothing more is feasible.
        if len(order) < k:
            shorter += 1
            assert not slate_rules(table, rows, k, rules).mask(order.tolist()).any()
        # The logged propensities are those of the law, whatever the rules did.
        if case % 10 == 0:
            again = recompute(policy, problem, generator(case), order.tolist())
            assert again.propensity.tolist() == slate.propensity.tolist()
    assert shorter > 0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 20),
    size=st.integers(1, 60),
    name=st.sampled_from(sorted(ALONE)),
)
def test_shortlist_keeps_a_full_slate_feasible(seed: int, k: int, size: int, name: str) -> None:
    rules, rng = ALONE[name], np.random.default_rng(seed)
    table = MemoryTable(100, n_categories=4, seed=seed % 7)
    rows = rng.permutation(100).astype(np.int32)
    # The best by value are all of one kind.
    values = rng.normal(size=100) + 10 * (table.categories[rows, 0] == 1)
    order = np.argsort(-values, kind="stable")

    def greedy(places: np.ndarray) -> list[int]:
        feasible = slate_rules(table, rows[places].astype(np.int32), k, rules)
        prefix: list[int] = []
        while len(prefix) < k and feasible.mask(prefix).any():
            prefix.append(int(feasible.mask(prefix).argmax()))
        return [int(places[at]) for at in prefix]

    size = max(size, k)
    kept = shortlist(order, table, rows, k, size, rules)
    assert len(kept) == min(size, 100)
    assert len(set(kept.tolist())) == len(kept)
    assert (np.diff(values[kept]) <= 0).all()
    assert len(greedy(kept)) == len(greedy(order))
    for bound in rules.quotas:
        held = [int(bound.members(rows[np.array(greedy(of), dtype=np.int64)]).sum()) for of in (kept, order)]
        assert held[0] == held[1], "the floor holds among the shortlist as among all"


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), data=st.data())
def test_mask_is_a_function_of_the_prefix_alone(seed: int, data: st.DataObject) -> None:
    table = MemoryTable(40, n_categories=3, seed=seed % 5)
    rows = np.arange(40, dtype=np.int32)
    rules = slate_rules(table, rows, 10, ALONE["all"])
    prefixes = data.draw(st.lists(st.lists(st.integers(0, 39), unique=True, max_size=8), min_size=1, max_size=5))
    for prefix in [*prefixes, *reversed(prefixes)]:
        fresh = slate_rules(table, rows, 10, ALONE["all"]).mask(prefix)
        assert (rules.mask(prefix) == fresh).all()
        assert not fresh[prefix].any()
