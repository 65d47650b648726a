"""The base model: one smoothed rate per head and slot. What a namespace serves before anything was learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ranker.models.errors import ManifestError
from ranker.models.manifest import Manifest

MAX_SLOT = 200
HEADS = ("click", "dismiss")
# Day-one guesses: rate at slot 1 and the power with which attention falls with the slot.
PRIOR_RATE: Mapping[str, float] = {"click": 0.15, "dismiss": 0.02}
PRIOR_DECAY = 0.35
PRIOR_WEIGHT = 200.0


class RateModel:
    """P(outcome | shown at slot) from a table, the same for every item and user.

    Guarantees calibrated day-one probabilities of the right magnitude, so that the bandit's residuals start near zero;
    it ranks nothing. Stateless, safe from any thread.

    Parameters
    ----------
    manifest : Manifest
        Of kind "rate"; `parameters["rates"][head]` lists the rates of slots 1 to 200.

    Raises
    ------
    ManifestError
        Another kind, or a table that is not 200 rates in (0, 1) per head.
    """

    engine = "table"

    def __init__(self, manifest: Manifest) -> None:
        if manifest.kind != "rate":
            raise ManifestError(f"RateModel loads kind 'rate', got {manifest.kind!r}")
        rates = manifest.parameters.get("rates", {})
        try:
            table = np.array([rates[head] for head in manifest.heads], dtype=np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise ManifestError(f"rates must hold {MAX_SLOT} numbers for each of {manifest.heads}: {error}") from error
        if table.shape != (len(manifest.heads), MAX_SLOT) or not ((table > 0) & (table < 1)).all():
            raise ManifestError(f"rates must be {MAX_SLOT} numbers in (0, 1) per head, got shape {table.shape}")
        self.manifest = manifest
        self.model_id = manifest.id
        self.heads = manifest.heads
        self.feature_names = manifest.feature_names
        self.space = manifest.space
        self.schema = manifest.schema_id
        self._rates = np.ascontiguousarray(table.T)
        self._raw = np.log(self._rates) - np.log1p(-self._rates)

    def predict(self, X: NDArray[np.float32], slot: NDArray[np.int32]) -> NDArray[np.float64]:
        """Rates of the slots, shape (n, H); X is not read."""
        return self._rates[np.clip(slot, 1, MAX_SLOT) - 1]

    def raw(self, X: NDArray[np.float32], slot: NDArray[np.int32]) -> NDArray[np.float64]:
        """Log-odds of the rates, shape (n, H)."""
        return self._raw[np.clip(slot, 1, MAX_SLOT) - 1]

    def light(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Zeros: a rate model prefers nothing."""
        return np.zeros(len(X))

    def contributions(self, X: NDArray[np.float32], slot: NDArray[np.int32], head: int = 0) -> NDArray[np.float64]:
        """No feature adds anything: zeros and, last, the log-odds of the slot; shape (n, F + 1)."""
        out = np.zeros((X.shape[0], X.shape[1] + 1))
        out[:, -1] = self.raw(X, slot)[:, head]
        return out

    def clone(self) -> RateModel:
        """Itself: it holds no buffer."""
        return self


def smoothed_rates(
    shown: Sequence[float] | None = None,
    outcomes: Mapping[str, Sequence[float]] | None = None,
    heads: Sequence[str] = HEADS,
) -> dict[str, list[float]]:
    """Rates by slot, shrunk to a prior curve with the weight of 200 shown slots; without data the prior itself.

    Parameters
    ----------
    shown : sequence of float, at most 200
        How often a slot was shown, slot 1 first.
    outcomes : mapping of head to sequence of float
        How often it had that outcome.

    Returns
    -------
    dict of head to 200 rates, each in [1e-4, 0.9999]
    """
    n = _padded(shown or ())
    rates = {}
    for head in heads:
        prior = PRIOR_RATE.get(head, 0.05) * np.arange(1, MAX_SLOT + 1) ** -PRIOR_DECAY
        hits = _padded((outcomes or {}).get(head, ()))
        if n.sum() > 0:  # the level comes from all slots, the curve only from its own
            prior *= (hits.sum() + PRIOR_WEIGHT * PRIOR_RATE.get(head, 0.05)) / (
                (n * prior).sum() + PRIOR_WEIGHT * prior[0]
            )
            prior = np.clip(prior, 1e-4, 0.9)
        rate = (hits + PRIOR_WEIGHT * prior) / (n + PRIOR_WEIGHT)
        rates[head] = [round(float(r), 10) for r in np.clip(rate, 1e-4, 0.9999)]
    return rates


def _padded(values: Sequence[float]) -> NDArray[np.float64]:
    out = np.zeros(MAX_SLOT)
    head = np.asarray(values, dtype=np.float64)[:MAX_SLOT]
    out[: len(head)] = head
    return out


def rate_manifest(
    *,
    feature_service: str,
    schema: str,
    feature_names: tuple[str, ...] = (),
    slot_column: str = "",
    neutral: Mapping[str, float] | None = None,
    rates: Mapping[str, Sequence[float]] | None = None,
    created_from: Mapping[str, str] | None = None,
) -> Manifest:
    """The manifest of a rate model; without `rates` the day-one prior."""
    table = dict(rates) if rates is not None else smoothed_rates()
    return Manifest(
        kind="rate",
        heads=tuple(table),
        feature_service=feature_service,
        feature_names=feature_names,
        slot_column=slot_column,
        neutral=dict(neutral or {}),
        schema_id=schema,
        parameters={"rates": {head: list(values) for head, values in table.items()}},
        created_from=dict(created_from or {"data": "none: day-one prior"}),
    )
