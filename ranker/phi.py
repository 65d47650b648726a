"""The bandit's features: at most 32 numbers about one candidate in one context, logged with every shown slot.

They answer "where may the base model be wrong here?": how the user stands to the item, its kind, its age and support,
the hour, and who proposed it. The kind is the item's first category, hashed to a few indicators: a dismissal adds its
residual to the indicator of that kind and to the affinities and the hour that held when it happened, so that this
kind, in contexts like this one, is believed less by the next draw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bandits import on_phi_grid
from ranker.columns import INDEX
from ranker.inputs import Floats

N_KINDS: Final = 10
SOURCES: Final = ("vector", "co_occurrence", "semantic", "trending", "caller")
"""Sources that have an indicator, in the order of `ranker.retrieval` names."""

NAMES: Final[tuple[str, ...]] = (
    "intercept",
    "cosine_1w", "cosine_1m", "cosine_6m",
    "category_liking", "category_aversion", "category_clicks_7d", "category_negatives",
    "popularity", "trend", "novelty", "price", "is_new", "support",
    *(f"from_{name}" for name in SOURCES),
    "hour_sin", "hour_cos", "weekend",
    *(f"kind_{at}" for at in range(N_KINDS)),
)  # fmt: skip
"""Names of the features, in order."""

DIM: Final = len(NAMES)

SCHEMA: Final = hashlib.sha256("\n".join(NAMES).encode()).hexdigest()[:16]
"""Id of the schema: a change of a name or of the order makes another posterior."""


@lru_cache(maxsize=65_536)
def kind_bucket(category: str) -> int:
    """Indicator of a category, the same in every process; -1 for no category."""
    if not category:
        return -1
    return int.from_bytes(hashlib.blake2b(category.encode(), digest_size=4).digest(), "big") % N_KINDS


def phi(x: Floats, categories: Sequence[str], found_by: NDArray[np.bool_]) -> Floats:
    """Bandit features of candidates.

    Parameters
    ----------
    x
        Feature rows of `ranker.columns.build`, shape ``(n, len(COLUMNS))``.
    categories
        First category of each candidate, empty = none; length ``n``.
    found_by
        Who proposed each candidate, in the order of `SOURCES`; shape ``(n, len(SOURCES))``.

    Returns
    -------
    ndarray
        float32 on the grid of the statistics (these exact values are logged, acted upon and summed), shape
        ``(n, DIM)``, each within about [-1, 1].
    """

    def column(name: str) -> Floats:
        values: Floats = x[:, INDEX[name]]
        return values

    n = len(x)
    out = np.zeros((n, DIM), dtype=np.float32)
    out[:, 0] = 1.0
    out[:, 1] = column("crosses:cosine_1w")
    out[:, 2] = column("crosses:cosine_1m")
    out[:, 3] = column("crosses:cosine_6m")
    out[:, 4] = np.tanh(column("crosses:category_affinity") / 3)
    out[:, 5] = np.tanh(column("crosses:category_aversion") / 3)
    out[:, 6] = np.tanh(column("user_category_windows:clicks_7d") / 5)
    out[:, 7] = np.tanh(column("crosses:category_negatives") / 3)
    out[:, 8] = np.minimum(column("crosses:log_popularity") / 8, 1)
    out[:, 9] = np.tanh(column("crosses:trend"))
    age_days = column("crosses:item_age_days")
    out[:, 10] = np.where(age_days >= 0, np.exp(-np.maximum(age_days, 0) / 7), 0)
    out[:, 11] = np.minimum(column("crosses:log_price") / 8, 1)
    out[:, 12] = column("crosses:is_new")
    out[:, 13] = 1 / np.sqrt(1 + np.maximum(column("item_windows:expected_30d"), 0))
    first = 14
    out[:, first : first + len(SOURCES)] = found_by
    first += len(SOURCES)
    out[:, first] = column("crosses:hour_sin")
    out[:, first + 1] = column("crosses:hour_cos")
    out[:, first + 2] = column("crosses:weekend")
    first += 3
    buckets = np.fromiter((kind_bucket(name) for name in categories), dtype=np.int64, count=n)
    at = np.flatnonzero(buckets >= 0)
    out[at, first + buckets[at]] = 1.0
    return on_phi_grid(out).astype(np.float32)
