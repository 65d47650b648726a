"""The draw: a policy acts on the best candidates, under the hard rules, and its probabilities are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bandits import Explorable, Greedy, Policy, Problem, Reserved, RewardPosterior, Slate, draw_slate, generator
from bandits.posterior import Learned
from ranker.columns import INDEX
from ranker.inputs import Floats, ItemsView, Rows
from ranker.phi import SOURCES, phi
from ranker.retrieval import CandidateSet, Explore
from ranker.rules import ListRules, SlateRules, shortlist, slate_rules
from ranker.safety import MANY_DISLIKES, ExploreRules, dislikes, explorable
from ranker.scoring import Scored
from ranker.value import fading, spread

MOST_NEW: Final = 5
"""New items with budget left that join the shortlist from outside it."""
MOST_DRAWN: Final = 5
"""Candidates of the source `explore` that join it so, those with the highest drawn rates."""


@dataclass(frozen=True, kw_only=True)
class Exploration:
    """How to draw.

    Attributes
    ----------
    policy
        Who draws; None = greedy in every slot.
    greedy_slots
        First slots that are greedy.
    seed
        Of the draw.
    rules
        Limits of exploration.
    now_ms
        Instant at which items are new.
    has_budget
        Whether a new item may be explored, by id; None = no new item may.
    dislike_weight
        Clicks that one dismissal is worth; negative.
    learns_reward
        The posterior is of the reward itself (VW): the value only makes the shortlist.
    """

    policy: Policy | None
    greedy_slots: int
    seed: int
    rules: ExploreRules = field(default_factory=ExploreRules)
    now_ms: int = 0
    has_budget: Callable[[str], bool] | None = None
    dislike_weight: float = -2.0
    learns_reward: bool = False


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
    kinds
        Name of each one's first category; empty = none. Length ``m``.
    feasible
        Feasible before the first slot, shape ``(m,)``.
    posterior_mean, posterior_sd
        Of the residual value, shape ``(m,)``.
    greedy_slots
        Slots that greed filled.
    greedy_score
        Score of the candidate that greed would have put into each slot, shape ``(len(slate.order),)``.
    rules
        Hard rules over the shortlist.
    not_explorable, reserved
        Candidates that only greed may place; new ones with budget left. Shape ``(m,)``.
    reserved_share
        Share of a slot's law that these had; 0 = there were none.
    problem, policy
        As they acted.
    """

    slate: Slate
    at: Rows
    rows: Rows
    phi: Floats
    kinds: Sequence[str]
    feasible: NDArray[np.bool_]
    posterior_mean: NDArray[np.float64]
    posterior_sd: NDArray[np.float64]
    greedy_slots: int
    greedy_score: NDArray[np.float64]
    rules: SlateRules
    not_explorable: NDArray[np.bool_]
    reserved: NDArray[np.bool_]
    reserved_share: float
    problem: Problem
    policy: Policy

    @property
    def budgeted(self) -> NDArray[np.bool_]:
        """Slots whose new item the budget pays for, shape ``(len(slate.order),)``."""
        return self.slate.explored & self.reserved[np.array(self.slate.order, dtype=np.int64)]


def explore(
    scored: Scored,
    candidates: CandidateSet,
    table: ItemsView,
    *,
    posterior: Learned,
    k: int,
    size: int,
    rules: ListRules,
    how: Exploration,
) -> Drawn:
    """Draw a slate of at most `k` among the best `size` by value, young arms' dismissals counted in.

    Parameters
    ----------
    scored, candidates, table
        The request's candidates.
    posterior
        What is believed of residuals.
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
    rate, excess = dislikes(scored.x, how.rules.dislike_strength)
    worth = scored.value + min(how.dislike_weight, 0.0) * rate
    lost = np.zeros(len(worth))
    if (scored.kept < 1.0).any():
        value = np.zeros(len(worth)) if how.learns_reward else worth
        everybody = np.arange(len(rows))
        features, kinds, bound = _bound(scored, candidates, table, everybody, posterior)
        score = value + bound.mean(features.astype(np.float64))
        lost = faded(score, scored.kept, table, rows, k, rules)
        worth = worth - lost
    order = np.argsort(-worth, kind="stable")
    at = shortlist(order, table, rows, k, size, rules)
    exploring = how.policy is not None and how.greedy_slots < k
    new = how.rules.is_new(table.published_ms[rows], how.now_ms) if exploring else np.zeros(len(rows), dtype=np.bool_)
    paid = _with_budget(new & (excess < MANY_DISLIKES), order, table, rows, how)
    at = _with_new(at, order, paid)
    if exploring:
        at = _with_drawn(at, order, candidates, scored.places)
    chosen_rows, reserved = rows[at], paid[at]
    features, kinds, bound = _bound(scored, candidates, table, at, posterior)
    acted_on = features.astype(np.float64)
    value = -lost[at] if how.learns_reward else worth[at]
    mean, sd = bound.mean(acted_on), bound.sd(acted_on)
    hard = slate_rules(table, chosen_rows, k, rules)
    allowed = explorable(value + mean, sd, how.rules, exempt=reserved) & ~(new[at] & ~reserved)
    greedy_slots = k if how.policy is None else min(how.greedy_slots, k)
    problem = Problem(
        value=value,
        phi=acted_on,
        posterior=bound,
        k=k,
        feasible=hard if allowed.all() else Explorable(hard, allowed, value + mean),
        floor=how.rules.floor,
        cap=how.rules.cap,
        n_greedy_slots=greedy_slots,
        arms=hard.categories.astype(np.int64),
        item_looks=np.maximum(scored.x[at, INDEX["item_windows:expected_30d"]].astype(np.float64), 0.0),
        kind_looks=_kind_looks(scored.x[at], hard),
    )
    policy = how.policy if how.policy is not None and len(at) else Greedy()  # nothing to draw from: an empty slate
    share = how.rules.budget_share if exploring and reserved.any() else 0.0
    if share > 0:
        policy = Reserved(policy=policy, reserved=reserved, share=share)
    slate = draw_slate(policy, problem, generator(how.seed))
    return Drawn(
        slate=slate,
        at=at,
        rows=chosen_rows,
        phi=features,
        kinds=kinds,
        feasible=hard.mask([]),
        posterior_mean=mean,
        posterior_sd=sd,
        greedy_slots=greedy_slots,
        greedy_score=greedy_scores(slate, hard),
        rules=hard,
        not_explorable=~allowed,
        reserved=reserved,
        reserved_share=share,
        problem=problem,
        policy=policy,
    )


def _bound(
    scored: Scored, candidates: CandidateSet, table: ItemsView, at: Rows | NDArray[np.int64], learned: Learned
) -> tuple[Floats, list[str], RewardPosterior]:
    """Bandit features, first categories and belief of some of the scored candidates; from what will be logged alone."""
    places = scored.places[at]
    rows = candidates.rows[places]
    names = [table.category_names[code] for code in table.categories[rows, 0].tolist()]
    items = [table.ids[row] for row in rows.tolist()]
    logged = scored.p_first[at].astype(np.float32).astype(np.float64)
    return phi(scored.x[at], names, found_by(candidates, places)), names, learned.bind(names, logged, items)


def _kind_looks(x: Floats, rules: SlateRules) -> NDArray[np.float64]:
    """How often the user saw items of each candidate's first category in 30 days; infinity where it has none."""
    seen = np.maximum(x[:, INDEX["user_category_windows:impressions_30d"]].astype(np.float64), 0.0)
    return np.where(rules.categories > 0, seen, np.inf)


