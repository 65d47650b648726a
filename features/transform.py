"""A view's pandas transformation: filters and derived columns, checked once, run per batch.

The function gets a DataFrame of the columns of `features.columns` (text columns as text) and returns one with the same
index, rows left out or columns added. It must be row-wise and pure: a row's result may depend on that row alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pandas as pd

from features.columns import COLUMNS, NUMERIC, TEXT, quantise
from features.errors import ProgramError

__all__ = ["extra_columns", "sample", "transform"]

Transformation = Callable[[pd.DataFrame], pd.DataFrame]

_SAMPLE_ROWS: Final = 64


def sample(n: int = _SAMPLE_ROWS, seed: int = 0) -> pd.DataFrame:
    """Rows of plausible events, to try a transformation on."""
    rng = np.random.default_rng(seed)
    data: dict[str, Any] = {name: (rng.random(n) < 0.3).astype(float) for name in NUMERIC}
    data["one"] = np.ones(n)
    data["dwell_s"] = np.where(rng.random(n) < 0.5, rng.exponential(30.0, n), np.nan)
    data["rating"] = np.where(rng.random(n) < 0.5, rng.uniform(0, 10, n), np.nan)
    data["value"] = rng.exponential(5.0, n)
    data["expected"] = rng.random(n)
    for name in TEXT:
        data[name] = [f"{name}-{at}" for at in rng.integers(0, 5, n)]
    return pd.DataFrame(data, columns=list(COLUMNS))


def transform(udf: Transformation, frame: pd.DataFrame) -> pd.DataFrame:
    """Run a transformation over a batch.

    Returns
    -------
    DataFrame
        A subset of the rows, with the columns of `frame` and those that were added; added values are quantised.

    Raises
    ------
    ProgramError
        If the result is not such a frame.
    """
    result = udf(frame.copy())
    if not isinstance(result, pd.DataFrame) or not result.index.isin(frame.index).all() or result.index.has_duplicates:
        raise ProgramError(
            "a transformation must return a DataFrame whose index is a subset of its input's, "
            f"got {type(result).__name__}; filter with frame[mask] and add columns with frame.assign(...)"
        )
    missing = [name for name in frame.columns if name not in result.columns]
    if missing:
        raise ProgramError(f"a transformation must keep all columns, {', '.join(missing)} are missing")
    for name in result.columns:
        if name not in frame.columns:
            result[name] = [value if value != value else quantise(value) for value in result[name].astype(float)]
    return result


def extra_columns(udf: Transformation, here: str) -> tuple[str, ...]:
    """Names of the columns that a transformation adds.

    Raises
    ------
    ProgramError
        If it fails on sample rows, is not row-wise, or is not pure.
    """
    frame = sample()
    try:
        whole = transform(udf, frame)
        again = transform(udf, frame)
        rows = [transform(udf, frame.iloc[[at]]) for at in range(len(frame))]
    except ProgramError as error:
        raise ProgramError(f"{here}, transformation: {error}") from error
    except Exception as error:  # an operator's function may raise anything
        raise ProgramError(f"{here}, transformation: raised {type(error).__name__} on sample rows: {error}") from error
    if not whole.equals(again):
        raise ProgramError(f"{here}, transformation: two runs over the same rows differ; it must be pure")
    pieces = [row for row in rows if len(row)]
    apart = pd.concat(pieces) if pieces else whole.iloc[:0]
    if list(apart.index) != list(whole.index) or not apart.astype(whole.dtypes.to_dict()).equals(whole):
        raise ProgramError(
            f"{here}, transformation: rows give other results alone than together; it must be row-wise "
            "(no means, ranks, shifts or sorting over rows; add columns first and filter last: pandas fills an empty "
            "frame up when it gets a column)"
        )
    return tuple(str(name) for name in whole.columns if name not in COLUMNS)
