"""Kafka's topics and offsets, and its errors in liverank's words. Import it from `liverank.kafka`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic  # type: ignore[attr-defined]

from liverank.errors import ConfigError, CorruptError, LiverankError, UnavailableError
from liverank.settings import Settings
from liverank.topics import topic_specs

__all__ = [
    "REFRESH_MS",
    "UNKNOWN_TOPIC",
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


#: What a broker says of a topic that does not exist; one that has just come up may say it of any.
UNKNOWN_TOPIC = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)


#: How often clients ask what topics there are. One that met a broker that had just come up, and knew no topics, sends
#: and reads nothing until it asks again; librdkafka's own default is 5 minutes.
REFRESH_MS = 10_000


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
    if code in UNKNOWN_TOPIC:
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
    return AdminClient(_client(bootstrap))


def _consumer(bootstrap: str, group: str = "liverank.offsets") -> Consumer:
    """A consumer that asks and reads nothing."""
    own = {"group.id": group, "enable.auto.commit": False, "isolation.level": "read_uncommitted"}
    return Consumer({**_client(bootstrap), **own})


def _client(bootstrap: str) -> dict[str, Any]:
    if not bootstrap:
        raise KafkaConfigError(
            "no Kafka address: run `liverank up`, or set LIVERANK_KAFKA__BOOTSTRAP, e.g. 127.0.0.1:9092"
        )
    return {
        "bootstrap.servers": bootstrap,
        "topic.metadata.refresh.interval.ms": REFRESH_MS,
        "log_level": 0,
        "error_cb": ignore_error,
    }


def create_topics(
    bootstrap: str,
    settings: Settings,
    generation: int,
    *,
    replication: int = 1,
    timeout_s: float = 30.0,
    n_folds: int | None = None,
) -> list[str]:
    """Create every topic of the namespace that does not exist; return the names of those that were new. Safe to repeat.

    What exists keeps its partitions in a namespace that was repartitioned: whatever the settings say.

    Parameters
    ----------
    n_folds : int, optional
        Partitions of the generation's own topics, for a repartition; those must not exist with another number.

    Raises
    ------
    KafkaUnavailableError
        The broker did not answer within `timeout_s`.
    KafkaConfigError
        A topic exists with another number of partitions, or the broker refuses a setting.
    """
    admin = _admin(bootstrap)
    specs = topic_specs(settings, generation, n_folds=n_folds)
    have = partition_counts(bootstrap, list(specs), admin=admin, timeout_s=timeout_s)
    own = {settings.topic(name, generation) for name in ("events", "item-effects")}
    for name, count in have.items():
        if count != specs[name][0] and (generation == 1 or (n_folds is not None and name in own)):
            raise KafkaConfigError(
                f"topic {name} has {count} partitions, {specs[name][0]} are wanted; set stack.partitions to what "
                "exists and run `liverank repartition` to change it, or use another namespace"
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
_MOVING = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, *_STALE, *UNKNOWN_TOPIC)
#: Kafka's words, in place of a time, for the end of the log and for its beginning.
_LATEST, _EARLIEST = -1, -2


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
    """Asks a broker for offsets; keep one for repeated questions. Thread safe.

    A consumer that joins nothing asks: the same questions by librdkafka's admin client can end the process with an
    assertion (`eonce->refcnt`) while a broker restarts. Topics that a broker does not know are asked for again until
    `timeout_s` is over: one that has just come up knows none.
    """

    def __init__(self, bootstrap: str) -> None:
        self._consumer = _consumer(bootstrap)
        self._bootstrap = bootstrap

    def _ask(self, tps: Iterable[Tp], when: int, timeout_s: float) -> dict[Tp, int]:
        asked = list(tps)
        answers: dict[Tp, int] = {}
        deadline_s = time.monotonic() + timeout_s
        while asked:
            try:
                found = self._consumer.offsets_for_times(
                    [TopicPartition(tp.topic, tp.partition, when) for tp in asked], timeout=timeout_s
                )
                faults = {Tp(one.topic, one.partition): one.error for one in found if one.error is not None}
                answers |= {Tp(one.topic, one.partition): int(one.offset) for one in found if one.error is None}
            except KafkaException as error:
                faults = dict.fromkeys(asked, error.args[0])
            for tp, fault in faults.items():
                if fault.code() not in _MOVING or time.monotonic() >= deadline_s:
                    if fault.code() in UNKNOWN_TOPIC and not self._lacks(tp):
                        raise KafkaUnavailableError(f"{self._bootstrap} does not serve {tp.topic} yet: it starts")
                    raise translate(fault, f"asking {self._bootstrap} for offsets of {tp.topic}")
            if any(fault.code() in _STALE for fault in faults.values()):
                self._consumer = _consumer(self._bootstrap)
            asked = list(faults)
            if asked:
                time.sleep(0.05)
        return answers

    def _lacks(self, tp: Tp) -> bool:
        """Whether a broker answers, and knows no such partition."""
        try:
            found = self._consumer.list_topics(tp.topic, timeout=2.0).topics.get(tp.topic)
        except KafkaException:
            return False
        return found is None or tp.partition not in found.partitions

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
        consumer = _consumer(self._bootstrap, group)
        try:
            found = consumer.committed(asked, timeout=timeout_s)
        except KafkaException as error:
            raise translate(error.args[0], f"asking {self._bootstrap} for the offsets of group {group}") from error
        finally:
            consumer.close()
        for one in found:
            if one.error is not None:
                raise translate(one.error, f"asking {self._bootstrap} for the offsets of group {group}")
        return {Tp(one.topic, one.partition): int(one.offset) for one in found if one.offset >= 0}

    def at(self, tps: Iterable[Tp], ts_ms: int, *, timeout_s: float = 10.0) -> dict[Tp, int]:
        """Return for each partition the first offset appended at or after `ts_ms`; -1 = none."""
        return self._ask(tps, ts_ms, timeout_s)


def end_offsets(bootstrap: str, tps: Iterable[Tp], *, timeout_s: float = 10.0) -> dict[Tp, int]:
    """Return for each partition the offset that the next record will get."""
    return OffsetClient(bootstrap).ends(tps, timeout_s=timeout_s)


def begin_offsets(bootstrap: str, tps: Iterable[Tp], *, timeout_s: float = 10.0) -> dict[Tp, int]:
    """Return for each partition the first offset that is still there."""
    return OffsetClient(bootstrap).begins(tps, timeout_s=timeout_s)


def offsets_for_times(bootstrap: str, tps: Iterable[Tp], ts_ms: int, *, timeout_s: float = 10.0) -> dict[Tp, int]:
    """Return for each partition the first offset appended at or after `ts_ms`; -1 = none."""
    return OffsetClient(bootstrap).at(tps, ts_ms, timeout_s=timeout_s)
