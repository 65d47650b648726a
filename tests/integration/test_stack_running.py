"""OPS-1: workers and ranker of a namespace on the real stack, killed and started again."""

from __future__ import annotations

import http.client
import os
import signal
from collections.abc import Callable

from infra.stack import Stack, health
from liverank.settings import Endpoints, FeastSettings, RankerSettings, Settings

MakeRunning = Callable[..., Settings]


def status_of(address: str, path: str) -> tuple[int, str]:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    finally:
        connection.close()


def test_OPS_1_processes_come_up_stay_up_and_come_back(make_running: MakeRunning) -> None:
    settings = make_running(workers=1, rankers=1)
    name = settings.namespace
    as_read = settings.model_copy(update={"ranker": RankerSettings(), "feast": FeastSettings()})
    stack = Stack(as_read)
    assert stack.status().healthy
    found = Endpoints.read(settings.home)
    assert found is not None
    own = found.of(name)
    assert set(own.metrics) == {f"{name}-worker-0", f"{name}-ranker-0"}
    assert health.grpc(own.grpc) == ""
    for address in own.metrics.values():
        status, text = status_of(address, "/metrics")
        assert status == 200
        assert "liverank_" in text

    before = {state.name: state.pid for state in stack.status().processes}
    assert stack.up(("features", "model", "workers", "rankers")) == found
    assert {state.name: state.pid for state in stack.status().processes} == before, "a second up restarted something"

    worker = f"{name}-worker-0"
    os.kill(before[worker], signal.SIGKILL)
    assert health.wait(lambda: health.ready(own.metrics[worker]) or _same(stack, worker, before), timeout_s=60) == ""

    stack.stop_namespace()
    assert not [state for state in stack.status().processes if state.name.startswith(name)]
    left = Endpoints.read(settings.home)
    assert left is not None
    assert left.namespaces == {}


def _same(stack: Stack, name: str, before: dict[str, int]) -> str:
    pids = {state.name: state.pid for state in stack.status().processes}
    return "still the killed one" if pids[name] == before[name] else ""
