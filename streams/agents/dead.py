"""Dead letters of the agents: a record that cannot be used, with its reason."""

from __future__ import annotations

from typing import Final

from liverank.errors import LiverankError
from liverank.kafka import KafkaUnavailableError, Producer, Record
from liverank.settings import Settings
from liverank.v1.event_pb2 import DeadLetter

_MAX_VALUE: Final = 256 * 1024
_FLUSH_S: Final = 10.0


def letter(record: Record, reason: str, detail: str) -> DeadLetter:
    """The dead letter of a record; `reason` is a code of docs/specs/dead-letters.md."""
    return DeadLetter(
        reason=reason,
        detail=detail,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=record.key or b"",
        value=(record.value or b"")[:_MAX_VALUE],
        headers=dict(record.headers),
        append_ts_ms=record.append_ts_ms,
    )


class DeadLetterWriter:
    """Writes dead letters; a batch is done only when `flush` returned."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = settings.topic("dead-letter")
        self._producer: Producer | None = None
        self._failed: list[LiverankError] = []

    def write(self, record: Record, reason: str, detail: str) -> None:
        """Queue one; the producer is made at the first."""
        if self._producer is None:
            kafka = self._settings.kafka
            self._producer = Producer(kafka.bootstrap, compression=kafka.compression, on_error=self._failed.append)
        self._producer.produce(self._topic, key=record.key, value=letter(record, reason, detail).SerializeToString())

    def flush(self) -> None:
        """Wait until the broker has them.

        Raises
        ------
        KafkaUnavailableError
            It did not take all: handle the batch again.
        """
        if self._producer is None:
            return
        waiting = self._producer.flush(_FLUSH_S)
        failed, self._failed[:] = list(self._failed), []
        if waiting or failed:
            why = failed[0] if failed else f"not within {_FLUSH_S:g} s"
            raise KafkaUnavailableError(f"{self._topic}: the broker did not take all dead letters: {why}")
