"""Kafka, as liverank uses it: with `liverank.kafka_admin`, the only importer of confluent-kafka.

Every producer is idempotent, waits for all replicas and uses the partitioner `murmur2_random` (docs/specs/topics.md).
Vendor errors become `KafkaUnavailableError` (retryable), `KafkaConfigError` or `KafkaLogError` (an offset outside the
log).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka import Producer as _Producer

from liverank.errors import LiverankError
from liverank.kafka_admin import (
    REFRESH_MS,
    UNKNOWN_TOPIC,
    KafkaConfigError,
    KafkaLogError,
    KafkaUnavailableError,
    OffsetClient,
    Tp,
    begin_offsets,
    create_topics,
    delete_topics,
    describe_topics,
    end_offsets,
    ignore_error,
    offsets_for_times,
    partition_counts,
    translate,
)
from liverank.topics import MESSAGE_MAX_BYTES

__all__ = [
    "BEGINNING",
    "END",
    "BatchConsumer",
    "KafkaConfigError",
    "KafkaLogError",
    "KafkaUnavailableError",
    "LogReader",
    "OffsetClient",
    "Producer",
    "Record",
    "Tp",
    "begin_offsets",
    "create_topics",
    "delete_topics",
    "describe_topics",
    "end_offsets",
    "offsets_for_times",
    "partition_counts",
]

BEGINNING: int = OFFSET_BEGINNING
_BATCH_BYTES = 64 * 1024 * 1024
END: int = OFFSET_END


class Record(NamedTuple):
    """One Kafka record.

    Attributes
    ----------
    append_ts_ms : int
        The broker's append time (LogAppendTime), or the data's time in a namespace with clock ``data``.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    append_ts_ms: int

    def header(self, name: str) -> bytes | None:
        """Return the last header of that name."""
        for key, value in reversed(self.headers):
            if key == name:
                return value
        return None


def _record(message: Message) -> Record:
    kind, ts_ms = message.timestamp()
    headers: Any = message.headers()
    return Record(
        str(message.topic()),
        message.partition() or 0,
        message.offset() or 0,
        message.key(),
        message.value() or b"",
        tuple((name, value or b"") for name, value in headers) if headers else (),
        0 if kind == TIMESTAMP_NOT_AVAILABLE else ts_ms,
    )


