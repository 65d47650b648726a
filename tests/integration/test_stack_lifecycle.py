"""OPS-1, the local stack: up, up again, down; killed parts; taken ports; external addresses."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.errors import StackError
from infra.stack import Stack, health
from infra.stack.supervisor import HOME_MARK
from liverank.settings import Endpoints, Settings

CLI = [sys.executable, "-c", "from liverank.cli import main; main()"]


def processes_of(home: Path) -> list[psutil.Process]:
    """Live processes that belong to a stack under this home."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(HOME_MARK) == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def wait_until_none_of(home: Path, timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while processes_of(home):
        assert time.monotonic() < deadline_s, f"still alive: {processes_of(home)}"
        time.sleep(0.05)


def pids(stack: Stack) -> dict[str, int]:
    return {state.name: state.pid for state in stack.status().processes}


def run_cli(*args: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LIVERANK_HOME": str(home), **variables}
    return subprocess.run([*CLI, *args], env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home whose stack is ended after the test, whatever the test did."""
    yield tmp_path / "home"
    Stack(Settings(home=tmp_path / "home")).down()
    assert not processes_of(tmp_path / "home")


@pytest.fixture
def redis_only(home: Path) -> Stack:
    """A stack of which only Redis is up: enough where the service does not matter, and quick."""
    stack = Stack(Settings(home=home), tied=True)
    stack.up(("redis",))
    return stack


def test_OPS_1_up_twice_then_down_twice(home: Path) -> None:
    stack = Stack(Settings(home=home))
    first = stack.up(("kafka", "redis"))
    assert Endpoints.read(home) == first
    assert health.kafka(first.kafka) == ""
    assert health.redis(first.redis) == ""
    before = pids(stack)
    assert all(before.values())

    started_s = time.monotonic()
    assert stack.up(("kafka", "redis")) == first
    assert time.monotonic() - started_s < 5.0
    assert pids(stack) == before, "a second up restarted something"

    stack.down()
    assert not processes_of(home)
    assert Endpoints.read(home) is None
    assert stack.status().faults == {}
    stack.down()

    assert stack.up(("kafka", "redis")) == first, "a restarted stack keeps its addresses"
    logs = {path.name for path in (home / "logs").iterdir()}
    assert {"kafka.log", "redis.log", "supervisord.log"} <= logs


def test_killing_the_supervisor_leaves_no_orphan(redis_only: Stack, home: Path) -> None:
    os.kill(int((home / "run" / "supervisord.pid").read_text()), signal.SIGKILL)
    wait_until_none_of(home)
    again = redis_only.up(("redis",))
    assert health.redis(again.redis) == ""


def test_a_tied_stack_ends_with_the_process_that_started_it(home: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from infra.stack import Stack; from liverank.settings import Settings\n"
        "Stack(Settings(home=Path(sys.argv[1])), tied=True).up(('redis',))\n"
        "print('up', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program, str(home)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "up\n"
    assert processes_of(home)
    owner.kill()
    owner.communicate(timeout=10)
    wait_until_none_of(home)


def test_a_killed_service_comes_back_on_its_address(redis_only: Stack) -> None:
    found = Endpoints.read(redis_only.layout.home)
    assert found is not None
    old = pids(redis_only)["redis"]
    os.kill(old, signal.SIGKILL)
    deadline_s = time.monotonic() + 10
    while pids(redis_only)["redis"] in (old, 0):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    assert health.wait(lambda: health.redis(found.redis), timeout_s=20) == ""


def test_a_service_killed_a_moment_before_down_does_not_hold_it_up(redis_only: Stack, home: Path) -> None:
    os.kill(pids(redis_only)["redis"], signal.SIGKILL)
    started_s = time.monotonic()
    redis_only.down()
    assert time.monotonic() - started_s < 10.0
    assert not processes_of(home)


def test_a_taken_port_is_replaced(redis_only: Stack) -> None:
    found = Endpoints.read(redis_only.layout.home)
    assert found is not None
    redis_only.down()
    port = int(found.redis.rpartition(":")[2].partition("/")[0])
    with socket.create_server(("127.0.0.1", port)):
        moved = redis_only.up(("redis",))
        assert moved.redis != found.redis
        assert health.redis(moved.redis) == ""


def test_external_addresses_start_nothing(stack: Endpoints, home: Path) -> None:
    local = Stack(Settings(home=home, kafka={"bootstrap": stack.kafka}, redis={"url": stack.redis}))
    found = local.up(("kafka", "redis"))
    assert (found.kafka, found.redis) == (stack.kafka, stack.redis)
    assert local.status().healthy
    assert not processes_of(home)


def test_an_external_address_that_does_not_answer_is_named(home: Path) -> None:
    local = Stack(Settings(home=home, redis={"url": "redis://127.0.0.1:9"}))
    with pytest.raises(StackError, match=r"Redis at 127\.0\.0\.1:9: .*correct it, or leave it out"):
        local.up(("redis",))


def test_a_home_with_a_very_long_path(tmp_path: Path) -> None:
    home = tmp_path / ("x" * 60) / ("y" * 60)
    local = Stack(Settings(home=home))
    try:
        assert health.redis(local.up(("redis",)).redis) == ""
    finally:
        local.down()
    assert not processes_of(home)
    assert not local.layout.socket.exists()


def test_redis_with_a_password(home: Path) -> None:
    local = Stack(Settings(home=home, redis={"password": "s3cret with 'quotes' and %"}))
    found = local.up(("redis",))
    assert "NOAUTH" in health.redis(found.redis)
    assert local.status().healthy
    assert "s3cret" not in (home / "endpoints.json").read_text()


def test_two_ups_at_once_start_one_redis(home: Path) -> None:
    environment = {**os.environ, "LIVERANK_HOME": str(home)}
    both = [
        subprocess.Popen([*CLI, "up", "--only", "redis"], env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for one in both:
        _, errors = one.communicate(timeout=60)
        assert one.returncode == 0, errors
    assert sum("redis-server" in " ".join(process.cmdline()) for process in processes_of(home)) == 1


def test_the_command_line_up_status_doctor_down(home: Path) -> None:
    up = run_cli("up", "--only", "redis", home=home)
    assert up.returncode == 0, up.stderr
    assert " s " in up.stderr
    status = run_cli("status", "--json", home=home)
    assert status.returncode == 0, status.stderr
    assert json.loads(status.stdout)["healthy"] is True
    (name,) = [one["name"] for one in json.loads(status.stdout)["processes"]]
    assert name == "redis"
    assert run_cli("down", home=home).returncode == 0
    assert run_cli("status", home=home).returncode == 1


@pytest.mark.parametrize(
    ("args", "variables", "code", "message"),
    [
        (["up", "--only", "frobnicate"], {}, 1, "unknown parts frobnicate; there are kafka, redis"),
        (["up", "--only", "redis"], {"LIVERANK_STACK__WORKERS": "99"}, 2, "stack.workers"),
        (["status"], {"LIVERANK_NAMESPACE": "Not Allowed"}, 2, "namespace"),
        (["up", "--only", "redis"], {"LIVERANK_REDIS__URL": "redis://127.0.0.1:9"}, 1, "Redis at 127.0.0.1:9"),
        (["up", "--only", "kafka"], {"LIVERANK_KAFKA__BOOTSTRAP": "127.0.0.1:9"}, 1, "Kafka at 127.0.0.1:9"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(
    args: list[str], variables: dict[str, str], code: int, message: str, home: Path
) -> None:
    done = run_cli(*args, home=home, **variables)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
