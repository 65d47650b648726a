"""A feature program like the one of `features/repo`, without Feast."""

from __future__ import annotations

from typing import Final

from features.program import Aggregate, FeatureProgram, ViewProgram

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS

WINDOWS: Final = {
    "1h": (HOUR_MS, 10 * MINUTE_MS),
    "1d": (DAY_MS, HOUR_MS),
    "7d": (7 * DAY_MS, DAY_MS),
    "30d": (30 * DAY_MS, DAY_MS),
}
CATEGORY_WINDOWS: Final = {"1d": (DAY_MS, 2 * HOUR_MS), "7d": (7 * DAY_MS, DAY_MS), "30d": (30 * DAY_MS, DAY_MS)}
USER: Final = {
    "impressions": "impression",
    "clicks": "click",
    "likes": "like",
    "saves": "save",
    "purchases": "purchase",
    "negatives": "negative",
    "dwell": "dwell_s",
    "abandonments": "abandonment",
    "short_dwells": "short_dwell",
}
CATEGORY: Final = {
    "impressions": "impression",
    "clicks": "click",
    "positives": "positive",
    "negatives": "negative",
}
ITEM: Final = {
    "impressions": "impression",
    "expected": "expected",
    "clicks": "click",
    "likes": "like",
    "saves": "save",
    "purchases": "purchase",
    "negatives": "negative",
}


def _sums(columns: dict[str, str], windows: dict[str, tuple[int, int]]) -> tuple[Aggregate, ...]:
    return tuple(
        Aggregate(name=f"{name}_{label}", column=column, function="sum", window_ms=window, slide_ms=slide)
        for label, (window, slide) in windows.items()
        for name, column in columns.items()
    )


PROGRAM: Final = FeatureProgram(
    project="liverank_test",
    views=(
        ViewProgram(name="user_activity", entity="user", aggregates=_sums(USER, WINDOWS)),
        ViewProgram(
            name="user_category_activity", entity="user_category", aggregates=_sums(CATEGORY, CATEGORY_WINDOWS)
        ),
        ViewProgram(name="item_activity", entity="item", aggregates=_sums(ITEM, WINDOWS)),
    ),
)
