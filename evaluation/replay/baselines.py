"""Popularity, for all time and with a half-life: what a personal list has to beat."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np


class Popularity:
    """Items by number of events, each worth half after a half-life. Updates are O(1), a list is O(items).

    Parameters
    ----------
    item_ids : collection of str
        All items; ties go to the one that comes first.
    half_life_ms : float
        Infinity = all-time popularity.
    """

    def __init__(self, item_ids: Collection[str], half_life_ms: float = float("inf")) -> None:
        self._ids = list(item_ids)
        self._rows = {item_id: row for row, item_id in enumerate(self._ids)}
        self._half_life_ms = half_life_ms
        # Weights are kept at a common reference time: log2 of the weight, so that nothing overflows.
        self._log2 = np.full(len(self._ids), -np.inf)
        self._count = np.zeros(len(self._ids))

    def add(self, item_id: str, at_ms: int) -> None:
        """One event on an item; unknown items are not counted."""
        row = self._rows.get(item_id)
        if row is None:
            return
        if np.isinf(self._half_life_ms):
            self._count[row] += 1.0
        else:
            self._log2[row] = np.logaddexp2(self._log2[row], at_ms / self._half_life_ms)

    def top(self, k: int, exclude: Collection[str] = ()) -> list[str]:
        """The k most popular items that are not excluded, best first."""
        weights = self._count if np.isinf(self._half_life_ms) else self._log2
        most = min(len(self._ids), k + len(exclude))
        if most == 0:
            return []
        # A cut that ties cannot move: everything at least as good as the last one needed, then a stable order.
        least = np.partition(weights, -most)[-most]
        rows = np.flatnonzero(weights >= least)
        order = rows[np.argsort(-weights[rows], kind="stable")]
        out: list[str] = []
        for row in order:
            if self._ids[row] not in exclude:
                out.append(self._ids[row])
                if len(out) == k:
                    break
        return out
