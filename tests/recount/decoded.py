"""Stored fields of the folds, read with their own decoders into plain values."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from typing import Any

from features.category_tiles import category_windows
from features.columns import text_hash
from features.program import FeatureProgram
from features.state import history, neighbours, older, seen, session, surfaces, trend
from features.tiles import windows

Fields = Mapping[bytes, bytes]


def history_entries(fields: Fields, names: tuple[bytes, ...] = history.EVENT_FIELDS) -> Counter[tuple[int, ...]]:
    """Entries of the user's history pages as (time, item, kind, sixteenths, version, category)."""
    return Counter(
        (
            int(each["event_ts_ms"]),
            int(each["item_hash"]),
            int(each["kind"]),
            int(each["weight"] * 16),
            int(each["version"]),
            int(each["category"]),
        )
        for each in history.decode(*(fields.get(name) for name in names))
    )


def older_weeks(fields: Fields) -> dict[int, Counter[tuple[int, ...]]]:
    """Week -> its kept entries as (time, item, kind, sixteenths)."""
    out: dict[int, Counter[tuple[int, ...]]] = {}
    for name in older.OLDER_FIELDS:
        for low, high, sixteenths, kind, item in struct.iter_unpack("<IHbBq", (fields.get(name) or b" ")[1:]):
            ts_ms = high << 32 | low
            out.setdefault(ts_ms // older.WEEK_MS, Counter())[ts_ms, item, kind, sixteenths] += 1
    return out


def abandonments(fields: Fields) -> Counter[tuple[int, ...]]:
    """Derived entries."""
    return history_entries(fields, (history.DERIVED_FIELD,))


def seen_items(fields: Fields) -> dict[int, tuple[int, bool, bool, bool]]:
    """Item -> (shown, clicked, consumed, dismissed)."""
    table = seen.decode(
        [fields.get(name) for name in seen.SHOWN_FIELDS], [fields.get(name) for name in seen.ACTED_FIELDS]
    )
    return {
        int(each["item_hash"]): (
            int(each["shown"]),
            bool(each["clicked"]),
            bool(each["consumed"]),
            bool(each["dismissed"]),
        )
        for each in table
    }


def last_session(fields: Fields) -> session.SessionView | None:
    """The newest session."""
    return session.decode_session(fields.get(session.STATE_FIELD))


def counters(program: FeatureProgram, entity: str, fields: Fields, as_of_ms: int) -> dict[str, float]:
    """Aggregates of all views of a user or an item, by name."""
    found: dict[str, float] = {}
    for view in program.views:
        if view.entity == entity and view.aggregates:
            found |= dict(zip(view.names, windows(view, fields, as_of_ms).tolist(), strict=True))
    return found


def category_counters(program: FeatureProgram, fields: Fields, as_of_ms: int) -> dict[float, dict[str, float]]:
    """Aggregates by category hash (features.columns.text_hash), categories without any left out."""
    found: dict[float, dict[str, float]] = {}
    for view in program.of_entity("user_category"):
        categories, values = category_windows(view, fields, as_of_ms)
        for category, own in zip(categories.tolist(), values.tolist(), strict=True):
            if any(own):
                found.setdefault(category, {}).update(zip(view.names, own, strict=True))
    return found


def category_key(category: str) -> float:
    """Key of a category in `category_counters`."""
    return text_hash(category)


def neighbour_weights(fields: Fields, as_of_ms: int) -> dict[int, float]:
    """Partner -> decayed weight."""
    hashes, weights, _ = neighbours.decode([fields.get(name) for name in neighbours.FIELDS], as_of_ms)
    return dict(zip(hashes.tolist(), weights.tolist(), strict=True))


def surface_counts(fields: Fields, as_of_ms: int) -> dict[int, tuple[float, float]]:
    """Hash of each surface -> decayed expected clicks and clicks of an item."""
    page = fields.get(surfaces.FIELD) or b" "
    scale = 2.0 ** ((surfaces.LANDMARK_MS - as_of_ms) / surfaces.HALF_LIFE_MS)
    return {each: (shown * scale, clicked * scale) for each, shown, clicked in struct.iter_unpack("<qdd", page[1:])}


def trend_values(fields: Fields, as_of_ms: int) -> dict[str, float]:
    """Popularity and response of an item for each half-life."""
    values = trend.decode(fields.get(trend.FIELD))[None, :]
    found: dict[str, Any] = {}
    for at in range(len(trend.HALF_LIVES_MS)):
        found[f"popularity_{at}"] = float(trend.popularity(values, as_of_ms, half_life=at)[0])
        found[f"demand_{at}"] = float(trend.demand(values, as_of_ms, half_life=at)[0])
        found[f"response_{at}"] = float(trend.response(values, as_of_ms, half_life=at)[0])
    return found
