"""A call: what one fenced write moves in one step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from streams.fold import KeyState, Number
from streams.outbox import Output, encode_outbox, pack_changes, pack_effects, public_fields

__all__ = ["LIMITS", "POLL_LIMITS", "Call", "Limits", "Position", "SourceMark"]


class Position(NamedTuple):
    """How far a partition is folded.

    Attributes
    ----------
    generation : int
        0 after an import, before the first live record.
    offset : int
        Of the last record folded whole; -1 = none.
    step : int
        Calls already done of the record after it; 0 = none.
    """

    generation: int
    offset: int
    step: int

    def text(self) -> bytes:
        """Return the stored form."""
        return b"%d:%d:%d" % self

    @classmethod
    def of(cls, text: bytes) -> Position:
        """Return the position of a stored form."""
        generation, offset, step = text.split(b":")
        return cls(int(generation), int(offset), int(step))


class SourceMark(NamedTuple):
    """The newest of what one source partition sent."""

    number: Number
    clock_ms: int

    def text(self) -> bytes:
        """Return the stored form."""
        return b"%d:%d:%d:%d:%d" % (*self.number, self.clock_ms)

    @classmethod
    def of(cls, text: bytes) -> SourceMark:
        """Return the mark of a stored form."""
        generation, offset, step, place, clock_ms = (int(part) for part in text.split(b":"))
        return cls(Number(generation, offset, step, place), clock_ms)


class Limits(NamedTuple):
    """How much one call may move. Only a record that alone touches more takes several calls."""

    keys: int = 400
    size_bytes: int = 256 * 1024


LIMITS = Limits()
POLL_LIMITS = Limits(keys=2000, size_bytes=2 * 1024 * 1024)
"""Of whole records: the larger a call, the fewer keys are written twice in a poll; Redis is busy with one for some ms.
"""


@dataclass(slots=True)
class Call:
    """One fenced write, open while records are folded into it, then closed.

    Attributes
    ----------
    start, end : Position
        What the store must hold, and what it holds afterwards.
    pages : dict
        Changed fields by key, with their whole new bytes.
    due : dict
        Changed due times by key; None = never.
    changes : list
        Key and bytes of each numbered `UserChange`.
    effects : dict
        Numbered item effects by target partition, each an entry of `ItemEffects.effects`.
    trim : bool
        Delete the outbox of the poll before (everything in it is confirmed).
    owed : tuple of str
        Keys of that outbox that were not published yet: their names move on.
    """

    partition: int
    start: Position
    end: Position
    clock_ms: int
    version: bytes = b""
    n_records: int = 0
    states: dict[str, KeyState] = field(default_factory=dict)
    pages: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    due: dict[str, int | None] = field(default_factory=dict)
    sources: dict[int, SourceMark] = field(default_factory=dict)
    outputs: list[Output] = field(default_factory=list)
    effects: dict[int, list[bytes]] = field(default_factory=dict)
    changes: list[tuple[bytes, bytes]] = field(default_factory=list)
    size_bytes: int = 0
    blob: bytes = b""
    trim: bool = False
    owed: tuple[str, ...] = ()

    @property
    def holds_anything(self) -> bool:
        """Whether there is something to write."""
        return bool(
            self.n_records
            or self.states
            or self.due
            or self.sources
            or self.outputs
            or self.effects
            or self.pages
            or self.changes
        )

    def seal(self) -> None:
        """Pack effects and changes into outputs and write the outbox blob."""
        if self.effects:
            self.outputs += pack_effects(self.end.generation, self.partition, self.effects)
            self.effects = {}
        if self.changes:
            self.outputs += pack_changes(self.changes)
            self.changes = []
        dirty: dict[str, list[bytes]] = {key: [] for key in self.owed}
        for key, fields in self.pages.items():
            public = public_fields(key, fields)
            if public or key[:1] == "#":
                dirty[key] = list(public) if key[:1] != "#" and not all(public.values()) else []
        self.blob = encode_outbox(dirty, self.outputs) if dirty or self.outputs else b""
