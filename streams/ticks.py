"""Ticks: empty records that let a partition's clock advance while nothing happens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from liverank.contract import INTERNAL_HEADER
from liverank.v1.event_pb2 import Event, EventType
from streams.outbox import Output

__all__ = ["TICK_VALUE", "Ticker"]

TICK_VALUE: Final = Event(type=EventType.EVENT_TYPE_TICK).SerializeToString()


class Ticker:
    """Makes one tick a second for each partition. Missing or doubled ticks are harmless.

    Parameters
    ----------
    token : bytes
        The namespace's token: a fold takes ticks only with it.
    """

    def __init__(self, token: bytes, *, every_s: float = 1.0) -> None:
        self._headers = ((INTERNAL_HEADER, token),)
        self._every_s = every_s
        self._next_s = 0.0

    def outputs(self, now_s: float, partitions: Iterable[int]) -> list[Output]:
        """Return the ticks that are due; all partitions tick together, so that one poll folds them."""
        if now_s < self._next_s:
            return []
        self._next_s = now_s + self._every_s
        return [Output("events", p, None, TICK_VALUE, self._headers) for p in partitions]
