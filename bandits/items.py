"""Additive statistics per item, beside shared ones: what `bandits.item_posterior` believes from."""

from __future__ import annotations

import struct
import zlib
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandits.arms import arm_rank
from bandits.errors import CorruptStatisticsError, InvalidStatisticsError
from bandits.partials import RESIDUAL_GRID, Partial, on_phi_grid, sums_checked

Floats: TypeAlias = NDArray[np.float64]

MAX_ITEMS = 8_192
"""Most items of one table; each takes 8 (1 + dim + n_heads) bytes."""

_MAGIC, _TABLE_MAGIC, _BOTH_MAGIC = b"LRBI", b"LRBJ", b"LRBK"
_VERSION = 1
# magic, version, reserved, dim, heads, n_shown, newest_ms
_HEADER = struct.Struct("<4sBBHHqq")
_CRC = struct.Struct("<I")
# magic, version, reserved, number of items, dim, heads
_TABLE = struct.Struct("<4sBBHHH")
# bytes of the id, bytes of the sums
_ENTRY = struct.Struct("<HI")
# magic, version, reserved, bytes of the shared partial
_BOTH = struct.Struct("<4sBBI")


class ItemSum:
    """Sums of one item: ``l^2``, ``l x`` and ``l e_h``, with l the looks of a slot; see `ItemSums`."""

    __slots__ = ("n_heads", "n_shown", "newest_ms", "values")

    def __init__(self, dim: int, n_heads: int) -> None:
        self.values: Floats = np.zeros(1 + dim + n_heads)
        self.n_heads = n_heads
        self.n_shown = self.newest_ms = 0

    @property
    def dim(self) -> int:
        """Length of x."""
        return len(self.values) - 1 - self.n_heads

    def to_bytes(self) -> bytes:
        """Versioned bytes (docs/specs/bandit-bytes.md); 334 at 33 features and 4 heads."""
        head = _HEADER.pack(_MAGIC, _VERSION, 0, self.dim, self.n_heads, self.n_shown, self.newest_ms)
        body = head + self.values.astype("<f8").tobytes()
        return body + _CRC.pack(zlib.crc32(body))

    @classmethod
    def from_bytes(cls, data: bytes) -> ItemSum:
        """Read `to_bytes`.

        Raises
        ------
        CorruptStatisticsError
            Cut, altered, or of an unknown version.
        """
        if len(data) < _HEADER.size + _CRC.size or data[:4] != _MAGIC or data[4] != _VERSION:
            raise CorruptStatisticsError(f"an item's sums of version {_VERSION} wanted, got {len(data)} bytes")
        _, _, _, dim, n_heads, n_shown, newest_ms = _HEADER.unpack_from(data)
        if len(data) != _HEADER.size + 8 * (1 + dim + n_heads) + _CRC.size:
            raise CorruptStatisticsError(f"an item's sums have a wrong length: {len(data)} bytes")
        if zlib.crc32(data[: -_CRC.size]) != _CRC.unpack_from(data, len(data) - _CRC.size)[0]:
            raise CorruptStatisticsError("checksum of an item's sums does not match; rebuild them from the archive")
        found = cls(dim, n_heads)
        found.values[:] = np.frombuffer(data, "<f8", 1 + dim + n_heads, _HEADER.size)
        found.n_shown, found.newest_ms = n_shown, newest_ms
        return found


