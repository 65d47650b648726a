"""Which generation of a namespace is live: ``<ns>:active`` in Redis, and a file beside the archive; and the note of a
repartition, which makes the next one.

The file is for a Redis that was lost or rolled back: the live generation never goes back.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from features.redis import Redis, translated
from liverank.errors import CorruptError
from liverank.settings import Settings

__all__ = ["PHASES", "Note", "active_generation", "note_key", "read_note", "set_active", "write_note"]

#: Steps of a repartition, in order; from `switch` on there is no way back.
PHASES: Final = ("seal", "fold", "build", "switch", "tidy")


def active_generation(client: Redis, settings: Settings) -> int:
    """Return the live generation; 1 where nothing says. Tells Redis where only the file knows it.

    Raises
    ------
    RedisUnavailableError
        Redis is away.
    """
    recorded = _recorded(settings)
    with translated("reading the active generation"):
        text = client.get(f"{settings.namespace}:active")
        stored = int(text) if text else 1
        if recorded > stored:
            client.set(f"{settings.namespace}:active", recorded)
    return max(stored, recorded)


def set_active(client: Redis, settings: Settings, generation: int) -> None:
    """Make a generation the live one.

    Raises
    ------
    RedisUnavailableError
        Redis is away: repeat it.
    OSError
        The disk refuses.
    """
    path = _file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    staging.write_text(f"{generation}\n")
    staging.rename(path)
    with translated("setting the active generation"):
        client.set(f"{settings.namespace}:active", generation)


def _file(settings: Settings) -> Path:
    return settings.home / "archive" / settings.namespace / "generation"


def _recorded(settings: Settings) -> int:
    try:
        return int(_file(settings).read_text())
    except FileNotFoundError:
        return 1


@dataclass(frozen=True, kw_only=True)
class Note:
    """A repartition that is under way: ``<ns>:repartition``, JSON.

    Attributes
    ----------
    ident : str
    old, new : int
        Generations.
    n_old, n_new : int
        Their partitions.
    phase : str
        The step that is done next, of `PHASES`.
    since_ms : int
        When it began.
    begins : tuple of int
        Ends of the sealed topic when it began: records from here on are looked at by who sends them.
    ends : tuple of int
        Offset of each partition's seal; empty = not sealed yet.
    clock_ms : int
        The seals' time.
    """

    ident: str
    old: int
    new: int
    n_old: int
    n_new: int
    since_ms: int
    phase: str = "seal"
    begins: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    clock_ms: int = 0

    def to_json(self) -> str:
        """JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Note:
        """Inverse of `to_json`.

        Raises
        ------
        CorruptError
            It cannot be read.
        """
        try:
            body = json.loads(text)
            return cls(**{**body, "begins": tuple(body["begins"]), "ends": tuple(body["ends"])})
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptError(f"the note of a repartition cannot be read ({error})") from error

    @property
    def reason(self) -> str:
        """For callers that are refused meanwhile."""
        return (
            f"generation {self.old} is sealed: the namespace is being repartitioned from {self.n_old} to {self.n_new} "
            f"partitions (step {self.phase!r}); events are taken again when `liverank repartition` has switched"
        )


def note_key(namespace: str) -> str:
    """Redis key of the note."""
    return f"{namespace}:repartition"


def read_note(client: Redis, namespace: str) -> Note | None:
    """The repartition that is under way; None = none.

    Raises
    ------
    CorruptError
        It cannot be read.
    """
    with translated("asking for a repartition"):
        text = client.get(note_key(namespace))
    return Note.from_json(text) if text else None


def write_note(client: Redis, namespace: str, note: Note) -> None:
    """Keep the note."""
    with translated("noting a repartition"):
        client.set(note_key(namespace), note.to_json())
