"""Snapshots: the summed statistics that a decision acted upon, as bytes named by their hash.

A ranker produces the snapshot to `policy-snapshots` before the first decision that cites it. Because partials add up
exactly, every replica that has read the same partials names the same snapshot.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bandits.errors import CorruptStatisticsError
from bandits.partials import Partial, Statistics
from bandits.posterior import Posterior, Prior

_MAGIC = b"LRBS"
_VERSION = 1
# magic, version, reserved, bytes of base_model, bytes of schema, generation, prior sd, noise sd, bytes of the partial
_HEADER = struct.Struct("<4sBBHHHIddI")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Summed statistics of one base model and feature schema, with the hyper-parameters that read them.

    Attributes
    ----------
    base_model : str
        Hash of the base model's manifest.
    schema : str
        Id of the bandit feature schema.
    generation : int
        Life of the input topics that the statistics come from.
    prior : Prior
        Hyper-parameters of the posterior.
    partial : Partial
        The sum over all partitions (and of the model's own starting statistics). Not changed after this.

    Examples
    --------
    >>> snapshot = Snapshot(base_model="m", schema="s", generation=1, prior=Prior(), partial=Partial(1, 1))
    >>> Snapshot.from_bytes(snapshot.to_bytes()) == snapshot
    True
    >>> snapshot.id == Snapshot.from_bytes(snapshot.to_bytes()).id
    True
    """

    base_model: str
    schema: str
    generation: int
    prior: Prior
    partial: Partial

    @property
    def id(self) -> str:
        """SHA-256 of the bytes, in hex; 20 us at dim 32."""
        return snapshot_id(self.to_bytes())

    @property
    def n_shown(self) -> int:
        """Shown slots in the sums."""
        return self.partial.n_shown

    @property
    def newest_ms(self) -> int:
        """Time of the newest exposure in the sums; 0 = none."""
        return self.partial.newest_ms

    def posterior(self, head_weights: Sequence[float], *, silent: bool = False) -> Posterior:
        """The posterior of these statistics under some head weights; `silent`: nothing learned, as uncertain."""
        sums = self.partial.statistics()
        return Posterior(
            Statistics(sums.a, np.zeros_like(sums.b), sums.n_shown) if silent else sums, head_weights, self.prior
        )

    def to_bytes(self) -> bytes:
        """Versioned bytes (docs/specs/bandit-bytes.md)."""
        model, schema, body = self.base_model.encode(), self.schema.encode(), self.partial.to_bytes()
        header = _HEADER.pack(
            _MAGIC,
            _VERSION,
            0,
            len(model),
            len(schema),
            0,
            self.generation,
            self.prior.sd,
            self.prior.noise_sd,
            len(body),
        )
        return header + model + schema + body

    @classmethod
    def from_bytes(cls, data: bytes) -> Snapshot:
        """Read `to_bytes`.

        Raises
        ------
        CorruptStatisticsError
            Cut, altered, or of an unknown version.
        """
        if len(data) < _HEADER.size or data[:4] != _MAGIC:
            raise CorruptStatisticsError(f"a snapshot begins with {_MAGIC!r}; got {len(data)} bytes that do not")
        _, version, _, n_model, n_schema, _, generation, sd, noise_sd, n_body = _HEADER.unpack_from(data)
        if version != _VERSION:
            raise CorruptStatisticsError(f"snapshot of version {_VERSION} wanted, got {version}; upgrade this process")
        schema_at = _HEADER.size + n_model
        body_at = schema_at + n_schema
        if len(data) != body_at + n_body:
            raise CorruptStatisticsError(f"snapshot of {body_at + n_body} bytes wanted, got {len(data)}")
        try:
            model, schema = data[_HEADER.size : schema_at].decode(), data[schema_at:body_at].decode()
            prior = Prior(sd=sd, noise_sd=noise_sd)
        except ValueError as error:
            raise CorruptStatisticsError("names or hyper-parameters of a snapshot cannot be read") from error
        partial = Partial.from_bytes(data[body_at:])
        return cls(base_model=model, schema=schema, generation=generation, prior=prior, partial=partial)


def snapshot_id(data: bytes) -> str:
    """The name of snapshot bytes: SHA-256, in hex."""
    return hashlib.sha256(data).hexdigest()
