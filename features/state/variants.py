"""Counts of an item's variants: how often each was shown, each time by how likely its slot is looked at, and clicked.

An arm is a variant, a variant on a device, or the latter on a surface. Sums only, so the order of effects does not
matter, and exact: what is added lies on a grid (`features.columns.quantise`). Exact up to 256 arms; beyond 320 the 64
that were shown longest ago are dropped, as happens where an item's artwork is replaced again and again.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.hashing import id_hash
from features.state.pages import HEAD, body

__all__ = ["FIELD", "MOST", "SLACK", "VariantCounts", "arms_of", "counts_of", "decode"]

FIELD: Final = b"item_variants:counts"
MOST: Final = 256
SLACK: Final = 64
_ENTRY: Final = struct.Struct("<qqdd")


def arms_of(variant_id: str, device: str, surface: str) -> tuple[str, ...]:
    """Arms that a showing of a variant counts for: the variant for everybody and, where these are known, on the device,
    and there on the surface.
    """
    on_device = f"{variant_id}\x1f{device}"
    everywhere = (variant_id, on_device) if device else (variant_id,)
    return (*everywhere, f"{on_device}\x1e{surface}") if surface else everywhere


def decode(page: bytes | None) -> dict[int, tuple[float, float]]:
    """Hash of each arm (`id_hash`) -> shown and clicked.

    Raises
    ------
    StateFormatError
        The page has another version.
    """
    if not page:
        return {}
    entries = _ENTRY.iter_unpack(body(FIELD, page, _ENTRY.size))
    return {arm: (shown, clicked) for arm, _, shown, clicked in entries}


def counts_of(page: bytes | None, variants: Sequence[str], device: str, surface: str) -> NDArray[np.float64]:
    """Shown and clicked of some variants, for everybody, on a device, and there on a surface.

    Shape (len(variants), 3, 2). Where device or surface is not known the counts are those before it.
    """
    counts = decode(page)
    out = np.zeros((len(variants), 3, 2))
    for at, variant_id in enumerate(variants):
        everywhere, *narrower = (counts.get(id_hash(arm), (0.0, 0.0)) for arm in arms_of(variant_id, device, surface))
        on_device = narrower.pop(0) if device else everywhere
        out[at] = everywhere, on_device, narrower[0] if surface else on_device
    return out


class VariantCounts:
    """Counts of one item's arms. `add` costs about 1 us.

    Parameters
    ----------
    fields : Mapping of bytes to bytes
        Stored fields of the item.
    """

    __slots__ = ("_arms", "_dirty")

    def __init__(self, fields: Mapping[bytes, bytes]) -> None:
        page = fields.get(FIELD)
        stored = _ENTRY.iter_unpack(body(FIELD, page, _ENTRY.size)) if page else ()
        self._arms: dict[int, tuple[int, float, float]] = {arm: tuple(rest) for arm, *rest in stored}
        self._dirty = False

    def add(self, arm: str, shown: float, clicked: float, ts_ms: int) -> None:
        """Add to an arm; negative counts take back.

        Parameters
        ----------
        arm : str
            See `arms_of`.
        shown, clicked : float
            Multiples of 2**-20.
        ts_ms : int
            When it was shown.
        """
        hashed = id_hash(arm)
        newest_ms, all_shown, all_clicked = self._arms.get(hashed, (ts_ms, 0.0, 0.0))
        self._arms[hashed] = (max(newest_ms, ts_ms), all_shown + shown, all_clicked + clicked)
        if len(self._arms) > MOST + SLACK:
            oldest = sorted(self._arms, key=lambda each: (self._arms[each][0], each))[:SLACK]
            for each in oldest:
                del self._arms[each]
        self._dirty = True

    def dirty(self) -> dict[bytes, bytes]:
        """Fields changed since the last call."""
        if not self._dirty:
            return {}
        self._dirty = False
        return {FIELD: HEAD + b"".join(_ENTRY.pack(arm, *self._arms[arm]) for arm in sorted(self._arms))}
