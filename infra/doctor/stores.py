"""Checks of Kafka, Redis and the feature registry, as this namespace uses them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from infra.doctor.findings import Finding, fault, ok, warning
from infra.stack import health
from infra.stack.endpoints import without_password
from infra.stack.redis import POLICY
from infra.stack.services import password_of
from liverank.errors import LiverankError
from liverank.settings import Settings

if TYPE_CHECKING:
    from features.generation import Note

UP = "run liverank up"
# Another value of one of these changes what is kept or how time is read; all others are the operator's choice.
BINDING = ("cleanup.policy", "message.timestamp.type", "min.compaction.lag.ms", "retention.ms", "max.message.bytes")


def kafka(settings: Settings) -> Finding:
    """Whether Kafka answers."""
    found = health.kafka(settings.kafka.bootstrap)
    if found:
        return fault(
            "Kafka", found, "run liverank up; if the address is external, see that it can be reached from here"
        )
    return ok("Kafka", settings.kafka.bootstrap)


def topics(settings: Settings, generation: int, described: Mapping[str, tuple[int, Mapping[str, str]]]) -> Finding:
    """Whether every topic exists with its partitions and its binding settings.

    Parameters
    ----------
    described : mapping
        Full topic name -> (partitions, settings) as the broker has them.
    """
    from liverank.topics import topic_specs

    wanted = topic_specs(settings, generation)
    missing = sorted(set(wanted) - set(described))
    if missing:
        return fault(
            "topics", f"missing: {', '.join(missing)}", f"{UP}; it creates what is missing and changes nothing else"
        )
    wrong = []
    for name, (n_partitions, specified) in wanted.items():
        got_partitions, got = described[name]
        if got_partitions != n_partitions and generation == 1:
            wrong.append(f"{name} has {got_partitions} partitions, the settings say {n_partitions}")
        wrong += [
            f"{name}: {key} is {got[key]}, must be {specified[key]}"
            for key in BINDING
            if key in specified and key in got and got[key] != specified[key]
        ]
    if wrong:
        todo = "set them with kafka-configs.sh --alter; set LIVERANK_STACK__PARTITIONS to the number that is there"
        return fault("topics", "; ".join(wrong), todo)
    return ok("topics", f"{len(wanted)} with their settings, generation {generation}")


def redis(settings: Settings) -> Finding:
    """Whether Redis answers."""
    found = health.redis(settings.redis.url, password_of(settings))
    if found:
        return fault(
            "Redis", found, "run liverank up; if the address is external, check it and LIVERANK_REDIS__PASSWORD"
        )
    return ok("Redis", without_password(settings.redis.url))


def redis_policy(config: Mapping[str, str]) -> list[Finding]:
    """Whether Redis keeps everything and writes it to disk; a managed Redis that hides its settings gives a warning."""
    findings = []
    for name, wanted in POLICY.items():
        got = config.get(name)
        if got is None:
            todo = f"this Redis does not show it; make sure that it is {wanted}"
            findings.append(warning(f"Redis {name}", "unknown", todo))
        elif got == wanted or (name == "appendfsync" and got == "always"):
            findings.append(ok(f"Redis {name}", got))
        elif name == "maxmemory-policy":
            todo = "redis-cli config set maxmemory-policy noeviction: an evicted key is lost state"
            findings.append(fault(f"Redis {name}", got, todo))
        else:
            todo = (
                f"redis-cli config set {name} {wanted}: without it a crash of Redis loses more than a second of state"
            )
            findings.append(fault(f"Redis {name}", got, todo))
    return findings


def registry(yaml: str, program: bytes | None) -> list[Finding]:
    """Whether the feature registry was applied and the compiled program published."""
    if not yaml or not Path(yaml).exists():
        return [fault("feature registry", f"no {yaml or 'feature_store.yaml'}", UP)]
    if program is None:
        return [fault("feature program", "not in Redis", f"{UP}, or feast apply: it publishes the program")]
    return [ok("feature registry", yaml), ok("feature program", f"{len(program)} bytes in Redis")]


def examine(settings: Settings) -> list[Finding]:
    """All checks of the stores.

    Parameters
    ----------
    settings : Settings
        Resolved.
    """
    findings = []
    for name, address, check in (("Kafka", settings.kafka.bootstrap, kafka), ("Redis", settings.redis.url, redis)):
        findings.append(check(settings) if address else warning(name, "not up", UP))
    if findings[1].level == "ok":
        findings += _inside_redis(settings)
    if all(one.level == "ok" for one in findings[:2]):
        findings.append(_inside_kafka(settings))
    return findings


def repartition(note: Note | None) -> list[Finding]:
    """Whether a repartition is under way, or was interrupted."""
    if note is None:
        return []
    todo = f"wait for its end; if none runs: liverank repartition --partitions {note.n_new}, or --abort"
    return [warning("repartition", note.reason, todo)]


def _inside_redis(settings: Settings) -> list[Finding]:
    from features.generation import read_note
    from features.redis import connect, translated

    try:
        with connect(settings) as client, translated("asking Redis for its settings"):
            program = client.get(f"{settings.namespace}:program")
            active = client.get(f"{settings.namespace}:active")
            note = read_note(client, settings.namespace)
            found = {_text(key): _text(value) for key, value in client.config_get("*").items()}
    except LiverankError as error:
        return [fault("Redis", str(error), "let this user run CONFIG GET, or check the policy by hand")]
    findings = redis_policy(found)
    if active is None:
        return [*findings, warning("namespace", f"{settings.namespace} was never started here", UP)]
    return [
        *findings,
        ok("namespace", f"{settings.namespace}, generation {int(active)}"),
        *repartition(note),
        *registry(settings.feast.yaml, program),
    ]


def _inside_kafka(settings: Settings) -> Finding:
    from features.redis import connect, translated
    from liverank import kafka as adapter
    from liverank.topics import topic_specs

    try:
        with connect(settings) as client, translated("reading the active generation"):
            generation = int(client.get(f"{settings.namespace}:active") or 1)
        described = adapter.describe_topics(settings.kafka.bootstrap, list(topic_specs(settings, generation)))
    except LiverankError as error:
        return fault("topics", str(error), "see that this user may describe topics and their configuration")
    return topics(settings, generation, described)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
