"""Fitting of calibrations on a block that the booster has not seen."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ranker.models.calibration import Calibration, Isotonic, Platt, logit, sigmoid

ISOTONIC_ABOVE: Final = 1_000
"""Positives from which isotonic regression replaces Platt's two parameters."""
_MIN_BLOCK: Final = 50
_MIN_SLOPE: Final = 1e-3


def fit(raw: NDArray[np.float64], y: NDArray[np.floating]) -> Calibration:
    """Calibration of raw scores; rounded to 10 digits, so that it is the same on every machine.

    Parameters
    ----------
    raw : float64, shape (n,)
        Log-odds before calibration.
    y : shape (n,)
        0 or 1.
    """
    platt = fit_platt(raw, y)
    if min(float((y > 0).sum()), float((y <= 0).sum())) < ISOTONIC_ABOVE:
        return platt
    return fit_isotonic(raw, y, platt.slope) or platt


def fit_platt(raw: NDArray[np.float64], y: NDArray[np.floating], n_steps: int = 100) -> Platt:
    """Maximum likelihood with Platt's smoothed targets, by damped Newton steps.

    References
    ----------
    Platt (1999), section 2.2 (targets); Lin, Lin and Weng (2007), A note on Platt's probabilistic outputs, algorithm 1.
    """
    n_pos, n_neg = float((y > 0).sum()), float((y <= 0).sum())
    target = np.where(y > 0, (n_pos + 1) / (n_pos + 2), 1 / (n_neg + 2))
    slope, offset = 1.0, 0.0

    def loss(a: float, b: float) -> float:
        z = a * raw + b
        return float(np.mean(np.logaddexp(0, z) - target * z))

    now = loss(slope, offset)
    for _ in range(n_steps):
        p = sigmoid(slope * raw + offset)
        error, weight = p - target, np.maximum(p * (1 - p), 1e-12)
        gradient = np.array([np.mean(error * raw), np.mean(error)])
        hessian = np.array(
            [
                [np.mean(weight * raw * raw) + 1e-9, np.mean(weight * raw)],
                [np.mean(weight * raw), np.mean(weight) + 1e-9],
            ]
        )
        step = np.linalg.solve(hessian, gradient)
        scale = 1.0
        while scale > 1e-8 and loss(slope - scale * step[0], offset - scale * step[1]) > now:
            scale /= 2
        slope, offset = slope - scale * step[0], offset - scale * step[1]
        before, now = now, loss(slope, offset)
        if before - now < 1e-12:
            break
    if slope < _MIN_SLOPE:  # no signal: keep the order, say the base rate
        base = float(logit(np.asarray((n_pos + 1) / (n_pos + n_neg + 2))))
        return Platt(slope=_MIN_SLOPE, offset=round(base - _MIN_SLOPE * float(raw.mean()), 10))
    return Platt(slope=round(float(slope), 10), offset=round(float(offset), 10))


def fit_isotonic(raw: NDArray[np.float64], y: NDArray[np.floating], slope: float) -> Isotonic | None:
    """Centered isotonic regression over blocks of at least 50 rows; None where fewer than 2 blocks remain."""
    order = np.argsort(raw, kind="stable")
    n_parts = max(2, min(200, len(raw) // _MIN_BLOCK))
    parts = np.array_split(order, n_parts)
    x = np.array([raw[part].mean() for part in parts])
    rate = np.array([(y[part] > 0).sum() for part in parts], dtype=np.float64)
    size = np.array([len(part) for part in parts], dtype=np.float64)
    centres, hits, sizes = _pool(x, rate, size)
    n_pos, n = float((y > 0).sum()), float(len(y))
    p = (hits + n_pos / n) / (sizes + 1.0)  # one pseudo-row at the base rate keeps log-odds finite
    log_odds = np.round(logit(p), 10)
    centres = np.round(centres, 10)
    keep = np.r_[True, (np.diff(centres) > 1e-9) & (np.diff(log_odds) > 1e-9)]
    while not keep.all():
        centres, log_odds = centres[keep], log_odds[keep]
        keep = np.r_[True, (np.diff(centres) > 1e-9) & (np.diff(log_odds) > 1e-9)]
    if len(centres) < 2:
        return None
    return Isotonic(raw=tuple(centres.tolist()), log_odds=tuple(log_odds.tolist()), slope=slope)


def _pool(
    x: NDArray[np.float64], hits: NDArray[np.float64], size: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Pool adjacent violators: blocks of rising rate, their weighted centres."""
    blocks: list[list[float]] = []  # sum of x * size, hits, size
    for at in range(len(x)):
        blocks.append([x[at] * size[at], hits[at], size[at]])
        while len(blocks) > 1 and blocks[-2][1] * blocks[-1][2] >= blocks[-1][1] * blocks[-2][2]:
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    table = np.array(blocks)
    return table[:, 0] / table[:, 2], table[:, 1], table[:, 2]
