"""The role of a policy, and the registry that turns a logged specification back into one.

A policy is a frozen set of hyper-parameters. What it has learned is the posterior, which comes with each request, so
every policy of a feature schema shares the same statistics.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import ClassVar, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bandits.errors import InvalidPolicyError, UnknownPolicyError
from bandits.laws import Law
from bandits.slates import Problem

Floats: TypeAlias = NDArray[np.float64]


class Policy(Protocol):
    """How a posterior is acted upon.

    Implementations are frozen keyword-only dataclasses whose fields are ints and floats, range-checked when made.
    They are pure and thread safe: the same generator state gives the same law.
    """

    name: ClassVar[str]

    def law(self, problem: Problem, score: Floats, rng: Generator) -> Law:
        """The placement law of one request.

        Parameters
        ----------
        problem : Problem
            The request; neither kept nor changed.
        score : ndarray of float64, shape (n,)
            Value plus posterior mean, as greed ranks. Not changed.
        rng : Generator
            All randomness of the law is drawn here, before the first slot.
        """
        ...


SHARED, DISJOINT, HYBRID, LOGISTIC, REWARD = "shared", "disjoint", "hybrid", "logistic", "reward"
ITEMS = "items"
"""What a policy acts on: one linear posterior, one per arm, both together, one in logits; a model of the reward; one
linear posterior and an effect of each item."""


def learner(policy: Policy) -> str:
    """What a policy acts on: its class's `learner`, `SHARED` where it says nothing."""
    return str(getattr(policy, "learner", SHARED))


_REGISTRY: dict[str, type[Policy]] = {}
_ADAPTERS = {"vowpal": "bandits.vw"}
"""Policies of other libraries, imported when a specification names them."""

PolicyType = TypeVar("PolicyType", bound=type[Policy])


def register(policy: PolicyType) -> PolicyType:
    """Class decorator: make a policy known by its name, to specifications and to the checks of `bandits.checks`."""
    if policy.name in _REGISTRY:
        raise InvalidPolicyError(f"policy {policy.name!r} is registered already by {_REGISTRY[policy.name].__name__}")
    _REGISTRY[policy.name] = policy
    return policy


def registered() -> Mapping[str, type[Policy]]:
    """All policies by name."""
    return dict(_REGISTRY)


def specification(policy: Policy) -> str:
    """Name and parameters as text, e.g. ``thompson(n_draws=128)``: what a decision logs.

    See Also
    --------
    parse : the way back.
    """
    inner = ",".join(f"{item.name}={getattr(policy, item.name)!r}" for item in fields(policy))  # type: ignore[arg-type]
    return f"{policy.name}({inner})"


def parse(text: str) -> Policy:
    """A policy from its specification; parameters left out take their defaults, so ``thompson`` is enough.

    Raises
    ------
    UnknownPolicyError
        No such policy or parameter, or text that is not a specification.
    InvalidPolicyError
        A parameter outside its range.
    """
    name, _, rest = text.strip().partition("(")
    if name in _ADAPTERS and name not in _REGISTRY:
        importlib.import_module(_ADAPTERS[name])
    if name not in _REGISTRY:
        raise UnknownPolicyError(f"policy {name!r} is not one of {sorted(_REGISTRY)}")
    policy = _REGISTRY[name]
    kinds = {item.name: item.type for item in fields(policy)}  # type: ignore[arg-type]
    if rest and not rest.endswith(")"):
        raise UnknownPolicyError(f"{text!r} is not of the form name(parameter=number,...)")
    values: dict[str, float] = {}
    for part in filter(None, rest.rstrip(")").split(",")):
        key, _, number = (piece.strip() for piece in part.partition("="))
        if key not in kinds:
            raise UnknownPolicyError(f"policy {name!r} has the parameters {sorted(kinds)}, not {key!r}")
        try:
            values[key] = int(number) if kinds[key] == "int" else float(number)
        except ValueError as error:
            raise UnknownPolicyError(
                f"{key} of policy {name!r} must be of type {kinds[key]}, got {number!r}"
            ) from error
    return policy(**values)


def in_range(name: str, value: float, low: float, high: float) -> None:
    """Refuse a hyper-parameter outside [low, high].

    Raises
    ------
    InvalidPolicyError
        Outside, or NaN.
    """
    if not (low <= value <= high) or math.isnan(value):
        raise InvalidPolicyError(f"{name} must lie in [{low:g}, {high:g}], got {value}")
