"""Snapshots of what policies beyond the shared linear ones act on: per arm, hybrid, logistic.

Like `Snapshot`: summed statistics as bytes named by their hash, so that replicas that have read the same partials name
the same snapshot, and a decision that cites one can be made again.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from bandits.arms import ArmPartials
from bandits.disjoint import DisjointPosterior
from bandits.errors import CorruptStatisticsError, InvalidStatisticsError
from bandits.hybrid import HybridPosterior, HybridPrior
from bandits.item_posterior import ItemPosterior, ItemPrior
from bandits.items import WithItems
from bandits.logistic import LogisticPartial, LogisticPosterior, LogisticPrior
from bandits.partials import Statistics
from bandits.policy import DISJOINT, HYBRID, ITEMS, LOGISTIC
from bandits.posterior import Learned, Prior
from bandits.snapshot import Snapshot, snapshot_id

AnyPrior: TypeAlias = Prior | HybridPrior | LogisticPrior | ItemPrior
AnySums: TypeAlias = ArmPartials | LogisticPartial | WithItems

_MAGIC = b"LRBX"
_VERSION = 1
# magic, version, learner, bytes of base_model, bytes of schema, generation, three hyper-parameters, bytes of the sums
_HEADER = struct.Struct("<4sBBHHIdddI")
_CODES: Final = {DISJOINT: 1, HYBRID: 2, LOGISTIC: 3, ITEMS: 4}
_NAMES: Final = {code: name for name, code in _CODES.items()}
_SUMS: Final[dict[str, type[AnySums]]] = {
    DISJOINT: ArmPartials,
    HYBRID: ArmPartials,
    LOGISTIC: LogisticPartial,
    ITEMS: WithItems,
}


@dataclass(frozen=True, kw_only=True)
class LearnedSnapshot:
    """Summed statistics of one base model, schema and learner, with the hyper-parameters that read them.

    Attributes
    ----------
    base_model : str
        Hash of the base model's manifest.
    schema : str
        Id of the bandit feature schema.
    generation : int
        Life of the input topics that the statistics come from.
    learner : str
        ``disjoint``, ``hybrid``, ``logistic`` or ``items``.
    prior : Prior, HybridPrior, LogisticPrior or ItemPrior
        Hyper-parameters, of the kind that the learner has.
    sums : ArmPartials, LogisticPartial or WithItems
        The sum over all partitions, of the kind that the learner has. Not changed after this.

    Raises
    ------
    InvalidStatisticsError
        Prior or sums are of another learner.
    """

    base_model: str
    schema: str
    generation: int
    learner: str
    prior: AnyPrior
    sums: AnySums

    def __post_init__(self) -> None:
        wanted: dict[str, tuple[type[AnyPrior], type[AnySums]]] = {
            DISJOINT: (Prior, ArmPartials),
            HYBRID: (HybridPrior, ArmPartials),
            LOGISTIC: (LogisticPrior, LogisticPartial),
            ITEMS: (ItemPrior, WithItems),
        }
        kinds = wanted.get(self.learner)
        if kinds is None or not (isinstance(self.prior, kinds[0]) and isinstance(self.sums, kinds[1])):
            raise InvalidStatisticsError(
                f"learner {self.learner!r} does not go with {type(self.prior).__name__} and {type(self.sums).__name__}"
            )

    @property
    def id(self) -> str:
        """SHA-256 of the bytes, in hex."""
        return snapshot_id(self.to_bytes())

    @property
    def n_shown(self) -> int:
        """Shown slots in the sums."""
        return self.sums.n_shown

    @property
    def newest_ms(self) -> int:
        """Time of the newest exposure in the sums; 0 = none."""
        return self.sums.newest_ms

    def posterior(self, head_weights: Sequence[float], *, silent: bool = False) -> Learned:
        """What these statistics say under some head weights.

        Parameters
        ----------
        head_weights : sequence of float, length n_heads
            Value of one unit of each head, in clicks.
        silent : bool, default False
            The same uncertainty, nothing learned.
        """
        prior, sums = self.prior, self.sums
        if isinstance(sums, LogisticPartial) and isinstance(prior, LogisticPrior):
            return LogisticPosterior(sums, head_weights, prior, silent=silent)
        if isinstance(sums, WithItems) and isinstance(prior, ItemPrior):
            return ItemPosterior(sums.shared.statistics(), sums.items, head_weights, prior, silent=silent)
        assert isinstance(sums, ArmPartials)
        statistics = dict(sums.statistics())
        if silent:
            statistics = {arm: Statistics(one.a, np.zeros_like(one.b), one.n_shown) for arm, one in statistics.items()}
        if isinstance(prior, HybridPrior):
            return HybridPosterior(statistics, head_weights, prior, sums.dim)
        assert isinstance(prior, Prior)
        return DisjointPosterior(statistics, head_weights, prior, sums.dim)

    def to_bytes(self) -> bytes:
        """Versioned bytes (docs/specs/bandit-bytes.md): 5.3 KB an arm at dim 32 and 4 heads, 22 KB for logistic."""
        model, schema, body = self.base_model.encode(), self.schema.encode(), self.sums.to_bytes()
        header = _HEADER.pack(
            _MAGIC,
            _VERSION,
            _CODES[self.learner],
            len(model),
            len(schema),
            self.generation,
            *_numbers(self.prior),
            len(body),
        )
        return header + model + schema + body

    @classmethod
    def from_bytes(cls, data: bytes) -> LearnedSnapshot:
        """Read `to_bytes`.

        Raises
        ------
        CorruptStatisticsError
            Cut, altered, or of an unknown version.
        """
        if len(data) < _HEADER.size or data[:4] != _MAGIC:
            raise CorruptStatisticsError(f"a snapshot begins with {_MAGIC!r}; got {len(data)} bytes that do not")
        _, version, code, n_model, n_schema, generation, *numbers, n_body = _HEADER.unpack_from(data)
        if version != _VERSION or code not in _NAMES:
            raise CorruptStatisticsError(
                f"snapshot of version {_VERSION} and a learner in {sorted(_NAMES)} wanted, got {version} and {code}; "
                "upgrade this process"
            )
        schema_at = _HEADER.size + n_model
        body_at = schema_at + n_schema
        if len(data) != body_at + n_body:
            raise CorruptStatisticsError(f"snapshot of {body_at + n_body} bytes wanted, got {len(data)}")
        learner, body = _NAMES[code], data[body_at:]
        try:
            return cls(
                base_model=data[_HEADER.size : schema_at].decode(),
                schema=data[schema_at:body_at].decode(),
                generation=generation,
                learner=learner,
                prior=_prior(learner, numbers),
                sums=_SUMS[learner].from_bytes(body),
            )
        except ValueError as error:
            raise CorruptStatisticsError("names or hyper-parameters of a snapshot cannot be read") from error


def read_snapshot(data: bytes) -> Snapshot | LearnedSnapshot:
    """A snapshot of either kind.

    Raises
    ------
    CorruptStatisticsError
        Cut, altered, or of an unknown kind or version.
    """
    return LearnedSnapshot.from_bytes(data) if data[:4] == _MAGIC else Snapshot.from_bytes(data)


def _numbers(prior: AnyPrior) -> tuple[float, float, float]:
    if isinstance(prior, HybridPrior):
        return prior.shared_sd, prior.noise_sd, prior.arm_sd
    if isinstance(prior, ItemPrior):
        return prior.shared_sd, prior.noise_sd, prior.item_sd
    return (prior.sd, prior.noise_sd, 0.0) if isinstance(prior, Prior) else (prior.sd, 0.0, 0.0)


def _prior(learner: str, numbers: Sequence[float]) -> AnyPrior:
    sd, noise_sd, arm_sd = numbers
    if learner == HYBRID:
        return HybridPrior(shared_sd=sd, noise_sd=noise_sd, arm_sd=arm_sd)
    if learner == ITEMS:
        return ItemPrior(shared_sd=sd, noise_sd=noise_sd, item_sd=arm_sd)
    return LogisticPrior(sd=sd) if learner == LOGISTIC else Prior(sd=sd, noise_sd=noise_sd)
