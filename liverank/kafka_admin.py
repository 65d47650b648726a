"""Kafka's topics and offsets, and its errors in liverank's words. Import it from `liverank.kafka`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec  # type: ignore[attr-defined]

from liverank.errors import ConfigError, CorruptError, LiverankError, UnavailableError
from liverank.settings import Settings
from liverank.topics import topic_specs

__all__ = [
    "KafkaConfigError",
    "KafkaLogError",
    "KafkaUnavailableError",
    "OffsetClient",
    "Tp",
    "begin_offsets",
    "create_topics",
    "delete_topics",
    "describe_topics",
    "end_offsets",
    "ignore_error",
    "offsets_for_times",
    "partition_counts",
    "translate",
]


class KafkaUnavailableError(UnavailableError):
    """The broker is away or answered too late."""


class KafkaConfigError(ConfigError):
    """A topic, a setting or a right is wrong."""


class KafkaLogError(CorruptError):
    """An offset lies outside the log: what is missing can only come from the archive (`liverank rebuild`)."""


class Tp(NamedTuple):
    """A topic's partition."""

    topic: str
    partition: int


def translate(error: KafkaError, doing: str) -> LiverankError:
    """The error of ours that stands for the vendor's."""
    code = error.code()
    if code in (KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET):
        return KafkaLogError(f"{doing}: the offset lies outside the log ({error.str()}); run `liverank rebuild`")
    if code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION):
        return KafkaConfigError(
            f"{doing}: the topic or partition does not exist ({error.str()}); run `liverank up` or create the topics"
        )
    if code in (
        KafkaError._INVALID_ARG,
        KafkaError.INVALID_CONFIG,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.MSG_SIZE_TOO_LARGE,
    ):
        return KafkaConfigError(f"{doing}: {error.str()}")
    return KafkaUnavailableError(
        f"{doing}: {error.str()}; is the broker up (`liverank status`), and LIVERANK_KAFKA__BOOTSTRAP right?"
    )


def ignore_error(_error: KafkaError) -> None:
    """Broker errors surface through the calls that they make fail; librdkafka reconnects by itself."""


def _admin(bootstrap: str) -> AdminClient:
    if not bootstrap:
        raise KafkaConfigError(
            "no Kafka address: run `liverank up`, or set LIVERANK_KAFKA__BOOTSTRAP, e.g. 127.0.0.1:9092"
        )
    conf: dict[str, Any] = {"bootstrap.servers": bootstrap, "log_level": 0, "error_cb": ignore_error}
    return AdminClient(conf)


def create_topics(
    bootstrap: str, settings: Settings, generation: int, *, replication: int = 1, timeout_s: float = 30.0
) -> list[str]:
    """Create every topic of the namespace that does not exist; return the names of those that were new. Safe to repeat.

    Raises
    ------
    KafkaUnavailableError
        The broker did not answer within `timeout_s`.
    KafkaConfigError
        A topic exists with another number of partitions, or the broker refuses a setting.
    """
    admin = _admin(bootstrap)
    specs = topic_specs(settings, generation)
    have = partition_counts(bootstrap, list(specs), admin=admin, timeout_s=timeout_s)
    for name, count in have.items():
        if count != specs[name][0]:
            raise KafkaConfigError(
                f"topic {name} has {count} partitions, settings say {specs[name][0]}; "
                "set stack.partitions to what exists, or use another namespace"
            )
    missing = [name for name in specs if name not in have]
    if not missing:
        return []
    new = [
        NewTopic(name, num_partitions=specs[name][0], replication_factor=replication, config=specs[name][1])
        for name in missing
    ]
    for name, future in admin.create_topics(new, operation_timeout=timeout_s, request_timeout=timeout_s).items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise translate(error.args[0], f"creating topic {name}") from error
    deadline_s = time.monotonic() + timeout_s
    while len(partition_counts(bootstrap, missing, admin=admin, timeout_s=timeout_s)) < len(missing):
        if time.monotonic() > deadline_s:
            raise KafkaUnavailableError(f"topics {missing} were created but are not served after {timeout_s:g} s")
        time.sleep(0.05)
    return missing


def delete_topics(bootstrap: str, topics: Sequence[str], *, timeout_s: float = 30.0) -> None:
    """Delete these topics; those that do not exist are left alone."""
    admin = _admin(bootstrap)  # lives until the last reply: a client that goes out of scope drops its requests
    for name, future in admin.delete_topics(list(topics), request_timeout=timeout_s).items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise translate(error.args[0], f"deleting topic {name}") from error


def partition_counts(
    bootstrap: str, topics: Sequence[str], *, admin: AdminClient | None = None, timeout_s: float = 10.0
) -> dict[str, int]:
    """Return the number of partitions of each of these topics that exists and is served."""
    try:
        metadata = (admin or _admin(bootstrap)).list_topics(timeout=timeout_s)
    except KafkaException as error:
        raise translate(error.args[0], f"asking {bootstrap} for its topics") from error
    return {
        name: len(metadata.topics[name].partitions)
        for name in topics
        if name in metadata.topics and metadata.topics[name].error is None and metadata.topics[name].partitions
    }


