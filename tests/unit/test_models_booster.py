"""Booster models: columns that serving neutralises, calibration, compiled equality, contributions."""

from __future__ import annotations

from pathlib import Path

import lightgbm
import numpy as np
import pytest

from ranker.models import Manifest, ManifestError, ModelCorruptError, load_model, write_model
from ranker.models.booster import BoosterModel
from ranker.models.calibration import Isotonic, Platt, calibration_of, sigmoid
from ranker.models.compiled import compile_boosters, compiler
from ranker.models.store import file_hash

NAMES = ("v:a", "v:b", "v:slot", "v:age")
HEADS = ("click", "dismiss")


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(3_000, 4))
    X[:, 2] = rng.integers(1, 11, 3_000)
    out = {}
    for at, name in enumerate((*HEADS, "light")):
        y = rng.random(3_000) < sigmoid(X[:, at % 2] - 0.3 * X[:, 2] + X[:, 3])
        parameters = {"objective": "binary", "num_leaves": 8, "num_threads": 1, "verbosity": -1, "seed": 1}
        out[f"{name}.txt"] = lightgbm.train(parameters, lightgbm.Dataset(X, y), 20).model_to_string().encode()
    return out


@pytest.fixture(scope="module")
def manifest(files: dict[str, bytes]) -> Manifest:
    return Manifest(
        kind="booster",
        heads=HEADS,
        feature_service="ranker_v1",
        feature_names=NAMES,
        slot_column="v:slot",
        neutral={"v:age": 0.0},
        schema_id="s1",
        calibration={"click": Platt(slope=0.9, offset=0.1).parameters()},
        files={name: file_hash(data) for name, data in files.items()},
    )


def rows(n: int = 500) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(5).normal(size=(n, 4)).astype(np.float32)


def test_slot_and_neutral_columns_are_written_by_the_model(
    tmp_path: Path, manifest: Manifest, files: dict[str, bytes]
) -> None:
    model = load_model(write_model(tmp_path, manifest, files))
    X, slot = rows(), np.full(500, 3, dtype=np.int32)
    other = X.copy()
    other[:, 2:] = 99.0
    before = X.copy()
    np.testing.assert_array_equal(model.predict(X, slot), model.predict(other, slot))
    np.testing.assert_array_equal(X, before)
    assert not np.array_equal(model.predict(X, slot), model.predict(X, np.full(500, 9, dtype=np.int32)))
    p = model.predict(X, slot)
    assert p.shape == (500, 2)
    assert ((p > 0) & (p < 1)).all()
    np.testing.assert_allclose(p[:, 0], sigmoid(0.9 * model.raw(X, slot)[:, 0] + 0.1))
    assert model.predict(X[:0], slot[:0]).shape == (0, 2)
    assert model.light(X).shape == (500,)


@pytest.mark.skipif(compiler() is None, reason="no C compiler on this machine: LightGBM serves, labelled")
def test_compiled_heads_are_bit_equal(tmp_path: Path, manifest: Manifest, files: dict[str, bytes]) -> None:
    path = write_model(tmp_path, manifest, files)
    slow = load_model(path)
    assert slow.engine == "lightgbm"
    assert compile_boosters(path, sorted(files))
    fast = load_model(path)
    assert fast.engine == "tl2cgen"
    X, slot = rows(), np.arange(500, dtype=np.int32) % 20 + 1
    np.testing.assert_array_equal(fast.predict(X, slot), slow.predict(X, slot))
    np.testing.assert_array_equal(fast.light(X), slow.light(X))
    np.testing.assert_array_equal(fast.clone().predict(X, slot), slow.predict(X, slot))


def test_RNK_11_contributions_sum_to_the_raw_score(tmp_path: Path, manifest: Manifest, files: dict[str, bytes]) -> None:
    model = load_model(write_model(tmp_path, manifest, files))
    X, slot = rows(50), np.full(50, 2, dtype=np.int32)
    for head in range(2):
        shap = model.contributions(X, slot, head)
        assert shap.shape == (50, 5)
        np.testing.assert_allclose(shap.sum(axis=1), model.raw(X, slot)[:, head], atol=1e-9)


def test_wrong_boosters_are_refused(tmp_path: Path, manifest: Manifest, files: dict[str, bytes]) -> None:
    with pytest.raises(ManifestError, match=r"needs a file light\.txt"):
        BoosterModel(manifest, {k: v for k, v in files.items() if k != "light.txt"}, tmp_path)
    with pytest.raises(ModelCorruptError, match="not a LightGBM model"):
        BoosterModel(manifest, {**files, "click.txt": b"tree\n"}, tmp_path)
    wider = manifest.model_copy(update={"feature_names": (*NAMES, "v:more")})
    with pytest.raises(ModelCorruptError, match="columns"):
        BoosterModel(wider, files, tmp_path)
    model = BoosterModel(manifest, files, tmp_path)
    with pytest.raises(ManifestError, match="shape"):
        model.predict(np.zeros((2, 3), dtype=np.float32), np.ones(2, dtype=np.int32))


@pytest.mark.parametrize(
    "calibration",
    [
        Platt(slope=0.5, offset=-1.0),
        Isotonic(raw=(-2.0, 0.0, 1.0), log_odds=(-3.0, -2.5, 1.0), slope=0.7),
    ],
)
def test_calibration_is_strictly_increasing_and_round_trips(calibration: Platt | Isotonic) -> None:
    raw = np.linspace(-8, 8, 2_001)
    p = calibration.apply(raw)
    assert (np.diff(p) > 0).all()
    np.testing.assert_array_equal(calibration_of(calibration.parameters()).apply(raw), p)


@pytest.mark.parametrize(
    "parameters",
    [
        {"kind": "platt", "slope": 0.0, "offset": 0.0},
        {"kind": "platt", "slope": float("nan"), "offset": 0.0},
        {"kind": "isotonic", "raw": [0.0, 0.0], "log_odds": [0.0, 1.0], "slope": 1.0},
        {"kind": "isotonic", "raw": [0.0], "slope": 1.0},
        {"kind": "beta"},
        {"slope": 1.0, "offset": 0.0},
    ],
)
def test_calibration_parameters_are_checked(parameters: dict[str, object]) -> None:
    with pytest.raises(ManifestError):
        calibration_of(parameters)
