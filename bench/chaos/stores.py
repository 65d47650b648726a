"""Stores to be broken: a Redis of our own that can lose its last second, and the stack's broker."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from infra.stack import health
from infra.stack.ports import choose as free_port
from infra.stack.redis import POLICY, binary
from infra.stack.supervisor import Supervisor

__all__ = ["BreakableRedis", "Broker"]

_AOF = "appendonly.aof"


class BreakableRedis:
    """A Redis with the policy of the local stack (append-only file, synced every second).

    Parameters
    ----------
    folder : Path
        Its data.
    """

    def __init__(self, folder: Path) -> None:
        self._port = free_port()
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.up()

    def up(self) -> None:
        """Start it and wait until it answers."""
        command = [str(binary()), "--port", str(self._port), "--dir", str(self._folder), "--save", ""]
        for name, value in POLICY.items():
            command += [f"--{name}", value]
        # Rewriting would exchange the file whose end is cut.
        command += ["--auto-aof-rewrite-percentage", "0"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        fault = health.wait(lambda: health.redis(self.url), timeout_s=60)
        if fault:
            raise RuntimeError(f"the bench's Redis does not answer: {fault}")

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def away(self, seconds: float) -> None:
        """Gone for a while, nothing lost."""
        self.kill()
        time.sleep(seconds)
        self.up()

    def roll_back(self, seconds: float = 1.0) -> int:
        """What a power cut does under `appendfsync everysec`: the last second of the file is gone.

        Returns
        -------
        int
            Bytes lost.
        """
        aof = self._folder / _AOF
        deadline_s = time.monotonic() + 30.0
        while True:  # until there is something to lose
            kept = aof.stat().st_size
            time.sleep(seconds)
            if aof.stat().st_size > kept or time.monotonic() > deadline_s:
                break
        self.kill()
        lost = aof.stat().st_size - kept
        with aof.open("r+b") as file:
            file.truncate(kept)
        self.up()
        return lost


class Broker:
    """The stack's Kafka."""

    def __init__(self, supervisor: Supervisor, bootstrap: str) -> None:
        self._supervisor = supervisor
        self._bootstrap = bootstrap

    def restart(self, *, politely: bool) -> None:
        """End it by SIGTERM or SIGKILL and wait until it is back."""
        if politely:
            self._supervisor.stop_program("kafka")
            self._supervisor.start_program("kafka")
        else:
            os.kill(self._supervisor.state("kafka").pid, signal.SIGKILL)
            time.sleep(0.5)
            self._supervisor.start_program("kafka")
        fault = health.wait(lambda: health.kafka(self._bootstrap), timeout_s=120)
        if fault:
            raise RuntimeError(f"the broker does not come back: {fault}")
