"""The user of a request: read once from Feast, kept for bad times, or nobody.

`Nobody` stands for a user of whom nothing is known or may be used; `Without` hides layers for SHADOW requests that ask
what a layer is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from liverank.errors import LiverankError
from ranker.degrade import NO_USER, STALE, Breaker, Recent
from ranker.inputs import Floats, UserView

_HISTORY: Final = np.dtype(
    [("item_hash", "<i8"), ("event_ts_ms", "<i8"), ("kind", "u1"), ("weight", "<f4"), ("version", "<i8")]
)
_SEEN: Final = np.dtype(
    [("item_hash", "<i8"), ("shown", "<u2"), ("clicked", "?"), ("consumed", "?"), ("dismissed", "?")]
)
_NO_VECTORS: Floats = np.zeros((3, 0), dtype=np.float32)


class Nobody:
    """A user without anything."""

    window_names: Sequence[str] = ()
    category_window_names: Sequence[str] = ()
    history: NDArray[Any] = np.empty(0, dtype=_HISTORY)
    signals: NDArray[Any] = np.empty(0, dtype=_HISTORY)
    seen: NDArray[Any] = np.empty(0, dtype=_SEEN)
    vectors: Floats = _NO_VECTORS
    space: str = ""
    newest_event_ts_ms: int = 0

    def ages_ms(self, as_of_ms: int) -> Mapping[str, int]:
        """Nothing has an age."""
        return {}

    def windows(self, as_of_ms: int) -> NDArray[np.float64]:
        """No counter."""
        return np.empty(0)

    def category_windows(self, as_of_ms: int) -> tuple[Mapping[str, int], NDArray[np.float64]]:
        """No category."""
        return {}, np.empty((0, 0))


NOBODY: Final = Nobody()


class Without:
    """A user with real-time features or vectors hidden.

    Parameters
    ----------
    user
        The user as read.
    features, vectors
        What stays visible.
    """

    def __init__(self, user: UserView, *, features: bool, vectors: bool) -> None:
        counted: UserView = user if features else NOBODY
        self.window_names = counted.window_names
        self.category_window_names = counted.category_window_names
        self.history = counted.history
        self.signals = counted.signals
        self.seen = counted.seen
        self.newest_event_ts_ms = counted.newest_event_ts_ms
        self.windows = counted.windows
        self.category_windows = counted.category_windows
        self.ages_ms = user.ages_ms
        self.vectors = user.vectors if vectors else _NO_VECTORS
        self.space = user.space if vectors else ""


class Users:
    """Reads users; never fails. Thread-safe if `read` is.

    Parameters
    ----------
    read
        One online read of one user; raises `LiverankError` where it cannot.
    keep
        Users whose last row is kept for 30 min, for the rung `stale`.
    """

    def __init__(self, read: Callable[[str], UserView], *, keep: int = 10_000) -> None:
        self._read = read
        self._kept: Recent[UserView] = Recent(keep, 30 * 60.0)
        self._breaker = Breaker()

    def get(self, subject: str) -> tuple[UserView, str | None]:
        """The user, and the rung taken: None, `stale` or `no_user_features`."""
        if not self._breaker.open:
            try:
                user = self._read(subject)
            except LiverankError:
                self._breaker.failed()
            else:
                self._breaker.worked()
                self._kept.put(subject, user)
                return user, None
        kept = self._kept.get(subject)
        return (kept, STALE) if kept is not None else (NOBODY, NO_USER)