class Producer:
    """Idempotent producer with a bounded local buffer. Thread safe.

    Parameters
    ----------
    linger_ms : float
        How long a batch waits for company.
    compression : str
        none, gzip, lz4, snappy or zstd.
    on_error : callable, optional
        Called with the error of each record that could not be delivered.
    max_queue : int
        Records that may wait locally; `produce` waits for room above it.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        linger_ms: float = 5.0,
        compression: str = "lz4",
        on_error: Callable[[LiverankError], None] | None = None,
        max_queue: int = 100_000,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._on_error = on_error
        self._max_queue = max_queue
        self.last_failure_s = float("-inf")
        conf: dict[str, Any] = {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "acks": "all",
            "partitioner": "murmur2_random",
            "linger.ms": linger_ms,
            "compression.type": compression,
            "queue.buffering.max.messages": max_queue,
            "queue.buffering.max.kbytes": 256 * 1024,
            "message.max.bytes": MESSAGE_MAX_BYTES,
            "delivery.timeout.ms": 120_000,
            "topic.metadata.refresh.interval.ms": REFRESH_MS,
            "log_level": 0,
            "error_cb": ignore_error,
        }
        conf.update(options or {})
        try:
            self._producer = _Producer(conf)
        except (KafkaException, ValueError) as error:
            raise KafkaConfigError(f"cannot make a producer for {bootstrap!r}: {error}") from error

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.last_failure_s = time.monotonic()
            if self._on_error is not None:
                self._on_error(translate(error, f"delivering to {message.topic()}"))

    def produce(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes,
        partition: int | None = None,
        headers: Sequence[tuple[str, bytes]] | None = None,
        timestamp_ms: int | None = None,
        on_delivery: Callable[[LiverankError | None, int, int], None] | None = None,
        block_s: float = 10.0,
    ) -> None:
        """Hand a record to the local queue; it is sent in the background.

        Parameters
        ----------
        on_delivery : callable, optional
            Called from `poll` or `flush` with ``(error or None, partition, offset)``.
        block_s : float
            How long to wait for room in the queue.

        Raises
        ------
        KafkaUnavailableError
            The queue stayed full for `block_s`.
        KafkaConfigError
            The record is too large or the topic unknown to the local client.
        """
        kwargs: dict[str, Any] = {}
        if partition is not None:
            kwargs["partition"] = partition
        if headers:
            kwargs["headers"] = list(headers)
        if timestamp_ms is not None:
            kwargs["timestamp"] = timestamp_ms
        callback = self._delivered
        if on_delivery is not None:
            told = on_delivery

            def callback(error: KafkaError | None, message: Message) -> None:
                self._delivered(error, message)
                partition_, offset = message.partition(), message.offset()
                told(
                    None if error is None else translate(error, f"producing to {topic}"),
                    -1 if partition_ is None else partition_,
                    -1 if offset is None else offset,
                )

        deadline_s = time.monotonic() + block_s
        while True:
            try:
                self._producer.produce(topic, value=value, key=key, on_delivery=callback, **kwargs)
                return
            except BufferError as error:
                if time.monotonic() >= deadline_s:
                    raise KafkaUnavailableError(
                        f"the local queue of {self._max_queue} records is full: the broker takes nothing; "
                        "slow down or check Kafka"
                    ) from error
                self._producer.poll(0.05)
            except KafkaException as error:
                raise translate(error.args[0], f"producing to {topic}") from error

    def produce_many(self, topic: str, partition: int | None, records: Sequence[tuple[bytes | None, bytes]]) -> None:
        """Hand records (key, value) of one partition, or partitioned by key, to the local queue, in order; a fraction
        of the cost of one by one.

        Only what certainly fits is handed over together, so that no record can be left out before one that is taken.

        Raises
        ------
        KafkaUnavailableError, KafkaConfigError
            As `produce`; the records before the one that failed are handed over.
        """
        sizes = [len(value) + len(key or b"") for key, value in records]
        fits = len(self._producer) + len(records) < self._max_queue and sum(sizes) < _BATCH_BYTES
        if len(records) < 3 or not fits or max(sizes) > MESSAGE_MAX_BYTES // 2:
            for key, value in records:
                self.produce(topic, key=key, value=value, partition=partition, block_s=60.0)
            return
        messages: list[dict[str, Any]] = [
            {"value": value} if key is None else {"key": key, "value": value} for key, value in records
        ]
        # A message's own "partition" is ignored (confluent-kafka 2.16.1): the batch's is not.
        own: dict[str, Any] = {} if partition is None else {"partition": partition}
        try:
            taken = self._producer.produce_batch(topic, messages, on_delivery=self._delivered, **own)
        except KafkaException as error:
            raise translate(error.args[0], f"producing to {topic}") from error
        if taken < len(messages):
            failed = next(message["_error"] for message in messages if "_error" in message)
            raise KafkaConfigError(f"producing to {topic}: {len(messages) - taken} records were not taken: {failed}")

    def poll(self, timeout_s: float = 0.0) -> int:
        """Serve delivery callbacks."""
        return int(self._producer.poll(timeout_s))

    def flush(self, timeout_s: float) -> int:
        """Wait until everything is delivered or failed; return how many records still wait."""
        return int(self._producer.flush(timeout_s))

    @property
    def queue_fill(self) -> float:
        """Share of the local queue that is in use, in [0, 1]."""
        return min(1.0, len(self._producer) / self._max_queue)


class BatchConsumer:
    """Polls records in batches, in a group or with partitions of its own choice. One thread only.

    Never commits offsets: a reader's position lies with its state.

    Parameters
    ----------
    group : str
        Consumer group; needed by librdkafka even where partitions are assigned by hand.
    instance_id : str, optional
        Static member id: a restart within the session timeout keeps its partitions.
    fetch_bytes : int
        Most bytes a fetch takes from one partition. librdkafka hands out one partition's fetch at a time, so small
        fetches interleave.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        group: str,
        instance_id: str | None = None,
        session_timeout_ms: int = 10_000,
        fetch_bytes: int = 1024 * 1024,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        conf: dict[str, Any] = {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "partition.assignment.strategy": "range",
            "session.timeout.ms": session_timeout_ms,
            "heartbeat.interval.ms": max(500, session_timeout_ms // 5),
            "max.poll.interval.ms": 300_000,
            "max.partition.fetch.bytes": fetch_bytes,
            "fetch.error.backoff.ms": 100,
            "fetch.queue.backoff.ms": 10,
            "queued.max.messages.kbytes": 32 * 1024,
            "topic.metadata.refresh.interval.ms": REFRESH_MS,
            "isolation.level": "read_uncommitted",
            "log_level": 0,
            "error_cb": ignore_error,
        }
        if instance_id:
            conf["group.instance.id"] = instance_id
        conf.update(options or {})
        try:
            self._consumer = Consumer(conf)
        except (KafkaException, ValueError) as error:
            raise KafkaConfigError(f"cannot make a consumer for {bootstrap!r}: {error}") from error
        self._assigned: list[TopicPartition] = []

    def subscribe(
        self,
        topics: Sequence[str],
        *,
        on_assign: Callable[[list[Tp]], None],
        on_revoke: Callable[[list[Tp]], None],
        on_lost: Callable[[list[Tp]], None],
    ) -> None:
        """Join the group. Partitions given by the group are not read until `assign` is called for them.

        All three are called from inside `poll_batch` and `keep_alive`, on the same thread.
        """

        def assigned(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            consumer.assign([])
            on_assign([Tp(p.topic, p.partition) for p in partitions])

        def revoked(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            on_revoke([Tp(p.topic, p.partition) for p in partitions])
            self._assigned = []
            consumer.unassign()

        def lost(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            on_lost([Tp(p.topic, p.partition) for p in partitions])
            self._assigned = []
            consumer.unassign()

        self._consumer.subscribe(list(topics), on_assign=assigned, on_revoke=revoked, on_lost=lost)

    def assign(self, positions: Mapping[Tp, int]) -> None:
        """Read exactly these partitions, each from its offset (`BEGINNING` and `END` are allowed); none is paused.

        Notes
        -----
        librdkafka remembers a pause over `unassign` and `assign`: a partition that was paused when the group took it
        would never be read again.
        """
        self._assigned = [TopicPartition(tp.topic, tp.partition, offset) for tp, offset in positions.items()]
        try:
            self._consumer.assign(self._assigned)
            if self._assigned:
                self._consumer.resume(self._assigned)
        except KafkaException as error:
            raise translate(error.args[0], "assigning partitions") from error

    def pause_all(self) -> None:
        """Stop handing out records; `keep_alive` serves the group meanwhile."""
        if self._assigned:
            self._consumer.pause(self._assigned)

    def resume_all(self) -> None:
        """Hand out records again."""
        if self._assigned:
            self._consumer.resume(self._assigned)

    def poll_batch(self, n: int, timeout_s: float, *, linger_s: float = 0.0) -> list[Record]:
        """Return up to `n` records: waits `timeout_s` for the first, then `linger_s` for company, then takes what is
        there.

        Raises
        ------
        KafkaLogError
            The position lies outside the log.
        KafkaConfigError
            Rights are missing.

        Notes
        -----
        Transient broker errors are left to librdkafka and give an empty list. `consume(n, t)` alone would wait the
        whole `t`.
        """
        first = self._consumer.poll(timeout_s)
        if first is None:
            return []
        if linger_s > 0:
            time.sleep(linger_s)
        messages = [first]
        if n > 1:
            messages += self._consumer.consume(n - 1, 0)
        records = []
        for message in messages:
            error = message.error()
            if error is None:
                records.append(_record(message))
                continue
            mine = translate(error, f"reading {message.topic()} [{message.partition()}]")
            if not isinstance(mine, KafkaUnavailableError) and error.code() not in UNKNOWN_TOPIC:
                raise mine
        return records

    def keep_alive(self) -> list[Record]:
        """Serve the group protocol while every partition is paused; returns what was already on its way (normally
        nothing).
        """
        message = self._consumer.poll(0.0)
        return [] if message is None or message.error() is not None else [_record(message)]

    def cached_end(self, tp: Tp) -> int | None:
        """Return the partition's end offset as of the last fetch (no request); None = not known yet."""
        _, end = self._consumer.get_watermark_offsets(TopicPartition(tp.topic, tp.partition), cached=True)
        return int(end) if end >= 0 else None

    def close(self) -> None:
        """Leave the group (a static member keeps its partitions until its session ends) and free everything."""
        self._consumer.close()


class LogReader:
    """Reads whole partitions without a group: a small helper over `BatchConsumer` for tables and scans.

    An offset that is not there any more stands for the first one that is.
    """

    def __init__(self, bootstrap: str, positions: Mapping[Tp, int], *, name: str = "reader") -> None:
        self._consumer = BatchConsumer(bootstrap, group=f"liverank.{name}", options={"auto.offset.reset": "earliest"})
        # librdkafka takes half a second to look a beginning up; 0 is there at once, or not there any more.
        self._consumer.assign({tp: 0 if offset == BEGINNING else offset for tp, offset in positions.items()})

    def poll_batch(self, n: int, timeout_s: float) -> list[Record]:
        """See `BatchConsumer.poll_batch`."""
        return self._consumer.poll_batch(n, timeout_s)

    def close(self) -> None:
        """Free everything."""
        self._consumer.close()
