"""Learned heads: one LightGBM booster a head, calibrated, compiled where a compiler is at hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ranker.models.calibration import calibration_of
from ranker.models.compiled import Library, library_path
from ranker.models.errors import ManifestError, ModelCorruptError
from ranker.models.manifest import Manifest

LIGHT = "light"


class _Scorer(Protocol):
    def raw(self, rows: NDArray[np.float64]) -> NDArray[np.float64]: ...


class _LightGbm:
    def __init__(self, booster: Any) -> None:
        self._booster = booster

    def raw(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(self._booster.predict(rows, raw_score=True, num_threads=1), dtype=np.float64).reshape(
            len(rows)
        )


class BoosterModel:
    """Heads of LightGBM boosters (`<head>.txt`) and a light one (`light.txt`) that thins many candidates.

    A head that had too few outcomes to learn is a constant: its log-odds lie in `parameters["constants"]`.

    One instance serves one thread at a time (compiled predictors hold buffers); `clone` gives another thread its own.

    Parameters
    ----------
    manifest : Manifest
        Of kind "booster".
    files : mapping of file name to bytes
        Booster files, already checked against the manifest's hashes.
    folder : Path
        The model's folder; compiled libraries lie in `compiled/` there. Missing ones mean LightGBM, told by `engine`.

    Raises
    ------
    ManifestError
        Another kind, or a head without a booster.
    ModelCorruptError
        A booster cannot be read or has other columns than the manifest.
    """

    def __init__(self, manifest: Manifest, files: Mapping[str, bytes], folder: Path) -> None:
        if manifest.kind != "booster":
            raise ManifestError(f"BoosterModel loads kind 'booster', got {manifest.kind!r}")
        self.manifest = manifest
        self.model_id = manifest.id
        self.heads = manifest.heads
        self.feature_names = manifest.feature_names
        self.space = manifest.space
        self.schema = manifest.schema_id
        self._files, self._folder = dict(files), folder
        self._calibration = [calibration_of(manifest.calibration.get(head)) for head in manifest.heads]
        self._slot = manifest.feature_names.index(manifest.slot_column) if manifest.slot_column else None
        self._neutral = [(manifest.feature_names.index(name), value) for name, value in manifest.neutral.items()]
        self._constants: dict[str, float] = _constants(manifest)
        learned = [head for head in manifest.heads if head not in self._constants]
        self._boosters = {name: self._read(f"{name}.txt") for name in (*learned, LIGHT)}
        libraries = {name: library_path(folder, f"{name}.txt") for name in self._boosters}
        compiled = all(path.exists() for path in libraries.values())
        self.engine = "tl2cgen" if compiled else "lightgbm"
        n_features = len(manifest.feature_names)
        self._scorers: dict[str, _Scorer] = {
            name: Library(libraries[name], n_features) if compiled else _LightGbm(booster)
            for name, booster in self._boosters.items()
        }

    def _read(self, name: str) -> Any:
        import lightgbm

        if name not in self._files:
            raise ManifestError(f"a booster model needs a file {name}, the manifest has {sorted(self._files)}")
        try:
            booster = lightgbm.Booster(model_str=self._files[name].decode())
        except (lightgbm.basic.LightGBMError, UnicodeDecodeError) as error:
            raise ModelCorruptError(f"{name} is not a LightGBM model: {error}; publish the model again") from error
        if booster.num_feature() != len(self.feature_names):
            raise ModelCorruptError(
                f"{name} reads {booster.num_feature()} columns, the manifest has {len(self.feature_names)}; train again"
            )
        return booster

    def _rows(self, X: NDArray[np.float32], slot: NDArray[np.int32] | int) -> NDArray[np.float64]:
        if X.ndim != 2 or X.shape[1] != len(self.feature_names):
            raise ManifestError(f"X must have shape (n, {len(self.feature_names)}), got {X.shape}")
        rows = np.array(X, dtype=np.float64, order="C")
        for column, value in self._neutral:
            rows[:, column] = value
        if self._slot is not None:
            rows[:, self._slot] = slot
        return rows

    def raw(self, X: NDArray[np.float32], slot: NDArray[np.int32]) -> NDArray[np.float64]:
        """Raw scores, shape (n, H)."""
        out = np.empty((len(X), len(self.heads)))
        if len(X):
            rows = self._rows(X, slot)
            for at, head in enumerate(self.heads):
                scorer = self._scorers.get(head)
                out[:, at] = self._constants[head] if scorer is None else scorer.raw(rows)
        return out

    def predict(self, X: NDArray[np.float32], slot: NDArray[np.int32]) -> NDArray[np.float64]:
        """Calibrated probabilities, shape (n, H)."""
        out = self.raw(X, slot)
        for at, calibration in enumerate(self._calibration):
            out[:, at] = calibration.apply(out[:, at])
        return out

    def light(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Cheap score at slot 1, higher is better, shape (n,); only its order means anything."""
        return self._scorers[LIGHT].raw(self._rows(X, 1)) if len(X) else np.empty(0)

    def contributions(self, X: NDArray[np.float32], slot: NDArray[np.int32], head: int = 0) -> NDArray[np.float64]:
        """TreeSHAP of a head's raw score, shape (n, F + 1), the bias last. About 10 ms for 20 rows."""
        rows = self._rows(X, slot)
        booster = self._boosters.get(self.heads[head])
        if booster is None:
            out = np.zeros((len(X), X.shape[1] + 1))
            out[:, -1] = self._constants[self.heads[head]]
            return out
        return np.asarray(booster.predict(rows, pred_contrib=True, num_threads=1), dtype=np.float64)

    def clone(self) -> BoosterModel:
        """The same model with predictors of its own."""
        return BoosterModel(self.manifest, self._files, self._folder)


def _constants(manifest: Manifest) -> dict[str, float]:
    constants = manifest.parameters.get("constants", {})
    if not isinstance(constants, dict) or not set(constants) <= set(manifest.heads):
        raise ManifestError(f"constants must be log-odds of heads {manifest.heads}, got {constants!r}")
    return {str(head): float(value) for head, value in constants.items()}
