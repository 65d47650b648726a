"""The proof's lines, as pure functions: each is true when it should be and false when it should not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evaluation.proof import Line, Reading, Report, lines
from evaluation.proof.table import measured, table


def reading(shift: float = 0.0, *, share: float = 0.4, noise_seed: int = 1, model: str = "m") -> Reading:
    noise = np.random.default_rng(noise_seed).normal(0.0, 0.01, 64)
    return Reading(
        features=np.array([1.0 + shift, 2.0]),
        net=3.0 + shift,
        vectors=np.full((3, 4), 0.5 + shift),
        leaning=np.array([0.2, 0.3, 0.4]) + shift,
        posterior_mean=0.1 + shift,
        shares=share + noise,
        slates=(("a", "b"),) * 64,
        parts={"posterior": 0.1 + shift, "features": 0.2 + shift, "vectors": 0.3 + shift, "model": 0.4},
        model=model,
    )


def share(before: Reading, after: Reading, sign: int) -> Line:
    return lines.share("d", before.shares[None], after.shares[None], sign, 1.0)


def test_control_is_true_only_for_equal_readings() -> None:
    assert lines.control(reading(), reading()).holds
    for other in (
        reading(1e-12),
        reading(noise_seed=2),
        reading(model="n"),
        replace(reading(), slates=(("b", "a"),) * 64),
        replace(reading(), features=np.zeros(3)),
    ):
        assert not lines.control(reading(), other).holds


@pytest.mark.parametrize("make", [lines.features, lines.vectors, lines.posterior])
def test_a_b_c_need_the_direction_and_the_time(make: type) -> None:
    assert make("x", reading(), reading(-0.1), -1, 0.2, 1.0).holds
    assert make("x", reading(), reading(+0.1), +1, 0.2, 1.0).holds
    assert not make("x", reading(), reading(+0.1), -1, 0.2, 1.0).holds
    assert not make("x", reading(), reading(), -1, 0.2, 1.0).holds
    assert not make("x", reading(), reading(-0.1), -1, 1.2, 1.0).holds
    assert not make("x", reading(), reading(-0.1), -1, None, 1.0).holds


def test_all_three_vectors_must_move() -> None:
    after = replace(reading(-0.1), leaning=np.array([0.1, 0.2, 0.4]))
    assert not lines.vectors("b", reading(), after, -1, 0.1, 1.0).holds


def test_d_needs_three_standard_errors_and_keeps_thirty_per_cent() -> None:
    before = reading(share=0.4)
    assert share(before, reading(share=0.3, noise_seed=2), -1).holds
    assert not share(before, reading(share=0.4, noise_seed=2), -1).holds
    assert not share(before, reading(share=0.1, noise_seed=2), -1).holds
    assert share(before, reading(share=0.5, noise_seed=2), +1).holds
    assert not share(before, before, -1).holds
    assert lines.several("d5", before, reading(share=0.02), 5).holds
    assert not lines.several("d5", before, reading(share=0.1), 5).holds


def test_d_is_about_all_users_together() -> None:
    still, up = reading(share=0.2).shares, reading(share=0.3, noise_seed=2).shares
    several = lines.share("d", np.array([still] * 4), np.array([still, up, up, up]), +1, 1.0)
    assert several.holds
    assert several.figures["users"] == 4
    assert several.figures["after"] == pytest.approx(0.275, abs=0.01)
    assert not lines.share("d", np.array([still, up, up, up]), np.array([up, still, still, still]), +1, 1.0).holds


def test_e_and_f() -> None:
    assert lines.model("e", reading(), reading(0.1)).holds
    assert not lines.model("e", reading(), reading(model="n")).holds
    assert not lines.model("e", reading(model=""), reading(model="")).holds
    assert lines.parts("f", reading(), reading(-0.1), -1).holds
    one_still = replace(reading(-0.1), parts={**reading(-0.1).parts, "vectors": 0.3})
    assert not lines.parts("f", reading(), one_still, -1).holds
    model_moved = replace(reading(-0.1), parts={**reading(-0.1).parts, "model": 0.41})
    assert not lines.parts("f", reading(), model_moved, -1).holds


def test_a_report_is_a_table_and_json() -> None:
    report = Report(lines=(Line(name="a", claim="c", holds=True, figures={"x": 1.0}, delay_s=0.01),))
    assert report.holds
    assert report.to_json()["proof"] is True
    assert table(report).row_count == 1
    assert measured(report.lines[0]) == "x 1"
    assert not Report(lines=(Line(name="a", claim="c", holds=False),)).holds
