"""Metrics against fixtures computed by hand; intervals against what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evaluation.intervals import bootstrap, paired
from evaluation.metrics import average_precision_at, coverage, gini, ndcg_at, recall_at, reciprocal_rank_at
from liverank.errors import ContractError

LIST = ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("relevant", "k", "ndcg", "recall", "rr", "ap"),
    [
        # b at rank 2: dcg = 1/log2(3)
        ({"b"}, 3, 1 / math.log2(3), 1.0, 0.5, 0.5),
        ({"d"}, 3, 0.0, 0.0, 0.0, 0.0),
        # a and c of {a, c, z}: dcg = 1 + 1/2; ideal = 1 + 1/log2(3) + 1/2; ap = (1/1 + 2/3) / 3
        ({"a", "c", "z"}, 5, 1.5 / (1.5 + 1 / math.log2(3)), 2 / 3, 1.0, (1 + 2 / 3) / 3),
        # more relevant than k: ap is divided by k
        ({"a", "b", "x", "y"}, 2, 1.0, 0.5, 1.0, 1.0),
        # graded: gains 1 and 3 at ranks 1 and 2, ideal 3 then 1
        ({"a": 1.0, "b": 3.0}, 2, (1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3)), 1.0, 1.0, 1.0),
    ],
)
def test_EVA_1_metrics_equal_hand_computed_fixtures(
    relevant: set[str] | dict[str, float], k: int, ndcg: float, recall: float, rr: float, ap: float
) -> None:
    assert ndcg_at(LIST, relevant, k) == pytest.approx(ndcg)
    assert recall_at(LIST, relevant, k) == pytest.approx(recall)
    assert reciprocal_rank_at(LIST, relevant, k) == pytest.approx(rr)
    assert average_precision_at(LIST, relevant, k) == pytest.approx(ap)


def test_EVA_1_coverage_and_gini_equal_fixtures() -> None:
    assert coverage([["a", "b"], ["b", "c"]], 6) == 0.5
    assert gini([1, 2, 3, 4]) == pytest.approx(0.25)
    assert gini([0, 0, 10]) == pytest.approx(2 / 3)
    for counts in ([], [0, 0], [-1, 2], [math.nan, 1]):
        with pytest.raises(ContractError):
            gini(counts)
    with pytest.raises(ContractError):
        coverage([], 0)


def test_what_is_not_defined_is_refused() -> None:
    for broken in (
        lambda: ndcg_at(LIST, set(), 3),
        lambda: recall_at(LIST, {"a"}, 0),
        lambda: ndcg_at(["a", "a"], {"a"}, 2),
    ):
        with pytest.raises(ContractError):
            broken()
    with pytest.raises(ContractError):
        bootstrap([])
    with pytest.raises(ContractError):
        bootstrap([1.0, math.nan])
    with pytest.raises(ContractError):
        paired([1.0], [1.0, 2.0])
    with pytest.raises(ContractError):
        bootstrap([1.0, 2.0], clusters=["a"])


def test_a_bootstrap_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = sum(
        i.low <= 0.3 <= i.high for i in (bootstrap(rng.random(80) < 0.3, n_draws=400, seed=n) for n in range(200))
    )
    assert 178 <= hits <= 200


def test_clusters_widen_the_interval() -> None:
    rng = np.random.default_rng(2)
    users = np.repeat(np.arange(40), 25)
    values = rng.normal(size=40)[users] + rng.normal(scale=0.1, size=1000)
    alone, together = bootstrap(values), bootstrap(values, clusters=users.tolist())
    assert together.high - together.low > 3 * (alone.high - alone.low)
    assert together == bootstrap(values, clusters=users.tolist())


def test_the_verdict_is_plain() -> None:
    rng = np.random.default_rng(3)
    better = rng.normal(1.0, 0.1, 100)
    zero = np.zeros(100)
    assert paired(better, zero).verdict == "ahead of"
    assert paired(zero, better).verdict == "behind"
    assert paired(rng.normal(size=100), zero).verdict == "not distinguishable from"
    assert str(paired([1.0, 1.0], [0.0, 0.0])) == "+1.0000 [+1.0000, +1.0000]"
