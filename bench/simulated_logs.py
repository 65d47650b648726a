"""Simulated logs of one slot, written by our policies: what IPS makes of their propensities."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

import bandits
from bandits import checks

Floats: TypeAlias = NDArray[np.float64]

N_CONTEXTS = 10
FLOOR = 0.05


class SimulatedLogs:
    """Ten contexts with known reward rates, and a softmax policy to be evaluated on the logs of others.

    Parameters
    ----------
    case : checks.Case
        The logging policy and its posterior.
    seed : int
        Of the contexts' rates and the logged rewards.
    """

    def __init__(self, case: checks.Case, seed: int = 0) -> None:
        self.case = case
        self.rng = np.random.default_rng(seed)
        self.problems = [case.problem(context, feasible=None, k=1, floor=FLOOR) for context in range(N_CONTEXTS)]
        self.rates = self.rng.uniform(0.05, 0.6, (N_CONTEXTS, checks.N))
        logits = np.stack([problem.value for problem in self.problems]) * 6.0
        self.target = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        self.truth = (self.target * self.rates).sum(axis=1)

    def errors(self, n_rows: int) -> Floats:
        """IPS terms minus the truth of their context, shape (n_rows,), from logged propensities: mean 0 if those are
        right.
        """
        errors = np.empty(n_rows)
        for row in range(n_rows):
            context = row % N_CONTEXTS
            slate = bandits.draw_slate(self.case.policy, self.problems[context], bandits.generator(row))
            errors[row] = self._term(context, slate.order[0], float(slate.propensity[0]))
        return errors

    def errors_of_estimated_propensities(self, n_rows: int, n_draws: int) -> Floats:
        """The same for the known wrong way: act on one posterior draw, log an estimate of its probability."""
        errors = np.empty(n_rows)
        for row in range(n_rows):
            context = row % N_CONTEXTS
            problem, rng = self.problems[context], bandits.generator(row)
            winners = (problem.value + problem.posterior.draws(problem.phi, n_draws + 1, rng)).argmax(axis=1)
            explore = rng.random() < FLOOR
            chosen = int(rng.integers(problem.n)) if explore else int(winners[0])
            counted = (np.count_nonzero(winners[1:] == chosen) + 1.0) / (n_draws + problem.n)
            errors[row] = self._term(context, chosen, (1.0 - FLOOR) * counted + FLOOR / problem.n)
        return errors

    def _term(self, context: int, chosen: int, propensity: float) -> float:
        reward = float(self.rng.random() < self.rates[context, chosen])
        return float(self.target[context, chosen] / propensity * reward - self.truth[context])


def z_score(errors: Floats) -> float:
    """Mean error in standard errors."""
    return float(errors.mean() / (errors.std(ddof=1) / np.sqrt(errors.shape[0])))
