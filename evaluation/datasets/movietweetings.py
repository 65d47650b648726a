"""MovieTweetings: ratings 0 to 10 that people tweeted, with films' titles, years and genres (Dooms et al. 2013)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from evaluation.datasets.dataset import Dataset
from liverank.calls import attribute
from liverank.contract import MIN_TS_MS
from liverank.errors import ConfigError
from liverank.v1.event_pb2 import Event, EventType
from liverank.v1.item_pb2 import Item, ItemChange

SURFACE: Final = "ratings"
_TITLE = re.compile(r"^(?P<title>.*) \((?P<year>\d{4})\)$")
_MS_A_YEAR: Final = 31_556_952_000


def convert(folder: Path) -> Dataset:
    """Items and rating events of the folder with `ratings.dat` and `movies.dat`.

    Item ids are `tt<imdb number>`, user ids `u<number>`; event ids are made of user, film and time, so that a second
    conversion gives the same. Films have title, genres and year; a year before 1973 is an attribute only.

    Raises
    ------
    ConfigError
        A file is missing or a line is not as described.
    """
    items = [film(f"tt{number}", full, genres) for _, (number, full, genres) in _fields(folder / "movies.dat", 3)]
    rated = [_rating(fields, line) for line, fields in _fields(folder / "ratings.dat", 4)]
    rated.sort(key=lambda event: (event.event_ts_ms, event.event_id))
    known = {change.item_id for change in items}
    for item_id in dict.fromkeys(event.item_id for event in rated if event.item_id not in known):
        items.append(ItemChange(item_id=item_id, upsert=Item(item_id=item_id, available=True)))
    return Dataset("movietweetings-100k", items, rated)


def _fields(path: Path, n: int) -> Iterator[tuple[int, list[str]]]:
    if not path.exists():
        raise ConfigError(f"no file {path}")
    with path.open(encoding="utf-8") as file:
        for line, text in enumerate(file, 1):
            fields = text.rstrip("\n").split("::")
            if len(fields) != n:
                raise ConfigError(f"{path}, line {line}: {n} fields with :: between them, got {len(fields)}")
            yield line, fields


def film(item_id: str, full: str, genres: str) -> ItemChange:
    """A film from its title with the year in brackets and its genres with bars between them."""
    match = _TITLE.match(full.strip())
    title, year = (match["title"], int(match["year"])) if match else (full.strip(), 0)
    published_ms = (year - 1970) * _MS_A_YEAR
    item = Item(
        item_id=item_id,
        title=title,
        text=f"{title}. {', '.join(genres.split('|'))}. {year}." if genres else title,
        available=True,
        categories=[genre for genre in genres.split("|") if genre][:16],
        published_ts_ms=published_ms if published_ms >= MIN_TS_MS else 0,
    )
    if year:
        item.attributes["year"].CopyFrom(attribute(float(year)))
    return ItemChange(item_id=item_id, upsert=item)


def _rating(fields: list[str], line: int) -> Event:
    try:
        user, film, rating, seconds = fields[0], fields[1], float(fields[2]), int(fields[3])
    except ValueError as error:
        raise ConfigError(f"ratings.dat, line {line}: user::film::rating::seconds, got {fields}") from error
    return Event(
        event_id=f"mt-{user}-{film}-{seconds}",
        type=EventType.EVENT_TYPE_RATING,
        user_id=f"u{user}",
        item_id=f"tt{film}",
        event_ts_ms=seconds * 1000,
        value=rating,
        surface=SURFACE,
    )
