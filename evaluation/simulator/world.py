"""A simulated world: one catalogue, one population, one way of choosing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evaluation.simulator.behaviour import Behaviour
from evaluation.simulator.catalogue import DAY_MS, Catalogue, build_catalogue
from evaluation.simulator.parameters import Effects, WorldParams
from evaluation.simulator.policies import best_rows
from evaluation.simulator.population import Population, User, build_population
from evaluation.simulator.utility import Utility, build_utility, examination, tune


@dataclass(frozen=True)
class World:
    """Everything of a world; see the parts.

    Attributes
    ----------
    start_ms : int
        When its history begins, ms since the UTC epoch.
    """

    params: WorldParams
    start_ms: int
    catalogue: Catalogue
    population: Population
    utility: Utility

    @classmethod
    def build(cls, params: WorldParams, start_ms: int) -> World:
        """The world of these parameters, beginning at `start_ms`.

        One with effects off has the tuning of the same world with all on: nothing but the effect differs.
        """
        whole = replace(params, effects=Effects())
        reference = _parts(whole, start_ms)
        tuned = tune(reference[2], start_ms + 30 * DAY_MS)
        if params.effects == whole.effects:
            return cls(params, start_ms, reference[0], reference[1], tuned)
        catalogue, population, utility = _parts(params, start_ms)
        scale = {name: getattr(tuned, name) for name in ("centre", "spread", "intercept", "slope")}
        return cls(params, start_ms, catalogue, population, replace(utility, **scale))

    def behaviour(self, pace: float = 1.0) -> Behaviour:
        """How its users react; `pace` below 1 hurries them."""
        return Behaviour(self.params, self.utility, pace)

    def live_rows(self, at_ms: int) -> NDArray[np.int64]:
        """Rows of the items published by then and not withdrawn."""
        return np.flatnonzero(self.catalogue.live(at_ms))

    def slate_value(self, p_click: NDArray[np.float64]) -> float:
        """Expected clicks a slot of a slate with these click probabilities, in order: examination included."""
        return float(p_click @ examination(self.params)[: len(p_click)] / max(len(p_click), 1))

    def oracle_value(self, users: Sequence[User], at_ms: int, behaviour: Behaviour | None = None) -> float:
        """Expected clicks a slot of the best possible policy, averaged over these users.

        Parameters
        ----------
        behaviour : Behaviour, optional
            Knows what they have opened so far; a new world's where not given.
        """
        knows = behaviour or self.behaviour()
        rows = self.live_rows(at_ms)
        best = (-np.sort(-knows.click_probability(user, rows, at_ms))[: self.params.slate] for user in users)
        return float(np.mean([self.slate_value(p_click) for p_click in best]))

    def popular_value(self, users: Sequence[User], at_ms: int, behaviour: Behaviour | None = None) -> float:
        """Expected clicks a slot of the best list that is the same for all of these users."""
        knows = behaviour or self.behaviour()
        rows = self.live_rows(at_ms)
        p_click = np.stack([knows.click_probability(user, rows, at_ms) for user in users])
        order = best_rows(p_click.mean(axis=0), np.arange(len(rows)), self.params.slate)
        return self.slate_value(p_click[:, order].mean(axis=0))


def _parts(params: WorldParams, start_ms: int) -> tuple[Catalogue, Population, Utility]:
    catalogue = build_catalogue(params, start_ms)
    population = build_population(params, catalogue, start_ms)
    return catalogue, population, build_utility(params, catalogue, population)
