"""What the pure state says to the world: a role that the stream, training and tests play."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from features.item_version import CatalogueItem
from liverank.v1.event_pb2 import Exposure

__all__ = ["Emitter", "NullEmitter"]


class Emitter(Protocol):
    """Takes what a user's state emits, and answers what it asks of the catalogue."""

    @property
    def sink(self) -> Any:
        """Where native code puts item events and pairs (`features.state.effects.Sink`); None = call `item_event` and
        `pairs`.
        """
        ...

    def item(self, item_id: str, append_ts_ms: int) -> CatalogueItem | None:
        """Return the newest catalogue version appended at or before `append_ts_ms`; None = unknown or removed."""
        ...

    def example(self, row: bytes) -> None:
        """Write a label row: an encoded Example without its number, which whoever sends it adds."""
        ...

    def item_event(
        self,
        item_id: str,
        kind: int,
        event_ts_ms: int,
        *,
        value: float = 0.0,
        sign: float = 1.0,
        surface: str = "",
        expected: float | None = None,
        position: int = 0,
    ) -> None:
        """Count an event (`EventType`) on an item, or take one back (sign -1).

        `expected` are the expected clicks of an impression's slot.
        """
        ...

    def pairs(self, item_id: str, other_hashes: Sequence[int], weights: Sequence[float], event_ts_ms: int) -> None:
        """Add to the weights of an item's neighbours."""
        ...

    def shown(
        self, exposure: Exposure, phi: NDArray[np.float64], residuals: NDArray[np.float64], exposure_ts_ms: int
    ) -> None:
        """Enter a slate into the bandit's statistics.

        Parameters
        ----------
        exposure : Exposure
            Names model, schema and heads.
        phi : ndarray, shape (n_slots, dim)
        residuals : ndarray, shape (n_slots, n_heads)
            Outcome 0 minus expectation for fast heads, 0 for slow ones.
        exposure_ts_ms : int
            When it was shown.
        """
        ...

    def outcome(
        self, exposure: Exposure, slot: int, phi: NDArray[np.float64], head: int, delta: float, exposure_ts_ms: int
    ) -> None:
        """Move the residual of one head (index) at a slot (from 0) with features `phi`, shape (dim,)."""
        ...

    def user_changed(self, newest_event_ts_ms: int) -> None:
        """Tell the vector agent that the user's history, or what of it lies in a window, changed."""
        ...

    def transformation_failed(self, view: str, detail: str) -> None:
        """Tell operators that a view's transformation raised; the event counts for all other views."""
        ...

    def count(self, name: str) -> None:
        """Count something that operators watch: repeat, orphan, unattributed, late_outcome, closed_early, bot, ..."""
        ...


class NullEmitter:
    """Forgets everything; knows no item. For uses that only want the state."""

    sink = None

    def item(self, item_id: str, append_ts_ms: int) -> CatalogueItem | None:
        return None

    def example(self, row: bytes) -> None:
        return

    def item_event(
        self,
        item_id: str,
        kind: int,
        event_ts_ms: int,
        *,
        value: float = 0.0,
        sign: float = 1.0,
        surface: str = "",
        expected: float | None = None,
        position: int = 0,
    ) -> None:
        return

    def pairs(self, item_id: str, other_hashes: Sequence[int], weights: Sequence[float], event_ts_ms: int) -> None:
        return

    def shown(
        self, exposure: Exposure, phi: NDArray[np.float64], residuals: NDArray[np.float64], exposure_ts_ms: int
    ) -> None:
        return

    def outcome(
        self, exposure: Exposure, slot: int, phi: NDArray[np.float64], head: int, delta: float, exposure_ts_ms: int
    ) -> None:
        return

    def user_changed(self, newest_event_ts_ms: int) -> None:
        return

    def transformation_failed(self, view: str, detail: str) -> None:
        return

    def count(self, name: str) -> None:
        return
