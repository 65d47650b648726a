"""Cross-fitted reward models for DM, DR and their kin."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from evaluation.off_policy.errors import InvalidLogError

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Predictor: TypeAlias = Callable[[Ints], Floats]
"""Rows of the log -> predicted reward of every action, shape (len(rows), n_actions)."""
Fit: TypeAlias = Callable[[Ints], Predictor]
"""Training rows of the log -> a predictor."""


def cross_fit(fit: Fit, action: Ints, target: Floats, rng: Generator, n_folds: int = 3) -> tuple[Floats, Floats]:
    """Predict every row by a model that has not seen it.

    Parameters
    ----------
    fit : callable
        Fits on rows, returns a predictor.
    action : ndarray of int64, shape (n,)
        Placed action of each row.
    target : ndarray of float64, shape (n, n_actions)
        Law of the policy to be evaluated.
    rng : Generator
        Deals rows into folds.
    n_folds : int, default 3
        At least 2.

    Returns
    -------
    predicted, expected : ndarray of float64, shape (n,)
        For `Log`.

    Raises
    ------
    InvalidLogError
        Fewer folds than 2 or more than rows, or a predictor of a wrong shape.
    """
    n = action.shape[0]
    if not 2 <= n_folds <= n:
        raise InvalidLogError(f"2 to {n} folds wanted, got {n_folds}")
    fold = rng.permutation(n) % n_folds
    predicted, expected = np.empty(n), np.empty(n)
    for held_out in range(n_folds):
        rows = np.flatnonzero(fold == held_out)
        table = fit(np.flatnonzero(fold != held_out))(rows)
        if table.shape != (rows.shape[0], target.shape[1]):
            raise InvalidLogError(f"predictions of shape {(rows.shape[0], target.shape[1])} wanted, got {table.shape}")
        predicted[rows] = table[np.arange(rows.shape[0]), action[rows]]
        expected[rows] = (table * target[rows]).sum(axis=1)
    return predicted, expected


def shrunk_rates(action: Ints, reward: Floats, n_actions: int, strength: float = 100.0) -> Fit:
    """The plainest reward model: each action's mean reward, shrunk toward the overall mean.

    Parameters
    ----------
    action, reward : ndarray, shape (n,)
        The log's columns.
    n_actions : int
        Number of actions.
    strength : float, default 100.0
        Rows that the overall mean is worth.
    """

    def fit(rows: Ints) -> Predictor:
        overall = reward[rows].mean()
        shown = np.bincount(action[rows], minlength=n_actions)
        earned = np.bincount(action[rows], weights=reward[rows], minlength=n_actions)
        rates: Floats = (earned + strength * overall) / (shown + strength)

        def predict(wanted: Ints) -> Floats:
            return np.broadcast_to(rates, (wanted.shape[0], n_actions))

        return predict

    return fit
