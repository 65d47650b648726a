"""What a partition's fold reads through, and what it finds out about records beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from features.item_version import CatalogueItem

__all__ = ["ItemVersions", "Scanned", "StateReader"]


class StateReader(Protocol):
    """Where states and due keys come from."""

    def load(self, partition: int, keys: Sequence[str]) -> list[Mapping[bytes, bytes]]:
        """Return the fields of each key; empty = the key has no state."""
        ...

    def due_between(self, partition: int, after_ms: int, until_ms: int) -> list[tuple[str, int]]:
        """Return (key, due_ms) with after_ms < due_ms <= until_ms."""
        ...


class ItemVersions(Protocol):
    """The catalogue's versions."""

    def at(self, item_id: str, append_ts_ms: int) -> CatalogueItem | None:
        """Return the newest version appended at or before `append_ts_ms`; None = unknown or removed."""
        ...


class Scanned(NamedTuple):
    """What was found out about records before they are folded.

    Attributes
    ----------
    missing : list of str
        Keys of this partition that are not in memory, of records that native code may fold.
    left : list of int
        Indices of records that native code leaves to Python.
    watched : list of int
        Indices of some of the others: of an offset that `every` divides, or of an event more than `ahead_ms` ahead of
        its record.
    """

    missing: list[str]
    left: list[int]
    watched: list[int]
