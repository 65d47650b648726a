"""Served rows anew: the features of decisions as the point-in-time join gives them, in place of those that were logged.

What only the ranker knew (scores of retrieval sources, affinities over the catalogue) is request data and stays as it
was logged; everything else follows from the archive. As in `ranker.columns`, what a user rejected within the last day
is no part of the vectors behind the cosines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from features.apply import open_store
from features.cross_values import cosine
from features.crosses import GIVEN
from features.feature_history import feature_history
from features.hashing import item_hash
from features.item_vectors import ItemVectors
from features.llm.catalogue import items_of_topic
from features.redis import connect
from features.state.history import SIGNAL_FIELDS, decode_signals
from features.vectors import user_vectors
from liverank.settings import Settings
from liverank.v1.decision_pb2 import Decision
from ranker.columns import COLUMNS, FEATURE_SERVICE, INDEX

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["rejoined"]

_EXTRA: Final = (*(name.decode() for name in SIGNAL_FIELDS), "item_semantic:vector")
_DAY_MS: Final = 86_400_000


def rejoined(settings: Settings, decisions: Sequence[Decision]) -> list[Decision]:
    """Copies of decisions whose feature rows are those of the join.

    Parameters
    ----------
    settings : Settings
        Resolved.
    decisions : sequence of Decision
        With the columns of `ranker.columns.COLUMNS`; others are left out.

    Raises
    ------
    PointInTimeError
        The archive cannot be replayed.
    """
    import pandas as pd

    kept = [made for made in decisions if tuple(made.feature_names) == COLUMNS and made.slots]
    if not kept:
        return []
    slots = [(made, slot) for made in kept for slot in made.slots]
    logged = np.array([slot.features for _, slot in slots], dtype=np.float64)
    rows = pd.DataFrame(
        {
            "user_id": [made.user_id for made, _ in slots],
            "item_id": [slot.item_id for _, slot in slots],
            "event_timestamp": pd.to_datetime([made.decided_ts_ms for made, _ in slots], unit="ms", utc=True),
            "as_of_ms": [made.as_of_ms for made, _ in slots],
            "device_name": [made.context.device for made, _ in slots],
            "utc_offset_minutes": [made.context.utc_offset_minutes for made, _ in slots],
            **{f"given_{name}": logged[:, INDEX[f"crosses:{name}"]] for name in GIVEN},
        }
    )
    table = feature_history(open_store(settings, timeout_s=30.0), FEATURE_SERVICE, rows, extra=_EXTRA)
    X = np.column_stack([table[name.replace(":", "__")].to_numpy() for name in COLUMNS]).astype(np.float32)
    _settle_cosines(X, settings, table)
    out, at = [], 0
    for made in kept:
        copy = Decision()
        copy.CopyFrom(made)
        for slot in copy.slots:
            slot.features[:] = X[at].tolist()
            at += 1
        out.append(copy)
    return out


def _settle_cosines(X: NDArray[np.float32], settings: Settings, table: pa.Table) -> None:
    """Cosines of rows whose user rejected something within the last day, without it."""
    first = INDEX["crosses:cosine_1w"]
    pages = [table[name.replace(":", "__")].to_pylist() for name in _EXTRA[:-1]]
    times, vectors = table["as_of_ms"].to_pylist(), table["item_semantic__vector"].to_pylist()
    items: ItemVectors | None = None
    for row, (as_of_ms, vector) in enumerate(zip(times, vectors, strict=True)):
        history = decode_signals(*(page[row] for page in pages))
        age_ms = as_of_ms - history["event_ts_ms"].astype(np.int64)
        rejected = (history["weight"] < 0) & (age_ms > 0) & (age_ms < _DAY_MS)
        if not rejected.any():
            continue
        if items is None:
            names = {item_hash(item_id): item_id for item_id in items_of_topic(settings)}
            items = ItemVectors(connect(settings, retries=3), settings, names.get, capacity=1_000_000)
        items.refresh(history["item_hash"].tolist())
        kept = user_vectors(history[~rejected & (age_ms > 0)], items.lookup, as_of_ms)
        X[row, first : first + 3] = [cosine(each.tolist(), vector) for each in kept]
