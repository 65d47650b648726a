"""The draw: a policy acts on the best candidates, under the hard rules, and its probabilities are kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bandits import Greedy, Policy, Posterior, Problem, Slate, draw_slate, generator
from ranker.inputs import Floats, ItemsView, Rows
from ranker.phi import SOURCES, phi
from ranker.retrieval import CandidateSet
from ranker.rules import ListRules, shortlist, slate_rules
from ranker.scoring import Scored


@dataclass(frozen=True, kw_only=True)
class Exploration:
    """How to draw.

    Attributes
    ----------
    policy
        Who draws; None = greedy in every slot.
    floor, cap
        See `bandits.Problem`.
    greedy_slots
        First slots that are greedy.
    seed
        Of the draw.
    """

    policy: Policy | None
    floor: float
    cap: float
    greedy_slots: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A slate and the candidates it was drawn from.

    Attributes
    ----------
    slate
        Places in the arrays below.
    at
        Places of the shortlist in the scored candidates, best value first, shape ``(m,)``.
    rows
        Rows of the table, shape ``(m,)``.
    phi
        Bandit features, shape ``(m, d)``.
    feasible
        Feasible before the first slot, shape ``(m,)``.
    posterior_mean, posterior_sd
        Of the residual value, shape ``(m,)``.
    greedy_slots
        Slots that greed filled.
    """

    slate: Slate
    at: Rows
    rows: Rows
    phi: Floats
    feasible: NDArray[np.bool_]
    posterior_mean: NDArray[np.float64]
    posterior_sd: NDArray[np.float64]
    greedy_slots: int


def explore(
    scored: Scored,
    candidates: CandidateSet,
    table: ItemsView,
    *,
    posterior: Posterior,
    k: int,
    size: int,
    rules: ListRules,
    how: Exploration,
) -> Drawn:
    """Draw a slate of at most `k` among the best `size` by value.

    Parameters
    ----------
    scored, candidates, table
        The request's candidates.
    posterior
        Belief about residuals.
    k
        Slots.
    size
        Candidates that the policy acts on.
    rules
        Hard rules.
    how
        Policy and limits.
    """
    rows = candidates.rows[scored.places]
    order = np.argsort(-scored.value, kind="stable")
    at = shortlist(order, table, rows, k, size, rules)
    chosen_rows = rows[at]
    features = phi(
        scored.x[at],
        [table.category_names[code] for code in table.categories[chosen_rows, 0].tolist()],
        found_by(candidates, scored.places[at]),
    )
    acted_on = features.astype(np.float64)
    feasible = slate_rules(table, chosen_rows, k, rules)
    greedy_slots = k if how.policy is None else min(how.greedy_slots, k)
    problem = Problem(
        value=scored.value[at],
        phi=acted_on,
        posterior=posterior,
        k=k,
        feasible=feasible,
        floor=how.floor,
        cap=how.cap,
        n_greedy_slots=greedy_slots,
    )
    policy = how.policy if how.policy is not None and len(at) else Greedy()  # nothing to draw from: an empty slate
    slate = draw_slate(policy, problem, generator(how.seed))
    return Drawn(
        slate=slate,
        at=at,
        rows=chosen_rows,
        phi=features,
        feasible=feasible.mask([]),
        posterior_mean=posterior.mean(acted_on),
        posterior_sd=posterior.sd(acted_on),
        greedy_slots=greedy_slots,
    )


def found_by(candidates: CandidateSet, places: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Who proposed some candidates, in the order of `ranker.phi.SOURCES`; shape ``(n, len(SOURCES))``."""
    out = np.zeros((len(places), len(SOURCES)), dtype=np.bool_)
    for column, name in enumerate(SOURCES):
        if name in candidates.sources:
            out[:, column] = candidates.found_by[places, candidates.sources.index(name)]
    return out
