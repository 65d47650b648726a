"""From a dataset to a model: split, train, calibrate, bind everything in one manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranker.columns import COLUMNS, FEATURE_SERVICE, NEUTRAL, SLOT_COLUMN
from ranker.models import Manifest
from ranker.models.store import file_hash
from ranker.phi import SCHEMA
from ranker.training.dataset import Dataset
from ranker.training.heads import BoosterParameters, Trained, train_heads, train_ranking

HEADS = ("click", "dismiss")


@dataclass(frozen=True, kw_only=True)
class Package:
    """A model ready to be written: manifest, files, and the block that judges it."""

    manifest: Manifest
    files: Mapping[str, bytes]
    test: Dataset
    gains: Mapping[str, NDArray[np.float64]]
    trees: Mapping[str, int]


def build(
    dataset: Dataset,
    *,
    weights: Mapping[str, float],
    space: str,
    prompt: str = "",
    heads: tuple[str, ...] = HEADS,
    parameters: BoosterParameters | None = None,
    created_from: Mapping[str, str] | None = None,
) -> Package:
    """Train on a dataset. The same dataset gives the same bytes and so the same model id.

    Parameters
    ----------
    dataset : Dataset
        Of either kind.
    weights : mapping of head to float
        Of the value.
    space : str
        Vector space of the item vectors that the features were made with; empty = none.
    prompt : str
        Version of the prompt behind the space; empty = none.

    Raises
    ------
    TooLittleDataError
        See `ranker.training.heads`.
    """
    if parameters is None:
        parameters = BoosterParameters() if dataset.kind == "exposures" else BoosterParameters.for_ranking()
    blocks = dataset.blocks()
    if dataset.kind == "exposures":
        trained = train_heads(blocks, heads, weights, parameters)
    else:
        trained = train_ranking(blocks, heads, parameters)
    manifest = Manifest(
        kind="booster",
        heads=heads,
        feature_service=FEATURE_SERVICE,
        feature_names=COLUMNS,
        slot_column=SLOT_COLUMN,
        neutral=dict(NEUTRAL),
        space=space,
        prompt=prompt,
        schema_id=SCHEMA,
        calibration={head: found.parameters() for head, found in trained.calibration.items()},
        parameters={
            "dataset": dataset.kind,
            "booster": parameters.described(),
            "trees": dict(trained.trees),
            "constants": dict(trained.constants),
            "weights": {head: weights.get(head, 0.0) for head in heads},
        },
        files={name: file_hash(data) for name, data in trained.files.items()},
        created_from={"rows": str(len(dataset)), "data": dataset.digest(), **(created_from or {})},
    )
    return Package(
        manifest=manifest, files=trained.files, test=blocks["test"], gains=_gains(trained, heads), trees=trained.trees
    )


def _gains(trained: Trained, heads: tuple[str, ...]) -> dict[str, NDArray[np.float64]]:
    import lightgbm

    def gain(data: bytes) -> Any:
        return lightgbm.Booster(model_str=data.decode()).feature_importance("gain")

    return {
        head: np.asarray(gain(trained.files[f"{head}.txt"]), dtype=np.float64)
        for head in heads
        if f"{head}.txt" in trained.files
    }
