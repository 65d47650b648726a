"""Agent: changed users -> their three near-line vectors in Feast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from features.item_vectors import ItemVectors
from features.near_line import Change, NearLine
from features.redis import connect, format_version
from liverank.calls import now_ms
from liverank.kafka import Record
from liverank.v1.stream_pb2 import UserChange
from streams.agents.batches import Pace
from streams.agents.dead import DeadLetterWriter
from streams.agents.positions import host
from streams.agents.services import AgentServices

if TYPE_CHECKING:
    import faust

PACE: Final = Pace(records=1_000, within_s=0.1)
REPLAY_PACE: Final = Pace(records=1_000, within_s=0.005)
"""On the data's clock a replayer waits for every batch."""


class VectorHandler:
    """Each user of a batch is computed once, for the last change; `NearLine` passes over what a row knows already."""

    name = "vectors"

    def __init__(self, near_line: NearLine, dead: DeadLetterWriter) -> None:
        self._near_line, self._dead = near_line, dead

    def handle(self, records: Sequence[Record]) -> None:
        """Compute and write."""
        changes: dict[str, Change] = {}
        for record in records:
            try:
                found = changes_of(record.value)
            except (DecodeError, ValueError) as error:
                self._dead.write(record, "malformed", f"a user change cannot be read: {error}")
                continue
            for user_id, change in found:
                have = changes.get(user_id)
                if have is None or change.version >= have.version:
                    changes[user_id] = change
        if changes:
            self._near_line.write(changes)
        self._dead.flush()


def changes_of(value: bytes) -> list[tuple[str, Change]]:
    """User id and change of each of a record.

    The vectors are for the partition's clock, or for the newest event where a producer's clock runs ahead of it.

    Raises
    ------
    DecodeError, ValueError
        It is no `UserChange`.
    """
    first = UserChange.FromString(value)
    changes = []
    for change in (first, *first.more):
        if not change.user_id:
            raise ValueError("user_id is required")
        number = change.number
        version = format_version(number.generation, number.offset, number.step)
        as_of_ms = max(change.clock_ms, change.newest_event_ts_ms)
        changes.append((change.user_id, Change(version, as_of_ms, change.newest_event_ts_ms)))
    return changes


def register(app: faust.App, services: AgentServices) -> None:
    """Add the agent to the worker."""
    settings = services.settings
    client = connect(settings)
    clock_ms = now_ms if settings.clock == "wall" else None
    near_line = NearLine(client, settings, ItemVectors(client, settings, services.name_of), clock_ms)
    handler = VectorHandler(near_line, DeadLetterWriter(settings))
    host(app, services, "user-changes", handler, PACE if settings.clock == "wall" else REPLAY_PACE)
