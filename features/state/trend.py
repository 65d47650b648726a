"""Trend, popularity and demand of an item: sums that decay with half-lives of an hour, a day, a week and 30 days.

Forward decay: a sum is kept as of a landmark, with every term multiplied by 2 ** ((t - landmark) / half-life) when it
is added, so that nothing is rewritten as time passes and the order of arrival does not matter. Landmarks are multiples
of 256 half-lives and move with the newest event; moving one multiplies by a power of two, which is exact.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.state.pages import HEAD, body
from features.state.params import DAY_MS, HOUR_MS
from liverank.contract import POSITIVE
from liverank.v1.event_pb2 import EventType

__all__ = [
    "CHOICES",
    "FIELD",
    "HALF_LIVES_MS",
    "WIDTH",
    "Trend",
    "decode",
    "demand",
    "examined",
    "popularity",
    "response",
    "trend",
]

FIELD: Final = b"item_trend:decayed"
HALF_LIVES_MS: Final = (HOUR_MS, DAY_MS, 7 * DAY_MS, 30 * DAY_MS)
SPAN: Final = 256
CELLS: Final = 5
WIDTH: Final = CELLS * len(HALF_LIVES_MS) + 1
"""Per half-life: landmark number, good news (weighted), clicks, expected clicks, choices; then the newest time."""

CHOICES: Final = POSITIVE | {int(EventType.EVENT_TYPE_RATING)}
"""Types that say that a user took the item, whatever they thought of it: a film rated 2 of 10 has been watched."""

_GOOD, _CLICKS, _EXPECTED, _CHOSEN = 1, 2, 3, 4
_LN2: Final = float(np.log(2.0))


def decode(page: bytes | None) -> NDArray[np.float64]:
    """Sums of one item, shape (WIDTH,); zeros where there is no page.

    Raises
    ------
    StateFormatError
        If the page has another version.
    """
    return np.frombuffer(body(FIELD, page, 8 * WIDTH)) if page else np.zeros(WIDTH)


def _decayed(values: NDArray[np.float64], half_life: int, cell: int, as_of_ms: int) -> NDArray[np.float64]:
    half_life_ms = HALF_LIVES_MS[half_life]
    landmarks_ms = values[:, half_life * CELLS] * (SPAN * half_life_ms)
    # Before an event an as-of would let the sum grow: it counts as it was at its newest event.
    ages = (np.maximum(as_of_ms, values[:, -1]) - landmarks_ms) / half_life_ms
    sums: NDArray[np.float64] = values[:, half_life * CELLS + cell] * np.exp2(-ages)
    return sums


def popularity(values: NDArray[np.float64], as_of_ms: int, *, half_life: int = 1) -> NDArray[np.float64]:
    """Decayed good news of items at an instant.

    Parameters
    ----------
    values : ndarray, shape (n, WIDTH)
        Rows of `decode`.
    as_of_ms : int
    half_life : int
        Index into `HALF_LIVES_MS`.

    Returns
    -------
    ndarray, shape (n,)
    """
    return _decayed(values, half_life, _GOOD, as_of_ms)


def demand(values: NDArray[np.float64], as_of_ms: int, *, half_life: int = 1) -> NDArray[np.float64]:
    """Decayed number of times that items were taken (`CHOICES`) at an instant; arguments as for `popularity`."""
    return _decayed(values, half_life, _CHOSEN, as_of_ms)


def response(
    values: NDArray[np.float64], as_of_ms: int, *, half_life: int = 1, prior: float = 5.0
) -> NDArray[np.float64]:
    """Clicks over expected clicks, decayed, drawn to 1 by `prior` expected clicks; shape (n,)."""
    clicks = _decayed(values, half_life, _CLICKS, as_of_ms)
    return (clicks + prior) / (_decayed(values, half_life, _EXPECTED, as_of_ms) + prior)


def examined(values: NDArray[np.float64], as_of_ms: int, *, half_life: int = 3) -> NDArray[np.float64]:
    """Decayed expected clicks (shown slots by how likely a slot is looked at) and clicks, shape (n, 2)."""
    pair = [_decayed(values, half_life, cell, as_of_ms) for cell in (_EXPECTED, _CLICKS)]
    return np.stack(pair, axis=1)


def trend(values: NDArray[np.float64], as_of_ms: int) -> NDArray[np.float64]:
    """How much more good news an item gets now than it used to, in standard deviations of the usual rate.

    The rate over the last hour or so (half-life 1 h) minus the rate over the last day or so (half-life 1 d), per hour,
    over the root of the latter plus one. Positive while a burst lasts; a new item's first hour is a burst.

    Parameters
    ----------
    values : ndarray, shape (n, WIDTH)
    as_of_ms : int

    Returns
    -------
    ndarray, shape (n,)
    """
    short = popularity(values, as_of_ms, half_life=0) * (_LN2 * HOUR_MS / HALF_LIVES_MS[0])
    long = popularity(values, as_of_ms, half_life=1) * (_LN2 * HOUR_MS / HALF_LIVES_MS[1])
    return (short - long) / np.sqrt(np.maximum(long, 0.0) + 1.0)


class Trend:
    """Decayed sums of one item. `add` costs about 3 us."""

    __slots__ = ("_dirty", "_values")

    def __init__(self, fields: Mapping[bytes, bytes]) -> None:
        page = fields.get(FIELD)
        self._values = array("d", body(FIELD, page, 8 * WIDTH) if page else bytes(8 * WIDTH))
        self._dirty = False

    @property
    def newest_ms(self) -> int:
        """Newest event time; 0 where there is none."""
        return int(self._values[-1])

    def add(self, ts_ms: int, good: float, clicks: float, expected: float, chosen: float = 0.0) -> None:
        """Add to the sums as of `ts_ms`; negative terms take back."""
        values = self._values
        if ts_ms > values[-1]:
            values[-1] = ts_ms
        for at, half_life_ms in enumerate(HALF_LIVES_MS):
            first = at * CELLS
            number = ts_ms // (SPAN * half_life_ms)
            if number > values[first]:
                scale = 2.0 ** max(-1074, int(SPAN * (values[first] - number)))
                for cell in range(first + 1, first + CELLS):
                    values[cell] *= scale
                values[first] = number
            factor = 2.0 ** ((ts_ms - values[first] * SPAN * half_life_ms) / half_life_ms)
            values[first + _GOOD] += factor * good
            values[first + _CLICKS] += factor * clicks
            values[first + _EXPECTED] += factor * expected
            values[first + _CHOSEN] += factor * chosen
        self._dirty = True

    def dirty(self) -> dict[bytes, bytes]:
        """Fields changed since the last call."""
        if not self._dirty:
            return {}
        self._dirty = False
        return {FIELD: HEAD + self._values.tobytes()}
