"""What a user has seen, and what came of it, per item.

Two bounded sets, each spread over four pages by the item's hash: *marks*, one per time that an item was seen, and
*acts*, the newest time that the user clicked, consumed or rejected an item. Per page the newest 512 are kept, in an
order that does not depend on arrival. A time is kept in whole seconds.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.state.pages import HEAD, body

__all__ = ["ACTED_FIELDS", "CLICKED", "CONSUMED", "DISMISSED", "FIELDS", "SEEN", "SHOWN_FIELDS", "Seen", "decode"]

N_PAGES: Final = 4
PER_PAGE: Final = 512
SLACK: Final = 32
SHOWN_FIELDS: Final = tuple(b"user_seen:shown_%d" % page for page in range(N_PAGES))
ACTED_FIELDS: Final = tuple(b"user_seen:acted_%d" % page for page in range(N_PAGES))
FIELDS: Final = (*SHOWN_FIELDS, *ACTED_FIELDS)

CLICKED: Final = 1
CONSUMED: Final = 2
DISMISSED: Final = 3

_MARK: Final = struct.Struct("<qI")
_ACT: Final = struct.Struct("<qBI")
_ACT_KEY: Final = struct.Struct("<qB")
_ACT_TIME: Final = struct.Struct("<I")
_MARKS: Final = np.dtype([("item", "<i8"), ("ts_s", "<u4")])
_ACTS: Final = np.dtype([("item", "<i8"), ("act", "u1"), ("ts_s", "<u4")])

SEEN: Final = np.dtype(
    [
        ("item_hash", "<i8"),
        ("shown", "<u2"),
        ("clicked", "?"),
        ("consumed", "?"),
        ("dismissed", "?"),
        ("last_s", "<u4"),
    ]
)
"""Per item: times seen since its last click, whether ever clicked, consumed (bought, saved, liked, rated, dwelt on) or
rejected (dismissed, thumbs down, not interested), and the newest time of any of it."""


def _newest(table: NDArray[np.void]) -> NDArray[np.void]:
    if len(table) <= PER_PAGE:
        return table
    names = [name for name in reversed(table.dtype.names or ()) if name != "ts_s"]
    return table[np.lexsort((*(table[name] for name in names), table["ts_s"]))[-PER_PAGE:]]


def _tables(pages: Sequence[bytes | None], dtype: np.dtype[np.void]) -> NDArray[np.void]:
    kept = [_newest(np.frombuffer(body(b"user_seen", page, dtype.itemsize), dtype)) for page in pages if page]
    return np.concatenate(kept) if kept else np.empty(0, dtype)


def decode(shown: Sequence[bytes | None], acted: Sequence[bytes | None]) -> NDArray[np.void]:
    """What is known per item.

    Parameters
    ----------
    shown, acted : sequence of bytes or None
        Stored pages of `SHOWN_FIELDS` and `ACTED_FIELDS`, in any order.

    Returns
    -------
    ndarray of `SEEN`, shape (n_items,)
        By item hash, ascending. About 60 us for 100 items.

    Raises
    ------
    StateFormatError
        If a page has another version.
    """
    marks, acts = _tables(shown, _MARKS), _tables(acted, _ACTS)
    items, group = np.unique(np.concatenate((marks["item"], acts["item"])), return_inverse=True)
    group = group.reshape(-1)
    of_mark, of_act = group[: len(marks)], group[len(marks) :]
    out = np.zeros(len(items), SEEN)
    out["item_hash"] = items
    clicked_s = np.zeros(len(items), np.int64)
    for name, act in (("clicked", CLICKED), ("consumed", CONSUMED), ("dismissed", DISMISSED)):
        out[name][of_act[acts["act"] == act]] = True
    clicks = acts["act"] == CLICKED
    clicked_s[of_act[clicks]] = acts["ts_s"][clicks]
    counted = marks["ts_s"] > clicked_s[of_mark]
    out["shown"] = np.minimum(np.bincount(of_mark[counted], minlength=len(items)), 0xFFFF)
    last = np.zeros(len(items), np.uint32)
    np.maximum.at(last, group, np.concatenate((marks["ts_s"], acts["ts_s"])))
    out["last_s"] = last
    return out


class Seen:
    """Marks and acts of one user. A call costs about 1 us."""

    __slots__ = ("_acted", "_dirty", "_fields", "_shown")

    def __init__(self, fields: Mapping[bytes, bytes]) -> None:
        self._fields = fields
        self._shown: list[bytearray | None] = [None] * N_PAGES
        self._acted: list[bytearray | None] = [None] * N_PAGES
        self._dirty: set[bytes] = set()

    def mark(self, item_hash: int, ts_ms: int) -> None:
        """The item was seen."""
        at = item_hash % N_PAGES
        page = self._page(self._shown, SHOWN_FIELDS, at)
        page += _MARK.pack(item_hash, ts_ms // 1000)
        if len(page) > (PER_PAGE + SLACK) * _MARK.size:
            page[:] = _newest(np.frombuffer(bytes(page), _MARKS)).tobytes()
        self._dirty.add(SHOWN_FIELDS[at])

    def unmark(self, item_hash: int, ts_ms: int) -> None:
        """Take a mark back: it was inferred, and an impression event says otherwise."""
        at = item_hash % N_PAGES
        page = self._page(self._shown, SHOWN_FIELDS, at)
        found = _find(page, _MARK.pack(item_hash, ts_ms // 1000), _MARK.size)
        if found >= 0:
            del page[found : found + _MARK.size]
            self._dirty.add(SHOWN_FIELDS[at])

    def act(self, item_hash: int, act: int, ts_ms: int) -> None:
        """The user clicked, consumed or rejected the item; the newest time of each is kept."""
        at = item_hash % N_PAGES
        page = self._page(self._acted, ACTED_FIELDS, at)
        ts_s = ts_ms // 1000
        found = _find(page, _ACT_KEY.pack(item_hash, act), _ACT.size)
        if found < 0:
            page += _ACT.pack(item_hash, act, ts_s)
            if len(page) > (PER_PAGE + SLACK) * _ACT.size:
                page[:] = _newest(np.frombuffer(bytes(page), _ACTS)).tobytes()
        elif _ACT_TIME.unpack_from(page, found + _ACT_KEY.size)[0] < ts_s:
            _ACT_TIME.pack_into(page, found + _ACT_KEY.size, ts_s)
        else:
            return
        self._dirty.add(ACTED_FIELDS[at])

    def _page(self, pages: list[bytearray | None], names: Sequence[bytes], at: int) -> bytearray:
        page = pages[at]
        if page is None:
            stored = self._fields.get(names[at])
            page = pages[at] = bytearray(body(names[at], stored, 1)) if stored else bytearray()
        return page

    def dirty(self) -> dict[bytes, bytes]:
        """Fields changed since the last call."""
        changed: dict[bytes, bytes] = {}
        for pages, names in ((self._shown, SHOWN_FIELDS), (self._acted, ACTED_FIELDS)):
            for page, name in zip(pages, names, strict=True):
                if name in self._dirty and page is not None:
                    changed[name] = HEAD + page if page else b""
        self._dirty.clear()
        return changed


def _find(page: bytearray, wanted: bytes, size: int) -> int:
    at = page.find(wanted)
    while at >= 0 and at % size:
        at = page.find(wanted, at + 1)
    return at
