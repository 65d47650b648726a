"""Columns of the stream source `events`: what an aggregation, a transformation or a filter may name.

Numeric columns are 0/1 indicators, or values that are null (NaN) where the event has none, as in SQL: `sum`, `mean`,
`min` and `max` skip nulls, `count` counts what is not null. Values are rounded to 2**-20, so that their float64 sums
are exact, and so the same in any order of arrival, up to 8.5e9.
Text columns serve `count_distinct`, `count` and transformations; inside a row they are hashes.
"""

from __future__ import annotations

import math
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

from liverank.contract import polarity
from liverank.v1.event_pb2 import Event, EventType

__all__ = [
    "COLUMNS",
    "NUMERIC",
    "N_NUMERIC",
    "TEXT",
    "Fact",
    "event_columns",
    "numeric_columns",
    "quantise",
    "row_of",
    "text_columns",
    "text_hash",
]


class Fact(NamedTuple):
    """What columns see of an event, for facts that are derived: cheaper than an `Event`."""

    type: EventType
    event_ts_ms: int
    item_id: str
    value: float = 0.0
    surface: str = ""
    user_id: str = ""
    session_id: str = ""


NUMERIC: Final = (
    "one",
    "impression",
    "click",
    "dwell_s",
    "like",
    "save",
    "rating",
    "purchase",
    "skip",
    "dismiss",
    "thumbs_down",
    "not_interested",
    "positive",
    "negative",
    "short_dwell",
    "abandonment",
    "value",
    "expected",
)
"""`one` is 1 for every event; `positive` and `negative` follow `liverank.contract.polarity`, and an abandoned session
is negative; `dwell_s` (seconds) and `rating` are null for other types; `short_dwell` marks a dwell that says no;
`expected` is the expected number of clicks of a shown slot, null elsewhere; `value` is the event's own value."""

TEXT: Final = ("type", "surface", "category", "item_id", "user_id", "session_id")
"""`category` is the first category of the item."""

COLUMNS: Final = NUMERIC + TEXT
N_NUMERIC: Final = len(NUMERIC)

_NULL: Final = math.nan
_QUANTUM: Final = 2.0**20
_INDICATORS: Final = {
    int(EventType.EVENT_TYPE_IMPRESSION): "impression",
    int(EventType.EVENT_TYPE_CLICK): "click",
    int(EventType.EVENT_TYPE_LIKE): "like",
    int(EventType.EVENT_TYPE_SAVE): "save",
    int(EventType.EVENT_TYPE_PURCHASE): "purchase",
    int(EventType.EVENT_TYPE_SKIP): "skip",
    int(EventType.EVENT_TYPE_DISMISS): "dismiss",
    int(EventType.EVENT_TYPE_THUMBS_DOWN): "thumbs_down",
    int(EventType.EVENT_TYPE_NOT_INTERESTED): "not_interested",
    int(EventType.EVENT_TYPE_ABANDON): "abandonment",
}
_DWELL: Final = int(EventType.EVENT_TYPE_DWELL)
_RATING: Final = int(EventType.EVENT_TYPE_RATING)
_EMPTY: Final = (0.0,) * N_NUMERIC
_AT: Final = {name: at for at, name in enumerate(COLUMNS)}
_INDICATOR_AT: Final = {kind: _AT[name] for kind, name in _INDICATORS.items()}
_DWELL_AT, _RATING_AT, _VALUE_AT, _EXPECTED_AT = _AT["dwell_s"], _AT["rating"], _AT["value"], _AT["expected"]
_ABANDON: Final = int(EventType.EVENT_TYPE_ABANDON)
_SHORT_AT: Final = _AT["short_dwell"]
_POSITIVE_AT, _NEGATIVE_AT = _AT["positive"], _AT["negative"]


def quantise(value: float) -> float:
    """`value` rounded to a multiple of 2**-20 (9.5e-7), so that sums do not depend on the order of their terms."""
    return round(value * _QUANTUM) / _QUANTUM


@lru_cache(maxsize=65_536)
def text_hash(text: str) -> float:
    """Stable 53-bit hash of a text as a float that holds it exactly; null (NaN) for the empty text."""
    if not text:
        return _NULL
    return float(int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") >> 11)


def event_columns(
    event: Event | Fact, category: str, *, expected: float | None = None, text: bool = False
) -> tuple[float, ...]:
    """The row of one event, in the order of `COLUMNS`.

    Parameters
    ----------
    event : Event
        A valid event.
    category : str
        First category of its item; empty where it is unknown.
    expected : float, optional
        Expected clicks of the slot (item views only); None = null.
    text : bool
        Append the hashed text columns. Only programs with `needs_text` want them (2 us more).

    Returns
    -------
    tuple of float
        18 numeric values, then 6 hashes if `text`. About 1.5 us, 0.4 with native state.
    """
    row = numeric_columns(event.type, event.value, expected)
    return row + text_columns(event, category) if text else row


def numeric_columns(kind: int, value: float, expected: float | None) -> tuple[float, ...]:
    """The numeric columns of one event; `features.native` has a twin."""
    row = list(_EMPTY)
    row[0] = 1.0
    at = _INDICATOR_AT.get(kind)
    if at is not None:
        row[at] = 1.0
    sign = -1 if kind == _ABANDON else polarity(kind, value)
    if kind == _DWELL:
        row[_DWELL_AT] = quantise(value)
        if sign < 0:
            row[_SHORT_AT] = 1.0
    else:
        row[_DWELL_AT] = _NULL
    row[_RATING_AT] = quantise(value) if kind == _RATING else _NULL
    row[_VALUE_AT] = quantise(value) if value else 0.0
    row[_EXPECTED_AT] = _NULL if expected is None else quantise(expected)
    if sign > 0:
        row[_POSITIVE_AT] = 1.0
    elif sign < 0:
        row[_NEGATIVE_AT] = 1.0
    return tuple(row)


def text_columns(event: Event | Fact, category: str) -> tuple[float, ...]:
    """The hashed text columns of one event."""
    return (
        text_hash(EventType.Name(event.type)),
        text_hash(event.surface),
        text_hash(category),
        text_hash(event.item_id),
        text_hash(event.user_id),
        text_hash(event.session_id),
    )


def row_of(*, expected: float | None = None, **values: float) -> tuple[float, ...]:
    """A numeric row that holds these columns only: for facts that are derived, e.g. `row_of(negative=1.0)` for an
    abandoned session. `one` is 0 unless given; columns that may be null are null."""
    row = list(_EMPTY)
    row[_DWELL_AT] = row[_RATING_AT] = row[_EXPECTED_AT] = _NULL
    if expected is not None:
        row[_EXPECTED_AT] = quantise(expected)
    for name, value in values.items():
        row[_AT[name]] = quantise(value)
    return tuple(row)
