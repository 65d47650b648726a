"""Additive statistics of one partition: what the fold keeps and every replica sums.

A *partial* holds, for one (base model, feature schema, generation, partition), the second moments ``A = sum phi
phi^T`` of the bandit features of all shown slots and, per head, ``b_h = sum phi e_h`` of the residuals ``e_h =
outcome_h - p_h``. Partials add up, so the statistics of a namespace are the sum over its partitions, whatever the
order.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandits.errors import CorruptStatisticsError, InvalidStatisticsError

Floats: TypeAlias = NDArray[np.float64]

PHI_GRID = 2.0**-12
"""Bandit features are rounded to multiples of this."""
RESIDUAL_GRID = 2.0**-18
"""Residuals and their corrections are rounded to multiples of this."""
PHI_LIMIT = 64.0
"""Largest absolute value of a bandit feature."""
RESIDUAL_LIMIT = 64.0
"""Largest absolute value of a residual or of a correction."""

_MAGIC = b"LRBP"
_VERSION = 1
# magic, version, reserved, dim, heads, n_shown, half_life_ms, epoch, newest_ms
_HEADER = struct.Struct("<4sBBHHqqqq")
_CRC = struct.Struct("<I")


def on_phi_grid(phi: ArrayLike) -> Floats:
    """Round bandit features to the grid on which their sums are exact.

    A ranker that builds its features on the grid logs, acts on and learns from the same numbers (they are
    float32-exact up to 2**11).

    Examples
    --------
    >>> on_phi_grid([0.1, 1.0]).tolist()
    [0.10009765625, 1.0]
    """
    return np.rint(np.asarray(phi, dtype=np.float64) * (1.0 / PHI_GRID)) * PHI_GRID


@lru_cache(maxsize=16)
def _upper(dim: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the upper triangle: half of what encoding would cost."""
    rows, columns = np.triu_indices(dim)
    rows.flags.writeable = columns.flags.writeable = False
    return rows, columns


def _checked(name: str, values: ArrayLike, width: int, limit: float, grid: float) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 1:
        array = array[None, :]
    if array.ndim != 2 or array.shape[1] != width:
        raise InvalidStatisticsError(
            f"{name}: shape (n, {width}) or ({width},) wanted, got {np.shape(values)}; nothing was added"
        )
    # One comparison refuses NaN, infinities and outliers alike.
    if not bool((np.abs(array) <= limit).all()):
        raise InvalidStatisticsError(f"{name}: finite values within +-{limit:g} wanted; nothing was added")
    return np.rint(array * (1.0 / grid)) * grid


def sums_checked(phi: ArrayLike, residuals: ArrayLike, dim: int, n_heads: int) -> tuple[Floats, Floats]:
    """Features and residuals of slots on their grids, shapes (n, dim) and (n, n_heads).

    Raises
    ------
    InvalidStatisticsError
        Wrong shape, not finite or outside the limits.
    """
    x = _checked("phi", phi, dim, PHI_LIMIT, PHI_GRID)
    e = _checked("residuals", residuals, n_heads, RESIDUAL_LIMIT, RESIDUAL_GRID)
    if x.shape[0] != e.shape[0]:
        raise InvalidStatisticsError(
            f"as many residuals as slots wanted, got {e.shape[0]} for {x.shape[0]}; nothing was added"
        )
    return x, e


@dataclass(frozen=True)
class Statistics:
    """Sums as a posterior reads them.

    Attributes
    ----------
    a : ndarray of float64, shape (dim, dim)
        Sum of phi phi^T over shown slots.
    b : ndarray of float64, shape (n_heads, dim)
        Sum of phi e_h over shown slots, per head.
    n_shown : int
        Shown slots, never discounted.
    """

    a: Floats
    b: Floats
    n_shown: int

    @property
    def dim(self) -> int:
        """Length of phi."""
        return int(self.a.shape[0])

    @property
    def n_heads(self) -> int:
        """Number of heads."""
        return int(self.b.shape[0])


