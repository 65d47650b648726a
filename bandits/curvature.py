"""Additive curvature of the logistic likelihood at the base model."""

from __future__ import annotations

import struct
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandits.errors import CorruptStatisticsError, InvalidStatisticsError
from bandits.partials import Partial, check_alike

Floats: TypeAlias = NDArray[np.float64]

_MAGIC = b"LRBC"
_VERSION = 1
# magic, version, reserved, dim, heads, half_life_ms, bytes of each head's partial
_HEADER = struct.Struct("<4sBBHHqI")


class Curvature:
    """Per head h: ``H_h = sum p_h (1 - p_h) phi phi^T`` over shown slots.

    Kept as one `Partial` a head of ``sqrt(p (1 - p)) phi``, so sums are exact and order-free to the grid of that.
    4.3 KB a head at dim 32.

    Parameters
    ----------
    dim, n_heads, half_life_ms : int
        As in `Partial`.

    Examples
    --------
    >>> curvature = Curvature(dim=1, n_heads=1)
    >>> curvature.shown([[1.0]], [[0.5]])
    >>> curvature.matrices().tolist()
    [[[0.25]]]
    """

    __slots__ = ("_heads",)

    def __init__(self, dim: int, n_heads: int, half_life_ms: int = 0) -> None:
        Partial(dim, n_heads, half_life_ms)  # checks the ranges
        self._heads = [Partial(dim, 1, half_life_ms) for _ in range(n_heads)]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Curvature):
            return NotImplemented
        return self.to_bytes() == other.to_bytes()

    __hash__ = None  # type: ignore[assignment]

    @property
    def dim(self) -> int:
        """Length of phi."""
        return self._heads[0].dim

    @property
    def n_heads(self) -> int:
        """Number of heads."""
        return len(self._heads)

    @property
    def half_life_ms(self) -> int:
        """As in `Partial`."""
        return self._heads[0].half_life_ms

    @property
    def n_shown(self) -> int:
        """Shown slots, never discounted."""
        return self._heads[0].n_shown

    @property
    def newest_ms(self) -> int:
        """Largest event time of a slot; 0 = none."""
        return self._heads[0].newest_ms

    def shown(self, phi: ArrayLike, p: ArrayLike, ts_ms: int = 0) -> None:
        """Add shown slots.

        Parameters
        ----------
        phi : array_like, shape (n, dim)
            Bandit features.
        p : array_like, shape (n, n_heads)
            Head probabilities at the slot shown, each in [0, 1].
        ts_ms : int, default 0
            Event time of the exposure.

        Raises
        ------
        InvalidStatisticsError
            Wrong shape, not finite or not a probability. Nothing was added.
        """
        probabilities = np.asarray(p, dtype=np.float64)
        features = np.asarray(phi, dtype=np.float64)
        n = features.shape[0]
        inside = bool(((probabilities >= 0) & (probabilities <= 1)).all())
        if probabilities.shape != (n, self.n_heads) or not inside:
            raise InvalidStatisticsError(f"p of shape ({n}, {self.n_heads}) in [0, 1] wanted; nothing was added")
        none = np.zeros((n, 1))
        for head, partial in enumerate(self._heads):
            root = np.sqrt(probabilities[:, head] * (1.0 - probabilities[:, head]))
            partial.shown(features * root[:, None], none, ts_ms)

    def take_back(self, other: Curvature) -> None:
        """Subtract sums that were added before; see `Partial.take_back`."""
        for own, theirs in zip(self._heads, other._heads, strict=True):
            own.take_back(theirs)

    def merge(self, other: Curvature) -> None:
        """Add another partition's sums.

        Raises
        ------
        InvalidStatisticsError
            Different shape or half-life. Nothing was added.
        """
        check_alike(self, other)
        for one, another in zip(self._heads, other._heads, strict=True):
            one.merge(another)

    def scaled(self, factor: float) -> Curvature:
        """All sums times a factor; see `Partial.scaled`."""
        twin = Curvature(self.dim, self.n_heads, self.half_life_ms)
        twin._heads = [partial.scaled(factor) for partial in self._heads]
        return twin

    def matrices(self, as_of_ms: int | None = None) -> Floats:
        """H, shape (n_heads, dim, dim), discounted to an instant; the newest slot's where omitted."""
        return np.stack([partial.statistics(as_of_ms).a for partial in self._heads])

    def to_bytes(self) -> bytes:
        """Versioned bytes (docs/specs/bandit-bytes.md)."""
        bodies = [partial.to_bytes() for partial in self._heads]
        header = _HEADER.pack(_MAGIC, _VERSION, 0, self.dim, self.n_heads, self.half_life_ms, len(bodies[0]))
        return header + b"".join(bodies)

    @classmethod
    def from_bytes(cls, data: bytes) -> Curvature:
        """Read `to_bytes`.

        Raises
        ------
        CorruptStatisticsError
            Cut, altered, or of an unknown version.
        """
        if len(data) < _HEADER.size or data[:4] != _MAGIC:
            raise CorruptStatisticsError(f"a curvature begins with {_MAGIC!r}; got {len(data)} bytes that do not")
        _, version, _, dim, n_heads, half_life_ms, n_body = _HEADER.unpack_from(data)
        if version != _VERSION:
            raise CorruptStatisticsError(f"curvature of version {_VERSION} wanted, got {version}; upgrade this process")
        if len(data) != _HEADER.size + n_heads * n_body:
            raise CorruptStatisticsError(
                f"curvature of {_HEADER.size + n_heads * n_body} bytes wanted, got {len(data)}"
            )
        curvature = cls(dim, n_heads, half_life_ms)
        for head in range(n_heads):
            partial = Partial.from_bytes(data[_HEADER.size + head * n_body :][:n_body])
            if (partial.dim, partial.n_heads, partial.half_life_ms) != (dim, 1, half_life_ms):
                raise CorruptStatisticsError("a head's sums have another shape than their curvature")
            curvature._heads[head] = partial
        return curvature
