"""Bandits: policies, posteriors and slates whose logged propensity is the probability that was acted upon."""

from bandits.errors import (
    BanditsError,
    CorruptStatisticsError,
    InvalidPolicyError,
    InvalidStatisticsError,
    UnknownPolicyError,
)
from bandits.explorable import Explorable, Reserved
from bandits.feasible import AllOf, Everything, Feasible, GroupCaps, RelevanceFloor
from bandits.fit import fit_prior
from bandits.partials import Partial, Statistics, on_phi_grid, total
from bandits.policies import Boltzmann, EpsilonGreedy, Greedy, LinUCB, Thompson, TwoLevel, Uniform
from bandits.policy import Policy, parse, registered, specification
from bandits.posterior import Posterior, Prior, RewardPosterior
from bandits.slates import Problem, Slate, draw_slate, generator, recompute

__all__ = [
    "AllOf",
    "BanditsError",
    "Boltzmann",
    "CorruptStatisticsError",
    "EpsilonGreedy",
    "Everything",
    "Explorable",
    "Feasible",
    "Greedy",
    "GroupCaps",
    "InvalidPolicyError",
    "InvalidStatisticsError",
    "LinUCB",
    "Partial",
    "Policy",
    "Posterior",
    "Prior",
    "Problem",
    "RelevanceFloor",
    "Reserved",
    "RewardPosterior",
    "Slate",
    "Statistics",
    "Thompson",
    "TwoLevel",
    "Uniform",
    "UnknownPolicyError",
    "draw_slate",
    "fit_prior",
    "generator",
    "on_phi_grid",
    "parse",
    "recompute",
    "registered",
    "specification",
    "total",
]
