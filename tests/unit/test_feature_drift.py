"""FEA-8: drift is told from chance; the feature that shifted is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from evaluation.features import differences
from features.drift import MIN_ROWS, drift, psi
from features.errors import DriftError
from features.program import Aggregate, FeatureProgram, ViewProgram
from liverank.cli import build

DAY = 86_400_000


def rows(seed: int, n: int = 1500, shift: float = 0.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "user_windows:clicks_1d": rng.poisson(0.4, n).astype(float),
        "crosses:cosine_1w": rng.normal(shift, 1.0, n),
        "crosses:price_ratio": np.where(rng.random(n) < 0.3, np.nan, rng.exponential(1.0, n)),
        "crosses:example_age_h": np.zeros(n),
    }


def test_FEA_8_chance_is_no_drift_and_a_shift_is() -> None:
    quiet = [each.psi for seed in range(40) for each in drift(rows(seed), rows(1000 + seed, n=400))]
    assert max(quiet) < 0.1
    found = drift(rows(1), rows(2, shift=0.6))
    assert found[0].feature == "crosses:cosine_1w"
    assert found[0].psi > 0.2
    assert all(each.psi < 0.05 for each in found[1:])
    assert found[0].after - found[0].before == pytest.approx(0.6, abs=0.15)


def test_psi_sees_missing_values_and_new_ones() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=2000)
    missing = np.where(rng.random(2000) < 0.2, np.nan, values)
    assert psi(values, missing) > 0.2
    assert psi(np.zeros(500), np.zeros(500)) == 0
    assert psi(np.zeros(500), np.concatenate([np.zeros(350), np.ones(150)])) > 0.2


def test_too_little_to_compare_is_said() -> None:
    with pytest.raises(DriftError, match=f"at least {MIN_ROWS} rows"):
        drift(rows(1, n=50), rows(2))
    with pytest.raises(DriftError, match="user_windows:nothing"):
        drift(rows(1), rows(2), ["user_windows:nothing"])


@pytest.mark.parametrize(("shift", "code"), [(0.0, 0), (0.7, 1)])
def test_FEA_8_the_command_exits_1_and_names_the_feature(tmp_path: Path, shift: float, code: int) -> None:
    paths = []
    for name, data in (("before", rows(5)), ("now", rows(6, shift=shift))):
        paths.append(tmp_path / f"{name}.parquet")
        pq.write_table(pa.table({**data, "item_id": ["i"] * 1500}), paths[-1])
    command = ["features", "drift", "--reference", str(paths[0]), "--current", str(paths[1])]
    done = CliRunner().invoke(build(), command)
    assert done.exit_code == code, done.output
    last = done.output.strip().splitlines()[-1]
    assert last == ("1 of 4 features shifted: crosses:cosine_1w" if code else "0 of 4 features shifted")


def test_a_difference_says_what_it_costs() -> None:
    def program(*aggregates: Aggregate, name: str = "v") -> FeatureProgram:
        return FeatureProgram(project="p", views=(ViewProgram(name=name, entity="user", aggregates=aggregates),))

    week = Aggregate(name="clicks_7d", column="click", function="sum", window_ms=7 * DAY, slide_ms=DAY)
    days = Aggregate(name="clicks_2d", column="click", function="sum", window_ms=2 * DAY, slide_ms=DAY)
    likes = Aggregate(name="likes_7d", column="like", function="sum", window_ms=7 * DAY, slide_ms=DAY)
    assert differences(program(week), program(week)) == []
    assert differences(program(week), program(week, days)) == [
        "~ v: the same tiles, served at once",
        "    + clicks_2d = sum(click) over 2 d by 1 d",
    ]
    assert differences(program(week), program(week, likes))[0] == (
        "~ v: other tiles: backfilled from the archive, the old ones are served until then"
    )
    assert differences(program(week), program(likes, name="w")) == [
        "- v: its features go, its state is freed",
        "+ w (user): likes_7d = sum(like) over 7 d by 1 d",
    ]
    assert differences(None, program(week))[0].startswith("+ v")
