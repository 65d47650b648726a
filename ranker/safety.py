"""What exploration may do: where, with which policy, how much, among which items.

All limits act before or inside the draw, so logged propensities stay exact. An item that may not be explored may still
be the greedy one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bandits import BanditsError, Greedy, Policy, parse
from liverank.hot import policy_key, policy_of
from liverank.settings import RankerSettings
from ranker.columns import INDEX
from ranker.errors import RankerConfigError
from ranker.inputs import Floats

DAY_MS: Final = 86_400_000
EXPECTED_DISLIKES: Final = 0.05
"""Dismissals and their like that a look at an item brings anyway, where nothing is known of the item."""
TRUSTED_AFTER: Final = 100
"""Looks after which the model's own columns are trusted with an item's dismissals."""
MANY_DISLIKES: Final = 2.0
"""From so many unexpected dismissals on nothing is reserved for a new item."""


@dataclass(frozen=True, kw_only=True)
class ExploreRules:
    """Limits of exploration.

    Attributes
    ----------
    on
        False = the kill switch: greed fills every slot.
    policies
        Specification by ``surface/arm``, see `liverank.hot.policy_of`.
    excluded
        Surfaces without exploration.
    floor, cap
        See `bandits.Problem`.
    greedy_slots, greedy_until_shown
        The first slots are greedy until so many shown slots are in the statistics.
    n_draws
        Of ``thompson`` where it does not say.
    relevance_floor
        Quantile of the scores below which nothing is explored.
    gate_slack, gate_sds
        See `explorable`; None = no gate.
    budget, budget_days, budget_share
        Explored exposures of a new item, how long it is new, and the share of a slot that new items get.
    dislike_strength
        See `dislikes`; 0 = off.
    """

    on: bool = True
    policies: Mapping[str, str] = field(default_factory=dict)
    excluded: frozenset[str] = frozenset()
    floor: float = 0.02
    cap: float = 0.10
    greedy_slots: int = 2
    greedy_until_shown: int = 10_000
    n_draws: int = 128
    relevance_floor: float = 0.0
    gate_slack: float | None = None
    gate_sds: float = 1.0
    budget: int = 0
    budget_days: float = 7.0
    budget_share: float = 0.05
    dislike_strength: float = 10.0

    def __post_init__(self) -> None:
        for key, policy in self.policies.items():
            surface, _, arm = key.partition("/")
            policy_key(surface, arm)
            try:
                parse(policy)
            except BanditsError as error:
                raise RankerConfigError(f"policy of {key}: {error}") from error

    def policy(self, surface: str, arm: str, of_arm: str) -> Policy:
        """Who draws on a surface for an arm; `of_arm` is the arm's own policy. `Greedy` where nothing is explored.

        Raises
        ------
        RankerConfigError
            Never for rules that were made: their policies were parsed.
        """
        if not self.explores(surface):
            return Greedy()
        return self.named(policy_of(self.policies, surface, arm) or of_arm)

    def named(self, specification: str) -> Policy:
        """A policy by specification; ``thompson`` alone draws `n_draws` times."""
        return parse(f"thompson(n_draws={self.n_draws})" if specification == "thompson" else specification)

    def explores(self, surface: str) -> bool:
        """Whether anything may be explored on a surface."""
        return self.on and surface not in self.excluded

    def is_new(self, published_ms: NDArray[np.int64], now_ms: int) -> NDArray[np.bool_]:
        """Which items are new; an item without a time of publication (0) is not. All False without a budget."""
        if not self.budget:
            return np.zeros(len(published_ms), dtype=np.bool_)
        return (published_ms > now_ms - self.budget_days * DAY_MS) & (published_ms <= now_ms)


def explore_rules(
    settings: RankerSettings, *, on: bool = True, policies: Mapping[str, str] | None = None
) -> ExploreRules:
    """The rules of settings; `on` and `policies` come from the hot settings."""
    return ExploreRules(
        on=on,
        policies=dict(policies or {}),
        excluded=frozenset(settings.excluded_surfaces),
        floor=settings.floor,
        cap=settings.explore_cap,
        greedy_slots=settings.greedy_slots,
        greedy_until_shown=settings.greedy_until_shown,
        n_draws=settings.n_draws,
        relevance_floor=settings.relevance_floor,
        gate_slack=settings.gate_slack,
        gate_sds=settings.gate_sds,
        budget=settings.new_item_budget,
        budget_days=settings.new_item_days,
        budget_share=settings.new_item_share,
        dislike_strength=settings.dislike_strength,
    )


def explorable(
    score: NDArray[np.float64],
    sd: NDArray[np.float64],
    rules: ExploreRules,
    *,
    exempt: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Candidates that may stand where greed would have put another.

    - Relevance floor: score at or above the quantile `relevance_floor` of all scores.
    - Conservative gate: with L = score - gate_sds x sd and g the best candidate, L >= L(g) - gate_slack x |L(g)|.

    Parameters
    ----------
    score
        Value plus posterior mean, shape ``(n,)``.
    sd
        Posterior standard deviation, shape ``(n,)``.
    exempt
        New items with budget left: bounded by their budget, not by the relevance floor; shape ``(n,)``.

    References
    ----------
    Kazerouni et al., "Conservative Contextual Linear Bandits", NeurIPS 2017: play what is uncertain only while the
    lower bound stays near the baseline's. Here per candidate and slot, with greed as the baseline.
    """
    n = len(score)
    allowed: NDArray[np.bool_] = np.ones(n, dtype=np.bool_)
    if not n:
        return allowed
    if rules.relevance_floor > 0:
        allowed &= score >= np.quantile(score, rules.relevance_floor)
        if exempt is not None:
            allowed |= exempt
    if rules.gate_slack is not None:
        lower = score - rules.gate_sds * sd
        baseline = float(lower[score.argmax()])
        allowed &= lower >= baseline - rules.gate_slack * abs(baseline)
    return allowed


def dislikes(x: Floats, strength: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What is known of dismissals of young arms, before any model has learned it.

    A Beta-Bernoulli arm per item: d dismissals (and their like) in n looks, prior mean `EXPECTED_DISLIKES`, a prior
    worth `strength` looks. What counts is by how much the posterior mean minus one posterior sd lies above the prior
    mean, so that one dismissal is one user's taste and five in ten looks are a verdict. It fades as
    ``1 / (1 + n / TRUSTED_AFTER)``: then the model's columns know.

    Parameters
    ----------
    x
        Feature rows, shape ``(n, len(COLUMNS))``.
    strength
        Looks that the prior is worth; 0 = off.

    Returns
    -------
    rate, excess
        Added dismissals per look, and unexpected dismissals; shape ``(n,)`` both, 0 where there are none.
    """
    if not strength or not len(x):
        return np.zeros(len(x)), np.zeros(len(x))
    seen = np.maximum(x[:, INDEX["item_windows:expected_30d"]].astype(np.float64), 0.0)
    found = np.maximum(x[:, INDEX["item_windows:negatives_30d"]].astype(np.float64), 0.0)
    excess = np.maximum(found - EXPECTED_DISLIKES * seen, 0.0)
    weight = np.maximum(seen, found) + strength
    mean = (found + EXPECTED_DISLIKES * strength) / weight
    surely = mean - np.sqrt(mean * (1.0 - mean) / (weight + 1.0))
    rate: NDArray[np.float64] = np.maximum(surely - EXPECTED_DISLIKES, 0.0) / (1.0 + seen / TRUSTED_AFTER)
    return rate, excess
