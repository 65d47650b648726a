"""Rows to learn from: what was shown, as it was served, and what came of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from ranker.columns import COLUMNS, INDEX, NEUTRAL, SLOT_COLUMN
from ranker.training.errors import TooLittleDataError

Kind = Literal["exposures", "positives"]
SHARES: Final = (0.70, 0.10, 0.10, 0.10)
"""Shares of the time-ordered groups: train, early stopping, calibration, test."""
BLOCKS: Final = ("train", "stop", "calibrate", "test")
_HOUR_MS: Final = 3_600_000
AGE_COLUMN: Final = next(iter(NEUTRAL))


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Rows in order of time; the rows of one group (a slate, or one moment's candidates) lie together.

    Parameters
    ----------
    kind : {"exposures", "positives"}
        Shown slots with their outcomes; or, for logs that hold only what users chose, the candidates of a moment with
        the chosen one marked.
    X : float32, shape (n, F)
        Columns `ranker.columns.COLUMNS`; slot and example age are set here.
    labels : mapping of head to float32, shape (n,)
        0 or 1.
    group : int64, shape (n,)
        Rising.
    ts_ms : int64, shape (n,)
        When it was shown, or chosen.
    counts : mapping of str to int
        What was left out, by reason; for the report.
    """

    kind: Kind
    X: NDArray[np.float32]
    labels: Mapping[str, NDArray[np.float32]]
    group: NDArray[np.int64]
    ts_ms: NDArray[np.int64]
    counts: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.X)
        if self.X.shape != (n, len(COLUMNS)) or self.X.dtype != np.float32:
            raise ValueError(f"X must be float32 (n, {len(COLUMNS)}), got {self.X.dtype} {self.X.shape}")
        sizes = {len(self.group), len(self.ts_ms), *map(len, self.labels.values())}
        if sizes != {n}:
            raise ValueError("labels, group and ts_ms must be as long as X")
        if (np.diff(self.group) < 0).any():
            raise ValueError("rows of a group must lie together, groups in rising order")

    def __len__(self) -> int:
        return len(self.X)

    def digest(self) -> str:
        """SHA-256 (hex) of all rows: equal data, equal model."""
        found = hashlib.sha256(self.kind.encode())
        for part in (self.X, self.group, self.ts_ms, *(self.labels[head] for head in sorted(self.labels))):
            found.update(np.ascontiguousarray(part).tobytes())
        return found.hexdigest()

    def take(self, rows: NDArray[np.bool_]) -> Dataset:
        """Some rows, in order."""
        return Dataset(
            kind=self.kind,
            X=self.X[rows],
            labels={head: values[rows] for head, values in self.labels.items()},
            group=self.group[rows],
            ts_ms=self.ts_ms[rows],
            counts=self.counts,
        )

    def group_sizes(self) -> NDArray[np.int64]:
        """Rows of each group, in order."""
        return np.unique(self.group, return_counts=True)[1].astype(np.int64)

    def blocks(self) -> dict[str, Dataset]:
        """Train, stop, calibrate and test, one after the other in time; no group is cut.

        Raises
        ------
        TooLittleDataError
            Fewer than 40 groups.
        """
        groups = np.unique(self.group)
        if len(groups) < 40:
            raise TooLittleDataError(
                f"training needs at least 40 slates or choices, got {len(groups)}: let traffic run, or import history"
            )
        ends = np.cumsum(np.round(np.array(SHARES) * len(groups)).astype(int))
        ends[-1] = len(groups)
        block = np.searchsorted(ends, np.searchsorted(groups, self.group), side="right")
        return {name: self.take(block == at) for at, name in enumerate(BLOCKS)}


def joined(first: Dataset, second: Dataset) -> Dataset:
    """Two datasets of one kind as one, in order of time; groups stay whole, example ages count from the newest row."""
    later = second.group + (int(first.group.max()) + 1 if len(first) else 0)
    group = np.concatenate([first.group, later])
    ts_ms = np.concatenate([first.ts_ms, second.ts_ms])
    order = np.lexsort((np.arange(len(group)), group, ts_ms))
    renumbered = np.cumsum(np.r_[False, np.diff(group[order]) != 0]).astype(np.int64)
    X = np.concatenate([first.X, second.X])[order]
    slot = X[:, INDEX[SLOT_COLUMN]].astype(np.int32)
    counts = dict(first.counts)
    for name, count in second.counts.items():
        counts[name] = counts.get(name, 0) + count
    return Dataset(
        kind=first.kind,
        X=with_shown(X, slot, ts_ms[order], int(ts_ms.max())),
        labels={head: np.concatenate([first.labels[head], second.labels[head]])[order] for head in first.labels},
        group=renumbered,
        ts_ms=ts_ms[order],
        counts=counts,
    )


def with_shown(
    X: NDArray[np.float32], slot: NDArray[np.int32], ts_ms: NDArray[np.int64], now_ms: int
) -> NDArray[np.float32]:
    """Rows as shown: the slot, and the age of the example at `now_ms`, in place of serving's neutral values."""
    out = X.copy()
    out[:, INDEX[SLOT_COLUMN]] = slot
    out[:, INDEX[AGE_COLUMN]] = np.maximum(now_ms - ts_ms, 0) / _HOUR_MS
    return out


def as_served(X: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows with the values of serving in the neutralised columns; the slot stays."""
    out = X.copy()
    for name, value in NEUTRAL.items():
        out[:, INDEX[name]] = value
    return out
