"""Thompson sampling that doubts items, and what this user makes of kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bandits.laws import Law, VoteLaw
from bandits.policies.thompson import Thompson
from bandits.policy import ITEMS, in_range, register
from bandits.slates import Problem

Floats: TypeAlias = NDArray[np.float64]


@register
@dataclass(frozen=True, kw_only=True)
class ThompsonDoubt(Thompson):
    """Thompson sampling that also doubts each item, and what this user makes of each kind, beyond all features.

    It acts on what was learned of each item beyond its heads (`bandits.item_posterior`), in greed and draws alike. How
    good a new item is among its like, and what one person makes of a kind that they hardly saw, stays unknown to any
    model until it was shown. So each posterior draw gets two independent effects: one a candidate, and one a kind
    (`Problem.arms`), common to its candidates. Their means are 0, since heads and posterior hold what is known; their
    sds fall with n looks:

        item   item_sd v / sqrt(1 + item_sd^2 n v)             v = value in clicks; n v clicks have told of it
        kind   kind_sd / sqrt(1 + (kind_sd / noise_sd)^2 n)    a Gaussian mean after n looks of this user

    So votes go to what might be worth more to this user than what greed has, and to nothing that is known to be worth
    less. Floor and cap bound how much is explored, as everywhere. What a request does not say of looks is not doubted.

    Attributes
    ----------
    item_sd : float, default 1.0
        How far an item's clicks lie from what is expected of it, as a share (one standard deviation), 0 to 10.
    kind_sd : float, default 0.1
        How far a user's clicks on a kind lie from what is expected of them, in clicks, 0 to 10.
    noise_sd : float, default 0.3
        Standard deviation of one look, in clicks, above 0 to 10.

    References
    ----------
    The item's doubt is that of a Gaussian prior on its relative effect under Poisson clicks, near its mean.
    """

    name: ClassVar[str] = "thompson_doubt"
    learner: ClassVar[str] = ITEMS

    item_sd: float = 1.0
    kind_sd: float = 0.1
    noise_sd: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("item_sd", self.item_sd, 0.0, 10.0)
        in_range("kind_sd", self.kind_sd, 0.0, 10.0)
        in_range("noise_sd", self.noise_sd, 1e-6, 10.0)

    def law(self, problem: Problem, score: Floats, rng: Generator) -> Law:
        """See `Policy.law`; some 60 us more than `Thompson` for 50 candidates."""
        scores = problem.posterior.draws(problem.phi, self.n_draws, rng)
        scores += problem.value
        # Numbered by value, so that renaming candidates renames the answers.
        order = np.argsort(-problem.value, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(problem.n)
        if problem.item_looks is not None:
            rate = np.maximum(problem.value, 1e-9)
            known = 1.0 + self.item_sd**2 * rate * problem.item_looks
            scores += _effects(rng, self.n_draws, problem.n, place, self.item_sd * rate / np.sqrt(known))
        if problem.kind_looks is not None and problem.arms is not None:
            kinds: dict[int, int] = {}
            numbered = np.array([kinds.setdefault(arm, len(kinds)) for arm in problem.arms[order].tolist()])
            known = 1.0 + (self.kind_sd / self.noise_sd) ** 2 * problem.kind_looks
            scores += _effects(rng, self.n_draws, len(kinds), numbered[place], self.kind_sd / np.sqrt(known))
        return VoteLaw(scores)


def _effects(
    rng: Generator, n_draws: int, n_numbers: int, number: NDArray[np.int64], sd: Floats
) -> NDArray[np.float32]:
    """Draws of effects, shape ``(n_draws, n)``: candidates of one number share theirs, each scaled by its sd."""
    drawn = rng.standard_normal((n_numbers, n_draws), dtype=np.float32)[number]
    drawn *= sd[:, None].astype(np.float32)
    return drawn.T
