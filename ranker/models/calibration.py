"""From raw scores to probabilities: increasing everywhere, so that calibration never reorders candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranker.models.errors import ManifestError

Floats = NDArray[np.float64]
_LIMIT = 30.0  # log-odds beyond this are 0 or 1 in float64


def sigmoid(z: Floats) -> Floats:
    """Probability of log-odds, inside (0, 1) for any finite z."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(z, -_LIMIT, _LIMIT))))


def logit(p: Floats) -> Floats:
    """Log-odds of probabilities in (0, 1)."""
    return np.asarray(np.log(p) - np.log1p(-p))


@dataclass(frozen=True, kw_only=True)
class Platt:
    """p = sigmoid(slope * raw + offset), slope > 0: for few positives.

    References
    ----------
    Platt (1999), Probabilistic outputs for support vector machines, section 2.
    """

    slope: float
    offset: float

    def __post_init__(self) -> None:
        if not (np.isfinite([self.slope, self.offset]).all() and self.slope > 0):
            raise ManifestError(
                f"Platt calibration needs slope > 0 and finite numbers, got {self.slope}, {self.offset}"
            )

    def apply(self, raw: Floats) -> Floats:
        """Probabilities, same shape as `raw`."""
        return sigmoid(self.slope * raw + self.offset)

    def parameters(self) -> dict[str, Any]:
        """For the manifest; `calibration_of` reads it back."""
        return {"kind": "platt", "slope": self.slope, "offset": self.offset}


@dataclass(frozen=True, kw_only=True)
class Isotonic:
    """Piecewise linear in log-odds between knots, Platt's slope outside them: for many positives.

    Plain isotonic regression is flat inside a block, which would tie the best candidates; joining the centres of the
    blocks keeps the order.

    Parameters
    ----------
    raw : tuple of float, strictly increasing
        Centres of the blocks.
    log_odds : tuple of float, strictly increasing
        Log-odds there.
    slope : float, > 0
        Outside the knots.

    References
    ----------
    Oron and Flournoy (2017), Centered isotonic regression, section 2; deviation: interpolation in log-odds.
    """

    raw: tuple[float, ...]
    log_odds: tuple[float, ...]
    slope: float

    def __post_init__(self) -> None:
        x, y = np.asarray(self.raw), np.asarray(self.log_odds)
        if len(x) != len(y) or len(x) < 2 or (np.diff(x) <= 0).any() or (np.diff(y) <= 0).any() or not self.slope > 0:
            raise ManifestError("isotonic calibration needs at least 2 strictly increasing knots and slope > 0")

    def apply(self, raw: Floats) -> Floats:
        """Probabilities, same shape as `raw`."""
        x, y = np.asarray(self.raw), np.asarray(self.log_odds)
        z = np.interp(raw, x, y)
        z += self.slope * (np.minimum(raw - x[0], 0.0) + np.maximum(raw - x[-1], 0.0))
        return sigmoid(z)

    def parameters(self) -> dict[str, Any]:
        """For the manifest; `calibration_of` reads it back."""
        return {"kind": "isotonic", "raw": list(self.raw), "log_odds": list(self.log_odds), "slope": self.slope}


Calibration = Platt | Isotonic
IDENTITY = Platt(slope=1.0, offset=0.0)


def calibration_of(parameters: Mapping[str, Any] | None) -> Calibration:
    """The calibration that a manifest describes; None = raw scores are log-odds already.

    Raises
    ------
    ManifestError
        Unknown kind or parameters out of range.
    """
    if parameters is None:
        return IDENTITY
    body = dict(parameters)
    kind = body.pop("kind", None)
    try:
        if kind == "platt":
            return Platt(**body)
        if kind == "isotonic":
            return Isotonic(raw=tuple(body["raw"]), log_odds=tuple(body["log_odds"]), slope=body["slope"])
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"calibration of kind {kind!r} lacks or has wrong parameters: {error}") from error
    raise ManifestError(f"calibration kinds are 'platt' and 'isotonic', got {kind!r}")
