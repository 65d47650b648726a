"""Several estimators over one log, with intervals and diagnostics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.off_policy.diagnostics import Diagnostics, diagnose
from evaluation.off_policy.errors import NoSupportError
from evaluation.off_policy.estimator import Estimator
from evaluation.off_policy.intervals import Method, interval
from evaluation.off_policy.logs import Log, SlateLog


@dataclass(frozen=True)
class Estimate:
    """One estimator's answer.

    Attributes
    ----------
    estimator : str
        Its name.
    value, low, high : float
        Estimate and interval, in units of reward per decision.
    level : float
        Confidence level.
    method : str
        How the interval was made.
    diagnostics : Diagnostics
        What the weights say.
    """

    estimator: str
    value: float
    low: float
    high: float
    level: float
    method: Method
    diagnostics: Diagnostics


def evaluate(
    log: Log | SlateLog,
    estimators: Sequence[Estimator[Any]],
    *,
    method: Method = "bootstrap",
    level: float = 0.95,
    seed: int = 0,
    refuse: bool = True,
    n_bootstrap: int = 2_000,
) -> list[Estimate]:
    """Evaluate a policy on another's log.

    Parameters
    ----------
    log : Log or SlateLog
        The log, with the target policy's probabilities.
    estimators : sequence of Estimator
        For that kind of log.
    method : {"bootstrap", "normal", "bernstein"}
        Interval.
    level : float, default 0.95
        Confidence level.
    seed : int
        Of the bootstrap.
    refuse : bool, default True
        Raise where the weights show that the log cannot carry the answer; False = return it, with
        `diagnostics.faults` for the reader.
    n_bootstrap : int, default 2000
        Bootstrap samples.

    Raises
    ------
    NoSupportError
        Too few effective rows, target probability without support, or a mean weight off 1, with the figures.
    InvalidLogError
        The log lacks what an estimator needs.
    """
    unsupported = log.unsupported if isinstance(log, Log) else None
    estimates = []
    for estimator in estimators:
        terms = estimator.terms(log)
        diagnostics = diagnose(terms.weight, log.n, unsupported)
        if refuse and diagnostics.faults:
            raise NoSupportError(
                f"{estimator.name}: {'; '.join(diagnostics.faults)}. Log with a larger floor, evaluate a policy "
                "nearer to the logger, or pass refuse=False to see the figures all the same"
            )
        low, high = interval(terms, method, level, np.random.default_rng(seed), n_bootstrap)
        estimates.append(Estimate(estimator.name, terms.value, low, high, level, method, diagnostics))
    return estimates
