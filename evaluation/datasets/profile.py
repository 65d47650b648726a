"""What a log looks like: the numbers by which the simulated world is compared with real ones (docs/simulator.md).

`python -m evaluation.datasets.profile ../shared/data` prints the table.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from evaluation.metrics import gini

SESSION_GAP_S = 1_800.0
START_MS = 1_757_000_000_000


@dataclass(frozen=True)
class Profile:
    """A log of (user, item, time) in numbers.

    Attributes
    ----------
    gini : float
        Of events an item, over items with at least one.
    first_share, repeat_share : float
        Events that are their user's first; events on an item that the user has had before.
    gap_hours : (float, float, float)
        Quartiles of the time between two sessions of a user; a session ends after 30 min without an event.
    """

    name: str
    n_events: int
    n_users: int
    n_items: int
    gini: float
    first_share: float
    repeat_share: float
    events_a_session: float
    gap_hours: tuple[float, float, float]

    def row(self) -> str:
        """A line of the Markdown table."""
        gaps = " / ".join(f"{hours:.0f}" for hours in self.gap_hours)
        return (
            f"| {self.name} | {self.n_events:,} | {self.n_users:,} | {self.n_items:,} | {self.gini:.2f} "
            f"| {self.first_share:.3f} | {self.repeat_share:.3f} | {self.events_a_session:.1f} | {gaps} |"
        )


HEADER = (
    "| log | events | users | items | Gini | first | repeat | events a session | hours between sessions (quartiles) |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def profile(name: str, log: pd.DataFrame) -> Profile:
    """Profile of a log with the columns `user`, `item`, `time_s`."""
    log = log.sort_values(["user", "time_s"], kind="stable")
    same = log["user"].eq(log["user"].shift())
    gap_s = log["time_s"].diff().where(same)
    breaks = gap_s[gap_s > SESSION_GAP_S]
    n_sessions = int((~same).sum()) + len(breaks)
    quartiles = np.quantile(breaks.to_numpy() / 3600.0, [0.25, 0.5, 0.75])
    return Profile(
        name,
        len(log),
        int(log["user"].nunique()),
        int(log["item"].nunique()),
        gini(log["item"].value_counts().to_numpy()),
        int(log["user"].nunique()) / len(log),
        float(log.duplicated(["user", "item"]).mean()),
        len(log) / n_sessions,
        (float(quartiles[0]), float(quartiles[1]), float(quartiles[2])),
    )


def _frame(user: Iterable[object], item: Iterable[object], time_s: Iterable[float]) -> pd.DataFrame:
    return pd.DataFrame({"user": list(user), "item": list(item), "time_s": np.asarray(list(time_s), dtype=np.float64)})


def real_logs(folder: Path) -> list[Profile]:
    """Profiles of the public data sets in a folder."""
    kuairand = pd.read_parquet(folder / "kuairand-pure-apr25-30" / "val.parquet").drop_duplicates()
    clicked = kuairand[kuairand["is_click"] == 1]
    tweets = pd.read_csv(
        folder / "movietweetings-100k" / "ratings.dat", sep="::", engine="python", header=None, names=list("uirt")
    )
    lens = pd.read_csv(folder / "ml-latest-small" / "ratings.csv")
    retail = pd.read_parquet(next((folder / "online-retail-2011").glob("*.parquet")))
    retail = retail[retail["CustomerID"].notna() & (retail["Quantity"] > 0)]
    bought_s = (pd.to_datetime(retail["InvoiceDate"]) - pd.Timestamp("1970-01-01")).dt.total_seconds()
    return [
        profile("KuaiRand clicks", _frame(clicked["user_id"], clicked["video_id"], clicked["time_ms"] / 1000.0)),
        profile("MovieTweetings ratings", _frame(tweets["u"], tweets["i"], tweets["t"])),
        profile("MovieLens ratings", _frame(lens["userId"], lens["movieId"], lens["timestamp"])),
        profile("Online Retail purchases", _frame(retail["CustomerID"], retail["StockCode"], bought_s)),
    ]


def simulated_log() -> Profile:
    """Profile of the default world's clicks."""
    from evaluation.simulator import World, WorldParams, history
    from liverank.v1.event_pb2 import EventType

    world = World.build(WorldParams(), START_MS)
    clicks = [event for event in history(world) if event.type == EventType.EVENT_TYPE_CLICK]
    frame = _frame(
        (event.user_id for event in clicks),
        (event.item_id for event in clicks),
        (event.event_ts_ms / 1000.0 for event in clicks),
    )
    return profile("**simulated clicks**", frame)


def main(arguments: list[str]) -> int:
    """Print the table."""
    folder = Path(arguments[0] if arguments else "../shared/data")
    print(HEADER)
    for one in [*real_logs(folder), simulated_log()]:
        print(one.row())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
