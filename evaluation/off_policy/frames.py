"""Logs from any dataframe, Parquet or CSV file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evaluation.off_policy.errors import InvalidLogError
from evaluation.off_policy.logs import Log, SlateLog

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column holds what.

    Attributes
    ----------
    reward, propensity, target : str
        Of the placed item.
    decision, slot : str, optional
        Request id and position of a slate's row; both or none.
    predicted, expected, unsupported : str, optional
        See `Log`.
    marginal_propensity, marginal_target, slate_weight : str, optional
        See `SlateLog`; the last one is the same in all rows of a slate.
    """

    reward: str = "reward"
    propensity: str = "propensity"
    target: str = "target"
    decision: str | None = None
    slot: str | None = None
    predicted: str | None = None
    expected: str | None = None
    unsupported: str | None = None
    marginal_propensity: str | None = None
    marginal_target: str | None = None
    slate_weight: str | None = None


SLATES_ONLY = ("marginal_propensity", "marginal_target", "slate_weight")


def read_frame(source: pd.DataFrame | Path, columns: Columns) -> Log | SlateLog:
    """A log from a dataframe, or from a `.parquet` or `.csv` file.

    Parameters
    ----------
    source : DataFrame or Path
        One row a placed item.
    columns : Columns
        Mapping; with `decision` and `slot` rows become slates (all of one length), else single decisions.

    Raises
    ------
    InvalidLogError
        A column is missing, slates differ in length or hold a slot twice, or the values break the log's contract.
    """
    frame = source if isinstance(source, pd.DataFrame) else _read(source)
    named = {key: name for key, name in vars(columns).items() if name is not None}
    missing = sorted(set(named.values()) - set(frame.columns))
    if missing:
        raise InvalidLogError(f"columns {missing} are missing; the frame has {sorted(map(str, frame.columns))}")
    if (columns.decision is None) != (columns.slot is None):
        raise InvalidLogError("a slate log needs both `decision` and `slot`")
    if columns.decision is None or columns.slot is None:
        if wrong := sorted(set(named) & set(SLATES_ONLY)):
            raise InvalidLogError(f"{wrong} are columns of slates: name `decision` and `slot` too")
        return Log(**{key: _floats(frame[name]) for key, name in named.items()})
    if columns.unsupported is not None:
        raise InvalidLogError("`unsupported` is a column of single decisions, not of slates")
    ordered = frame.sort_values([columns.decision, columns.slot], kind="stable")
    lengths = ordered.groupby(columns.decision, sort=True)[columns.slot].agg(["size", "nunique"])
    if lengths["size"].nunique() != 1 or (lengths["size"] != lengths["nunique"]).any():
        raise InvalidLogError("slates of one length with each slot once wanted; split the log by slate length first")
    shape = (len(lengths), int(lengths["size"].iloc[0]))
    values = {
        key: _floats(ordered[name]).reshape(shape) for key, name in named.items() if key not in ("decision", "slot")
    }
    if "slate_weight" in values:
        values["slate_weight"] = values["slate_weight"][:, 0]
    return SlateLog(**values)


def _read(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.suffix == ".csv":
        return pd.read_csv(path)
    raise InvalidLogError(f"a .parquet or .csv file wanted, got {path.name}")


def _floats(series: pd.Series) -> Floats:
    return series.to_numpy(dtype=np.float64, na_value=np.nan)
