"""Crosses of a user, an item and a request that stored features alone determine.

Like `features/windows.py`, this source is copied into an on-demand view: numpy and the standard library only. Rankers
compute the same columns over many candidates at once (`ranker/columns.py`); a test compares both.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

import numpy as np

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
PRIOR_CLICKS = 0.5
PRIOR_SHOWN = 10.0
NEW_IMPRESSIONS = 20.0
NEW_AGE_DAYS = 7.0
MAX_AGE_DAYS = 3650.0
DEVICES = {"phone": 1.0, "tablet": 2.0, "desktop": 3.0, "tv": 4.0}


def cosine(left: Any, right: Any) -> float:
    """Cosine of two vectors; 0 where one is missing, zero, or of another length."""
    if not left or not right or len(left) != len(right):
        return 0.0
    a, b = np.asarray(left, dtype=np.float64), np.asarray(right, dtype=np.float64)
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm > 0 else 0.0


def rate(hits: float, trials: float) -> float:
    """Rate shrunk to the prior of 5 %."""
    return (hits + PRIOR_CLICKS) / (max(trials, hits) + PRIOR_SHOWN)


def item_age_days(published_ms: int, as_of_ms: int) -> float:
    """Age of an item, -1 where its publication is not known."""
    if not published_ms:
        return -1.0
    return min(max((as_of_ms - published_ms) / DAY_MS, 0.0), MAX_AGE_DAYS)


def clock(as_of_ms: int, utc_offset_minutes: int) -> tuple[float, float, float]:
    """Sine and cosine of the local hour of day, and 1 on Saturday and Sunday."""
    local_ms = as_of_ms + utc_offset_minutes * 60_000
    angle = 2 * math.pi * (local_ms % DAY_MS) / DAY_MS
    weekday = (datetime(1970, 1, 1) + timedelta(milliseconds=local_ms)).weekday()
    return math.sin(angle), math.cos(angle), float(weekday >= 5)


def cross_values(
    item: Any,
    category: Any,
    user_vectors: Any,
    item_vector: Any,
    price: Any,
    published_ms: Any,
    device: Any,
    utc_offset_minutes: Any,
    as_of_ms: int,
) -> dict[str, float]:
    """Crosses of one candidate.

    Parameters
    ----------
    item, category : mapping of str to float
        Windows of the item, and of the user in the item's main category.
    user_vectors : sequence of 3 vectors or None
        1 week, 1 month, 6 months.
    item_vector : vector or None
    price : float or None
    published_ms : int or None
    device : str or None
    utc_offset_minutes : int or None
    as_of_ms : int
    """
    age = item_age_days(published_ms or 0, as_of_ms)
    sin, cos, weekend = clock(as_of_ms, utc_offset_minutes or 0)
    return {
        "cosine_1w": cosine(user_vectors[0], item_vector),
        "cosine_1m": cosine(user_vectors[1], item_vector),
        "cosine_6m": cosine(user_vectors[2], item_vector),
        "category_negatives": category.get("negatives_30d", 0.0) - category.get("negatives_1d", 0.0),
        "category_ctr": rate(category.get("clicks_30d", 0.0), category.get("impressions_30d", 0.0)),
        "item_ctr": rate(item["clicks_30d"], item["expected_30d"]),
        "item_ctr_1d": rate(item["clicks_1d"], item["impressions_1d"]),
        "item_negative_rate": rate(item["negatives_30d"], item["expected_30d"]),
        "item_age_days": age,
        "is_new": float(item["impressions_7d"] < NEW_IMPRESSIONS and 0.0 <= age < NEW_AGE_DAYS),
        "log_price": math.log1p(max(price or 0.0, 0.0)),
        "hour_sin": sin,
        "hour_cos": cos,
        "weekend": weekend,
        "device": DEVICES.get(device, 5.0) if device else 0.0,
    }
