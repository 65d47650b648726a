"""Events of an anonymous session as they came, so that a login can move them to the user (docs/specs/state.md)."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, NamedTuple

from features.state.pages import HEAD, body

__all__ = ["MAX_BYTES", "MAX_EVENTS", "RawEvent", "RawEvents"]

MAX_EVENTS: Final = 256
MAX_BYTES: Final = 96 * 1024
_NAME: Final = b"_r"
_APPENDED: Final = struct.Struct("<q")


class RawEvent(NamedTuple):
    """An encoded `Event` and the append time of its record."""

    packed: bytes
    append_ts_ms: int


class RawEvents:
    """The newest events of a session by arrival, one a field `_r<n>`: i64 append time, then the event.

    Parameters
    ----------
    fields : mapping of bytes to bytes
        Stored fields of the key.
    late : bool
        Events of the key came before any was kept (state of an earlier build).
    """

    def __init__(self, fields: Mapping[bytes, bytes], *, late: bool = False) -> None:
        numbers = sorted(int(name[2:]) for name in fields if name[:2] == _NAME)
        self._pages = OrderedDict((number, fields[_NAME + b"%d" % number]) for number in numbers)
        self._size = sum(map(len, self._pages.values()))
        self._next = numbers[-1] + 1 if numbers else int(late)
        self._dirty: dict[bytes, bytes] = {}

    @property
    def complete(self) -> bool:
        """Whether every event of the key is here."""
        return self._next == 0 or 0 in self._pages

    def add(self, packed: bytes, append_ts_ms: int) -> None:
        """Keep an event; the oldest go above the bounds."""
        page = HEAD + _APPENDED.pack(append_ts_ms) + packed
        self._pages[self._next] = self._dirty[_NAME + b"%d" % self._next] = page
        self._next += 1
        self._size += len(page)
        while len(self._pages) > MAX_EVENTS or (self._size > MAX_BYTES and len(self._pages) > 1):
            number, gone = self._pages.popitem(last=False)
            self._size -= len(gone)
            self._dirty[_NAME + b"%d" % number] = b""

    def events(self) -> list[RawEvent]:
        """What is kept, in the order of arrival."""
        found = []
        for number, page in self._pages.items():
            entry = body(_NAME + b"%d" % number, page)
            found.append(RawEvent(entry[_APPENDED.size :], _APPENDED.unpack_from(entry)[0]))
        return found

    def dirty(self) -> dict[bytes, bytes]:
        """Fields changed since the last call."""
        changed, self._dirty = self._dirty, {}
        return changed