def faded(
    score: NDArray[np.float64], kept: NDArray[np.float64], table: ItemsView, rows: Rows, k: int, rules: ListRules
) -> NDArray[np.float64]:
    """What the items of rejected kinds lose, in clicks, shape ``(n,)``: see `ranker.value.fading`.

    How many places a kind would have had is read off the greedy slate of the whole score, under the hard rules.

    Parameters
    ----------
    score
        Value plus posterior mean, without the rejections, shape ``(n,)``.
    kept
        Share of its places that each candidate's kind keeps, shape ``(n,)``.
    table, rows
        The candidates, shape ``(n,)``.
    k, rules
        Slots and hard rules of the slate.
    """
    slate = shortlist(np.argsort(-score, kind="stable"), table, rows, k, k, rules)
    return spread(score) * fading(score, table.categories[rows, 0], kept, slate)


def _with_budget(
    new: NDArray[np.bool_], order: NDArray[np.int64], table: ItemsView, rows: Rows, how: Exploration
) -> NDArray[np.bool_]:
    """Which candidates are new and have budget left, best first among the first hundred new ones; shape ``(n,)``."""
    paid = np.zeros(len(rows), dtype=np.bool_)
    if how.has_budget is None or not new.any():
        return paid
    for at in order[new[order]][:100].tolist():
        paid[at] = how.has_budget(table.ids[int(rows[at])])
    return paid


def _with_new(at: Rows, order: NDArray[np.int64], paid: NDArray[np.bool_]) -> Rows:
    """The shortlist, and the best new items with budget that it left out; best value first."""
    if not paid.any():
        return at
    inside = np.zeros(len(paid), dtype=np.bool_)
    inside[at] = True
    missing = order[(paid & ~inside)[order]][:MOST_NEW]
    inside[missing] = True
    return order[inside[order]].astype(np.int32)


def _with_drawn(at: Rows, order: NDArray[np.int64], candidates: CandidateSet, places: Rows | NDArray[np.int64]) -> Rows:
    """The shortlist, and the best of the source `explore` that it left out; best value first.

    The source's draw decides who may be drawn, not how likely: propensities are given the shortlist.
    """
    drawn = candidates.scores.get(Explore.name)
    if drawn is None:
        return at
    rates = drawn[places]
    rates[at] = 0.0
    best = np.argsort(-rates, kind="stable")[:MOST_DRAWN]
    joining = best[rates[best] > 0.0]
    if not len(joining):
        return at
    inside = np.zeros(len(rates), dtype=np.bool_)
    inside[at] = inside[joining] = True
    return order[inside[order]].astype(np.int32)


def greedy_scores(slate: Slate, rules: SlateRules) -> NDArray[np.float64]:
    """Score of the candidate that greed would have put into each slot, shape ``(len(slate.order),)``.

    Only slots that were explored are looked at: elsewhere it is what stands there.
    """
    scores = slate.score[np.array(slate.order, dtype=np.int64)]
    for slot in np.flatnonzero(slate.explored).tolist():
        mask = rules.mask(slate.order[:slot])
        scores[slot] = slate.score[mask].max()
    return scores


def found_by(candidates: CandidateSet, places: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Who proposed some candidates, in the order of `ranker.phi.SOURCES`; shape ``(n, len(SOURCES))``."""
    out = np.zeros((len(places), len(SOURCES)), dtype=np.bool_)
    for column, name in enumerate(SOURCES):
        if name in candidates.sources:
            out[:, column] = candidates.found_by[places, candidates.sources.index(name)]
    return out
