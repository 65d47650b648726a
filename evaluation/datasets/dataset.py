"""A data set: a catalogue and events in time order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from liverank.errors import ConfigError
from liverank.files import read_events, read_items
from liverank.v1.event_pb2 import Event
from liverank.v1.item_pb2 import ItemChange


@dataclass(frozen=True)
class Dataset:
    """Recorded data in the contract's words.

    Attributes
    ----------
    name : str
        As reports name it.
    items : list of ItemChange
        The whole catalogue, known from the start.
    events : list of Event
        In order of (event time, place in the file).
    """

    name: str
    items: list[ItemChange]
    events: list[Event]

    def split(self, share: float) -> tuple[list[Event], list[Event]]:
        """The first `share` of the events by time, and the rest; events of one instant stay together."""
        if not 0.0 <= share <= 1.0:
            raise ConfigError(f"a share lies in [0, 1], got {share}")
        cut = int(len(self.events) * share)
        while 0 < cut < len(self.events) and self.events[cut].event_ts_ms == self.events[cut - 1].event_ts_ms:
            cut += 1
        return self.events[:cut], self.events[cut:]


def load(path: Path, items: Path | None = None) -> Dataset:
    """A data set from a file in the documented format, or from the folder of a known public data set.

    Parameters
    ----------
    path : Path
        An event file (see `liverank.files`) or a folder with MovieTweetings' `ratings.dat` and `movies.dat`.
    items : Path, optional
        The catalogue of an event file; `items.*` beside it where not given. Without one, each item that an event names
        becomes an item without text.

    Raises
    ------
    ConfigError
        Nothing that can be read lies there.
    """
    if path.is_dir():
        if (path / "ratings.dat").exists():
            from evaluation.datasets.movietweetings import convert

            return convert(path)
        raise ConfigError(f"{path} is a folder of no data set known here (MovieTweetings: ratings.dat and movies.dat)")
    events = sorted(read_events(path), key=lambda event: event.event_ts_ms)
    if not events:
        raise ConfigError(f"{path} holds no events")
    beside = items or next((p for p in sorted(path.parent.glob("items.*")) if p != path), None)
    changes = list(read_items(beside)) if beside else _bare_items(events)
    return Dataset(path.stem.removesuffix(".jsonl"), changes, events)


def _bare_items(events: list[Event]) -> list[ItemChange]:
    ids = dict.fromkeys(event.item_id for event in events if event.item_id)
    changes = [ItemChange(item_id=item_id) for item_id in ids]
    for change in changes:
        change.upsert.item_id = change.item_id
        change.upsert.available = True
    return changes