class Summed(Protocol):
    """What sums that add up have in common."""

    @property
    def dim(self) -> int:
        """Length of phi."""
        ...

    @property
    def n_heads(self) -> int:
        """Number of heads."""
        ...

    @property
    def half_life_ms(self) -> int:
        """Half-life of a slot's weight; 0 = none."""
        ...


def check_alike(one: Summed, other: Summed) -> None:
    """Sums of another shape or half-life cannot be added.

    Raises
    ------
    InvalidStatisticsError
        They differ.
    """
    mine, theirs = (one.dim, one.n_heads, one.half_life_ms), (other.dim, other.n_heads, other.half_life_ms)
    if mine != theirs:
        raise InvalidStatisticsError(f"(dim, n_heads, half_life_ms) {mine} wanted, got {theirs}; nothing was added")


class Partial:
    """Statistics of one partition.

    Sums are *exact*: features and residuals are rounded to a binary grid on entry, so that every product and sum is a
    float64 without rounding error (up to 5e8 shown slots of unit features). Hence the same slots and outcomes in any
    order, on any number of partitions, give the same bytes. With a half-life the weights ``2 ** (t / half_life)`` are
    not on a grid and equality holds to 1e-12 of the largest sum.

    Not idempotent: whoever feeds it drops repeats (the fold does, by event id). Not thread safe.

    Parameters
    ----------
    dim : int
        Length of phi, 1 to 4096.
    n_heads : int
        Number of heads, 1 to 64.
    half_life_ms : int, default 0
        Event time in which a slot's weight halves; 0 keeps all slots alike. Weights are referred to one epoch (a
        multiple of the half-life), which moves with the newest slot; moving it multiplies by a power of two, so
        nothing is lost.

    Examples
    --------
    >>> partial = Partial(dim=2, n_heads=1)
    >>> partial.shown([1.0, 0.5], [-0.25])
    >>> partial.outcome([1.0, 0.5], head=0, delta=1.0)
    >>> partial.statistics().b.tolist()
    [[0.75, 0.375]]
    >>> Partial.from_bytes(partial.to_bytes()) == partial
    True
    """

    __slots__ = ("_a", "_b", "_epoch", "half_life_ms", "n_shown", "newest_ms")

    def __init__(self, dim: int, n_heads: int, half_life_ms: int = 0) -> None:
        if not (1 <= dim <= 4096 and 1 <= n_heads <= 64 and 0 <= half_life_ms < 2**53):
            raise InvalidStatisticsError(
                f"dim in 1..4096, n_heads in 1..64, half_life_ms >= 0 wanted, got {dim}, {n_heads}, {half_life_ms}"
            )
        self._a: Floats = np.zeros((dim, dim))
        self._b: Floats = np.zeros((n_heads, dim))
        self._epoch = 0
        self.half_life_ms = half_life_ms
        self.n_shown = 0
        self.newest_ms = 0

    @classmethod
    def of_sums(cls, sums: Statistics, newest_ms: int) -> Self:
        """A partial without a half-life that holds sums of terms on the grids, made elsewhere.

        Parameters
        ----------
        newest_ms : int
            Event time of the newest slot.
        """
        partial = cls(sums.dim, sums.b.shape[0])
        partial._a += sums.a
        partial._b += sums.b
        partial.n_shown, partial.newest_ms = sums.n_shown, newest_ms
        return partial

    @property
    def dim(self) -> int:
        """Length of phi."""
        return int(self._a.shape[0])

    @property
    def n_heads(self) -> int:
        """Number of heads."""
        return int(self._b.shape[0])

    def shown(self, phi: ArrayLike, residuals: ArrayLike, ts_ms: int = 0) -> None:
        """Add shown slots; about 6 us for one slot, 12 us for a slate of 20 (dim 32, 2 heads).

        Parameters
        ----------
        phi : array_like, shape (dim,) or (n, dim)
            Bandit features as logged.
        residuals : array_like, shape (n_heads,) or (n, n_heads)
            Outcome so far minus probability at the slot shown: ``-p_h`` for a fast head, 0 for a slow head that is
            not mature.
        ts_ms : int, default 0
            Event time of the exposure; used only with a half-life, and as the age of the posterior.

        Raises
        ------
        InvalidStatisticsError
            Wrong shape, not finite or outside the limits. Nothing was added.
        """
        x, e = sums_checked(phi, residuals, self.dim, self.n_heads)
        weight = self._weight(ts_ms)
        weighted = x if weight == 1.0 else x * weight
        self._a += x.T @ weighted
        self._b += e.T @ weighted
        self.n_shown += x.shape[0]

    def outcome(self, phi: ArrayLike, head: int, delta: float, ts_ms: int = 0) -> None:
        """Add a later correction of one slot's residual: +1 for a click that arrives, -1 where it is taken back.

        Parameters
        ----------
        phi : array_like, shape (dim,)
            Bandit features of the slot, as given to `shown`.
        head : int
            Row of the head.
        delta : float
            Change of the residual.
        ts_ms : int, default 0
            Event time of the *exposure* (not of the outcome), so that it weighs as its slot does.

        Raises
        ------
        InvalidStatisticsError
            Wrong shape, no such head or not finite. Nothing was added.
        """
        if not 0 <= head < self.n_heads:
            raise InvalidStatisticsError(f"head in 0..{self.n_heads - 1} wanted, got {head}; nothing was added")
        x = _checked("phi", phi, self.dim, PHI_LIMIT, PHI_GRID)
        d = _checked("delta", [delta], 1, RESIDUAL_LIMIT, RESIDUAL_GRID)
        if x.shape[0] != 1:
            raise InvalidStatisticsError(f"one slot wanted, got {x.shape[0]}; nothing was added")
        self._b[head] += x[0] * (float(d[0, 0]) * self._weight(ts_ms))

    def merge(self, other: Partial) -> None:
        """Add another partition's sums; commutative and associative.

        Raises
        ------
        InvalidStatisticsError
            Different shape or half-life. Nothing was added.
        """
        check_alike(self, other)
        self._move_epoch(other._epoch)
        scale = math.exp2(max(other._epoch - self._epoch, -1000))
        self._a += other._a * scale
        self._b += other._b * scale
        self.n_shown += other.n_shown
        self.newest_ms = max(self.newest_ms, other.newest_ms)

    def take_back(self, other: Partial) -> None:
        """Subtract sums that were added before; exact as adding is. `newest_ms` stays.

        Raises
        ------
        InvalidStatisticsError
            Different shape or half-life. Nothing was subtracted.
        """
        twin = other.copy()
        twin._a, twin._b, twin.n_shown = -twin._a, -twin._b, -twin.n_shown
        self.merge(twin)
        self._a += 0.0  # no negative zeros: equal sums are equal bytes
        self._b += 0.0

    def scaled(self, factor: float) -> Partial:
        """The sums times a factor, for a new model that starts from discounted statistics of another's slots.

        Entries are rounded back to the grid, so what is added to them later stays exact; `n_shown` is scaled and
        rounded too.

        Raises
        ------
        InvalidStatisticsError
            A factor outside [0, 1].
        """
        if not 0.0 <= factor <= 1.0:
            raise InvalidStatisticsError(f"a factor in [0, 1] wanted, got {factor}")
        twin = self.copy()
        twin._a = np.rint(twin._a * (factor / PHI_GRID**2)) * PHI_GRID**2
        twin._b = np.rint(twin._b * (factor / (PHI_GRID * RESIDUAL_GRID))) * (PHI_GRID * RESIDUAL_GRID)
        twin.n_shown = round(self.n_shown * factor)
        return twin

    def copy(self) -> Partial:
        """A partial of its own with the same sums."""
        twin = Partial(self.dim, self.n_heads, self.half_life_ms)
        twin._a, twin._b = self._a.copy(), self._b.copy()
        twin._epoch, twin.n_shown, twin.newest_ms = self._epoch, self.n_shown, self.newest_ms
        return twin

    def statistics(self, as_of_ms: int | None = None) -> Statistics:
        """The sums, discounted to `as_of_ms`.

        Parameters
        ----------
        as_of_ms : int, optional
            Instant for which weights are read; the newest slot's time where omitted, so that the result depends on
            the sums alone.
        """
        if not self.half_life_ms:
            return Statistics(self._a.copy(), self._b.copy(), self.n_shown)
        instant = self.newest_ms if as_of_ms is None else as_of_ms
        scale = math.exp2(self._epoch - instant / self.half_life_ms)
        return Statistics(self._a * scale, self._b * scale, self.n_shown)

    def to_bytes(self) -> bytes:
        """Versioned bytes (docs/specs/bandit-bytes.md): header, upper triangle of A, b, CRC-32; 4.3 KB + 256 B a head
        at dim 32.
        """
        header = _HEADER.pack(
            _MAGIC, _VERSION, 0, self.dim, self.n_heads, self.n_shown, self.half_life_ms, self._epoch, self.newest_ms
        )
        upper = self._a[_upper(self.dim)]
        body = header + upper.astype("<f8").tobytes() + self._b.astype("<f8").tobytes()
        return body + _CRC.pack(zlib.crc32(body))

    @classmethod
    def from_bytes(cls, data: bytes) -> Partial:
        """Read `to_bytes`.

        Raises
        ------
        CorruptStatisticsError
            Cut, altered, or of an unknown version.
        """
        if len(data) < _HEADER.size + _CRC.size or data[:4] != _MAGIC:
            raise CorruptStatisticsError(
                f"a partial begins with {_MAGIC!r} and has at least {_HEADER.size + 4} bytes; got {len(data)} bytes"
            )
        _, version, _, dim, n_heads, n_shown, half_life_ms, epoch, newest_ms = _HEADER.unpack_from(data)
        if version != _VERSION:
            raise CorruptStatisticsError(f"partial of version {_VERSION} wanted, got {version}; upgrade this process")
        n_upper = dim * (dim + 1) // 2
        if len(data) != _HEADER.size + 8 * (n_upper + n_heads * dim) + _CRC.size:
            raise CorruptStatisticsError(
                f"partial of dim {dim} and {n_heads} heads has a wrong length: {len(data)} bytes"
            )
        if zlib.crc32(data[: -_CRC.size]) != _CRC.unpack_from(data, len(data) - _CRC.size)[0]:
            raise CorruptStatisticsError(
                "checksum of a partial does not match; rebuild the statistics from the archive"
            )
        partial = cls(dim, n_heads, half_life_ms)
        rows, columns = _upper(dim)
        upper = np.frombuffer(data, "<f8", n_upper, _HEADER.size)
        partial._a[rows, columns] = upper
        partial._a[columns, rows] = upper
        partial._b[:] = np.frombuffer(data, "<f8", n_heads * dim, _HEADER.size + 8 * n_upper).reshape(n_heads, dim)
        partial._epoch, partial.n_shown, partial.newest_ms = epoch, n_shown, newest_ms
        return partial

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Partial):
            return NotImplemented
        return self.to_bytes() == other.to_bytes()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return (
            f"Partial(dim={self.dim}, n_heads={self.n_heads}, half_life_ms={self.half_life_ms}, n_shown={self.n_shown})"
        )

    def _weight(self, ts_ms: int) -> float:
        self.newest_ms = max(self.newest_ms, ts_ms)
        if not self.half_life_ms:
            return 1.0
        self._move_epoch(ts_ms // self.half_life_ms)
        return math.exp2(max(ts_ms / self.half_life_ms - self._epoch, -1000.0))

    def _move_epoch(self, epoch: int) -> None:
        if epoch <= self._epoch:
            return
        scale = math.exp2(max(self._epoch - epoch, -1000))
        self._a *= scale
        self._b *= scale
        self._epoch = epoch


def total(partials: list[Partial]) -> Partial:
    """Sum of partials of one model and schema.

    Raises
    ------
    InvalidStatisticsError
        No partial, or partials of different shapes.
    """
    if not partials:
        raise InvalidStatisticsError("at least one partial wanted, got none")
    result = partials[0].copy()
    for partial in partials[1:]:
        result.merge(partial)
    return result
