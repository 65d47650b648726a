"""A data set: a catalogue and events in time order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from liverank.contract import MIN_TS_MS
from liverank.errors import ConfigError
from liverank.files import read_events, read_items
from liverank.v1.event_pb2 import Event, EventType
from liverank.v1.item_pb2 import ItemChange

MAX_RATING: Final = 10.0
SMALL_SCALES: Final = (1.0, 5.0)
"""Largest values of other usual rating scales."""
ENOUGH_RATINGS: Final = 100
"""So many ratings without one above the largest value show the scale."""


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
    notes : tuple of str
        What was changed on reading, for people.
    """

    name: str
    items: list[ItemChange]
    events: list[Event]
    notes: tuple[str, ...] = ()

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
        An event file (see `liverank.files`), or a folder: MovieTweetings' (`ratings.dat`, `movies.dat`), MovieLens'
        (`ratings.csv`, `movies.csv`), or one with a single event file `events.*` in it.
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
            from evaluation.datasets import movietweetings

            return movietweetings.convert(path)
        if (path / "ratings.csv").exists():
            from evaluation.datasets import movielens

            return movielens.convert(path)
        found = sorted(path.glob("events.*"))
        if len(found) != 1:
            raise ConfigError(
                f"{path} is a folder of no data set known here (MovieTweetings: ratings.dat and movies.dat; MovieLens: "
                f"ratings.csv and movies.csv; else one file events.jsonl or events.parquet), it has {len(found)} files "
                "events.*"
            )
        path = found[0]
    events = sorted(_identified(read_events(path), path), key=lambda event: event.event_ts_ms)
    if not events:
        raise ConfigError(f"{path} holds no events")
    if events[-1].event_ts_ms < MIN_TS_MS:
        raise ConfigError(
            f"event_ts_ms is ms since the UTC epoch, at least {MIN_TS_MS}; the newest in {path} is "
            f"{events[-1].event_ts_ms}: multiply by 1000 if these are seconds"
        )
    beside = items or next((p for p in sorted(path.parent.glob("items.*")) if p != path), None)
    changes = list(read_items(beside)) if beside else _bare_items(events)
    notes = _rescale(events)
    return Dataset(path.stem.removesuffix(".jsonl"), changes, events, notes)


def _identified(events: Iterable[Event], path: Path) -> Iterator[Event]:
    """Events without an id get one from their place in the file: the same file, the same ids."""
    stem = hashlib.blake2b(path.name.encode(), digest_size=6).hexdigest()
    for place, event in enumerate(events):
        if not event.event_id:
            event.event_id = f"{stem}-{place}"
        yield event


def _rescale(events: list[Event]) -> tuple[str, ...]:
    """Bring ratings to the contract's scale of 0 to 10 where all of them fit a smaller usual one: 1 or 5."""
    rated = [event for event in events if event.type == EventType.EVENT_TYPE_RATING]
    most = max((event.value for event in rated), default=0.0)
    if len(rated) < ENOUGH_RATINGS or most not in SMALL_SCALES:
        return ()
    for event in rated:
        event.value *= MAX_RATING / most
    return (f"no rating is above {most:g}: ratings are read on a scale to {most:g} and brought to 0 to 10",)


def _bare_items(events: list[Event]) -> list[ItemChange]:
    ids = dict.fromkeys(event.item_id for event in events if event.item_id)
    changes = [ItemChange(item_id=item_id) for item_id in ids]
    for change in changes:
        change.upsert.item_id = change.item_id
        change.upsert.available = True
    return changes
