"""Additive statistics per arm: a category, a row of the page or an item variant."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandits.errors import CorruptStatisticsError
from bandits.partials import Partial, Statistics, check_alike

Ints: TypeAlias = NDArray[np.int64]

MAX_ARMS = 512
"""Most arms of one table; each takes 8 * dim * (dim + n_heads) bytes."""

_MAGIC = b"LRBA"
_VERSION = 1
# magic, version, reserved, number of arms, dim, heads, half_life_ms
_HEADER = struct.Struct("<4sBBHHHq")
# bytes of the name, bytes of the partial
_ENTRY = struct.Struct("<HI")


@lru_cache(maxsize=4_096)
def arm_rank(arm: str) -> tuple[int, str]:
    """Place of an arm in the order in which arms are kept: by a hash of its name, the same in every process."""
    digest = hashlib.blake2b(arm.encode(), digest_size=8, person=b"bandit-arm").digest()
    return int.from_bytes(digest, "big"), arm


class ArmPartials:
    """One `Partial` per arm, made at the arm's first slot.

    Adds up and travels as a partial does; order-free and exact in the same sense. Read by `DisjointPosterior` and
    `HybridPosterior`.

    Of more than `MAX_ARMS` arms those of the smallest `arm_rank` are kept. An arm that is kept was never dropped
    before, so its sums are whole, and tables that are fed in any order, on any number of partitions, keep the same
    arms. What is not kept has the prior.

    Parameters
    ----------
    dim, n_heads, half_life_ms : int
        As in `Partial`.
    """

    __slots__ = ("_arms", "_changed", "dim", "half_life_ms", "n_heads")

    def __init__(self, dim: int, n_heads: int, half_life_ms: int = 0) -> None:
        Partial(dim, n_heads, half_life_ms)  # checks the ranges
        self.dim = dim
        self.n_heads = n_heads
        self.half_life_ms = half_life_ms
        self._arms: dict[str, Partial] = {}
        self._changed: set[str] = set()

    def __len__(self) -> int:
        return len(self._arms)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ArmPartials):
            return NotImplemented
        return self.to_bytes() == other.to_bytes()

    __hash__ = None  # type: ignore[assignment]

    @property
    def newest_ms(self) -> int:
        """Largest event time of any arm; 0 = none."""
        return max((partial.newest_ms for partial in self._arms.values()), default=0)

    @property
    def n_shown(self) -> int:
        """Shown slots of all kept arms."""
        return sum(partial.n_shown for partial in self._arms.values())

    def shown(self, arm: str, phi: ArrayLike, residuals: ArrayLike, ts_ms: int = 0) -> None:
        """Add shown slots of one arm, if it is kept; see `Partial.shown`.

        Raises
        ------
        InvalidStatisticsError
            As `Partial.shown`. Nothing was added.
        """
        partial = self._arms.get(arm) or Partial(self.dim, self.n_heads, self.half_life_ms)
        partial.shown(phi, residuals, ts_ms)
        self.put(arm, partial)

    def outcome(self, arm: str, phi: ArrayLike, head: int, delta: float, ts_ms: int = 0) -> None:
        """Correct one slot's residual, if its arm is kept; see `Partial.outcome`."""
        partial = self._arms.get(arm) or Partial(self.dim, self.n_heads, self.half_life_ms)
        partial.outcome(phi, head, delta, ts_ms)
        self.put(arm, partial)

    def put(self, arm: str, partial: Partial) -> None:
        """Set an arm's sums, if the arm is kept; the table owns `partial` from now on.

        Raises
        ------
        InvalidStatisticsError
            Another shape or half-life than the table's. Nothing was set.
        """
        check_alike(self, partial)
        if arm not in self._arms and len(self._arms) >= MAX_ARMS:
            last = max(self._arms, key=arm_rank)
            if arm_rank(arm) > arm_rank(last):
                return
            del self._arms[last]
            self._changed.add(last)
        self._arms[arm] = partial
        self._changed.add(arm)

    def take_changes(self) -> dict[str, Partial | None]:
        """Arms that changed since the last call; None = no longer kept."""
        changed: dict[str, Partial | None] = {arm: self._arms.get(arm) for arm in sorted(self._changed)}
        self._changed.clear()
        return changed

    def merge(self, other: ArmPartials) -> None:
        """Add another table's sums, arm by arm.

        Raises
        ------
        InvalidStatisticsError
            Different shape or half-life. Nothing was added.
        """
        check_alike(self, other)
        for arm, partial in other._arms.items():
            if arm in self._arms:
                self._arms[arm].merge(partial)
                self._changed.add(arm)
            else:
                self.put(arm, partial.copy())

    def take_back(self, other: ArmPartials) -> None:
        """Subtract sums that were added before, of arms that are still kept; see `Partial.take_back`."""
        check_alike(self, other)
        for arm, partial in other._arms.items():
            if arm in self._arms:
                self._arms[arm].take_back(partial)
                self._changed.add(arm)

    def scaled(self, factor: float) -> ArmPartials:
        """All sums times a factor; see `Partial.scaled`."""
        twin = ArmPartials(self.dim, self.n_heads, self.half_life_ms)
        for arm, partial in self._arms.items():
            twin.put(arm, partial.scaled(factor))
        return twin

    def statistics(self, as_of_ms: int | None = None) -> Mapping[str, Statistics]:
        """The sums per arm, arms sorted; discounted as in `Partial.statistics`, all to one instant."""
        instant = self.newest_ms if as_of_ms is None else as_of_ms
        return {arm: self._arms[arm].statistics(instant) for arm in sorted(self._arms)}

    def to_bytes(self) -> bytes:
        """Versioned bytes (docs/specs/bandit-bytes.md), arms sorted by name."""
        parts = [_HEADER.pack(_MAGIC, _VERSION, 0, len(self._arms), self.dim, self.n_heads, self.half_life_ms)]
        for arm in sorted(self._arms):
            name, body = arm.encode(), self._arms[arm].to_bytes()
            parts += [_ENTRY.pack(len(name), len(body)), name, body]
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> ArmPartials:
        """Read `to_bytes`.

        Raises
        ------
        CorruptStatisticsError
            Cut, altered, or of an unknown version.
        """
        try:
            magic, version, _, n_arms, dim, n_heads, half_life_ms = _HEADER.unpack_from(data)
            if magic != _MAGIC or version != _VERSION:
                raise CorruptStatisticsError(
                    f"arm statistics of version {_VERSION} wanted, got {magic!r} version {version}"
                )
            if n_arms > MAX_ARMS:
                raise CorruptStatisticsError(f"at most {MAX_ARMS} arms in a table, got {n_arms}")
            table = cls(dim, n_heads, half_life_ms)
            at = _HEADER.size
            for _ in range(n_arms):
                n_name, n_body = _ENTRY.unpack_from(data, at)
                at += _ENTRY.size
                arm = data[at : at + n_name].decode()
                partial = Partial.from_bytes(data[at + n_name : at + n_name + n_body])
                if (partial.dim, partial.n_heads, partial.half_life_ms) != (dim, n_heads, half_life_ms):
                    raise CorruptStatisticsError(f"statistics of arm {arm!r} have another shape than their table")
                table._arms[arm] = partial
                at += n_name + n_body
        except (struct.error, UnicodeDecodeError) as error:
            raise CorruptStatisticsError("arm statistics are cut") from error
        if at != len(data):
            raise CorruptStatisticsError(f"arm statistics of {at} bytes wanted, got {len(data)}")
        return table


def arm_codes(arms: Sequence[str], rows: Mapping[str, int]) -> Ints:
    """Code of each candidate's arm: its row where known, else len(rows) and up, one per unknown name.

    Returns
    -------
    ndarray of int64, shape (n,)
        Equal codes mean the same arm; ``minimum(codes, len(rows))`` indexes arrays whose last entry stands for
        unknown arms.
    """
    unknown: dict[str, int] = {}
    n_known = len(rows)
    codes = [rows[arm] if arm in rows else unknown.setdefault(arm, n_known + len(unknown)) for arm in arms]
    return np.array(codes, dtype=np.int64)
