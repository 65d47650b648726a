"""Converters and the loader of recorded data; profiles of logs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from evaluation.datasets import Dataset, load
from evaluation.datasets.profile import profile
from liverank.calls import new_event
from liverank.contract import validate_event, validate_item
from liverank.errors import ConfigError
from liverank.files import write_events, write_items

MOVIES = "0002844::Old film (1913)::Crime|Drama\n1074638::New film (2012)::Action\n0000001::Nameless::\n"
RATINGS = "2::1074638::7::1365029107\n1::0002844::10::1365029107\n1::9999999::3::1365029000\n"


@pytest.fixture(name="tweets")
def _tweets(tmp_path: Path) -> Path:
    (tmp_path / "movies.dat").write_text(MOVIES)
    (tmp_path / "ratings.dat").write_text(RATINGS)
    return tmp_path


def test_movietweetings_become_items_and_ratings(tweets: Path) -> None:
    data = load(tweets)
    assert [e.event_ts_ms for e in data.events] == [1365029000000, 1365029107000, 1365029107000]
    assert [e.user_id for e in data.events] == ["u1", "u1", "u2"]
    assert {c.item_id for c in data.items} == {"tt0002844", "tt1074638", "tt0000001", "tt9999999"}
    old = data.items[0].upsert
    assert (old.title, list(old.categories), old.attributes["year"].number) == ("Old film", ["Crime", "Drama"], 1913)
    for change in data.items:
        validate_item(change)
    for event in data.events:
        validate_event(event, now_ms=event.event_ts_ms)
    assert load(tweets) == data


def test_a_split_keeps_one_instant_together(tweets: Path) -> None:
    data = load(tweets)
    first, rest = data.split(0.5)
    assert (len(first), len(rest)) == (1, 2)
    assert data.split(0.67) == (data.events, [])
    with pytest.raises(ConfigError):
        data.split(1.5)


def test_faults_name_file_and_line(tweets: Path) -> None:
    (tweets / "ratings.dat").write_text("1::2::3\n")
    with pytest.raises(ConfigError, match=r"ratings\.dat, line 1: 4 fields"):
        load(tweets)
    (tweets / "ratings.dat").write_text("1::2::x::4\n")
    with pytest.raises(ConfigError, match="line 1"):
        load(tweets)
    with pytest.raises(ConfigError, match="MovieTweetings"):
        load(tweets / "..")


def test_an_event_file_is_sorted_and_its_items_found(tmp_path: Path) -> None:
    events = [new_event("rating", user_id="u", item_id=f"i{n}", value=n, event_ts_ms=10**12 - n) for n in range(3)]
    write_events(tmp_path / "log.jsonl", events)
    bare = load(tmp_path / "log.jsonl")
    assert [e.item_id for e in bare.events] == ["i2", "i1", "i0"]
    assert {c.item_id for c in bare.items} == {"i0", "i1", "i2"}
    write_items(tmp_path / "items.jsonl", bare.items[:1])
    assert load(tmp_path / "log.jsonl") == Dataset("log", bare.items[:1], bare.events)
    write_events(tmp_path / "none.jsonl", [])
    with pytest.raises(ConfigError, match="no events"):
        load(tmp_path / "none.jsonl")


def test_movielens_stars_become_ratings_to_ten(tmp_path: Path) -> None:
    (tmp_path / "movies.csv").write_text('movieId,title,genres\n1,Toy Story (1995),Animation|Comedy\n2,"X, the",\n')
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n7,1,4.5,964982703\n7,3,0.5,964982600\n")
    data = load(tmp_path)
    assert [(e.user_id, e.item_id, e.value) for e in data.events] == [("u7", "m3", 1.0), ("u7", "m1", 9.0)]
    assert [c.item_id for c in data.items] == ["m1", "m2", "m3"]
    assert (data.items[0].upsert.title, data.items[1].upsert.title) == ("Toy Story", "X, the")
    for event in data.events:
        validate_event(event, now_ms=event.event_ts_ms)
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n7,1,x,964982703\n")
    with pytest.raises(ConfigError, match=r"ratings\.csv, line 2"):
        load(tmp_path)


def test_events_without_ids_get_them_from_their_place_and_seconds_are_refused(tmp_path: Path) -> None:
    line = '{"type": "EVENT_TYPE_PURCHASE", "user_id": "u", "item_id": "i", "event_ts_ms": "%d"}\n'
    (tmp_path / "log.jsonl").write_text(line % 10**12 + line % (10**12 + 1))
    ids = [event.event_id for event in load(tmp_path / "log.jsonl").events]
    assert len(set(ids)) == 2
    assert ids == [event.event_id for event in load(tmp_path / "log.jsonl").events]
    (tmp_path / "log.jsonl").write_text(line % 10**9)
    with pytest.raises(ConfigError, match="seconds"):
        load(tmp_path / "log.jsonl")


@pytest.mark.parametrize(("most", "factor"), [(5.0, 2.0), (1.0, 10.0), (10.0, 1.0), (4.0, 1.0)])
def test_ratings_on_a_smaller_scale_are_brought_to_ten(tmp_path: Path, most: float, factor: float) -> None:
    events = [
        new_event("rating", user_id="u", item_id="i", value=most if n else most / 2, event_ts_ms=10**12 + n)
        for n in range(150)
    ]
    write_events(tmp_path / "events.jsonl", events)
    data = load(tmp_path)
    assert [e.value for e in data.events[:2]] == [most / 2 * factor, most * factor]
    assert bool(data.notes) == (factor != 1.0)


def test_profile_equals_hand_computed() -> None:
    log = pd.DataFrame({"user": ["a", "a", "a", "b"], "item": ["x", "x", "y", "x"], "time_s": [0.0, 60.0, 7260.0, 5.0]})
    p = profile("t", log)
    assert (p.n_events, p.n_users, p.n_items) == (4, 2, 2)
    assert (p.first_share, p.repeat_share, p.events_a_session) == (0.5, 0.25, 4 / 3)
    assert p.gini == pytest.approx(0.25)
    assert p.gap_hours == (2.0, 2.0, 2.0)
    assert p.row().count("|") == 10
