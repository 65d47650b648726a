"""How far one user is: what its vectors were last composed for, and its newest event."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from features.state.pages import HEAD, body

__all__ = ["NO_LEAVING", "UNKNOWN", "Lead"]

UNKNOWN: Final = -2
"""`Lead.leaving_ms`: it must be found anew."""
NO_LEAVING: Final = -1
"""`Lead.leaving_ms`: nothing leaves a window."""

_PAGE: Final = struct.Struct("<qq")
_FIELD: Final = b"_u"


class Lead:
    """Page ``_u``: i64 composition, i64 newest event. `features.native` has a twin.

    Attributes
    ----------
    composition_ms : int
        Up to when signals have left the windows of the vectors.
    newest_event_ts_ms : int
        Newest event time; 0 = no event.
    leaving_ms : int
        When the next signal leaves a window; derived, not stored.
    """

    __slots__ = ("_written", "composition_ms", "leaving_ms", "newest_event_ts_ms")

    def __init__(self, fields: Mapping[bytes, bytes]) -> None:
        stored = fields.get(_FIELD)
        self._written: tuple[int, int] = _PAGE.unpack(body(_FIELD, stored, _PAGE.size)) if stored else (0, 0)
        self.composition_ms, self.newest_event_ts_ms = self._written
        self.leaving_ms = UNKNOWN

    def dirty(self) -> dict[bytes, bytes]:
        """The page, if it changed."""
        now = (self.composition_ms, self.newest_event_ts_ms)
        if now == self._written:
            return {}
        self._written = now
        return {_FIELD: HEAD + _PAGE.pack(*now)}
