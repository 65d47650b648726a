"""How far the users' features are behind: the user fold's clock against ours, and an alarm where it stands still."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from features.redis import translated
from liverank.log import get
from liverank.settings import Settings
from ranker import metrics
from ranker.feeds import Feed

if TYPE_CHECKING:
    from features.redis import Redis

__all__ = ["BEHIND_S", "StalenessFeed"]

_log = get(__name__)

BEHIND_S: Final = 15.0
"""Features older than this are called stale: the fold's clock moves every second, whether anything happens or not."""


class StalenessFeed(Feed):
    """Reads the clocks of the user fold's partitions once a second; 0 in recorded time.

    Replies go on meanwhile, with what is stored; they carry the rung `stale_stream`.

    Parameters
    ----------
    generation
        Gives the active generation.
    n_partitions
        Of `events`.
    now_ms
        Wall clock.
    """

    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        generation: Callable[[], int],
        n_partitions: int,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        super().__init__("staleness", 1.0)
        self._settings, self._redis = settings, redis
        self._generation, self._n, self._now_ms = generation, n_partitions, now_ms
        self.staleness_s = 0.0
        self.loaded.set()

    def follow(self, generation: int, n_partitions: int) -> None:
        """Look at so many partitions from now on."""
        self._n = n_partitions

    def behind(self) -> bool:
        """Whether the stream stands still."""
        return self.staleness_s > BEHIND_S

    def step(self) -> None:
        """Compare the oldest clock with ours; partitions that were never folded do not count."""
        if self._settings.clock != "wall":
            return
        ns = self._settings.namespace
        with translated("reading the fold's clocks"):
            pipe: Any = self._redis.pipeline(transaction=False)
            for partition in range(self._n):
                pipe.hget(f"{ns}:{{{ns}.{self._generation()}.{partition}}}:u.meta", "clock")
            clocks = [int(clock) for clock in pipe.execute() if clock and int(clock) > 0]
        was = self.behind()
        self.staleness_s = max(0.0, (self._now_ms() - min(clocks)) / 1000) if clocks else 0.0
        metrics.STALENESS_S.set(self.staleness_s)
        if self.behind() and not was:
            _log.error("features are stale: the user fold stands still; are the workers up?", seconds=self.staleness_s)
        elif was and not self.behind():
            _log.info("features are fresh again")
