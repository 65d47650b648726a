"""Pieces of the local stack that need no service."""

from __future__ import annotations

import random
import socket
import threading
from pathlib import Path

import pytest

from infra.errors import ChecksumError, MissingDownloadError, StackError
from infra.stack import endpoints as endpoints_file
from infra.stack import health, jars, kafka, ports, redis
from infra.stack.files import write_atomic
from infra.stack.layout import Layout
from infra.stack.stack import PARTS, parse_parts
from infra.stack.supervisor import _environment
from liverank.settings import Endpoints, NamespaceEndpoints, Settings


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(home=tmp_path / "home", cache=tmp_path / "cache")
    found.create()
    return found


def test_write_atomic_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, "one")
    write_atomic(path, "two", mode=0o600)
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_ports_are_free_distinct_below_the_outgoing_range_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "ports.json"
    chosen = ports.Ports(path, random.Random(1))
    numbers = [chosen.of(f"p{i}") for i in range(50)]
    assert len(set(numbers)) == 50
    assert all(ports.FIRST <= number < ports.LAST and ports.is_free(number) for number in numbers)
    again = ports.Ports(path, random.Random(2))
    assert [again.of(f"p{i}") for i in range(50)] == numbers


def test_a_port_that_is_taken_is_renewed(tmp_path: Path) -> None:
    chosen = ports.Ports(tmp_path / "ports.json", random.Random(3))
    port = chosen.of("redis")
    assert chosen.free("redis") == port
    with socket.create_server((ports.LOOPBACK, port)):
        assert chosen.free("redis") != port


def test_no_free_port_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda port: False)
    with pytest.raises(StackError, match="no free port between 20000 and 32000"):
        ports.choose((), random.Random(0))


@pytest.mark.parametrize(
    ("value", "written"),
    [("plain", '"plain"'), ('{"a": 1}', "'{\"a\": 1}'"), ("it's", '"it\'s"'), ("", '""')],
)
def test_environment_of_a_program_is_quoted(value: str, written: str) -> None:
    assert _environment({"A": value}) == f"A={written}"


@pytest.mark.parametrize("value", ["both \" and '", "a\nb", "'ends with a quote'"])
def test_a_value_that_cannot_be_passed_is_refused(value: str) -> None:
    with pytest.raises(StackError, match="A holds quotes or a line break"):
        _environment({"A": value})


def test_kafka_configuration_is_one_node_with_single_replicas(layout: Layout) -> None:
    lines = dict(
        line.split("=", 1) for line in kafka.properties(layout, port=21000, controller_port=21001).splitlines()
    )
    replicas = {key: value for key, value in lines.items() if key.endswith("replication.factor")}
    assert len(replicas) == 3
    assert set(replicas.values()) == {"1"}
    assert lines["group.initial.rebalance.delay.ms"] == "0"
    assert lines["advertised.listeners"] == "PLAINTEXT://127.0.0.1:21000"
    assert lines["controller.quorum.voters"] == "1@127.0.0.1:21001"


def test_redis_configuration_never_evicts_and_syncs_every_second(layout: Layout) -> None:
    redis.prepare(layout, port=21002, password="secret")
    path = layout.run / "redis.conf"
    lines = dict(line.split(" ", 1) for line in path.read_text().splitlines())
    assert {key: lines[key] for key in redis.POLICY} == redis.POLICY
    assert lines["requirepass"] == '"secret"'
    assert path.stat().st_mode & 0o777 == 0o600


def test_layout_of_a_long_home_puts_the_socket_elsewhere(tmp_path: Path) -> None:
    short = Layout(home=Path("/h"), cache=tmp_path)
    long = Layout(home=Path("/" + "h" * 150), cache=tmp_path)
    other = Layout(home=Path("/" + "g" * 150), cache=tmp_path)
    assert short.socket == Path("/h/run/supervisor.sock")
    assert len(bytes(long.socket)) < 100
    assert long.socket != other.socket


def test_parts_are_parsed_and_unknown_ones_named() -> None:
    assert parse_parts("kafka, redis") == ("kafka", "redis")
    assert parse_parts(",".join(PARTS)) == PARTS
    with pytest.raises(StackError, match="unknown parts frob; there are kafka, redis"):
        parse_parts("kafka,frob")
    with pytest.raises(StackError, match="none given"):
        parse_parts(" , ")