#: A client that remembers a leader of before (a broker came back): librdkafka goes on asking with the old epoch until
#: its metadata are old, so a new client asks.
_STALE = (KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN_LEADER_EPOCH)
#: A partition that was just created, or whose leader is changing: ask again.
_MOVING = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, *_STALE)
_LATEST: Any = OffsetSpec.latest()  # type: ignore[no-untyped-call]
_EARLIEST: Any = OffsetSpec.earliest()  # type: ignore[no-untyped-call]


def describe_topics(
    bootstrap: str, topics: Sequence[str], *, timeout_s: float = 10.0
) -> dict[str, tuple[int, dict[str, str]]]:
    """Return (partitions, broker settings with defaults) of each of these topics that exists."""
    admin = _admin(bootstrap)
    counts = partition_counts(bootstrap, topics, admin=admin, timeout_s=timeout_s)
    found: dict[str, tuple[int, dict[str, str]]] = {}
    if not counts:
        return found
    asked = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in counts]
    for resource, future in admin.describe_configs(asked, request_timeout=timeout_s).items():
        try:
            entries = future.result(timeout=timeout_s + 5)
        except KafkaException as error:
            raise translate(error.args[0], f"asking for the settings of {resource.name}") from error
        found[resource.name] = (counts[resource.name], {name: entry.value for name, entry in entries.items()})
    return found


class OffsetClient:
    """Asks a broker for offsets; keep one for repeated questions. Thread safe."""

    def __init__(self, bootstrap: str) -> None:
        self._admin = _admin(bootstrap)
        self._bootstrap = bootstrap

    def _ask(self, tps: Iterable[Tp], spec: Any, timeout_s: float) -> dict[Tp, int]:
        asked = {TopicPartition(tp.topic, tp.partition): spec for tp in tps}
        answers: dict[Tp, int] = {}
        deadline_s = time.monotonic() + timeout_s
        while asked:
            futures = self._admin.list_offsets(
                asked, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=timeout_s
            )
            asked, stale = {}, False
            for tp, future in futures.items():
                try:
                    answers[Tp(tp.topic, tp.partition)] = int(future.result(timeout=timeout_s + 5).offset)
                except KafkaException as error:
                    if error.args[0].code() not in _MOVING or time.monotonic() >= deadline_s:
                        raise translate(error.args[0], f"asking {self._bootstrap} for offsets of {tp.topic}") from error
                    asked[tp] = spec
                    stale |= error.args[0].code() in _STALE
                except TimeoutError as error:
                    raise KafkaUnavailableError(
                        f"asking {self._bootstrap} for offsets of {tp.topic}: no answer in {timeout_s:g} s"
                    ) from error
            if stale:
                self._admin = _admin(self._bootstrap)
            if asked:
                time.sleep(0.05)
        return answers

    def ends(self, tps: Iterable[Tp], *, timeout_s: float = 10.0) -> dict[Tp, int]:
        """Return for each partition the offset that the next record will get."""
        return self._ask(tps, _LATEST, timeout_s)

    def begins(self, tps: Iterable[Tp], *, timeout_s: float = 10.0) -> dict[Tp, int]:
        """Return for each partition the first offset that is still there."""
        return self._ask(tps, _EARLIEST, timeout_s)

    def committed(self, group: str, tps: Iterable[Tp], *, timeout_s: float = 10.0) -> dict[Tp, int]:
        """Return the offset that a consumer group would go on at, by partition; without those it never committed."""
        asked = [TopicPartition(tp.topic, tp.partition) for tp in tps]
        if not asked:
            return {}
        try:
            futures = self._admin.list_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group, asked)], request_timeout=timeout_s
            )
            found = futures[group].result(timeout=timeout_s + 5).topic_partitions
        except KafkaException as error:
            raise translate(error.args[0], f"asking {self._bootstrap} for the offsets of group {group}") from error
        except TimeoutError as error:
            raise KafkaUnavailableError(
                f"asking {self._bootstrap} for the offsets of group {group}: no answer in {timeout_s:g} s"
            ) from error
        return {Tp(one.topic, one.partition): int(one.offset) for one in found if one.offset >= 0}

    def at(self, tps: Iterable[Tp], ts_ms: int, *, timeout_s: float = 10.0) -> dict[Tp, int]:
        """Return for each partition the first offset appended at or after `ts_ms`; -1 = none."""
        return self._ask(tps, OffsetSpec.for_timestamp(ts_ms), timeout_s)


def end_offsets(bootstrap: str, tps: Iterable[Tp], *, timeout_s: float = 10.0) -> dict[Tp, int]:
    """Return for each partition the offset that the next record will get."""
    return OffsetClient(bootstrap).ends(tps, timeout_s=timeout_s)


def begin_offsets(bootstrap: str, tps: Iterable[Tp], *, timeout_s: float = 10.0) -> dict[Tp, int]:
    """Return for each partition the first offset that is still there."""
    return OffsetClient(bootstrap).begins(tps, timeout_s=timeout_s)


def offsets_for_times(bootstrap: str, tps: Iterable[Tp], ts_ms: int, *, timeout_s: float = 10.0) -> dict[Tp, int]:
    """Return for each partition the first offset appended at or after `ts_ms`; -1 = none."""
    return OffsetClient(bootstrap).at(tps, ts_ms, timeout_s=timeout_s)
