"""The state of one session: tiles of the views of the entity `session`, gone a week after its last event."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from features.program import FeatureProgram
from features.state.pages import HEAD, body
from features.state.params import DAY_MS
from features.state.views import Failed, ViewTiles
from liverank.v1.event_pb2 import Event

__all__ = ["KEPT_MS", "SessionViews"]

KEPT_MS: Final = 7 * DAY_MS
"""How long a session is kept after its last event: no event can be older than that (state.md, duplicates)."""

_CORE: Final = struct.Struct("<q")
_CORE_FIELD: Final = b"_v"


class SessionViews:
    """Tiles of one session; a `streams.fold.KeyState`. Counts the events that carry its id, each once.

    Slots that are taken as seen and abandonments are no events of a session's own: the user's views count them.

    Parameters
    ----------
    session_id : str
    fields : mapping of bytes to bytes
        Stored fields; empty for a new session.
    program : FeatureProgram
        The views to keep.
    """

    def __init__(self, session_id: str, fields: Mapping[bytes, bytes], program: FeatureProgram) -> None:
        self.session_id = session_id
        self._program = program
        self._views = ViewTiles(program, ("session",), fields)
        core = fields.get(_CORE_FIELD)
        self.newest_event_ts_ms: int = _CORE.unpack(body(_CORE_FIELD, core, _CORE.size))[0] if core else 0
        self._changed = False
        self._erased: dict[bytes, bytes] = {}

    def observe(self, event: Event, category: str, *, failed: Failed | None = None) -> None:
        """Count an event."""
        self._views.add(event, category, failed=failed)
        self._changed = True
        self.newest_event_ts_ms = max(self.newest_event_ts_ms, event.event_ts_ms)

    def merge(self, pages: Mapping[bytes, bytes]) -> None:
        """Add tiles that were counted apart: the past of a view that was activated later."""
        self._views.merge(pages)

    def due_ms(self) -> int | None:
        """When it is forgotten; None = it is empty."""
        return self.newest_event_ts_ms + KEPT_MS if self.newest_event_ts_ms else None

    def forget(self) -> None:
        """Delete everything."""
        names = [name for view in self._program.of_entity("session") for name in view.page_fields]
        self._erased = dict.fromkeys([*names, _CORE_FIELD], b"")
        self._views = ViewTiles(self._program, ("session",), {})
        self._changed, self.newest_event_ts_ms = False, 0

    def dirty(self) -> dict[bytes, bytes]:
        """Fields changed since the last call, with their whole new bytes; `b""` deletes the field."""
        changed, self._erased = self._erased | self._views.dirty(), {}
        if self._changed:
            changed[_CORE_FIELD] = HEAD + _CORE.pack(self.newest_event_ts_ms)
            self._changed = False
        return changed
