"""Vowpal Wabbit's `cb_explore_adf` behind our roles: the only importer of vowpalwabbit.

VW learns the reward itself (not residuals of the heads) and brings its own exploration, so it is both the posterior
and the policy of a problem: `VowpalModel` predicts a pmf over the candidates, `Vowpal` places by it. Features go in
as numbers; no text is formatted.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import vowpalwabbit
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from bandits.errors import CorruptStatisticsError, InvalidPolicyError, InvalidStatisticsError
from bandits.laws import Law, StaticLaw
from bandits.policy import in_range, register
from bandits.posterior import RewardPosterior, phi_of
from bandits.slates import Problem

Floats: TypeAlias = NDArray[np.float64]

_NAMESPACE = "a"


@dataclass(frozen=True, kw_only=True)
class VowpalSettings:
    """What VW is started with.

    Attributes
    ----------
    dim : int
        Length of phi.
    exploration : {"squarecb", "cover", "bag"}
        Algorithm of exploration.
    n_policies : int, default 5
        Policies of cover or bag.
    floor : float, default 0.02
        VW's own ``--epsilon``: without it bag gives probabilities of exactly 0, whose log has no support.
    learning_rate : float, default 0.5
        VW's ``-l``.
    cb_type : {"mtr", "dr", "ips"}, default "mtr"
        How a logged reward becomes costs; doubly robust is ``dr``.
    seed : int, default 1
        VW's ``--random_seed``.
    """

    dim: int
    exploration: Literal["squarecb", "cover", "bag"] = "squarecb"
    n_policies: int = 5
    floor: float = 0.02
    learning_rate: float = 0.5
    cb_type: Literal["mtr", "dr", "ips"] = "mtr"
    seed: int = 1

    def __post_init__(self) -> None:
        in_range("dim", self.dim, 1, 4096)
        in_range("n_policies", self.n_policies, 1, 64)
        in_range("floor", self.floor, 0.0, 1.0)
        in_range("learning_rate", self.learning_rate, 1e-9, 1e3)
        if self.exploration not in ("squarecb", "cover", "bag") or self.cb_type not in ("mtr", "dr", "ips"):
            raise InvalidPolicyError(f"no such exploration or cb_type: {self.exploration}, {self.cb_type}")

    def arguments(self) -> str:
        """The command line."""
        many = "" if self.exploration == "squarecb" else f" {self.n_policies}"
        return (
            f"--cb_explore_adf --{self.exploration}{many} --epsilon {self.floor!r} --cb_type {self.cb_type} "
            f"-l {self.learning_rate!r} --random_seed {self.seed} --quiet"
        )


class VowpalModel:
    """A running VW workspace that predicts and learns from dense features.

    One prediction of 50 candidates at dim 32 takes about 0.3 ms, nearly all of it handing the features over; learning
    likewise. Not thread safe: one owner learns (in one consumer of the examples) and publishes `to_bytes`, rankers
    load that and predict.

    Parameters
    ----------
    settings : VowpalSettings
        What VW is started with.
    """

    def __init__(self, settings: VowpalSettings) -> None:
        self.settings = settings
        self._workspace: Any = vowpalwabbit.Workspace(settings.arguments())
        self._prepare()

    def close(self) -> None:
        """Free VW's memory; the model is not usable afterwards."""
        self._workspace.finish()

    def pmf(self, phi: Floats) -> Floats:
        """VW's probabilities over the candidates as one choice, shape (n,); sums to 1."""
        examples = self._examples(phi, None)
        try:
            raw = self._workspace.predict(examples)
        finally:
            self._workspace.finish_example(examples)
        pmf: Floats = np.maximum(np.array(raw, dtype=np.float64), 0.0)
        pmf /= pmf.sum()
        return pmf

    def learn(self, phi: ArrayLike, chosen: int, reward: float, propensity: float) -> None:
        """Learn from one drawn slot.

        Parameters
        ----------
        phi : array_like, shape (n, dim)
            Features of the slot's feasible candidates.
        chosen : int
            Row that was placed.
        reward : float
            In clicks; VW is told minus this as the cost.
        propensity : float
            The logged probability of the placement, in (0, 1].

        Raises
        ------
        InvalidStatisticsError
            Wrong shape, not finite, no such row or no probability. Nothing was learned.
        """
        x = np.asarray(phi, dtype=np.float64)
        if not (np.isfinite(reward) and 0 < propensity <= 1 and x.ndim == 2 and 0 <= chosen < x.shape[0]):
            raise InvalidStatisticsError(
                "a finite reward, a propensity in (0, 1] and a chosen row of phi wanted, "
                f"got {reward}, {propensity}, {chosen} of {x.shape}; nothing was learned"
            )
        examples = self._examples(x, (chosen, f"0:{-float(reward)!r}:{float(propensity)!r}"))
        try:
            self._workspace.learn(examples)
        finally:
            self._workspace.finish_example(examples)

    def bind(self, arms: Sequence[str], p_first: Floats, items: Sequence[str] = ()) -> RewardPosterior:
        """See `Learned.bind`; the same for all candidates."""
        return self

    def mean(self, phi: Floats) -> Floats:
        """What greed ranks by: VW's own pmf (VW does not hand out its reward estimates while it explores)."""
        return self.pmf(phi)

    def sd(self, phi: Floats) -> Floats:
        """Zeros: VW keeps no uncertainty of a candidate's reward."""
        return np.zeros(phi.shape[0])

    def draws(self, phi: Floats, n_draws: int, rng: Generator) -> Floats:
        """The mean, `n_draws` times: VW has no posterior to draw from."""
        return np.tile(self.pmf(phi), (n_draws, 1))

    def to_bytes(self) -> bytes:
        """The model file with its resume state, after its SHA-256."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            self._workspace.save(str(path))
            body = path.read_bytes()
        return hashlib.sha256(body).digest() + body

    @classmethod
    def from_bytes(cls, data: bytes, settings: VowpalSettings) -> VowpalModel:
        """A model that answers as the one that wrote the bytes.

        Raises
        ------
        CorruptStatisticsError
            Cut or altered; VW itself would crash or read it as something else.
        """
        if len(data) <= 32 or hashlib.sha256(data[32:]).digest() != data[:32]:
            raise CorruptStatisticsError("checksum of a VW model does not match; take an older snapshot")
        model = cls.__new__(cls)
        model.settings = settings
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            path.write_bytes(data[32:])
            model._workspace = vowpalwabbit.Workspace(f"--quiet -i {path}")
        model._prepare()
        return model

    def pmf_of_text(self, lines: Sequence[str]) -> Floats:
        """VW's probabilities of candidates in VW's text format, one line each; to compare with other producers of
        such lines.
        """
        return np.array(self._workspace.predict(list(lines)), dtype=np.float64)

    def _prepare(self) -> None:
        namespace = self._workspace.hash_space(_NAMESPACE)
        self._indices = [self._workspace.hash_feature(f"f{column}", namespace) for column in range(self.settings.dim)]

    def _examples(self, phi: Floats, label: tuple[int, str] | None) -> list[Any]:
        x = phi_of(phi, self.settings.dim)
        if not np.isfinite(x.sum()) or not x.shape[0]:
            raise InvalidStatisticsError(
                "at least one candidate and finite phi wanted; nothing was predicted or learned"
            )
        examples = []
        for row, values in enumerate(x.tolist()):
            example = self._workspace.example({_NAMESPACE: list(zip(self._indices, values, strict=True))})
            if label is not None and label[0] == row:
                example.set_label_string(label[1])
            example.setup_example()
            examples.append(example)
        return examples


@register
@dataclass(frozen=True, kw_only=True)
class Vowpal:
    """Place by VW's pmf, renormalised over what is feasible; the problem's posterior must be a `VowpalModel` (and its
    value 0).

    VW's exploration speaks of one choice; later slots are its law given that the placed candidates are gone, which is
    what is logged.
    """

    name: ClassVar[str] = "vowpal"
    learner: ClassVar[str] = "reward"

    def law(self, problem: Problem, score: Floats, rng: Generator) -> Law:
        """See `Policy.law`."""
        if not isinstance(problem.posterior, VowpalModel):
            raise InvalidPolicyError("policy 'vowpal' needs a VowpalModel as the problem's posterior")
        return StaticLaw(problem.posterior.pmf(problem.phi))
