"""What requests are answered with at one instant: a model, what is believed of its residuals, and the rules."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bandits import Policy, Prior, parse
from bandits.hybrid import HybridPrior
from bandits.item_posterior import ItemPrior
from bandits.learned import AnyPrior
from bandits.logistic import LogisticPrior
from bandits.policy import DISJOINT, HYBRID, ITEMS, LOGISTIC, REWARD, SHARED, learner
from liverank.hot import HotSettings
from liverank.settings import RankerSettings
from liverank.v1.event_pb2 import ExtraStatistics
from ranker.columns import FEATURE_SERVICE
from ranker.errors import RankerConfigError
from ranker.experiments import Arm, Experiment, experiment
from ranker.learned import LearnedBelief
from ranker.models import Model, RateModel, rate_manifest
from ranker.phi import SCHEMA
from ranker.posterior import Belief
from ranker.rules import ListRules
from ranker.safety import ExploreRules, explore_rules
from ranker.user_states import DEFAULT_STATES, UserState
from ranker.value import ValueWeights


@dataclass(frozen=True, kw_only=True)
class Serving:
    """A model and the beliefs that belong to it; swapped as one.

    Attributes
    ----------
    model
        The base model.
    belief
        Shared by all policies that say nothing else.
    learned
        By learner, of the policies that act on something else; only what a policy of the rules needs.
    """

    model: Model
    belief: Belief
    learned: Mapping[str, LearnedBelief] = field(default_factory=dict)

    def acts_on(self, policy: Policy | None) -> Belief | LearnedBelief | None:
        """What a policy acts on; None where it was not read yet."""
        kind = SHARED if policy is None else learner(policy)
        return self.belief if kind in (SHARED, REWARD) else self.learned.get(kind)


@dataclass(frozen=True, kw_only=True)
class Rulebook:
    """Everything that operators decide about a request, from settings and hot settings.

    Attributes
    ----------
    experiment
        Arms and their policies, on surfaces that have none of their own.
    on_surfaces
        By surface, of those that have.
    weights
        Value of heads and strengths of soft rules.
    list_rules
        Hard rules of a slate.
    states
        Table of user states.
    prior
        Of the posterior.
    exploring
        Limits of exploration.
    settings
        Where all of it comes from: the process's settings under the hot ones.
    version
        Of the hot settings; 0 = none.
    """

    experiment: Experiment
    on_surfaces: Mapping[str, Experiment]
    weights: ValueWeights
    list_rules: ListRules
    states: tuple[UserState, ...]
    prior: Prior
    exploring: ExploreRules
    settings: RankerSettings
    version: int = 0

    @property
    def named(self) -> tuple[str, ...]:
        """Specifications of all policies that an arm or a hot setting names."""
        experiments = (self.experiment, *self.on_surfaces.values())
        return (*(arm.policy for one in experiments for arm in one.arms), *self.exploring.policies.values())

    def arm(self, surface: str, unit: str) -> Arm:
        """The experiment arm of a unit (a user id, or an anonymous id) on a surface."""
        return self.on_surfaces.get(surface, self.experiment).assign(unit)

    def uses(self, policy: str) -> bool:
        """Whether an arm or a hot setting names a policy."""
        return any(text.partition("(")[0].strip() == policy for text in self.named)

    @cached_property
    def priors(self) -> Mapping[str, AnyPrior]:
        """The prior of each learner beyond the shared one that some policy acts on."""
        settings = self.settings
        sd, noise_sd = settings.prior_sd, settings.noise_sd
        known: dict[str, AnyPrior] = {
            DISJOINT: Prior(sd=sd, noise_sd=noise_sd),
            HYBRID: HybridPrior(shared_sd=sd, arm_sd=settings.arm_sd, noise_sd=noise_sd),
            LOGISTIC: LogisticPrior(sd=settings.logit_sd),
            ITEMS: ItemPrior(shared_sd=sd, item_sd=settings.item_sd, noise_sd=noise_sd),
        }
        used = {learner(parse(text)) for text in self.named}
        return {kind: prior for kind, prior in known.items() if kind in used}

    @cached_property
    def statistics(self) -> tuple[ExtraStatistics, ...]:
        """What the fold is asked to keep of each slate beside the shared sums."""
        priors, kept = self.priors, self.settings.statistics
        arms = "arms" in kept or DISJOINT in priors or HYBRID in priors
        logistic = "logistic" in kept or LOGISTIC in priors
        asked = {
            ExtraStatistics.EXTRA_STATISTICS_ARMS: arms,
            ExtraStatistics.EXTRA_STATISTICS_LOGISTIC: logistic,
            ExtraStatistics.EXTRA_STATISTICS_ITEMS: "items" in kept or ITEMS in priors,
        }
        return tuple(one for one, wanted in asked.items() if wanted)


def rulebook(base: RankerSettings, hot: HotSettings | None = None, *, version: int = 0) -> Rulebook:
    """Read settings, each number checked.

    Parameters
    ----------
    base
        Settings of the process.
    hot, version
        What lies over them, and its version; None = nothing.

    Raises
    ------
    RankerConfigError
        A number outside its range, shares that do not sum to 1, an unknown policy, or a table of states that cannot be
        read.
    ConfigError
        A hot setting that does not exist or cannot be changed while rankers serve.
    """
    hot = hot or HotSettings()
    settings = hot.over(base)
    salt = settings.experiment_salt
    return Rulebook(
        experiment=experiment(salt, settings.arms),
        on_surfaces={surface: experiment(f"{salt}/{surface}", arms) for surface, arms in settings.surface_arms.items()},
        weights=ValueWeights(
            heads=settings.head_weights,
            liking=settings.liking,
            aversion=settings.aversion,
            nearness=settings.nearness,
            diversity=settings.diversity,
            freshness=settings.freshness,
        ),
        list_rules=ListRules(
            creator_share=settings.creator_share,
            category_share=settings.category_share,
            duplicate_cosine=settings.duplicate_cosine,
        ),
        states=read_states(Path(settings.states)) if settings.states else DEFAULT_STATES,
        prior=Prior(sd=settings.prior_sd, noise_sd=settings.noise_sd),
        exploring=explore_rules(settings, on=hot.exploration, policies=hot.policies),
        settings=settings,
        version=version,
    )


def read_states(path: Path) -> tuple[UserState, ...]:
    """The table of user states from a JSON list of rows with the fields of `UserState`.

    Raises
    ------
    RankerConfigError
        The file cannot be read or a row has other fields.
    """
    try:
        rows: list[Mapping[str, Any]] = json.loads(path.read_text())
        return tuple(UserState(**row) for row in rows)
    except (OSError, ValueError, TypeError) as error:
        raise RankerConfigError(f"user states in {path} cannot be read: {error}; see docs/ranking.md") from error


def fallback_model() -> RateModel:
    """The day-one rate model: stands in where none is active, or where a request asks what the model is worth."""
    return RateModel(rate_manifest(feature_service=FEATURE_SERVICE, schema=SCHEMA))
