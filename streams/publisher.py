"""Publishing: what was fenced becomes visible. Everything here is idempotent and may be repeated.

Rows and partials are versioned sets in Redis; Kafka outputs carry their place in the log. Outputs of one source
partition reach a target partition in the order of their numbers: the producer retries for ever and keeps order, so a
gap is impossible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from features import native
from features.online import EntityRow, OnlineWriter, Row, Tombstone
from features.redis import Packed, Redis, VersionedSet, VersionedValue, translated
from liverank.errors import LiverankError
from liverank.kafka import Producer
from streams.calls import Call
from streams.errors import FoldBugError
from streams.fold import Feed, Fold, KeyState
from streams.outbox import ANNOUNCES_ROWS, Output, public_fields

__all__ = ["KafkaSink", "Pending", "PositionBoard", "RowSink", "Sink", "Visible", "announced", "joined", "merge_calls"]

#: Delivery waits for ever: a record given up would be a gap in a numbered stream.
_FOR_EVER = {"delivery.timeout.ms": 0, "enable.gapless.guarantee": True, "delivery.report.only.error": True}


@dataclass(slots=True)
class Pending:
    """Changed fields of one key that readers have not seen."""

    state: KeyState
    fields: dict[bytes, bytes]
    version: bytes
    since_s: float = field(default=0.0)


class Visible(NamedTuple):
    """What readers see of changes."""

    entities: list[EntityRow]
    rows: list[Row]
    values: list[VersionedValue]
    feed: list[Output]
    erased: list[Tombstone]


def joined(parts: Sequence[Visible]) -> Visible:
    """Put together what is seen of several partitions."""
    return Visible(
        [each for part in parts for each in part.entities],
        [each for part in parts for each in part.rows],
        [each for part in parts for each in part.values],
        [each for part in parts for each in part.feed],
        [each for part in parts for each in part.erased],
    )


def merge_calls(calls: Sequence[Call]) -> dict[tuple[int, str], Pending]:
    """Merge the public changes of consecutive calls by (partition, key): newest bytes, newest version."""
    merged: dict[tuple[int, str], Pending] = {}
    for call in calls:
        for key, fields in call.pages.items():
            public = public_fields(key, fields)
            if not public:
                continue
            found = merged.get((call.partition, key))
            if found is None:
                merged[call.partition, key] = Pending(call.states[key], public, call.version)
            else:
                found.fields.update(public)
                found.version = call.version
                found.state = call.states[key]  # another one where the key was dropped
    return merged


def announced(outputs: Sequence[Output]) -> tuple[list[Output], list[Output]]:
    """Split outputs, in order, into those that stand for themselves and those that announce rows: the latter are sent
    after the rows are written.
    """
    early = [output for output in outputs if output.topic != ANNOUNCES_ROWS]
    return early, [output for output in outputs if output.topic == ANNOUNCES_ROWS]


class RowSink:
    """Writes what readers see into Redis."""

    def __init__(self, client: Redis, project: str, fold: Fold) -> None:
        self._rows = OnlineWriter(client, project)
        self._values = VersionedSet(client)
        self._fold = fold

    def build(self, pending: Mapping[tuple[int, str], Pending]) -> Visible:
        """Ask the fold what readers see of these changes."""
        entities: list[EntityRow] = []
        rows: list[Row] = []
        values: list[VersionedValue] = []
        feed: list[Output] = []
        erased: list[Tombstone] = []
        for (_, key), change in pending.items():
            for row in self._fold.rows(key, change.fields, change.state, change.version):
                if isinstance(row, VersionedValue):
                    values.append(row)
                elif isinstance(row, Tombstone):
                    erased.append(row)
                elif isinstance(row, Feed):
                    message = row.message
                    packed = message if isinstance(message, bytes) else message.SerializeToString()
                    feed.append(Output(row.topic, -1, row.key, packed))
                elif isinstance(row, EntityRow):
                    entities.append(row)
                else:
                    rows.append(row)
        return Visible(entities, rows, values, feed, erased)

    def pack(self, visible: Visible) -> Packed | None:
        """Return commands that write the rows whatever Redis holds; None where that is not all there is to do."""
        if native.core is None or visible.erased or visible.rows:
            return None
        return self._rows.pack(visible.entities)

    def write(self, visible: Visible) -> None:
        """Set rows and values; those of which a newer version is stored stay as they are. The feed is the caller's.

        Raises
        ------
        RedisUnavailableError
            Repeat the call.
        """
        if visible.erased:
            self._rows.erase(visible.erased)
        if visible.entities:
            self._rows.write_entities(visible.entities)
        if visible.rows:
            self._rows.write(visible.rows)
        if visible.values:
            self._values.write(visible.values)


class PositionBoard:
    """Says how far this reader has come: ``<ns>:position:<reader>:<partition>``, a hash topic -> next offset."""

    def __init__(self, client: Redis, namespace: str, reader: str) -> None:
        self._client = client
        self._prefix = f"{namespace}:position:{reader}:"

    def write(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Note the next offset of each partition of `topic`.

        Raises
        ------
        RedisUnavailableError
            Repeat the call.
        """
        with translated("writing positions"):
            pipe = self._client.pipeline(transaction=False)
            for partition, offset in offsets.items():
                pipe.hset(f"{self._prefix}{partition}", topic, offset)
            pipe.execute()


class Sink(Protocol):
    """Where Kafka outputs go."""

    def send(self, outputs: Sequence[Output]) -> None:
        """Hand over outputs, in order."""
        ...

    def confirmed(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s`; return whether everything handed over is acknowledged."""
        ...


class KafkaSink:
    """Sends Kafka outputs, numbered and in order.

    Parameters
    ----------
    topic_of : callable
        Full topic name of a short one.
    """

    def __init__(self, bootstrap: str, *, compression: str, topic_of: Callable[[str], str]) -> None:
        self._failed: list[LiverankError] = []
        self._producer = Producer(
            bootstrap,
            # A flush does not wait for it; it only lets the records of a poll share a batch.
            linger_ms=20,
            compression=compression,
            on_error=self._failed.append,
            max_queue=1_000_000,
            options=_FOR_EVER,
        )
        self._topic_of = topic_of

    def send(self, outputs: Sequence[Output]) -> None:
        """See `Sink.send`.

        Raises
        ------
        KafkaUnavailableError
            The local queue is full; nothing of the rest was handed over.
        """
        together: dict[tuple[str, int], list[tuple[bytes | None, bytes]]] = {}
        for output in outputs:
            topic, partition, key, value, headers = output
            if not headers:
                together.setdefault((topic, partition), []).append((key, value))
                continue
            self._producer.produce(
                self._topic_of(topic),
                key=key,
                value=value,
                partition=None if partition < 0 else partition,
                headers=headers,
                block_s=60.0,
            )
        for (topic, partition), records in together.items():
            self._producer.produce_many(self._topic_of(topic), None if partition < 0 else partition, records)
        self._producer.poll(0)

    def confirmed(self, timeout_s: float) -> bool:
        """See `Sink.confirmed`.

        Raises
        ------
        FoldBugError
            The broker refused a record for good (too large, no right): the worker must stop, the outbox keeps it.
        """
        left = self._producer.flush(timeout_s)
        if self._failed:
            raise FoldBugError(
                f"an output was refused for good: {self._failed[0]}; mend the cause and restart the worker"
            )
        return left == 0

    @property
    def queue_fill(self) -> float:
        """Share of the local queue in use."""
        return self._producer.queue_fill

    def close(self) -> None:
        """Give what waits a last moment; what is not delivered is still in the outbox."""
        self._producer.flush(2.0)
