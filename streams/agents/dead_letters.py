"""Agent: counts dead letters by reason and topic, and logs the first of each kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError
from prometheus_client import Counter

from liverank import log
from liverank.kafka import Record
from liverank.v1.event_pb2 import DeadLetter
from streams.agents.batches import Pace
from streams.agents.positions import host
from streams.agents.services import AgentServices

if TYPE_CHECKING:
    import faust

PACE: Final = Pace(records=2_000, within_s=1.0)
_LETTERS: Final = Counter("liverank_dead_letters", "Dead letters written by anyone", ["reason", "topic"])
_MAX_KINDS: Final = 256
_log = log.get(__name__)


class DeadLetterCounter:
    """Counts; a repeated batch counts twice (the metric is for alarms, the topic is the record)."""

    name = "dead-letters"

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], int] = {}

    def handle(self, records: Sequence[Record]) -> None:
        """Count; labels are bounded, so that garbage cannot blow up the metrics."""
        for record in records:
            try:
                letter = DeadLetter.FromString(record.value)
            except DecodeError:
                letter = DeadLetter(reason="unreadable", topic=record.topic)
            kind = (letter.reason, letter.topic)
            if kind not in self.counts and len(self.counts) >= _MAX_KINDS:
                kind = ("other", "other")
            if kind not in self.counts:
                _log.warning(
                    "first dead letter of its kind",
                    reason=letter.reason,
                    topic=letter.topic,
                    partition=letter.partition,
                    offset=letter.offset,
                    detail=letter.detail[:300],
                )
            self.counts[kind] = self.counts.get(kind, 0) + 1
            _LETTERS.labels(*kind).inc()


def register(app: faust.App, services: AgentServices) -> None:
    """Add the agent to the worker."""
    host(app, services, "dead-letter", DeadLetterCounter(), PACE)
