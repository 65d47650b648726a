"""What the user has seen, against the catalogue: what is excluded, and how often the rest was shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from ranker.inputs import ItemsView, Rows, UserView

SeenPolicy = Literal["none", "consumed", "shown_n_times"]
N_TIMES: Final = 5


@dataclass(frozen=True)
class SeenItems:
    """Marks of one user on rows of one table.

    Attributes
    ----------
    rows
        Rows with a mark.
    shown
        Times each was shown since the last click on it.
    dismissed, consumed
        Whether the user rejected it; bought, saved, liked or rated it, or clicked it.
    """

    rows: Rows
    shown: NDArray[np.int32]
    dismissed: NDArray[np.bool_]
    consumed: NDArray[np.bool_]

    def excluded(self, policy: SeenPolicy) -> Rows:
        """Rows that must not be shown: dismissed ones always, the rest by policy."""
        out = self.dismissed.copy()
        if policy == "consumed":
            out |= self.consumed
        elif policy == "shown_n_times":
            out |= self.shown >= N_TIMES
        return self.rows[out]

    def times_shown(self, rows: Rows, n_rows: int) -> NDArray[np.int32]:
        """How often each of some rows was shown, shape ``(len(rows),)``."""
        times = np.zeros(n_rows, dtype=np.int32)
        times[self.rows] = self.shown
        return times[rows]


def seen_items(user: UserView, table: ItemsView) -> SeenItems:
    """Resolve a user's marks; items that the table does not know are left out."""
    marks = user.seen
    rows = table.rows_of_hashes(np.ascontiguousarray(marks["item_hash"]))
    known = rows >= 0
    marks = marks[known]
    return SeenItems(
        rows[known],
        marks["shown"].astype(np.int32),
        marks["dismissed"].astype(np.bool_),
        (marks["consumed"] | marks["clicked"]).astype(np.bool_),
    )
