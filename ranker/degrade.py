"""Rungs of the degrade ladder: what was less than full service, named in every reply.

full -> stale features -> small model -> cached list -> popular. A rung that changes what a decision was made of keeps
the reply out of statistics and training: it is not drawn.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

STALE: Final = "stale"
"""The user's features could not be read; those of an earlier request were used."""
STALE_STREAM: Final = "stale_stream"
"""The workers stand still: features are those of their last moment."""
NO_USER: Final = "no_user_features"
"""The user's features could not be read and none were kept: as for a new user."""
NO_MODEL: Final = "no_model"
"""No model is active, or the active one was refused."""
SMALL: Final = "small_model"
"""Boosters are not compiled: fewer candidates are scored."""
CACHED: Final = "cached"
"""Time or capacity was short: the user's last slate again."""
POPULAR: Final = "popular"
"""Popular items, the same for everybody."""
UNLOGGED: Final = "unlogged"
"""Exposures could not be logged safely, so nothing was drawn."""

UNDRAWN: Final = frozenset({STALE, NO_USER, NO_MODEL, CACHED, POPULAR, UNLOGGED})
"""Rungs under which a reply is not drawn by a policy."""


def source_rung(name: str) -> str:
    """Rung of a retrieval source that could not answer."""
    return f"source:{name}"


def drawable(rungs: Iterable[str]) -> bool:
    """Whether a policy may draw under these rungs."""
    return UNDRAWN.isdisjoint(rungs)


V = TypeVar("V")


class Recent(Generic[V]):
    """Newest values by key, bounded in number and age. Thread-safe.

    Parameters
    ----------
    size
        Most keys.
    ttl_s
        Age at which a value is forgotten.
    """

    def __init__(self, size: int, ttl_s: float) -> None:
        self._size, self._ttl_s = size, ttl_s
        self._kept: OrderedDict[str, tuple[float, V]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, key: str, value: V) -> None:
        """Keep a value as the newest."""
        with self._lock:
            self._kept.pop(key, None)
            self._kept[key] = (time.monotonic(), value)
            if len(self._kept) > self._size:
                self._kept.popitem(last=False)

    def get(self, key: str) -> V | None:
        """The value, unless it is too old."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            if time.monotonic() - found[0] > self._ttl_s:
                del self._kept[key]
                return None
            return found[1]


@dataclass(frozen=True)
class KeptSlate:
    """A slate as it was replied, for the rung `cached`."""

    item_ids: tuple[str, ...]
    surface: str


class Breaker:
    """Keeps callers away from a dependency for a while after it failed, so that its timeout is not paid every time.

    Parameters
    ----------
    pause_s
        How long after a failure nobody asks.
    """

    def __init__(self, pause_s: float = 1.0) -> None:
        self._pause_s = pause_s
        self._until_s = 0.0

    @property
    def open(self) -> bool:
        """Whether to stay away now."""
        return time.monotonic() < self._until_s

    def failed(self) -> None:
        """The dependency failed just now."""
        self._until_s = time.monotonic() + self._pause_s

    def worked(self) -> None:
        """The dependency answered."""
        self._until_s = 0.0


class Cost:
    """Running estimate of what a full request takes, ms: a high quantile, by asymmetric steps.

    One outlier moves it little, and it falls while requests are turned away, so that the full path is tried again.
    """

    def __init__(self, start_ms: float = 10.0) -> None:
        self.estimate_ms = start_ms

    def took(self, ms: float) -> None:
        """Learn from one full request."""
        step = 0.3 if ms > self.estimate_ms else 0.02
        self.estimate_ms += step * (min(ms, 2 * self.estimate_ms) - self.estimate_ms)

    def turned_away(self) -> None:
        """A request went to a lower rung because of the estimate."""
        self.estimate_ms *= 0.95
