"""One signal of a user's history: 24 bytes, and the array that rows of them decode to."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.state.pages import body

__all__ = ["HISTORY", "SIZE", "Entry", "decode_entries", "pack", "unpack"]

_ENTRY: Final = struct.Struct("<IHBbiIq")
SIZE: Final = _ENTRY.size
_PACKED: Final = np.dtype(
    [
        ("low", "<u4"),
        ("high", "<u2"),
        ("kind", "u1"),
        ("sixteenths", "i1"),
        ("version", "<i4"),
        ("category", "<u4"),
        ("item", "<i8"),
    ]
)

HISTORY: Final = np.dtype(
    [
        ("item_hash", "<i8"),
        ("event_ts_ms", "<i8"),
        ("kind", "u1"),
        ("weight", "<f4"),
        ("version", "<i8"),
        ("category", "<u4"),
    ]
)
"""Decoded entries: item (features.hashing.item_hash), event time, EventType, signed weight in clicks, offset of the
catalogue record (-1 = unknown then), main category (features.hashing.category_hash)."""


class Entry(NamedTuple):
    """One signal; tuples compare in the order in which entries are kept."""

    event_ts_ms: int
    item_hash: int
    kind: int
    sixteenths: int
    version: int
    category: int


def pack(entry: Entry) -> bytes:
    """24 bytes of an entry."""
    ts, item, kind, sixteenths, version, category = entry
    return _ENTRY.pack(ts & 0xFFFF_FFFF, ts >> 32, kind, sixteenths, version, category, item)


def unpack(entries: bytes | bytearray) -> Iterator[Entry]:
    """Entries of packed bytes, in order."""
    for low, high, kind, sixteenths, version, category, item in _ENTRY.iter_unpack(entries):
        yield Entry(high << 32 | low, item, kind, sixteenths, version, category)


def decode_entries(name: bytes, pages: Iterable[bytes | None]) -> NDArray[np.void]:
    """Entries of pages together, newest first; ties by item hash. `name` is for the message of a page that fails."""
    packed = np.frombuffer(b"".join([body(name, page, SIZE) for page in pages if page]), _PACKED)
    ts = packed["low"] | packed["high"].astype(np.int64) << 32
    order = np.lexsort((packed["item"], ts))[::-1]
    out = np.empty(len(packed), HISTORY)
    packed = packed[order]
    out["item_hash"] = packed["item"]
    out["event_ts_ms"] = ts[order]
    out["kind"] = packed["kind"]
    out["weight"] = packed["sixteenths"] / np.float32(16)
    out["version"] = packed["version"]
    out["category"] = packed["category"]
    return out
