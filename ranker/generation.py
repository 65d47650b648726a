"""Follows the live generation: where events go, whose statistics and clocks are read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from features.generation import read_note
from features.redis import translated
from liverank.log import get
from liverank.settings import Settings
from ranker.feeds import Feed

if TYPE_CHECKING:
    from features.redis import Redis

__all__ = ["Follower", "GenerationFeed"]

_log = get(__name__)


class Follower(Protocol):
    """Depends on the live generation. Thread-safe."""

    def follow(self, generation: int, n_partitions: int) -> None:
        """Go on with this generation, whose `events` have so many partitions."""
        ...


class Taker(Protocol):
    """Takes events while no repartition is under way. Thread-safe."""

    sealed: str


class GenerationFeed(Feed):
    """Looks four times a second at the live generation and at the note of a repartition.

    Parameters
    ----------
    generation
        That the followers were made for.
    partitions
        Number of partitions of a generation's `events`.
    followers
        Told of a new generation.
    takers
        Told why events are not taken now; empty = they are.
    """

    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        generation: int,
        *,
        partitions: Callable[[int], int],
        followers: Sequence[Follower],
        takers: Sequence[Taker],
    ) -> None:
        super().__init__("generation", 0.25)
        self._settings, self._redis = settings, redis
        self._partitions, self._followers, self._takers = partitions, followers, takers
        self.generation = generation

    def step(self) -> None:
        """Look once."""
        with translated("reading the active generation"):
            found = self._redis.get(f"{self._settings.namespace}:active")
        active = int(found) if isinstance(found, bytes) else 1
        if active > self.generation:
            n_partitions = self._partitions(active)
            for follower in self._followers:
                follower.follow(active, n_partitions)
            self.generation = active
            _log.info("another generation is live", generation=active, partitions=n_partitions)
        note = read_note(self._redis, self._settings.namespace)
        sealed = ""
        if note is not None and note.old == self.generation:
            sealed = f"{note.reason}; it began {time.time() - note.since_ms / 1000:.0f} s ago"
        for taker in self._takers:
            taker.sealed = sealed
        self.loaded.set()
