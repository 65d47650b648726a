"""Manifests, the rate model and the model store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ranker.models import (
    Manifest,
    ManifestError,
    MismatchError,
    ModelCorruptError,
    ModelMissingError,
    RateModel,
    Serving,
    load_model,
    rate_manifest,
    smoothed_rates,
    write_model,
)
from ranker.models.store import MANIFEST_FILE, file_hash

SERVING = Serving(feature_service="ranker_v1", columns=("a:x", "a:slot"), schema="s1", space="local.64", prompt="p1")


def manifest(**changes: object) -> Manifest:
    base: dict[str, object] = {
        "kind": "rate",
        "heads": ("click", "dismiss"),
        "feature_service": "ranker_v1",
        "feature_names": ("a:x", "a:slot"),
        "slot_column": "a:slot",
        "space": "local.64",
        "prompt": "p1",
        "schema_id": "s1",
        "parameters": {"rates": smoothed_rates()},
    }
    return Manifest.model_validate({**base, **changes})


def test_id_is_a_function_of_content_and_survives_the_file() -> None:
    one, two = manifest(), manifest()
    assert one.id == two.id
    assert len(one.id) == 64
    assert Manifest.from_json(one.to_json()) == one
    assert manifest(space="local.128").id != one.id
    assert manifest(files={"click.txt": file_hash(b"x")}).id != one.id


def test_an_edited_manifest_is_corrupt() -> None:
    body = json.loads(manifest().to_json())
    body["space"] = "another"
    with pytest.raises(ModelCorruptError, match="edited"):
        Manifest.from_json(json.dumps(body))
    with pytest.raises(ModelCorruptError, match="not JSON"):
        Manifest.from_json(b"\xff{")
    with pytest.raises(ManifestError, match="breaks its rules"):
        Manifest.from_json('{"id": "x", "kind": "oracle"}')


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"feature_service": "ranker_v2"}, "feature service"),
        ({"columns": ("a:slot", "a:x")}, "column 0"),
        ({"columns": ("a:x",)}, "missing"),
        ({"columns": ("a:x", "a:slot", "a:new")}, "new"),
        ({"schema": "s2"}, "bandit schema"),
        ({"space": "local.128"}, "vector space"),
        ({"prompt": "p2"}, "prompt"),
    ],
)
def test_TRN_5_a_mismatched_combination_is_refused(change: dict[str, object], named: str) -> None:
    values = {name: getattr(SERVING, name) for name in ("feature_service", "columns", "schema", "space", "prompt")}
    manifest().check(SERVING)
    with pytest.raises(MismatchError, match=named):
        manifest().check(Serving(**{**values, **change}))  # type: ignore[arg-type]


def test_TRN_5_all_differences_are_named_at_once() -> None:
    with pytest.raises(MismatchError) as caught:
        manifest().check(Serving(feature_service="v9", columns=(), schema="s9", space="z", prompt="p9"))
    for word in ("feature service", "columns", "bandit schema", "vector space", "prompt", "Train or activate"):
        assert word in str(caught.value)


def test_a_model_that_reads_no_vectors_fits_any_space() -> None:
    free = rate_manifest(feature_service="ranker_v1", schema="s1")
    for space in ("", "local.64", "other"):
        free.check(Serving(feature_service="ranker_v1", columns=("any",), schema="s1", space=space))


def test_names_must_be_consistent() -> None:
    with pytest.raises(ValueError, match="must name features"):
        manifest(slot_column="a:nowhere")
    with pytest.raises(ValueError, match="repeat"):
        manifest(heads=("click", "click"))
    with pytest.raises(ValueError, match="heads of the model"):
        manifest(calibration={"like": {"kind": "platt"}})


def test_rate_model_predicts_by_slot_and_explains_itself(tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path, rate_manifest(feature_service="ranker_v1", schema="s1"), {}))
    assert isinstance(model, RateModel)
    X = np.zeros((4, 7), dtype=np.float32)
    slot = np.array([1, 2, 50, 5_000], dtype=np.int32)
    p = model.predict(X, slot)
    assert p.shape == (4, 2)
    assert (np.diff(p, axis=0) < 0).all()
    shap = model.contributions(X, slot, head=1)
    assert shap.shape == (4, 8)
    np.testing.assert_allclose(shap.sum(axis=1), model.raw(X, slot)[:, 1])
    np.testing.assert_allclose(1 / (1 + np.exp(-model.raw(X, slot))), p)
    assert (model.light(X) == 0).all()


def test_rates_follow_the_data_where_there_is_some() -> None:
    rates = smoothed_rates([100_000, 100_000], {"click": [30_000, 10_000], "dismiss": [0, 0]})
    assert rates["click"][0] == pytest.approx(0.30, abs=0.002)
    assert rates["click"][1] == pytest.approx(0.10, abs=0.002)
    assert rates["click"][1] > rates["click"][150] > 0
    assert 0 < rates["dismiss"][0] < 0.001


def test_a_wrong_rate_table_is_refused() -> None:
    with pytest.raises(ManifestError, match="200"):
        RateModel(manifest(parameters={"rates": {"click": [0.1], "dismiss": [0.1]}}))
    with pytest.raises(ManifestError, match="200"):
        RateModel(manifest(parameters={}))


def test_models_are_written_whole_once_and_checked(tmp_path: Path) -> None:
    files = {"click.txt": b"tree"}
    made = manifest(files={"click.txt": file_hash(b"tree")})
    path = write_model(tmp_path, made, files)
    assert path == write_model(tmp_path, made, files)
    assert [p.name for p in tmp_path.iterdir()] == [made.id]
    with pytest.raises(ManifestError, match="not those"):
        write_model(tmp_path, made, {"click.txt": b"other"})
    (path / "click.txt").write_bytes(b"trea")
    with pytest.raises(ModelCorruptError, match="was changed"):
        load_model(path)
    (path / "click.txt").unlink()
    with pytest.raises(ModelCorruptError, match="no file"):
        load_model(path)
    with pytest.raises(ModelMissingError, match="liverank train"):
        load_model(tmp_path / "nothing")
    assert (path / MANIFEST_FILE).exists()
