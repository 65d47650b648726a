"""Broker or Redis absent at the start: commands say in one line what to do, processes wait, no traceback anywhere."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.stack.ports import choose as free_port
from liverank.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
LIVERANK = Path(sys.executable).with_name("liverank")
EVENT = {"type": "EVENT_TYPE_CLICK", "event_id": "1", "user_id": "u", "item_id": "i", "event_ts_ms": "1760000000000"}
AWAY = {"LIVERANK_KAFKA__BOOTSTRAP": "127.0.0.1:1", "LIVERANK_REDIS__URL": "redis://127.0.0.1:1/0"}


def environment(home: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "LIVERANK_HOME": str(home), **more}


@pytest.fixture
def events(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    path.write_text(json.dumps(EVENT) + "\n")
    return path


@pytest.mark.parametrize("command", ["rank --user u", "track click --user u --item i"])
def test_a_command_without_a_ranker_says_what_to_do(tmp_path: Path, command: str) -> None:
    for address, said in ((), "liverank up"), (("--address", "127.0.0.1:1"), "liverank status"):
        done = run(tmp_path, {}, *command.split(), *address)
        assert said in done.stderr


@pytest.mark.parametrize("command", ["import EVENTS", "rebuild --yes", "train", "enrich"])
@pytest.mark.parametrize("stores", ["none", "away"])
def test_a_command_without_stores_says_what_to_do(tmp_path: Path, events: Path, command: str, stores: str) -> None:
    arguments = command.replace("EVENTS", str(events)).split()
    done = run(tmp_path, AWAY if stores == "away" else {}, *arguments)
    assert ("liverank up" if stores == "none" else "liverank status") in done.stderr


def test_up_names_the_external_address_that_does_not_answer(tmp_path: Path) -> None:
    done = run(tmp_path, AWAY, "up")
    assert "127.0.0.1:1" in done.stderr
    assert "comes from the settings" in done.stderr


def run(home: Path, more: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that must fail as commands do: one line, exit code 1."""
    done = subprocess.run(
        [str(LIVERANK), *arguments],
        env=environment(home, **more),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")], done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "This is a bug" not in done.stderr
    return done


@pytest.mark.parametrize("module", ["streams.worker", "ranker.server"])
def test_a_process_without_addresses_ends_and_says_why(tmp_path: Path, module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module], env=environment(tmp_path), cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "liverank up" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


class Door:
    """A port that refuses until it is opened, and then leads to a store."""

    def __init__(self, target: str) -> None:
        host, _, port = target.removeprefix("redis://").partition("/")[0].rpartition(":")
        self._target = (host, int(port))
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"

    def open(self) -> None:
        self._socket.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._socket.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._relay, args=(one, other), daemon=True).start()

    @staticmethod
    def _relay(one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65_536):
                other.sendall(data)
        except OSError:
            return
        finally:
            one.close()
            other.close()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def make_door() -> Iterator[Callable[[str], Door]]:
    made: list[Door] = []

    def make(target: str) -> Door:
        made.append(Door(target))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("module", ["streams.worker", "ranker.server"])
@pytest.mark.parametrize("store", ["redis", "kafka"])
def test_a_process_waits_for_a_store_and_serves_when_it_comes(
    namespace: Settings, make_door: Callable[[str], Door], module: str, store: str, tmp_path: Path
) -> None:
    from features.apply import apply
    from ranker.models import ensure_base_model

    apply(namespace)
    ensure_base_model(namespace)
    port = free_port()
    if store == "redis":
        door = make_door(namespace.redis.url)
        away = {"redis": namespace.redis.model_copy(update={"url": f"redis://{door.address}/0"})}
    else:
        door = make_door(namespace.kafka.bootstrap)
        away = {"kafka": namespace.kafka.model_copy(update={"bootstrap": door.address})}
    settings = namespace.model_copy(update=away)
    said = {"redis": "Redis is away", "kafka": "is the broker up"}[store]
    log = tmp_path / "process.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=ROOT,
            env={**os.environ, **settings.environment(), "LIVERANK_METRICS_PORT": str(port)},
            stdout=out,
            stderr=out,
        )
    try:
        until(lambda: said in log.read_text(), process, log)
        assert not ready(port)
        door.open()
        until(lambda: ready(port), process, log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()[-2000:]
        assert "Traceback" not in log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def until(holds: Callable[[], object], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + 90
    while not holds():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline_s, log.read_text()[-3000:]
        time.sleep(0.1)


def ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False
