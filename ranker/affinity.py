"""What a user's newest history says about categories, creators and price: one pass over at most 128 entries.

Counters say how much; this says how lately. It moves with the very next event, because it is computed from the
history at the request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from liverank.v1 import event_pb2
from ranker.inputs import Floats, ItemsView, Rows, UserView

HALF_LIFE_DAYS: Final = 7.0
HINT_HALF_LIFE_DAYS: Final = 1.0
"""Of the hint that acts before any model has learned: by then counters, vectors and posterior have taken over."""
RECENT: Final = 20
VERDICT_DAYS: Final = 7
REJECTIONS: Final = (
    int(event_pb2.EVENT_TYPE_DISMISS),
    int(event_pb2.EVENT_TYPE_THUMBS_DOWN),
    int(event_pb2.EVENT_TYPE_NOT_INTERESTED),
)
_DAY_MS: Final = 86_400_000
_NEVER_H: Final = 24.0 * 365


@dataclass(frozen=True, kw_only=True)
class Affinities:
    """Per category code and creator code of one table.

    Attributes
    ----------
    as_of_ms
        The instant.
    rows
        Row in the table of every usable entry, newest first; entries whose item the table does not know are left out.
    weights
        Signed weight of these entries, decayed to the instant.
    kinds
        EventType numbers of these entries.
    ages_ms
        Their ages.
    category_liking, category_aversion
        Decayed sum of positive weights, and of the sizes of negative ones that are at least a day old; shape
        ``(n_categories,)``; code 0 stays 0. What models see.
    newest_liking, newest_aversion
        The same with a half-life of one day and no least age: the hint of `ranker.value`.
    recent_share
        Share of each category in the newest 20 positive entries.
    creator_liking
        Signed decayed sum, negative weights from the age of one day on; shape ``(n_creators,)``; code 0 stays 0.
    log_price
        Mean of log(1 + price) over positive entries with a price; 0 = none.
    n_entries
        Entries strictly before the instant, known items or not.
    hours_since_event
        Age of the newest entry; a year where there is none.
    """

    as_of_ms: int
    rows: Rows
    weights: Floats
    kinds: NDArray[np.uint8]
    ages_ms: NDArray[np.int64]
    category_liking: Floats
    category_aversion: Floats
    newest_liking: Floats
    newest_aversion: Floats
    recent_share: Floats
    creator_liking: Floats
    log_price: float
    n_entries: int
    hours_since_event: float


def affinities(user: UserView, table: ItemsView, as_of_ms: int) -> Affinities:
    """Fold the history into affinities; cost about 40 us.

    Parameters
    ----------
    user
        The user; only entries strictly before `as_of_ms` are read.
    table
        The catalogue that names categories and creators.
    as_of_ms
        The instant, UTC epoch.
    """
    history = user.history
    history = history[history["event_ts_ms"] < as_of_ms]
    n_entries = len(history)
    hours = (as_of_ms - int(history["event_ts_ms"].max())) / 3_600_000 if n_entries else _NEVER_H
    rows = table.rows_of_hashes(np.ascontiguousarray(history["item_hash"]))
    known = rows >= 0
    rows, history = rows[known], history[known]
    ages_ms = as_of_ms - history["event_ts_ms"].astype(np.int64)
    decay = np.exp2(-ages_ms / (HALF_LIFE_DAYS * _DAY_MS))
    weights = (history["weight"] * decay).astype(np.float32)
    newest = (history["weight"] * np.exp2(-ages_ms / (HINT_HALF_LIFE_DAYS * _DAY_MS))).astype(np.float32)
    main, creator = table.categories[rows, 0], table.creator[rows]
    settled = (weights > 0) | (ages_ms >= _DAY_MS)
    liked, n_categories = weights > 0, len(table.category_names)
    recent = main[liked][:RECENT]
    prices = table.price[rows][liked]
    prices = prices[prices > 0]
    return Affinities(
        as_of_ms=as_of_ms,
        rows=rows,
        weights=weights,
        kinds=np.ascontiguousarray(history["kind"]),
        ages_ms=ages_ms,
        category_liking=_sums(main, np.maximum(weights, 0), n_categories),
        category_aversion=_sums(main, np.maximum(-weights, 0) * settled, n_categories),
        newest_liking=_sums(main, np.maximum(newest, 0), n_categories),
        newest_aversion=_sums(main, np.maximum(-newest, 0), n_categories),
        recent_share=_sums(recent, np.full(len(recent), 1 / max(len(recent), 1), dtype=np.float32), n_categories),
        creator_liking=_sums(creator, weights * settled, len(table.creator_names)),
        log_price=float(np.log1p(prices).mean()) if len(prices) else 0.0,
        n_entries=n_entries,
        hours_since_event=min(hours, _NEVER_H),
    )


def disliked_kinds(affinity: Affinities, table: ItemsView, in_a_row: int) -> NDArray[np.int32]:
    """Categories on which the user's newest signals are so many rejections in a row.

    A rejection is a dismissal, a thumbs-down or "not interested" of the last 7 days. Any liking of the category ends
    the row; so does time: a verdict is not for ever.

    Parameters
    ----------
    affinity
        Of the user.
    table
        The catalogue that gave its rows.
    in_a_row
        Rejections that make a verdict; 0 = never.

    Returns
    -------
    ndarray
        Category codes, rising.
    """
    if in_a_row < 1:
        return np.empty(0, dtype=np.int32)
    rejected = np.isin(affinity.kinds, REJECTIONS) & (affinity.ages_ms < VERDICT_DAYS * _DAY_MS)
    main = table.categories[affinity.rows, 0]
    found = []
    for code in np.unique(main[rejected]).tolist():
        here = main == code
        liked = np.flatnonzero(affinity.weights[here] > 0)  # newest first: signals before the first liking count
        newest = rejected[here][: liked[0]] if len(liked) else rejected[here]
        if code > 0 and int(newest.sum()) >= in_a_row:
            found.append(code)
    return np.array(found, dtype=np.int32)


def _sums(codes: NDArray[np.int32], weights: Floats, size: int) -> Floats:
    sums = np.bincount(codes, weights=weights, minlength=size)[:size].astype(np.float32)
    if len(sums):
        sums[0] = 0  # code 0: the item has none
    return sums
