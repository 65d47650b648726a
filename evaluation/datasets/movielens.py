"""MovieLens: ratings 0.5 to 5 with films' titles, years and genres (Harper and Konstan 2015), as of 2013 and later."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from evaluation.datasets.dataset import Dataset
from evaluation.datasets.movietweetings import film
from liverank.errors import ConfigError
from liverank.v1.event_pb2 import Event, EventType
from liverank.v1.item_pb2 import Item, ItemChange

SURFACE: Final = "ratings"
NO_GENRES: Final = "(no genres listed)"


def convert(folder: Path) -> Dataset:
    """Items and rating events of the folder with `ratings.csv` and `movies.csv`; stars become 1 to 10.

    Item ids are `m<number>`, user ids `u<number>`; event ids are made of user, film and time.

    Raises
    ------
    ConfigError
        A file is missing or a line is not as described.
    """
    items = []
    for line, row in _rows(folder / "movies.csv", ("movieId", "title", "genres")):
        genres = "" if row["genres"] == NO_GENRES else row["genres"]
        if not row["movieId"].isdigit():
            raise ConfigError(f"movies.csv, line {line}: movieId is a number, got {row['movieId']!r}")
        items.append(film(f"m{row['movieId']}", row["title"], genres))
    rated = [_rating(row, line) for line, row in _rows(folder / "ratings.csv", ("userId", "movieId", "rating"))]
    rated.sort(key=lambda event: (event.event_ts_ms, event.event_id))
    known = {change.item_id for change in items}
    for item_id in dict.fromkeys(event.item_id for event in rated if event.item_id not in known):
        items.append(ItemChange(item_id=item_id, upsert=Item(item_id=item_id, available=True)))
    return Dataset(folder.name, items, rated)


def _rows(path: Path, wanted: tuple[str, ...]) -> Iterator[tuple[int, Mapping[str, str]]]:
    if not path.exists():
        raise ConfigError(f"no file {path}")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if missing := [name for name in wanted if name not in (reader.fieldnames or ())]:
            raise ConfigError(f"{path} lacks the columns {missing}, it has {reader.fieldnames}")
        yield from enumerate(reader, 2)


def _rating(row: Mapping[str, str], line: int) -> Event:
    try:
        stars, seconds = float(row["rating"]), int(row["timestamp"])
    except (KeyError, ValueError) as error:
        raise ConfigError(f"ratings.csv, line {line}: userId,movieId,rating,timestamp, got {dict(row)}") from error
    return Event(
        event_id=f"ml-{row['userId']}-{row['movieId']}-{seconds}",
        type=EventType.EVENT_TYPE_RATING,
        user_id=f"u{row['userId']}",
        item_id=f"m{row['movieId']}",
        event_ts_ms=seconds * 1000,
        value=2 * stars,
        surface=SURFACE,
    )
