"""Where the time of a request goes."""

from __future__ import annotations

import time


class Stages:
    """Milliseconds by stage; `done` ends the stage that runs."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}
        self._started_s = self._last_s = time.perf_counter()

    def done(self, stage: str) -> None:
        """Everything since the last call was this stage."""
        now_s = time.perf_counter()
        self.ms[stage] = self.ms.get(stage, 0.0) + (now_s - self._last_s) * 1000
        self._last_s = now_s

    @property
    def total_ms(self) -> float:
        """Since the start."""
        return (time.perf_counter() - self._started_s) * 1000