class ItemSums:
    """What the shown slots of each item say about it, beyond its heads and shared coefficients.

    A slot has features x, residuals ``e_h`` (outcome minus probability) and *looks* l: how likely it is looked at. Kept
    per item are ``sum l^2``, ``sum l x`` and ``sum l e_h``: what the exact posterior of an effect in proportion to l
    (`bandits.item_posterior`) needs beside the shared sums of x. Sums are exact, hence order-free, in the same sense as
    those of `Partial`.

    Of more than `MAX_ITEMS` items those of the smallest `arm_rank` are kept, whole, as in `ArmPartials`; the others
    have the prior.

    Parameters
    ----------
    dim, n_heads : int
        Length of x, and number of heads.
    """

    __slots__ = ("_changed", "_items", "_ranked", "dim", "n_heads")

    half_life_ms = 0

    def __init__(self, dim: int, n_heads: int) -> None:
        Partial(dim, n_heads)  # checks the ranges
        self.dim, self.n_heads = dim, n_heads
        self._items: dict[str, ItemSum] = {}
        self._ranked: list[tuple[int, str]] = []
        self._changed: set[str] = set()

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ItemSums):
            return NotImplemented
        return self.to_bytes() == other.to_bytes()

    __hash__ = None  # type: ignore[assignment]

    @property
    def n_shown(self) -> int:
        """Shown slots of all kept items."""
        return sum(one.n_shown for one in self._items.values())

    @property
    def newest_ms(self) -> int:
        """Largest event time of any item; 0 = none."""
        return max((one.newest_ms for one in self._items.values()), default=0)

    def shown(self, items: Sequence[str], looks: ArrayLike, x: ArrayLike, residuals: ArrayLike, ts_ms: int = 0) -> None:
        """Add a shown slate; about 1.5 us a slot.

        Parameters
        ----------
        items : sequence of str, length n
            Item of each slot.
        looks : array_like, shape (n,)
            How likely each slot is looked at, 0 to 1.
        x : array_like, shape (n, dim)
            Features, as in the shared sums.
        residuals : array_like, shape (n, n_heads)
            As `Partial.shown`.
        ts_ms : int, default 0
            Event time of the exposure.

        Raises
        ------
        InvalidStatisticsError
            Wrong shape, not finite or outside the limits. Nothing was added.
        """
        features, e = sums_checked(x, residuals, self.dim, self.n_heads)
        seen = on_phi_grid(looks)
        if seen.shape != (len(items),) or len(features) != len(items) or not bool(((seen >= 0) & (seen <= 1)).all()):
            raise InvalidStatisticsError("looks in [0, 1] of each slot wanted; nothing was added")
        added = seen[:, None] * np.concatenate([seen[:, None], features, e], axis=1)
        for item, values in zip(items, added, strict=True):
            if (one := self._of(item)) is not None:
                one.values += values
                one.n_shown += 1
                one.newest_ms = max(one.newest_ms, ts_ms)

    def outcome(self, item: str, looks: float, head: int, delta: float, ts_ms: int = 0) -> None:
        """Correct one slot's residual, if its item is kept; see `Partial.outcome`."""
        if not 0 <= head < self.n_heads:
            raise InvalidStatisticsError(f"head in 0..{self.n_heads - 1} wanted, got {head}; nothing was added")
        if (one := self._of(item)) is not None:
            one.values[1 + self.dim + head] += float(on_phi_grid(looks)) * (
                round(delta / RESIDUAL_GRID) * RESIDUAL_GRID
            )
            one.newest_ms = max(one.newest_ms, ts_ms)

    def put(self, item: str, one: ItemSum) -> None:
        """Set an item's sums, if it is kept; the table owns them from now on.

        Raises
        ------
        InvalidStatisticsError
            Another shape than the table's. Nothing was set.
        """
        if (one.dim, one.n_heads) != (self.dim, self.n_heads):
            raise InvalidStatisticsError(
                f"(dim, n_heads) {self.dim, self.n_heads} wanted, got {one.dim, one.n_heads}; nothing was added"
            )
        if self._of(item) is not None:
            self._items[item] = one

    def take_changes(self) -> dict[str, ItemSum | None]:
        """Items that changed since the last call; None = no longer kept."""
        changed: dict[str, ItemSum | None] = {item: self._items.get(item) for item in sorted(self._changed)}
        self._changed.clear()
        return changed

    def merge(self, other: ItemSums, sign: int = 1) -> None:
        """Add another table's sums, item by item; with sign -1 take back what was added before, of items still kept.

        Raises
        ------
        InvalidStatisticsError
            Different shape. Nothing was added.
        """
        if (other.dim, other.n_heads) != (self.dim, self.n_heads):
            raise InvalidStatisticsError(
                f"(dim, n_heads) {self.dim, self.n_heads} wanted, got {other.dim, other.n_heads}; nothing was added"
            )
        for item, theirs in other._items.items():
            if sign < 0 and item not in self._items:
                continue
            if (one := self._of(item)) is not None:
                one.values += sign * theirs.values
                one.values += 0.0  # no negative zeros: equal sums are equal bytes
                one.n_shown += sign * theirs.n_shown
                one.newest_ms = max(one.newest_ms, theirs.newest_ms)

    def arrays(self) -> tuple[list[str], Floats]:
        """Items, sorted, and their sums, shape (n_items, 1 + dim + n_heads): l^2, l x, l e."""
        items = sorted(self._items)
        return items, np.array([self._items[item].values for item in items]).reshape(-1, 1 + self.dim + self.n_heads)

    def to_bytes(self) -> bytes:
        """Versioned bytes (docs/specs/bandit-bytes.md), items sorted by id."""
        parts = [_TABLE.pack(_TABLE_MAGIC, _VERSION, 0, len(self._items), self.dim, self.n_heads)]
        for item in sorted(self._items):
            name, body = item.encode(), self._items[item].to_bytes()
            parts += [_ENTRY.pack(len(name), len(body)), name, body]
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> ItemSums:
        """Read `to_bytes`.

        Raises
        ------
        CorruptStatisticsError
            Cut, altered, or of an unknown version.
        """
        try:
            magic, version, _, n_items, dim, n_heads = _TABLE.unpack_from(data)
            if magic != _TABLE_MAGIC or version != _VERSION or n_items > MAX_ITEMS:
                raise CorruptStatisticsError(
                    f"item statistics of version {_VERSION} wanted, got {magic!r} version {version}, {n_items} items"
                )
            table, at = cls(dim, n_heads), _TABLE.size
            for _ in range(n_items):
                n_name, n_body = _ENTRY.unpack_from(data, at)
                at += _ENTRY.size
                table.put(data[at : at + n_name].decode(), ItemSum.from_bytes(data[at + n_name : at + n_name + n_body]))
                at += n_name + n_body
        except (struct.error, UnicodeDecodeError, InvalidStatisticsError) as error:
            raise CorruptStatisticsError("item statistics are cut, or of different shapes") from error
        if at != len(data):
            raise CorruptStatisticsError(f"item statistics of {at} bytes wanted, got {len(data)}")
        table._changed.clear()
        return table

    def _of(self, item: str) -> ItemSum | None:
        """The sums of an item, which now counts as changed; None where it is not kept."""
        one = self._items.get(item)
        if one is None:
            rank = arm_rank(item)
            if len(self._items) >= MAX_ITEMS:
                if rank > self._ranked[-1]:
                    return None
                _, last = self._ranked.pop()
                del self._items[last]
                self._changed.add(last)
            insort(self._ranked, rank)
            one = self._items[item] = ItemSum(self.dim, self.n_heads)
        self._changed.add(item)
        return one


