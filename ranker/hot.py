"""Follows the hot settings: every ranker applies a change within half a second, an invalid one never."""

from __future__ import annotations

from typing import Final

from features.hot_settings import HotStore
from liverank.errors import ConfigError, CorruptError
from liverank.log import get
from liverank.settings import RankerSettings
from ranker import metrics
from ranker.feeds import Feed
from ranker.serving import Rulebook, rulebook

_log = get(__name__)
POLL_S: Final = 0.2


class HotFeed(Feed):
    """The rules of this instant; a thread of its own, so that nothing slow stands before the kill switch.

    While Redis is away the last known rules hold. Rules that break their own rules are refused with a log line and the
    gauge `liverank_hot_settings_refused`; the last good ones stay.

    Parameters
    ----------
    store
        Hot settings of the namespace.
    base
        Settings of the process.
    """

    def __init__(self, store: HotStore, base: RankerSettings) -> None:
        super().__init__("hot-settings", POLL_S)
        self._store, self._base = store, base
        self._book = rulebook(base)
        self._refused = 0
        self.reason = ""

    def current(self) -> Rulebook:
        """The rules that hold now."""
        return self._book

    def step(self) -> None:
        """Take another version, if there is one. One round trip where there is none."""
        version = self._store.version()
        if version not in (self._book.version, self._refused):
            self._take(version)
        metrics.HOT_VERSION.set(self._book.version)
        metrics.EXPLORATION_ON.set(float(self._book.exploring.on))
        self.loaded.set()

    def _take(self, seen: int) -> None:
        try:
            version, hot = self._store.read()
            self._book = rulebook(self._base, hot, version=version)
        except (ConfigError, CorruptError) as error:
            self._refused, self.reason = seen, str(error)
            metrics.HOT_REFUSED.set(1)
            _log.error("hot settings refused, the last good ones hold", version=seen, error=str(error))
            return
        self._refused, self.reason = 0, ""
        metrics.HOT_REFUSED.set(0)
        _log.info("hot settings applied", version=version, exploration=hot.exploration)
