"""Ends a worker whose generation is over: it is started anew with the next one by whatever supervises it."""

from __future__ import annotations

import threading
from typing import Final

from features.generation import read_note
from features.redis import Redis, translated
from liverank import log
from liverank.errors import UnavailableError
from liverank.settings import Settings
from streams.errors import GenerationOverError

__all__ = ["GenerationWatch"]

_log = log.get(__name__)
_EVERY_S: Final = 0.5


class GenerationWatch:
    """Looks twice a second at the live generation and at the note of a repartition."""

    def __init__(self, client: Redis, settings: Settings, generation: int, *, every_s: float = _EVERY_S) -> None:
        self._client, self._settings, self._generation = client, settings, generation
        self._every_s = every_s
        self._stop = threading.Event()
        self._ident = ""

    def stop(self) -> None:
        """End `run`."""
        self._stop.set()

    def run(self) -> None:
        """Look until `stop`.

        Raises
        ------
        GenerationOverError
            Another generation is live, or the seal of this one was lifted.
        """
        while not self._stop.wait(self._every_s):
            try:
                self.step()
            except UnavailableError as error:
                _log.warning("the live generation cannot be asked for", error=str(error))

    def step(self) -> None:
        """Look once; see `run`."""
        with translated("reading the active generation"):
            text = self._client.get(f"{self._settings.namespace}:active")
        active = int(text) if text else 1
        if active > self._generation:
            raise GenerationOverError(
                f"generation {self._generation} is over, generation {active} is live: this worker ends, to be started "
                "anew by its supervisor"
            )
        note = read_note(self._client, self._settings.namespace)
        ident = note.ident if note is not None else ""
        if self._ident and ident != self._ident:
            raise GenerationOverError(
                f"the seal of generation {self._generation} was lifted: this worker ends, to be started anew by its "
                "supervisor, and goes on behind it"
            )
        if ident and not self._ident:
            _log.info("the namespace is being repartitioned", reason=note.reason if note is not None else "")
        self._ident = ident
