"""Seals: the last record of each partition of a generation, and the note of the repartition that wrote them.

A seal is a tick that carries a time of its own, the same in all partitions and later than everything before it: so all
clocks of a generation end equal, and what was due by then was done in it. It ends a partition only while the note of
its repartition stands in Redis; otherwise (the repartition was aborted) it is a tick. What comes after it in a sealed
partition is folded in the next generation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from features.generation import PHASES, read_note
from features.redis import Redis
from liverank.errors import UnavailableError
from liverank.kafka import LogReader, Record, Tp
from liverank.settings import Settings

__all__ = ["SEAL", "Seal", "Seals", "seal_of"]

SEAL: Final = "liverank-seal"
_READ_S: Final = 5.0


class Seal(NamedTuple):
    """What a seal says.

    Attributes
    ----------
    ident : str
        The repartition that wrote it.
    clock_ms : int
        The clock of the partition after it.
    """

    ident: str
    clock_ms: int

    def header(self) -> tuple[str, bytes]:
        """The header of the record."""
        return SEAL, f"{self.clock_ms}:{self.ident}".encode()


def seal_of(record: Record) -> Seal | None:
    """What a record says as a seal. The caller has checked the namespace's token."""
    text = record.header(SEAL)
    if text is None:
        return None
    clock_ms, _, ident = text.decode("ascii", "replace").partition(":")
    return Seal(ident, int(clock_ms)) if clock_ms.isdecimal() and ident else None


class Seals:
    """Tells folds and archive where their generation ends. Thread safe if the client is.

    Parameters
    ----------
    client : Redis
    settings : Settings
    generation : int
        Of who asks.
    read_at : callable, optional
        Reads the record at an offset of a partition; for tests.
    """

    def __init__(
        self,
        client: Redis,
        settings: Settings,
        generation: int,
        *,
        read_at: Callable[[Tp, int], Record | None] | None = None,
    ) -> None:
        self._client, self._settings, self._generation = client, settings, generation
        self._read_at = read_at or self._read

    def ends(self, record: Record) -> bool:
        """Whether nothing after this record belongs to the generation.

        Raises
        ------
        RedisUnavailableError
            Ask again.
        """
        seal = seal_of(record)
        if seal is None:
            return False
        note = read_note(self._client, self._settings.namespace)
        return note is not None and note.old == self._generation and note.ident == seal.ident

    def at_end(self, tp: Tp, offset: int) -> bool:
        """Whether the record at this offset, the last one that was folded or archived, is its partition's end.

        Raises
        ------
        UnavailableError
            Redis or Kafka is away: ask again.
        """
        if offset < 0:
            return False
        note = read_note(self._client, self._settings.namespace)
        if note is None or note.old != self._generation:
            return False
        if PHASES.index(note.phase) >= PHASES.index("switch"):
            return True  # whatever offset the archive, which is dealt anew, gives
        if note.ends:
            return offset >= note.ends[tp.partition]
        record = self._read_at(tp, offset)
        return record is not None and self.ends(record)

    def _read(self, tp: Tp, offset: int) -> Record | None:
        reader = LogReader(self._settings.kafka.bootstrap, {tp: offset}, name="seal")
        try:
            found = reader.poll_batch(1, _READ_S)
        finally:
            reader.close()
        if not found:
            raise UnavailableError(f"{tp.topic} [{tp.partition}] gives no record at {offset} within {_READ_S:g} s")
        return next((record for record in found if record.offset == offset), None)
