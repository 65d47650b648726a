"""JSON log lines and the small metrics server."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import textwrap

import pytest

from infra.stack import health
from liverank import metrics
from liverank.errors import ConfigError

PROGRAM = """
import logging, sys, warnings
from liverank import log
log.configure("live-worker-0", level=sys.argv[1])
log.get("fold").info("assigned", partition=3)
log.get().debug("detail")
logging.getLogger("library").info("chatter")
logging.getLogger("library").warning("careful %d", 7)
warnings.warn("old")
try:
    1 / 0
except ZeroDivisionError:
    log.get("fold").exception("broke")
"""


def lines_at(level: str) -> list[dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), level], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == ""
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_logs_are_json_lines_with_the_process_name() -> None:
    lines = lines_at("info")
    assert [line["event"] for line in lines][:2] == ["assigned", "careful 7"]
    assert all(line["process"] == "live-worker-0" for line in lines)
    assert list(lines[0])[:5] == ["ts", "level", "process", "module", "event"]
    assert lines[0]["partition"] == 3
    assert lines[0]["module"] == "fold"
    assert lines[1]["module"] == "library"
    assert "ZeroDivisionError" in str(lines[-1]["exception"])


def test_debug_shows_libraries_and_error_silences_the_rest() -> None:
    assert {"detail", "chatter"} <= {line["event"] for line in lines_at("debug")}
    assert [line["event"] for line in lines_at("error")] == ["broke"]


def get(address: str, path: str) -> tuple[int, str]:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    finally:
        connection.close()


def test_metrics_ready_and_live() -> None:
    answers = iter(["waits for partition 3", ""])
    server = metrics.serve(lambda: next(answers), port=0)
    assert server is not None
    try:
        assert health.ready(server.address) == "waits for partition 3"
        assert health.ready(server.address) == ""
        assert "StopIteration" in health.ready(server.address)
        assert get(server.address, "/live") == (200, "alive\n")
        status, text = get(server.address, "/metrics")
        assert status == 200
        assert "python_info" in text
        assert get(server.address, "/other")[0] == 404
        with pytest.raises(ConfigError, match=r"cannot serve metrics on 127\.0\.0\.1"):
            metrics.serve(lambda: "", port=int(server.address.rpartition(":")[2]))
    finally:
        server.close()


def test_the_port_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(metrics.PORT_VARIABLE, raising=False)
    assert metrics.serve(lambda: "") is None
    monkeypatch.setenv(metrics.PORT_VARIABLE, "many")
    with pytest.raises(ConfigError, match="must be a port number, got 'many'"):
        metrics.serve(lambda: "")
