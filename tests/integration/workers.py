"""A worker with the real folds, for tests that kill it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from liverank.settings import Settings

HERE = Path(__file__).parent
#: Short windows, so that everything that is due comes within the test.
STREAMS = {"attribution_window_s": 4, "session_timeout_s": 1, "group_session_timeout_ms": 6000}


class Folds:
    """A worker with the real folds in a process of its own."""

    def __init__(self, settings: Settings, member: str = "w0", failpoint: str = "") -> None:
        env = {**os.environ, "LIVERANK_FAILPOINT": failpoint}
        self.log = settings.home / f"{member}-{time.monotonic_ns()}.log"
        program = [sys.executable, str(HERE / "folds.py"), settings.model_dump_json(), member]
        with self.log.open("w") as errors:
            self.process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=errors, env=env, text=True)

    def ready(self) -> Folds:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "ready\n", (line, self.log.read_text()[-3000:])
        return self

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=30)
        assert self.process.returncode == 0, self.log.read_text()[-3000:]
