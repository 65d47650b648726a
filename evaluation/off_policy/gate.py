"""The conservative gate: roll out only what is surely no worse than the baseline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluation.off_policy.diagnostics import diagnose
from evaluation.off_policy.doubly_robust import DR
from evaluation.off_policy.errors import InvalidLogError
from evaluation.off_policy.estimator import Estimator
from evaluation.off_policy.intervals import Method, interval
from evaluation.off_policy.logs import Log


@dataclass(frozen=True)
class Verdict:
    """What the gate says.

    Attributes
    ----------
    passed : bool
        The policy may go out.
    value, low : float
        Estimate and lower bound of the policy.
    baseline : float
        What it must reach: (1 - slack) times the log's own mean reward.
    reasons : tuple of str
        Why not; empty where passed.
    """

    passed: bool
    value: float
    low: float
    baseline: float
    reasons: tuple[str, ...]


def gate(
    log: Log,
    *,
    estimator: Estimator[Log] | None = None,
    slack: float = 0.0,
    level: float = 0.95,
    method: Method = "bootstrap",
    seed: int = 0,
) -> Verdict:
    """Whether a policy's lower bound lies above (1 - slack) times what the logging policy earned.

    Parameters
    ----------
    log : Log
        The logging policy's rows with the new policy's probabilities.
    estimator : Estimator, optional
        Doubly robust where omitted, which needs a reward model in the log.
    slack : float, default 0.0
        Share of the baseline's reward that may be risked, in [0, 1).
    level : float, default 0.95
        One-sided confidence of the lower bound.
    method, seed
        Of the interval.

    References
    ----------
    Thomas, Theocharous and Ghavamzadeh, "High-Confidence Off-Policy Evaluation", AAAI 2015; Jagerman, Markov and de
    Rijke, "Safe Exploration for Optimizing Contextual Bandits", TOIS 2020.
    """
    if not 0.0 <= slack < 1.0:
        raise InvalidLogError(f"slack in [0, 1) wanted, got {slack}")
    terms = (estimator or DR()).terms(log)
    low, _ = interval(terms, method, 2.0 * level - 1.0, np.random.default_rng(seed))
    baseline = (1.0 - slack) * float(log.reward.mean())
    reasons = list(diagnose(terms.weight, log.n, log.unsupported).faults)
    if low < baseline:
        reasons.append(f"lower bound {low:.4g} is below {baseline:.4g}")
    return Verdict(not reasons, terms.value, low, baseline, tuple(reasons))
