"""Real worker processes: `python -m streams.worker`, started, killed, stopped and woken."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from infra.stack import health
from infra.stack.ports import choose as free_port
from liverank.settings import Settings

__all__ = ["Worker"]

CHECKOUT = Path(__file__).resolve().parents[2]


class Worker:
    """One worker; its number is its static member id.

    Parameters
    ----------
    settings : Settings
        Resolved.
    number : int
    logs : Path
        Folder.
    """

    def __init__(self, settings: Settings, number: int, logs: Path) -> None:
        self.number = number
        self.n_starts = 0
        self._settings = settings
        self._log = logs / f"worker-{number}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._metrics = ""

    def start(self, failpoint: str = "") -> None:
        """Start it anew; does not wait."""
        port = free_port()
        self._metrics = f"127.0.0.1:{port}"
        env = {name: value for name, value in os.environ.items() if not name.startswith("LIVERANK_")}
        env |= self._settings.environment()
        env |= {"LIVERANK_METRICS_PORT": str(port), "LIVERANK_FAILPOINT": failpoint}
        self.n_starts += 1
        output: IO[bytes]
        with self._log.open("ab") as output:
            output.write(f"--- start {self.n_starts} {failpoint}\n".encode())
            output.flush()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "streams.worker", "--id", str(self.number)],
                env=env, cwd=CHECKOUT, stdout=output, stderr=output,
            )  # fmt: skip
        atexit.register(self._process.kill)

    @property
    def alive(self) -> bool:
        """Whether it runs (or is stopped)."""
        return self._process is not None and self._process.poll() is None

    @property
    def status(self) -> int | None:
        """Exit status of its last end; None while it runs."""
        return None if self._process is None else self._process.poll()

    def ready(self, timeout_s: float) -> bool:
        """Wait until it folds; False if it ended or was not ready in time."""
        dead = "it has ended"
        return not health.wait(
            lambda: health.ready(self._metrics), timeout_s=timeout_s, alive=lambda: "" if self.alive else dead
        )

    def ended(self, timeout_s: float) -> bool:
        """Wait for its end."""
        deadline_s = time.monotonic() + timeout_s
        while self.alive and time.monotonic() < deadline_s:
            time.sleep(0.05)
        return not self.alive

    def stopped(self, timeout_s: float) -> bool:
        """Wait until SIGSTOP has stopped it."""
        deadline_s = time.monotonic() + timeout_s
        while self.alive and time.monotonic() < deadline_s:
            if self._process is not None:
                stat = Path(f"/proc/{self._process.pid}/stat").read_text()
                if stat.rpartition(")")[2].split()[0] == "T":
                    return True
            time.sleep(0.05)
        return False

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it lives."""
        if self._process is not None and self.alive:
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def leave(self) -> bool:
        """SIGTERM; whether it ended with status 0."""
        self.send(signal.SIGTERM)
        if not self.ended(60.0):
            self.kill()
        return self.status == 0

    def log_tail(self, n: int = 30) -> str:
        """The last lines of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-n:]) if self._log.exists() else ""
