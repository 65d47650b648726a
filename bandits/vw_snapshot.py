"""A learned VW model as bytes named by their hash: what the learner publishes, rankers serve and decisions cite."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bandits.errors import BanditsError, CorruptStatisticsError
from bandits.vw import VowpalModel, VowpalSettings

MAGIC = b"LRVW"
_VERSION = 1
# magic, version, reserved, bytes of the header
_HEADER = struct.Struct("<4sBBHI")


@dataclass(frozen=True, kw_only=True)
class VowpalSnapshot:
    """What one learner had learned at one moment.

    Attributes
    ----------
    schema : str
        Id of the bandit feature schema.
    settings : VowpalSettings
        What VW was started with.
    n_learned : int
        Slots that it learned from.
    newest_ms : int
        Time of the newest of them; 0 = none.
    positions : mapping of int to int
        Partition of the examples -> next offset: who goes on from this snapshot learns each example once.
    model : bytes
        `VowpalModel.to_bytes`.
    """

    schema: str
    settings: VowpalSettings
    n_learned: int
    newest_ms: int
    positions: Mapping[int, int] = field(default_factory=dict)
    model: bytes

    @property
    def id(self) -> str:
        """SHA-256 of the bytes, in hex."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def load(self) -> VowpalModel:
        """A model that answers as the one that was saved; 1 ms."""
        return VowpalModel.from_bytes(self.model, self.settings)

    def to_bytes(self) -> bytes:
        """Versioned bytes: a JSON header, then the model."""
        header = json.dumps(
            {
                "schema": self.schema,
                "settings": asdict(self.settings),
                "n_learned": self.n_learned,
                "newest_ms": self.newest_ms,
                "positions": {str(partition): offset for partition, offset in sorted(self.positions.items())},
            },
            sort_keys=True,
        ).encode()
        return _HEADER.pack(MAGIC, _VERSION, 0, 0, len(header)) + header + self.model

    @classmethod
    def from_bytes(cls, data: bytes) -> VowpalSnapshot:
        """Read `to_bytes`.

        Raises
        ------
        CorruptStatisticsError
            Cut, altered, or of an unknown version.
        """
        if len(data) < _HEADER.size or data[:4] != MAGIC:
            raise CorruptStatisticsError(f"a VW snapshot begins with {MAGIC!r}; got {len(data)} bytes that do not")
        _, version, _, _, n_header = _HEADER.unpack_from(data)
        if version != _VERSION:
            raise CorruptStatisticsError(
                f"VW snapshot of version {_VERSION} wanted, got {version}; upgrade this process"
            )
        try:
            head: dict[str, Any] = json.loads(data[_HEADER.size : _HEADER.size + n_header])
            return cls(
                schema=str(head["schema"]),
                settings=VowpalSettings(**head["settings"]),
                n_learned=int(head["n_learned"]),
                newest_ms=int(head["newest_ms"]),
                positions={int(partition): int(offset) for partition, offset in head["positions"].items()},
                model=data[_HEADER.size + n_header :],
            )
        except (ValueError, KeyError, TypeError, BanditsError) as error:
            raise CorruptStatisticsError(f"header of a VW snapshot cannot be read: {error}") from error
