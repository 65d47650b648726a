"""Waiting for a store that is away: for ever, without leaving the consumer group and without reading on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from liverank import log
from liverank.errors import UnavailableError
from liverank.kafka import BatchConsumer, Record
from streams.fence import FencedStore
from streams.metrics import FoldMetrics

__all__ = ["InsistingReader", "Patience", "StoppingError"]

T = TypeVar("T")

#: Shutting down waits this long for a store that is away, s; the next owner does the rest.
_STOP_GRACE_S: Final = 5.0

_log = log.get(__name__)


class StoppingError(Exception):
    """The engine was asked to stop while it waited for a store."""


class Patience:
    """Repeats idempotent actions until they work.

    While it waits, every partition is paused and the group protocol is served, so callbacks of the group run in here.

    Attributes
    ----------
    early : list of Record
        What the consumer handed out although it was paused (normally nothing): the next poll's first records.
    """

    def __init__(self, consumer: BatchConsumer, stop: threading.Event, metrics: FoldMetrics) -> None:
        self.early: list[Record] = []
        self._consumer = consumer
        self._stop = stop
        self._stop_s: float | None = None
        self._metrics = metrics
        self._paused = False

    def insist(self, action: Callable[[], T], doing: str) -> T:
        """Return what `action` returns, as soon as it does not raise `UnavailableError`.

        Raises
        ------
        StoppingError
            The engine was asked to stop and the store did not come back in time.
        """
        delay_s = 0.05
        while True:
            try:
                result = action()
            except UnavailableError as error:
                self._metrics.retries.inc()
                _log.warning("a store is away, waiting", doing=doing, error=str(error))
                self.breathe(delay_s)
                delay_s = min(1.0, 2 * delay_s)
                continue
            self.resume()
            return result

    def until(self, done: Callable[[], bool]) -> None:
        """Wait until `done` (which may block for a moment itself) is true."""
        while not done():
            self.breathe(0.0)
        self.resume()

    def breathe(self, seconds: float) -> None:
        """Stay in the group for so long."""
        if not self._paused:
            self._consumer.pause_all()
            self._paused = True
        deadline_s = time.monotonic() + seconds
        while True:
            if self._stop.is_set():
                self._stop_s = self._stop_s or time.monotonic()
                if time.monotonic() - self._stop_s > _STOP_GRACE_S:
                    raise StoppingError
            self.early += self._consumer.keep_alive()
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return
            time.sleep(min(0.02, left_s))

    def resume(self) -> None:
        """Read on."""
        if self._paused:
            self._consumer.resume_all()
            self._paused = False

    def assigned_anew(self) -> None:
        """Note that positions were set: nothing is paused, and what came early comes again."""
        self.early = []
        self._paused = False

    def take_early(self) -> list[Record]:
        """Return and forget what came early."""
        records, self.early = self.early, []
        return records

    def forget(self, partitions: set[int]) -> None:
        """Drop what came early of these partitions."""
        self.early = [record for record in self.early if record.partition not in partitions]


class InsistingReader:
    """Reads states in the middle of a record: that must not fail, so it waits until the store is back.

    Parameters
    ----------
    before : callable
        Called before every read: writes what is read here.
    """

    def __init__(self, store: FencedStore, patience: Patience, *, before: Callable[[], None]) -> None:
        self._store = store
        self._patience = patience
        self._before = before

    def load(self, partition: int, keys: Sequence[str]) -> list[Mapping[bytes, bytes]]:
        """See `StateReader.load`."""
        self._before()
        return self._patience.insist(lambda: self._store.load(partition, keys), "reading states")

    def due_between(self, partition: int, after_ms: int, until_ms: int) -> list[tuple[str, int]]:
        """See `StateReader.due_between`."""
        self._before()
        return self._patience.insist(
            lambda: self._store.due_between(partition, after_ms, until_ms), "reading the due index"
        )
