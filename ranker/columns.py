"""The columns that models see: one row per candidate, every column a registered feature.

The names are the contract between serving and training: a model's manifest lists them in this order, and the ranker
refuses a model with other names. `build` is pure, so that the same function makes the rows of a request, of an
imported history and of a test.

What a user rejected within the last day is no column, and no part of the vectors behind the cosines. Rejections are
rare, so a model learns a step from the first one on; `ranker.value.fading` answers them, graded and bounded, and the
model hears of them when they are a day old.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.vectors import user_vectors
from liverank.v1 import event_pb2
from ranker.affinity import Affinities, affinities
from ranker.inputs import Floats, ItemsView, Rows, UserView

USER_WINDOWS: Final = (
    "impressions_1d", "impressions_7d", "clicks_1h", "clicks_1d", "clicks_7d", "clicks_30d",
    "likes_30d", "saves_30d", "purchases_30d", "dwell_7d", "positives_7d", "positives_30d",
)  # fmt: skip
ITEM_WINDOWS: Final = (
    "impressions_1d", "impressions_7d", "clicks_1h", "clicks_1d", "clicks_7d", "clicks_30d",
    "expected_7d", "expected_30d", "negatives_7d", "negatives_30d", "likes_30d", "saves_30d", "purchases_30d",
    "positives_1d", "positives_7d", "positives_30d",
)  # fmt: skip
CATEGORY_WINDOWS: Final = (
    "impressions_1d", "impressions_30d", "clicks_1d", "clicks_7d", "clicks_30d", "positives_7d", "positives_30d",
)  # fmt: skip
CROSSES: Final = (
    "cosine_1w", "cosine_1m", "cosine_6m", "co_occurrence", "met_share", "met_last", "met_lift", "caller_score",
    "category_affinity", "category_aversion", "category_negatives", "creator_affinity", "recent_category_share",
    "category_ctr",
    "item_ctr", "item_ctr_1d", "item_negative_rate", "log_popularity", "trend", "item_age_days", "is_new",
    "demand_1h", "demand_1d", "demand_7d", "demand_30d", "usual_demand", "own_times", "hours_since_own",
    "log_price", "price_ratio", "history_length", "hours_since_event",
    "hour_sin", "hour_cos", "weekend", "device", "slot", "example_age_h",
)  # fmt: skip

COLUMNS: Final[tuple[str, ...]] = (
    *(f"user_windows:{name}" for name in USER_WINDOWS),
    *(f"item_windows:{name}" for name in ITEM_WINDOWS),
    *(f"user_category_windows:{name}" for name in CATEGORY_WINDOWS),
    *(f"crosses:{name}" for name in CROSSES),
)
"""Names of the columns, in order; each is ``view:feature`` of the registry."""

INDEX: Final[Mapping[str, int]] = {name: at for at, name in enumerate(COLUMNS)}
"""Place of each column."""

FEATURE_SERVICE: Final = "ranker_v1"
"""Feature service that serves these columns."""

SLOT_COLUMN: Final = "crosses:slot"
"""Column of the slot: 1 at serving, the slot shown in training."""

NEUTRAL: Final[Mapping[str, float]] = {"crosses:example_age_h": 0.0}
"""Other columns that only training varies, and their value at serving."""

DEVICES: Final = {"phone": 1.0, "tablet": 2.0, "desktop": 3.0, "tv": 4.0}
"""Codes of ``crosses:device``; an own word is 5, none is 0."""

USUAL: Final = 10
"""Newest entries whose items say what demand is usual for the user."""

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_PRIOR_CLICKS: Final = 0.5
_PRIOR_SHOWN: Final = 10.0
_NEW_IMPRESSIONS: Final = 20.0
_NEW_AGE_MS: Final = 7 * _DAY_MS


def build(
    user: UserView,
    table: ItemsView,
    rows: Rows,
    *,
    context: event_pb2.Context,
    as_of_ms: int,
    scores: Mapping[str, Floats] | None = None,
    sources: NDArray[np.uint32] | None = None,
    affinity: Affinities | None = None,
) -> Floats:
    """Feature rows of candidates.

    Slot is 1 and example age is 0: the neutral values of serving. Training overwrites these two columns with what was
    shown. Who proposed a candidate is not a column (training could not know it for imported history); what a source
    *scores* is.

    Parameters
    ----------
    user
        The user at the request.
    table
        The catalogue.
    rows
        Candidates, rows of `table`, shape ``(n,)``.
    context
        The request's context; hour and day type use its ``utc_offset_minutes``.
    as_of_ms
        Instant for which values are read; only history strictly before it counts.
    scores
        Scores by source, each shape ``(n,)``; read are ``caller`` and those of `ranker.retrieval.Met.of`; absent = 0.
    sources
        Unused; taken so that callers can pass a candidate set whole.
    affinity
        `ranker.affinity.affinities` of this user, if already computed.

    Returns
    -------
    ndarray
        float32, shape ``(n, len(COLUMNS))``.
    """
    scores = scores or {}
    n = len(rows)
    out = np.zeros((n, len(COLUMNS)), dtype=np.float32)
    if n == 0:
        return out
    if affinity is None:
        affinity = affinities(user, table, as_of_ms)
    _fill_windows(out, user, table, rows, as_of_ms)
    main = table.categories[rows, 0]
    at = {name: INDEX[f"crosses:{name}"] for name in CROSSES}
    _fill_cosines(out, user, table, rows, as_of_ms)
    out[:, at["co_occurrence"]] = np.log1p(np.maximum(scores.get("co_occurrence", np.float32(0)), 0))
    _fill_demand(out, table, rows, as_of_ms, affinity, scores)
    _fill_own(out, rows, affinity)
    out[:, at["caller_score"]] = scores.get("caller", np.float32(0))
    out[:, at["category_affinity"]] = affinity.category_liking[main]
    out[:, at["category_negatives"]] = _settled_negatives(user, table, main, as_of_ms)
    out[:, at["category_aversion"]] = affinity.category_aversion[main]
    out[:, at["recent_category_share"]] = affinity.recent_share[main]
    out[:, at["creator_affinity"]] = affinity.creator_liking[table.creator[rows]]
    out[:, at["category_ctr"]] = _rate(
        _of(out, "user_category_windows:clicks_30d"), _of(out, "user_category_windows:impressions_30d")
    )
    out[:, at["item_ctr"]] = _rate(_of(out, "item_windows:clicks_30d"), _of(out, "item_windows:expected_30d"))
    out[:, at["item_ctr_1d"]] = _rate(_of(out, "item_windows:clicks_1d"), _of(out, "item_windows:impressions_1d"))
    out[:, at["item_negative_rate"]] = _rate(
        _of(out, "item_windows:negatives_30d"), _of(out, "item_windows:expected_30d")
    )
    out[:, at["log_popularity"]] = np.log1p(np.maximum(table.popularity(as_of_ms)[rows], 0))
    out[:, at["trend"]] = table.trend(as_of_ms)[rows]
    age_ms = np.clip(as_of_ms - table.published_ms[rows], 0, 3650 * _DAY_MS)
    dated = table.published_ms[rows] > 0
    out[:, at["item_age_days"]] = np.where(dated, age_ms / _DAY_MS, -1)
    out[:, at["is_new"]] = (_of(out, "item_windows:impressions_7d") < _NEW_IMPRESSIONS) & dated & (age_ms < _NEW_AGE_MS)
    log_price = np.log1p(np.maximum(table.price[rows], 0))
    out[:, at["log_price"]] = log_price
    out[:, at["price_ratio"]] = np.where((log_price > 0) & (affinity.log_price > 0), log_price - affinity.log_price, 0)
    out[:, at["history_length"]] = np.log1p(affinity.n_entries)
    out[:, at["hours_since_event"]] = affinity.hours_since_event
    sin, cos, weekend = _clock(as_of_ms, context.utc_offset_minutes)
    out[:, at["hour_sin"]], out[:, at["hour_cos"]], out[:, at["weekend"]] = sin, cos, weekend
    out[:, at["device"]] = DEVICES.get(context.device, 5.0) if context.device else 0.0
    out[:, at["slot"]] = 1.0
    return out


def _of(out: Floats, name: str) -> Floats:
    column: Floats = out[:, INDEX[name]]
    return column


def _rate(hits: Floats, trials: Floats) -> Floats:
    """Rate shrunk to the prior of 5 %."""
    return np.asarray((hits + _PRIOR_CLICKS) / (np.maximum(trials, hits) + _PRIOR_SHOWN), dtype=np.float32)


def _settled_negatives(user: UserView, table: ItemsView, main: NDArray[np.int32], as_of_ms: int) -> Floats:
    """Negatives of the user in the main category in the last 30 days but the last one, shape ``(n,)``."""
    by_code = np.zeros(len(table.category_names), dtype=np.float32)
    categories, counters = user.category_windows(as_of_ms)
    names = list(user.category_window_names)
    if categories and "negatives_30d" in names and "negatives_1d" in names:
        settled = counters[:, names.index("negatives_30d")] - counters[:, names.index("negatives_1d")]
        for name, at in categories.items():
            by_code[max(table.category_code(name), 0)] = settled[at]
        by_code[0] = 0
    return by_code[main]


def _fill_windows(out: Floats, user: UserView, table: ItemsView, rows: Rows, as_of_ms: int) -> None:
    """Counters of user, item and user x category, gathered by name (a name that a registry lacks stays 0)."""
    start = 0
    place = {name: at for at, name in enumerate(user.window_names)}
    values = user.windows(as_of_ms)
    for offset, name in enumerate(USER_WINDOWS):
        if name in place:
            out[:, start + offset] = values[place[name]]
    start += len(USER_WINDOWS)
    place = {name: at for at, name in enumerate(table.window_names)}
    counters = table.windows(rows, as_of_ms)
    have = [(start + offset, place[name]) for offset, name in enumerate(ITEM_WINDOWS) if name in place]
    if have:
        to, of = map(list, zip(*have, strict=True))
        out[:, to] = counters[:, of]
    start += len(ITEM_WINDOWS)
    categories, per_category = user.category_windows(as_of_ms)
    if categories:
        place = {name: at for at, name in enumerate(user.category_window_names)}
        have = [(start + offset, place[name]) for offset, name in enumerate(CATEGORY_WINDOWS) if name in place]
        # Row 0 of the padded block is "no counter for this category".
        padded = np.zeros((len(per_category) + 1, len(have)), dtype=np.float32)
        padded[1:] = per_category[:, [of for _, of in have]]
        slot_of_code = np.zeros(len(table.category_names), dtype=np.int32)
        for name, at in categories.items():
            code = table.category_code(name)
            if code > 0:
                slot_of_code[code] = at + 1
        out[:, [to for to, _ in have]] = padded[slot_of_code[table.categories[rows, 0]]]


def _fill_cosines(out: Floats, user: UserView, table: ItemsView, rows: Rows, as_of_ms: int) -> None:
    """Cosines with the three user vectors; 0 where either side has none or the spaces differ."""
    vectors: Floats = user.vectors
    if vectors.size == 0 or user.space != table.space or vectors.shape[1] != table.vectors.shape[1]:
        return
    vectors = _settled_vectors(user, table, as_of_ms)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = np.zeros_like(vectors)
    np.divide(vectors, norms, out=unit, where=norms > 0)
    first = INDEX["crosses:cosine_1w"]
    cosines = table.vectors[rows] @ unit.T
    out[:, first : first + 3] = np.where(table.has_vector[rows][:, None], cosines, 0)


def _settled_vectors(user: UserView, table: ItemsView, as_of_ms: int) -> Floats:
    """The user's vectors without what they rejected in the last day; 60 us where there is something."""
    history = user.signals
    age_ms = as_of_ms - history["event_ts_ms"].astype(np.int64)
    rejected = (history["weight"] < 0) & (age_ms > 0) & (age_ms < _DAY_MS)
    if not rejected.any():
        return user.vectors

    def vectors_of(hashes: NDArray[np.int64]) -> tuple[Floats, NDArray[np.bool_]]:
        at = table.rows_of_hashes(hashes)
        return table.vectors[at], (at >= 0) & table.has_vector[at]

    return user_vectors(history[~rejected & (age_ms > 0)], vectors_of, as_of_ms)