def test_endpoints_of_namespaces(layout: Layout) -> None:
    base = Endpoints(kafka="k:1", redis="redis://r:2/0", namespace="live")
    live = NamespaceEndpoints(grpc="g:1", generation=3)
    other = NamespaceEndpoints(grpc="g:2")
    both = endpoints_file.with_namespaces(base, {"live": live, "replay": other})
    assert (both.grpc, both.generation, both.namespace) == ("g:1", 3, "live")
    assert both.of("replay").grpc == "g:2"
    assert both.of("unknown").grpc == ""
    endpoints_file.publish(layout, both)
    assert Endpoints.read(layout.home) == both
    left = endpoints_file.with_namespaces(both, {"replay": other})
    assert (left.grpc, left.namespace) == ("g:2", "replay")
    endpoints_file.withdraw(layout)
    endpoints_file.withdraw(layout)
    assert Endpoints.read(layout.home) is None


def test_addresses_are_shown_without_the_password() -> None:
    assert endpoints_file.without_password("redis://u:secret@h:1/0") == "redis://***@h:1/0"
    assert endpoints_file.without_password("redis://h:1/0") == "redis://h:1/0"


def test_probes_of_nothing_name_the_address() -> None:
    assert "127.0.0.1:9" in health.kafka("127.0.0.1:9")
    assert "127.0.0.1:9" in health.redis("redis://127.0.0.1:9/0")
    assert "127.0.0.1:9" in health.ready("127.0.0.1:9")
    assert "no address" not in health.kafka("127.0.0.1:9,127.0.0.1:10")


@pytest.mark.parametrize("reply", [b"", b"\x00\x00\x00\x04", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_stranger_on_the_port_is_not_kafka_nor_redis(reply: bytes) -> None:
    with socket.create_server((ports.LOOPBACK, 0)) as server:

        def answer() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    connection.recv(1024)
                    connection.sendall(reply)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        port = server.getsockname()[1]
        assert health.kafka(f"{ports.LOOPBACK}:{port}")
        assert health.redis(f"redis://{ports.LOOPBACK}:{port}/0")
        thread.join(5)


def test_waiting_ends_when_it_is_in_vain() -> None:
    assert health.wait(lambda: "away", timeout_s=60, alive=lambda: "it ended") == "it ended"
    assert health.wait(lambda: "away", timeout_s=0.0) == "not healthy within 0 s: away"
    answers = iter(["away", "away", ""])
    assert health.wait(lambda: next(answers), timeout_s=60) == ""


def test_kafkas_files_are_pinned_by_hash() -> None:
    pinned = jars.read_lock()
    assert {len(jar.sha256) for jar in pinned} == {64}
    assert len({jar.filename for jar in pinned}) == len(pinned)
    names = {f"{jar.artifact}:{jar.version}" for jar in pinned}
    assert f"kafka_2.13:{jars.KAFKA_VERSION}" in names
    assert f"kafka-clients:{jars.KAFKA_VERSION}" in names


class _Repository:
    """Stands in for jgo's context: every artifact resolves to the same bytes, or fails."""

    def __init__(self, folder: Path, fault: Exception | None = None) -> None:
        self._folder, self._fault, self._name = folder, fault, ""

    def project(self, _group: str, artifact: str) -> _Repository:
        found = _Repository(self._folder, self._fault)
        found._name = artifact
        return found

    def at_version(self, _version: str) -> _Repository:
        return self

    def artifact(self) -> _Repository:
        return self

    def resolve(self) -> Path:
        if self._fault is not None:
            raise self._fault
        path = self._folder / self._name
        path.write_bytes(b"not the jar")
        return path


def test_a_jar_with_other_bytes_is_refused_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jars, "_context", lambda *_: _Repository(tmp_path))
    with pytest.raises(ChecksumError, match=r"pinned [0-9a-f]{64} in kafka\.lock"):
        jars.ensure(tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.jar"))
    assert len(jars.missing(tmp_path / "cache")) == len(jars.read_lock())


def test_without_network_and_cache_the_remedies_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jars, "_context", lambda *_: _Repository(tmp_path, OSError("no route to host")))
    with pytest.raises(
        MissingDownloadError, match="LIVERANK_STACK__MAVEN_URL to a mirror, or set LIVERANK_KAFKA__BOOTSTRAP"
    ):
        jars.ensure(tmp_path / "cache")


def test_a_full_cache_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = jars.folder(tmp_path)
    folder.mkdir(parents=True)
    for jar in jars.read_lock():
        (folder / jar.filename).touch()
    monkeypatch.setattr(jars, "_context", lambda *_: pytest.fail("asked the network"))
    assert [path.name for path in jars.ensure(tmp_path)] == [jar.filename for jar in jars.read_lock()]
    assert len(jars.damaged(tmp_path)) == len(jars.read_lock())


def test_the_settings_of_a_process_are_those_of_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = Settings(
        namespace="shop-1",
        home=tmp_path,
        redis={"url": "redis://h:1/0", "password": "p w"},
        stack={"partitions": 3, "feast_ui": True},
        llm={"api_key": "secret"},
    )
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings
