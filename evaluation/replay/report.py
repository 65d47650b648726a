"""What a replay found: by user state, with paired intervals, and a verdict in plain words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from evaluation.intervals import Interval, paired
from evaluation.replay.plan import STATES, Sampled

NAMES = ("liverank", "popular", "popular, 1-day half-life")


@dataclass(frozen=True)
class Row:
    """Recall of one group of users.

    Attributes
    ----------
    recall : tuple of float
        In the order of `NAMES`.
    against : tuple of Interval
        liverank minus each baseline, paired, users as clusters; None where the group has no events.
    """

    state: str
    n: int
    recall: tuple[float, float, float]
    against: tuple[Interval, Interval]


@dataclass(frozen=True)
class ReplayReport:
    """All rows, the last one over all users."""

    k: int
    rows: tuple[Row, ...]
    rungs: dict[str, int]

    @property
    def all(self) -> Row:
        """Over all users."""
        return self.rows[-1]

    def verdict(self) -> str:
        """One line in plain words, against the stronger baseline."""
        row = self.all
        best = int(np.argmax(row.recall[1:]))
        interval = row.against[best]
        return (
            f"liverank is {interval.verdict} {NAMES[1 + best]}: Recall@{self.k} {row.recall[0]:.3f} against "
            f"{row.recall[1 + best]:.3f}, difference {interval} over {row.n} events."
        )

    def table(self) -> Table:
        """For people."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("users")
        table.add_column("events", justify="right")
        for name in NAMES:
            table.add_column(name, justify="right")
        for name in NAMES[1:]:
            table.add_column(f"minus {name} [95 %]")
        for row in self.rows:
            recalls = [f"{value:.3f}" for value in row.recall]
            table.add_row(row.state, str(row.n), *recalls, *(str(interval) for interval in row.against))
        return table

    def to_json(self) -> dict[str, object]:
        """For machines."""
        return {
            "k": self.k,
            "rows": [
                {
                    "users": row.state,
                    "events": row.n,
                    "recall": dict(zip(NAMES, row.recall, strict=True)),
                    "minus": {
                        name: {"estimate": i.estimate, "low": i.low, "high": i.high}
                        for name, i in zip(NAMES[1:], row.against, strict=True)
                    },
                }
                for row in self.rows
            ],
            "rungs": self.rungs,
            "verdict": self.verdict(),
        }


def judge(sampled: Sequence[Sampled], k: int) -> ReplayReport:
    """The report of what was asked; the same for the same answers."""
    rows = []
    for state in (*(name for name, _ in STATES), "all"):
        group = [one for one in sampled if state in (one.state, "all")]
        if not group:
            continue
        hits = np.array([one.hits for one in group], dtype=np.float64)
        users = [one.user_id for one in group]
        against = tuple(paired(hits[:, 0], hits[:, n], clusters=users, seed=7) for n in (1, 2))
        mean = hits.mean(axis=0)
        recall = (float(mean[0]), float(mean[1]), float(mean[2]))
        rows.append(Row(state, len(group), recall, (against[0], against[1])))
    rungs = Counter(rung for one in sampled for rung in one.rungs)
    return ReplayReport(k, tuple(rows), dict(sorted(rungs.items())))
