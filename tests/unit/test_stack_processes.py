"""Workers and rankers as the supervisor is told about them."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import pytest

from infra.stack import processes
from infra.stack.ports import LOOPBACK, Ports
from infra.stack.stack import _belongs
from liverank.settings import NamespaceEndpoints, Settings


@pytest.fixture
def ports(tmp_path: Path) -> Ports:
    return Ports(tmp_path / "ports.json", random.Random(7))


def settings_with(**stack: object) -> Settings:
    return Settings(namespace="shop", kafka={"bootstrap": "k:1"}, redis={"url": "redis://r:1/0"}, stack=stack)


def test_rankers_share_the_address_and_have_metrics_of_their_own(ports: Ports) -> None:
    found = processes.rankers(settings_with(rankers=3), ports, ())
    assert [one.program.name for one in found] == ["shop-ranker-0", "shop-ranker-1", "shop-ranker-2"]
    assert len({one.grpc for one in found}) == 1
    assert len({one.metrics for one in found}) == 3
    for one in found:
        environment = one.program.environment
        assert environment["LIVERANK_RANKER__GRPC"] == one.grpc
        assert environment["LIVERANK_NAMESPACE"] == "shop"
        assert environment["LIVERANK_KAFKA__BOOTSTRAP"] == "k:1"
        assert environment["LIVERANK_METRICS_PORT"] == one.metrics.rpartition(":")[2]
        assert one.program.command[1:] == ("-m", "ranker.server", "--id", one.program.name[-1])


def test_rankers_stop_before_workers_and_the_last_started_first(ports: Ports) -> None:
    settings = settings_with(workers=2, rankers=1)
    orders = [
        one.program.order for one in (*processes.workers(settings, ports, ()), *processes.rankers(settings, ports, ()))
    ]
    assert orders == sorted(orders)
    assert len(set(orders)) == 3


def test_a_running_program_keeps_its_port_and_another_one_gets_a_free_one(ports: Ports) -> None:
    settings = settings_with(workers=1, rankers=1)
    (worker,) = processes.workers(settings, ports, ())
    (ranker,) = processes.rankers(settings, ports, ())
    taken = [int(one.rpartition(":")[2]) for one in (worker.metrics, ranker.grpc)]
    with socket.create_server((LOOPBACK, taken[0])), socket.create_server((LOOPBACK, taken[1])):
        assert processes.workers(settings, ports, ["shop-worker-0"]) == (worker,)
        assert processes.rankers(settings, ports, ["shop-ranker-0"]) == (ranker,)
        assert processes.workers(settings, ports, ())[0].metrics != worker.metrics
        assert processes.rankers(settings, ports, ["shop-worker-0"])[0].grpc != ranker.grpc


def test_variables_that_are_no_settings_are_passed_on(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVERANK_LOG", "debug")
    monkeypatch.setenv("LIVERANK_NAMESPACE", "another")
    monkeypatch.setenv("LIVERANK_METRICS_PORT", "1")
    environment = processes.workers(settings_with(workers=1), ports, ())[0].program.environment
    assert environment["LIVERANK_LOG"] == "debug"
    assert environment["LIVERANK_NAMESPACE"] == "shop"
    assert environment["LIVERANK_METRICS_PORT"] != "1"


def test_the_endpoints_keep_roles_that_were_left_alone(ports: Ports) -> None:
    settings = settings_with(workers=2, rankers=1)
    workers, rankers = processes.workers(settings, ports, ()), processes.rankers(settings, ports, ())
    both = processes.addresses(settings, [*workers, *rankers], old=NamespaceEndpoints(), generation=2)
    assert set(both.metrics) == {"shop-worker-0", "shop-worker-1", "shop-ranker-0"}
    assert (both.grpc, both.generation) == (rankers[0].grpc, 2)
    fewer = processes.addresses(settings, workers[:1], old=both, generation=2)
    assert set(fewer.metrics) == {"shop-worker-0", "shop-ranker-0"}


def test_programs_of_a_namespace_whose_name_is_the_beginning_of_another() -> None:
    roles = processes.ROLES
    assert _belongs("shop-worker-0", "shop", roles)
    assert not _belongs("shop-worker-0", "shop-worker", roles)
    assert not _belongs("shop-2-worker-0", "shop", roles)
    assert not _belongs("kafka", "kafka", roles)
    assert not _belongs("shop-ranker-0", "shop", ("worker",))
