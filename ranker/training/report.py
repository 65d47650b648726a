"""What a training run says about its model, on the newest block, which nothing was fitted to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ranker.columns import COLUMNS, INDEX, SLOT_COLUMN
from ranker.models import Model
from ranker.training.dataset import Dataset
from ranker.training.metrics import auc, ece, hit_rate, log_loss, permutation_worth

POPULARITY: Final = "crosses:log_popularity"
TRIED: Final = 12
"""Columns of the largest gain whose permutation worth is measured."""


def report(model: Model, test: Dataset, gains: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    """Figures per head: AUC against popularity's and the slot's, log loss against the base rate's, ECE, feature worth.

    Parameters
    ----------
    model : Model
        As it will be served.
    test : Dataset
        Newest block.
    gains : mapping of head to float64, shape (F,)
        LightGBM's gain per column.
    """
    slot = test.X[:, INDEX[SLOT_COLUMN]].astype(np.int32)
    p = model.predict(test.X, slot)
    out: dict[str, Any] = {"rows": len(test), "groups": len(test.group_sizes()), "engine": model.engine, "heads": {}}
    popularity = test.X[:, INDEX[POPULARITY]]
    for at, head in enumerate(model.heads):
        if head not in test.labels:
            continue
        y = test.labels[head]
        base = float(np.clip(y.mean(), 1e-6, 1 - 1e-6))
        figures: dict[str, Any] = {
            "positives": int(y.sum()),
            "rate": base,
            "mean_p": float(p[:, at].mean()),
            "auc": auc(y, p[:, at]),
            "auc_popularity": auc(y, popularity),
            "auc_slot": auc(y, -slot.astype(np.float64)),
            "log_loss": log_loss(y, p[:, at]),
            "log_loss_base": log_loss(y, np.full(len(y), base)),
            "ece": ece(y, p[:, at]),
        }
        if test.kind == "positives":
            figures["hit_10"] = hit_rate(y, p[:, at], test.group)
            figures["hit_10_popularity"] = hit_rate(y, popularity, test.group)
        if head in gains:
            figures["worth"] = _worth(model, test, slot, at, gains[head])
        out["heads"][head] = figures
    cleaned: dict[str, Any] = _finite(out)
    return cleaned


def _worth(
    model: Model, test: Dataset, slot: NDArray[np.int32], at: int, gain: NDArray[np.float64]
) -> list[dict[str, Any]]:
    share = gain / max(float(gain.sum()), 1e-12)
    top = [int(column) for column in np.argsort(-share, kind="stable")[:TRIED] if share[column] > 0]
    rows = min(len(test), 20_000)
    newest = slot[-rows:]

    def predict(X: NDArray[np.float32]) -> NDArray[np.float64]:
        return model.raw(X, newest)[:, at]

    slot_column = INDEX[SLOT_COLUMN]
    tried = [column for column in top if column != slot_column]  # `predict` writes the slot itself
    lost = permutation_worth(predict, test.X, test.labels[model.heads[at]], tried, max_rows=rows)
    return [
        {"feature": COLUMNS[column], "gain_share": float(share[column]), "auc_lost": lost.get(column)} for column in top
    ]


def _finite(value: Any) -> Any:
    """NaN is no JSON: None."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