def item_features(phi: Floats, p_click: Floats) -> Floats:
    """The shared features beside which items have effects: phi and the heads' own click probability, times 4.

    The last one's coefficient says how far the heads' differences are to be believed once items have effects of their
    own (the factor gives it four times the prior's sd).

    Parameters
    ----------
    phi : ndarray, shape (n, dim)
        Bandit features.
    p_click : ndarray, shape (n,)
        The first head's probability.

    Returns
    -------
    ndarray, shape (n, dim + 1)
    """
    return np.concatenate([phi, 4.0 * p_click[:, None]], axis=1)


def looks_at(position: ArrayLike) -> Floats:
    """How likely slots are looked at, ``1 / log2(1 + position)``, positions from 1."""
    looks: Floats = 1.0 / np.log2(1.0 + np.asarray(position, dtype=np.float64))
    return looks


@dataclass(frozen=True, kw_only=True)
class WithItems:
    """Sums over features (`item_features`) of some slots, and beside them those of the same slots' items."""

    shared: Partial
    items: ItemSums

    @classmethod
    def none(cls, dim: int, n_heads: int) -> WithItems:
        """Sums of no slot; `dim` is the length of phi."""
        return cls(shared=Partial(dim + 1, n_heads), items=ItemSums(dim + 1, n_heads))

    def merge(self, other: WithItems) -> None:
        """Add other sums.

        Raises
        ------
        InvalidStatisticsError
            Different shapes. Nothing was added.
        """
        self.shared.merge(other.shared)
        self.items.merge(other.items)

    @property
    def n_shown(self) -> int:
        """Shown slots in the shared sums."""
        return self.shared.n_shown

    @property
    def newest_ms(self) -> int:
        """Time of the newest exposure; 0 = none."""
        return self.shared.newest_ms

    def to_bytes(self) -> bytes:
        """Versioned bytes (docs/specs/bandit-bytes.md)."""
        shared = self.shared.to_bytes()
        return _BOTH.pack(_BOTH_MAGIC, _VERSION, 0, len(shared)) + shared + self.items.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> WithItems:
        """Read `to_bytes`.

        Raises
        ------
        CorruptStatisticsError
            Cut, altered, or of an unknown version.
        """
        if len(data) < _BOTH.size or data[:4] != _BOTH_MAGIC or data[4] != _VERSION:
            raise CorruptStatisticsError(f"shared and item statistics of version {_VERSION} wanted")
        end = _BOTH.size + _BOTH.unpack_from(data)[3]
        return cls(shared=Partial.from_bytes(data[_BOTH.size : end]), items=ItemSums.from_bytes(data[end:]))
