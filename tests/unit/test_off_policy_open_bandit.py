"""Open Bandit data: the figures of the small sample, and the direction that cannot be evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.open_bandit import random_to_thompson, thompson_to_random
from evaluation.off_policy import DR, IPS, SNIPS, NoSupportError, SwitchDR, evaluate

FOLDER = "obd-men-women"


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "ips", "snips", "dr", "effective", "max_weight"),
    [("men", 0.551, 0.555, 0.558, 4120, 5.0), ("women", 0.592, 0.594, 0.595, 3946, 6.5)],
)
def test_EVA_3_open_bandit_random_to_thompson(
    data: Path, name: str, ips: float, snips: float, dr: float, effective: float, max_weight: float
) -> None:
    log, on_policy = random_to_thompson(data / FOLDER, name)
    found = {one.estimator: one for one in evaluate(log, [IPS(), SNIPS(), DR(), SwitchDR(tau=5.0)])}
    assert 100 * found["ips"].value == pytest.approx(ips, abs=0.0006)
    assert 100 * found["snips"].value == pytest.approx(snips, abs=0.0006)
    assert 100 * found["dr"].value == pytest.approx(dr, abs=0.01)  # another reward model
    assert found["ips"].diagnostics.effective == pytest.approx(effective, abs=1)
    assert found["ips"].diagnostics.max_weight == pytest.approx(max_weight, abs=0.05)
    for estimator in ("ips", "dr"):
        assert found[estimator].low <= on_policy <= found[estimator].high


@pytest.mark.data
def test_EVA_3_open_bandit_reverse_direction_of_women_is_refused(data: Path) -> None:
    log = thompson_to_random(data / FOLDER, "women")
    with pytest.raises(NoSupportError, match=r"effective sample size 2\.1 of 10000"):
        evaluate(log, [IPS(), SNIPS()])
    ips, snips = evaluate(log, [IPS(), SNIPS()], refuse=False)
    assert 100 * ips.value == pytest.approx(0.744, abs=0.001)
    assert 100 * snips.value == pytest.approx(0.237, abs=0.001)
    assert ips.diagnostics.mean_weight == pytest.approx(3.13, abs=0.01)


@pytest.mark.data
def test_EVA_3_open_bandit_reverse_direction_of_men_is_weak_but_usable(data: Path) -> None:
    log = thompson_to_random(data / FOLDER, "men")
    ips, snips = evaluate(log, [IPS(), SNIPS()])
    assert 100 * ips.value == pytest.approx(0.301, abs=0.001)
    assert 100 * snips.value == pytest.approx(0.319, abs=0.001)
    assert ips.diagnostics.effective == pytest.approx(656, abs=1)
