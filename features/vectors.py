"""User vectors of 1 week, 1 month and 6 months, in the space of the item vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Lookup = Callable[[NDArray[np.int64]], tuple[NDArray[np.float32], NDArray[np.bool_]]]
"""Item hashes, shape (n,) -> their unit vectors, shape (n, d), and which were found, shape (n,)."""

DAY_MS: Final = 86_400_000
WINDOWS_MS: Final = (7 * DAY_MS, 30 * DAY_MS, 180 * DAY_MS)
"""An entry belongs to a window while 0 <= age < window."""

NAMES: Final = ("vector_1w", "vector_1m", "vector_6m")
NEGATIVE_SHARE: Final = 0.25
"""How much a negative weight counts against a positive one of the same size. What somebody rejects says less of where
their taste lies than what they choose (Rocchio's relevance feedback, 1971, takes .75 to .15-.25); at full size one
dismissal would turn the vector of a user with a short history round."""
EVIDENCE: Final = 1.0
"""Sum of weights at which a vector has half its full length: one click."""


def user_vectors(history: NDArray[Any], lookup: Lookup, as_of_ms: int) -> NDArray[np.float32]:
    """Three sums of item vectors, weighted by what the user did.

    S = sum of weight x vector over the entries of the window (negative weights count at a quarter), and the vector is
    S / (|S| + 1): its direction is the taste, its length in [0, 1) grows with the evidence. So a dismissal changes the
    vector even where it leaves the direction, and a cosine with a short vector counts for little. Depends on the set of
    entries only, not on their order.

    Parameters
    ----------
    history : structured array, shape (n,)
        Fields `item_hash`, `event_ts_ms`, `weight` (`features.state.history`).
    lookup : callable
        Vectors of items; an item without one adds nothing.
    as_of_ms : int
        Instant; entries after it do not count.

    Returns
    -------
    float32, shape (3, d)
        1 week, 1 month, 6 months; a window without entries is a zero row.
    """
    hashes = np.ascontiguousarray(history["item_hash"], dtype=np.int64)
    order = np.lexsort((hashes, history["event_ts_ms"]))
    hashes, entries = hashes[order], history[order]
    vectors, found = lookup(hashes)
    age = as_of_ms - entries["event_ts_ms"].astype(np.int64)
    weight = np.where(found & (age >= 0), entries["weight"].astype(np.float64), 0.0)
    weight = np.where(weight < 0, NEGATIVE_SHARE * weight, weight)
    inside = age[None, :] < np.asarray(WINDOWS_MS, dtype=np.int64)[:, None]
    total = (inside * weight[None, :]) @ vectors.astype(np.float64)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    out = total / (length + EVIDENCE)
    out[length[:, 0] < 1e-9] = 0.0
    return np.asarray(out, dtype=np.float32)
