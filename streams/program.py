"""Which feature program a namespace runs: the one that was in Redis when its first worker started.

A program that the registry publishes later is not taken up by live state (that needs a backfill); it is ignored with
an alarm that says so.
"""

from __future__ import annotations

import threading

from features.program import FeatureProgram
from features.redis import Redis, translated
from liverank import log
from liverank.errors import UnavailableError
from streams.errors import WorkerConfigError
from streams.metrics import PROGRAM_CHANGED

__all__ = ["ProgramWatch", "pinned_program"]

_log = log.get(__name__)


def _published(client: Redis, namespace: str) -> FeatureProgram | None:
    with translated("reading the feature program"):
        text = client.get(f"{namespace}:program")
    return FeatureProgram.from_json(text) if text else None


def pinned_program(client: Redis, namespace: str) -> FeatureProgram:
    """Return the program that this namespace was created with, pinning the published one at the first call.

    Raises
    ------
    WorkerConfigError
        No program was ever published.
    """
    key = f"{namespace}:program:pinned"
    with translated("reading the pinned feature program"):
        text = client.get(key)
    if text:
        return FeatureProgram.from_json(text)
    program = _published(client, namespace)
    if program is None:
        raise WorkerConfigError(
            f"there is no feature program at {namespace}:program: run `liverank up` (or `feast apply`) first"
        )
    with translated("pinning the feature program"):
        client.set(key, program.to_json(), nx=True)
        return FeatureProgram.from_json(client.get(key))


class ProgramWatch:
    """Looks at the published program now and then and raises the alarm once per change.

    Parameters
    ----------
    running : FeatureProgram
        What this worker runs.
    """

    def __init__(self, client: Redis, namespace: str, running: FeatureProgram, *, every_s: float = 10.0) -> None:
        self._client = client
        self._namespace = namespace
        self._running = running.hash
        self._seen = self._running
        self._every_s = every_s
        self._stop = threading.Event()

    def run(self) -> None:
        """Watch until `stop`."""
        while not self._stop.wait(self._every_s):
            try:
                self.look()
            except UnavailableError as error:
                _log.debug("cannot look at the feature program now", error=str(error))

    def stop(self) -> None:
        """End `run`."""
        self._stop.set()

    def look(self) -> bool:
        """Return whether the registry holds another program than the running one; say so once per change."""
        program = _published(self._client, self._namespace)
        found = self._running if program is None else program.hash
        changed = found != self._running
        PROGRAM_CHANGED.set(1 if changed else 0)
        if changed and found != self._seen:
            _log.error(
                "the feature registry was changed after this namespace was created. The change is ignored, "
                "workers keep the program they started with; put the old definitions back, or make a new namespace",
                running=self._running,
                published=found,
            )
        self._seen = found
        return changed
