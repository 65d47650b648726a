"""Served rows anew: the features of decisions as the point-in-time join gives them, in place of those that were logged.

What only the ranker knew (scores of retrieval sources, affinities over the catalogue) is request data and stays as it
was logged; everything else follows from the archive.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from features.apply import open_store
from features.crosses import GIVEN
from features.feature_history import feature_history
from liverank.settings import Settings
from liverank.v1.decision_pb2 import Decision
from ranker.columns import COLUMNS, FEATURE_SERVICE, INDEX

__all__ = ["rejoined"]


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
    table = feature_history(open_store(settings, timeout_s=30.0), FEATURE_SERVICE, rows)
    X = np.column_stack([table[name.replace(":", "__")].to_numpy() for name in COLUMNS]).astype(np.float32)
    out, at = [], 0
    for made in kept:
        copy = Decision()
        copy.CopyFrom(made)
        for slot in copy.slots:
            slot.features[:] = X[at].tolist()
            at += 1
        out.append(copy)
    return out
