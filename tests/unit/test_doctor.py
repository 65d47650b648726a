"""`liverank doctor` names each fault and what to do about it (OPS-8)."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from features.generation import Note
from infra.doctor import Finding, examine, machine, packages, stores
from infra.stack import jars, ports
from infra.stack.redis import POLICY
from liverank.settings import Settings
from liverank.topics import topic_specs


def described(settings: Settings) -> dict[str, tuple[int, dict[str, str]]]:
    """What a broker says that has every topic as specified, with a default besides."""
    return {
        name: (n_partitions, {**specified, "segment.bytes": "1"})
        for name, (n_partitions, specified) in topic_specs(settings, 1).items()
    }


def test_all_is_well_says_so_without_a_todo() -> None:
    settings = Settings()
    findings = [
        machine.python((3, 12, 1)),
        machine.memory(8_000_000_000),
        machine.disk(Path("/"), 50_000_000_000),
        packages.packages(),
        *stores.redis_policy({**POLICY, "other": "x"}),
        stores.topics(settings, 1, described(settings)),
    ]
    assert {one.level for one in findings} == {"ok"}, findings
    assert {one.todo for one in findings} == {""}


def without(settings: Settings, topic: str) -> dict[str, tuple[int, dict[str, str]]]:
    return {name: one for name, one in described(settings).items() if name != settings.topic(topic)}


def with_setting(settings: Settings, topic: str, key: str, value: str) -> dict[str, tuple[int, dict[str, str]]]:
    found = described(settings)
    n_partitions, specified = found[settings.topic(topic)]
    return {**found, settings.topic(topic): (n_partitions, {**specified, key: value})}


SETTINGS = Settings()
BROKEN = {
    "old Python": (lambda: machine.python((3, 10, 4)), "3.10.4", "install one of them"),
    "new Python": (lambda: machine.python((3, 14, 0)), "3.14.0", "install one of them"),
    "no compiler": (lambda: machine.compiler(path="/nonexistent"), "none of c++, g++, clang++", "apt install g++"),
    "little memory": (lambda: machine.memory(1_000_000_000), "1.0 GB", "LIVERANK_KAFKA__BOOTSTRAP"),
    "full disk": (lambda: machine.disk(Path("/"), 100_000_000), "0.1 GB", "LIVERANK_HOME"),
    "old package": (lambda: packages.packages(["redis>=99"]), "redis 7", "make setup"),
    "missing package": (lambda: packages.packages(["no-such-package>=1"]), "no-such-package is missing", "make setup"),
    "evicting Redis": (
        lambda: stores.redis_policy({**POLICY, "maxmemory-policy": "allkeys-lru"})[0],
        "allkeys-lru",
        "config set maxmemory-policy noeviction",
    ),
    "Redis without a file": (
        lambda: stores.redis_policy({**POLICY, "appendonly": "no"})[1],
        "no",
        "config set appendonly yes",
    ),
    "Redis that never syncs": (
        lambda: stores.redis_policy({**POLICY, "appendfsync": "no"})[2],
        "no",
        "config set appendfsync everysec",
    ),
    "Redis away": (
        lambda: stores.redis(Settings(redis={"url": "redis://127.0.0.1:9/0"})),
        "127.0.0.1:9",
        "LIVERANK_REDIS__PASSWORD",
    ),
    "Kafka away": (
        lambda: stores.kafka(Settings(kafka={"bootstrap": "127.0.0.1:9"})),
        "127.0.0.1:9",
        "can be reached from here",
    ),
    "missing topic": (
        lambda: stores.topics(SETTINGS, 1, without(SETTINGS, "items")),
        "missing: liverank.live.items",
        "run liverank up",
    ),
    "topic with another policy": (
        lambda: stores.topics(SETTINGS, 1, with_setting(SETTINGS, "items", "cleanup.policy", "delete")),
        "liverank.live.items: cleanup.policy is delete, must be compact",
        "kafka-configs.sh",
    ),
    "topic with another clock": (
        lambda: stores.topics(SETTINGS, 1, with_setting(SETTINGS, "decisions", "message.timestamp.type", "CreateTime")),
        "message.timestamp.type is CreateTime, must be LogAppendTime",
        "kafka-configs.sh",
    ),
    "other number of partitions": (
        lambda: stores.topics(Settings(stack={"partitions": 9}), 1, described(SETTINGS)),
        "has 8 partitions, the settings say 9",
        "LIVERANK_STACK__PARTITIONS",
    ),
    "no registry": (lambda: stores.registry("/nonexistent/feature_store.yaml", None)[0], "/nonexistent", "liverank up"),
    "no program": (lambda: stores.registry(__file__, None)[0], "not in Redis", "feast apply"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_OPS_8_each_fault_is_named_with_its_remedy(name: str) -> None:
    check, found, todo = BROKEN[name]
    finding = check()
    assert finding.level == "fault", finding
    assert found in finding.found
    assert todo in finding.todo


def test_taken_ports_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "is_free", lambda port: False)
    finding = machine.ports()
    assert finding.level == "fault"
    assert str(ports.FIRST) in finding.found


def test_a_damaged_file_of_kafka_is_named(tmp_path: Path) -> None:
    settings = Settings(stack={"cache": tmp_path})
    assert packages.kafka_jars(settings).level == "warning"
    folder = jars.folder(tmp_path)
    folder.mkdir(parents=True)
    bad = jars.read_lock()[3].filename
    (folder / bad).write_bytes(b"damaged")
    finding = packages.kafka_jars(settings)
    assert finding.level == "fault"
    assert bad in finding.found
    external = Settings(stack={"cache": tmp_path}, kafka={"bootstrap": "k:1"})
    assert packages.kafka_jars(external).level == "ok"


def test_requirements_of_other_platforms_are_not_asked() -> None:
    def version_of(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    assert packages.packages(["never; python_version < '3'"], version_of).level == "ok"


def test_a_repartition_that_was_interrupted_is_named() -> None:
    note = Note(ident="a", old=1, new=2, n_old=4, n_new=6, since_ms=0, phase="build")
    (found,) = stores.repartition(note)
    assert found.level == "warning"
    assert "from 4 to 6 partitions (step 'build')" in found.found
    assert "--partitions 6, or --abort" in found.todo
    assert stores.repartition(None) == []


def test_a_redis_that_hides_its_settings_is_a_warning() -> None:
    assert {one.level for one in stores.redis_policy({})} == {"warning"}
    assert stores.redis_policy({**POLICY, "appendfsync": "always"})[2].level == "ok"


def test_before_the_first_up_nothing_is_a_fault_of_the_stack(tmp_path: Path) -> None:
    findings = examine(Settings(home=tmp_path / "never"))
    about_stack = [one for one in findings if one.check in ("Kafka", "Redis", "processes")]
    assert {one.level for one in about_stack} == {"warning"}
    assert {one.todo for one in about_stack} == {"run liverank up"}


def test_a_finding_without_a_remedy_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="names no remedy"):
        Finding(check="x", level="fault", found="y")