def _fill_demand(
    out: Floats, table: ItemsView, rows: Rows, as_of_ms: int, affinity: Affinities, scores: Mapping[str, Floats]
) -> None:
    """How often items are taken now, how often what the user takes usually is, and who meets whom against that."""
    demand = table.demand(rows, as_of_ms)
    first = INDEX["crosses:demand_1h"]
    out[:, first : first + 4] = np.log1p(np.maximum(demand, 0))
    newest = affinity.rows[:USUAL]
    if len(newest):
        usual = table.demand(newest, as_of_ms)[:, 2]
        out[:, INDEX["crosses:usual_demand"]] = np.log1p(np.maximum(usual, 0)).mean()
    share = np.asarray(scores.get("met_share", np.float32(0)), dtype=np.float32)
    out[:, INDEX["crosses:met_share"]] = share
    out[:, INDEX["crosses:met_last"]] = scores.get("met_last", np.float32(0))
    out[:, INDEX["crosses:met_lift"]] = share / np.sqrt(1 + np.maximum(demand[:, 3], 0))


def _fill_own(out: Floats, rows: Rows, affinity: Affinities) -> None:
    """How often, and how long ago, the user took the item before; -1 where never."""
    taken = affinity.weights > 0
    own, first, times = np.unique(affinity.rows[taken], return_index=True, return_counts=True)
    since = np.full(len(rows), -1.0)
    if len(own):
        at = np.minimum(np.searchsorted(own, rows), len(own) - 1)
        found = own[at] == rows
        hours = affinity.ages_ms[taken][first] / _HOUR_MS  # entries are newest first
        since = np.where(found, hours[at], -1.0)
        out[:, INDEX["crosses:own_times"]] = np.where(found, times[at], 0)
    out[:, INDEX["crosses:hours_since_own"]] = since


def _clock(as_of_ms: int, utc_offset_minutes: int) -> tuple[float, float, float]:
    """Sine and cosine of the local hour of day, and 1 on Saturday and Sunday."""
    local_ms = as_of_ms + utc_offset_minutes * 60_000
    angle = 2 * np.pi * (local_ms % _DAY_MS) / _DAY_MS
    weekday = datetime.fromtimestamp(local_ms / 1000, tz=UTC).weekday()
    return float(np.sin(angle)), float(np.cos(angle)), float(weekday >= 5)
