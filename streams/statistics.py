"""The bandit's statistics of one partition, as a state of the user fold: key ``#stats:<base model>:<schema>``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from bandits.partials import Partial
from features.redis import VersionedValue, parse_version
from liverank.v1.event_pb2 import Exposure

__all__ = ["PREFIX", "StatisticsState", "statistics_key"]

PREFIX: Final = "#stats:"
_SUMS: Final = b"d"
_PARTITION: Final = b"p"


class _Name(NamedTuple):
    base_model: str
    schema: str


def statistics_key(exposure: Exposure) -> str:
    """State key of the statistics that an exposure moves."""
    return f"{PREFIX}{exposure.base_model}:{exposure.schema}"


class StatisticsState:
    """Sums of one (base model, schema) over the partition's users; a `streams.fold.KeyState`."""

    __slots__ = ("_changed", "_name", "_partition", "partial")

    def __init__(self, key: str, fields: Mapping[bytes, bytes]) -> None:
        base_model, _, schema = key.removeprefix(PREFIX).partition(":")
        self._name = _Name(base_model, schema)
        stored = fields.get(_SUMS)
        self.partial = Partial.from_bytes(stored) if stored else None
        self._partition = int(fields.get(_PARTITION, b"0"))
        self._changed = False

    def open(self, partition: int, dim: int, n_heads: int) -> Partial:
        """The sums, to be changed; made at their first use."""
        if self.partial is None:
            self.partial = Partial(dim, n_heads)
            self._partition = partition
        self._changed = True
        return self.partial

    def due_ms(self) -> int | None:
        """Statistics are never due."""
        return None

    def dirty(self) -> dict[bytes, bytes]:
        """Fields changed since the last call."""
        if not self._changed or self.partial is None:
            return {}
        self._changed = False
        return {_SUMS: self.partial.to_bytes(), _PARTITION: b"%d" % self._partition}

    def value(self, namespace: str, fields: Mapping[bytes, bytes], version: bytes) -> VersionedValue:
        """What rankers read: ``<ns>:bandit:<generation>:<base model>:<schema>:<partition>``, field ``d``."""
        generation = max(1, parse_version(version)[0])
        name = f"{namespace}:bandit:{generation}:{self._name.base_model}:{self._name.schema}:{self._partition}"
        return VersionedValue(name, {"d": fields[_SUMS]}, version)
