"""USE-5: the columns of somebody's own log are told; planted faults of an event file are named with line and fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from evaluation.datasets import load
from evaluation.datasets.adopt import adopt
from evaluation.datasets.checks import FIXES, check_file
from evaluation.datasets.columns import guess, times_ms
from features.deployment import CHECKOUT
from liverank.cli import build
from liverank.errors import ConfigError
from liverank.files import read_events, read_items, write_events
from liverank.v1.event_pb2 import Event, EventType
from tests.unit.test_training_history import log, slate

NOW_MS = 1_750_000_000_000
REPO = CHECKOUT / "features" / "repo"


def adopted(tmp_path: Path, frame: pd.DataFrame, name: str = "log.parquet", **given: Any) -> Any:
    path = tmp_path / name
    if name.endswith(".csv"):
        frame.to_csv(path, index=False)
    elif name.endswith(".jsonl"):
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    return adopt(path, tmp_path / "own", home=tmp_path, repo=REPO, namespace="own", **given)


def events_of(tmp_path: Path) -> list[Event]:
    return list(read_events(tmp_path / "own" / "events.parquet"))


def test_USE_5_ratings_in_seconds_become_events_on_the_contracts_scale(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "userId": [1, 1, 2], "movieId": [7, 8, 7], "rating": [5.0, 0.5, 3.0],
            "timestamp": [1_200_000_060, 1_200_000_000, 1_200_000_120],
        }
    )  # fmt: skip
    movies = tmp_path / "movies.csv"
    movies.write_text("movieId,title,genres\n7,Heat (1995),Action|Crime\n8,Big (1988),(no genres listed)\n9,Jaws,Sea\n")
    made = adopted(tmp_path, frame, "ratings.csv", items=movies)
    assert made.columns.shape == "ratings"
    assert [(e.user_id, e.item_id, e.value, e.event_ts_ms) for e in events_of(tmp_path)] == [
        ("1", "8", 1.0, 1_200_000_000_000), ("1", "7", 10.0, 1_200_000_060_000), ("2", "7", 6.0, 1_200_000_120_000),
    ]  # fmt: skip
    items = {change.item_id: change.upsert for change in read_items(tmp_path / "own" / "items.parquet")}
    assert list(items["7"].categories) == ["Action", "Crime"]
    assert list(items["8"].categories) == []
    assert items["9"].title == "Jaws"
    assert "own_rating_mean_30d" in (tmp_path / "own" / "features" / "own.py").read_text()
    assert adopted(tmp_path, frame, "ratings.csv", items=movies).events == 3  # again, over what is there
    assert (
        check_file(tmp_path / "own" / "events.parquet", items=tmp_path / "own" / "items.parquet", now_ms=NOW_MS).counts
        == {}
    )


def test_USE_5_shown_rows_become_impressions_and_what_came_of_them(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "user_id": [1, 2], "video_id": [5, 6], "date": [20220425, 20220425], "time_ms": [NOW_MS, NOW_MS + 1],
            "is_click": [1, 0], "is_like": [1, 0], "is_hate": [0, 1], "play_time_ms": [61_000, 900],
            "tag": ["39", "12,13"],
        }
    )  # fmt: skip
    made = adopted(tmp_path, frame)
    assert made.columns.shape == "exposures"
    assert made.kinds == {"impression": 2, "click": 1, "like": 1, "dismiss": 1, "dwell": 1}
    assert made.ignored == ("date",)
    dwell = next(e for e in events_of(tmp_path) if e.type == EventType.EVENT_TYPE_DWELL)
    assert dwell.value == 61.0
    items = {
        change.item_id: list(change.upsert.categories) for change in read_items(tmp_path / "own" / "items.parquet")
    }
    assert items == {"5": ["39"], "6": ["12", "13"]}


def test_USE_5_purchases_without_a_user_and_cancellations_are_left_out_and_said(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "InvoiceNo": ["1", "2", "C3", "4"], "StockCode": ["a", "b", "a", "b"], "Quantity": [6, 1, -6, 2],
            "Description": ["Cup", "Mug", "Cup", "Mug"], "UnitPrice": [2.5, 4, 2.5, 4],
            "InvoiceDate": pd.to_datetime(["2010-12-01 08:26"] * 4), "CustomerID": [17850.0, None, 17850.0, 17851.0],
        }
    )  # fmt: skip
    made = adopted(tmp_path, frame)
    assert made.columns.shape == "purchases"
    assert [(e.user_id, e.value) for e in events_of(tmp_path)] == [("17850", 15.0), ("17851", 8.0)]
    assert sum(made.left_out.values()) == 2
    items = {change.item_id: change.upsert for change in read_items(tmp_path / "own" / "items.parquet")}
    assert (items["a"].title, items["a"].price) == ("Cup", 2.5)


def test_USE_5_words_of_a_type_column_and_columns_that_a_person_names(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "visitorid": ["x", "y", "y"], "itemid": [1, 2, 2], "when": ["2024-01-01T00:00:00Z"] * 3,
            "event": ["view", "addtocart", "transaction"], "buyer": ["b", "c", "c"],
        }
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"when it happened.*--column event_ts_ms=NAME"):
        adopted(tmp_path, frame)
    made = adopted(tmp_path, frame, "log.jsonl", given={"event_ts_ms": "when", "user_id": "buyer"})
    assert made.columns.types == {"view": "click", "addtocart": "save", "transaction": "purchase"}
    assert {e.user_id for e in events_of(tmp_path)} == {"b", "c"}
    with pytest.raises(ConfigError, match="there is no such column"):
        guess(frame, {"user_id": "nobody"})


def test_USE_5_a_file_in_the_documented_format_keeps_its_slates(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write_events(path, log(20))
    made = adopt(path, tmp_path / "own", home=tmp_path, repo=REPO, namespace="own")
    slates = [e for e in events_of(tmp_path) if e.type == EventType.EVENT_TYPE_EXPOSURE]
    assert len(slates) == 20
    assert made.events == len(log(20))
    assert len(load(tmp_path / "own").items) == made.items


@pytest.mark.parametrize("unit", [1, 1000, 10**6, 10**9])
def test_times_of_any_unit(unit: int) -> None:
    assert times_ms(pd.Series([1_700_000_000 * unit])).tolist() == [1_700_000_000_000]


def planted(tmp_path: Path) -> tuple[Path, Path, dict[str, int]]:
    """A file with one fault of each kind; (file, catalogue, code -> line)."""
    lines: list[str] = []
    where: dict[str, int] = {}
    start = NOW_MS - 86_400_000

    def add(code: str = "", **fields: Any) -> None:
        at = len(lines)
        body: dict[str, Any] = {"eventId": f"e{at}", "type": "EVENT_TYPE_CLICK", "userId": "u1", "itemId": "i1"}
        body |= {"eventTsMs": start + at * 1000, **fields}
        lines.append(json.dumps({name: value for name, value in body.items() if value is not None}))
        if code:
            where[code] = len(lines)

    def shown(at_ms: int, event_id: str, propensity: float, item: str) -> dict[str, Any]:
        slots = [{"itemId": item, "propensity": propensity}]
        exposure = {"policy": "p", "drawn": True, "slots": slots}
        return {
            "eventId": event_id,
            "type": "EVENT_TYPE_EXPOSURE",
            "itemId": None,
            "eventTsMs": at_ms,
            "exposure": exposure,
            "surface": "s",
        }

    for at in range(120):  # two items with .7 each
        add(**shown(start + len(lines) * 1000, f"r{at}", 0.7, f"i{1 + at % 2}"))
    lines.append("{not json")
    where["malformed"] = len(lines)
    add("unknown_type", type="EVENT_TYPE_POKE")
    add("missing_id", userId=None)
    add("bad_timestamp", eventTsMs=(start + len(lines) * 1000) // 1000)
    add("future", eventTsMs=4_000_000_000_000)
    add("order", eventTsMs=start - 5_000)
    add("duplicate_id", **{"itemId": None, **json.loads(lines[0])})
    add("reused_id", eventId="r1")
    add("unseen_item", itemId="i99")
    add("clock_skew", requestId="r119", itemId="i2", eventTsMs=start)
    add("unknown_request", requestId="nobody")
    add("wrong_slot", requestId="r0", itemId="i2")
    add("bad_value", type="EVENT_TYPE_DWELL", value=-3.0)
    add("too_large", surface="s" * 65)
    add("bad_exposure", **shown(start + len(lines) * 1000, "bad", 1.5, "i1"))
    add("not_finite", value="NaN")
    add("session_a", sessionId="s1")
    add("session_of_two_users", sessionId="s1", userId="u2")
    add("rating_scale", type="EVENT_TYPE_RATING", value=50.0)
    where |= {"propensity_sum": 0, "rating_scale": 0}
    del where["session_a"]
    path, items = tmp_path / "events.jsonl", tmp_path / "items.jsonl"
    path.write_text("".join(line + "\n" for line in lines))
    items.write_text('{"itemId": "i1", "title": "one"}\n{"itemId": "i2", "title": "two"}\n')
    return path, items, where


def test_USE_5_every_planted_fault_is_named_with_line_and_fix(tmp_path: Path) -> None:
    path, items, where = planted(tmp_path)
    report = check_file(path, items=items, now_ms=NOW_MS, per_code=50)
    found = {(fault.code, fault.line) for fault in report.faults}
    assert len(where) >= 18
    assert set(where.items()) <= found, set(where.items()) - found
    assert {code for code, _ in found} == set(where)
    assert all(fault.what and fault.fix for fault in report.faults)
    assert set(where) <= set(FIXES)
    (skew,) = (fault for fault in report.faults if fault.code == "clock_skew")
    assert skew.what == "119 s before its slate, which is line 120"
    (total,) = (fault for fault in report.faults if fault.code == "propensity_sum")
    assert "add up to 1.4" in total.what

    done = CliRunner().invoke(build(), ["validate", str(path), "--items", str(items)])
    assert done.exit_code == 1
    for code, line in where.items():
        assert (f"{path}:{line}: {code}: " if line else f"{path}: {code}: ") in done.output
    assert "fix: multiply seconds by 1000" in done.output


def test_USE_5_a_file_without_faults_says_so(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    write_events(path, [slate("r", ["i1", "i2"], NOW_MS), *log(5)[:0]])
    done = CliRunner().invoke(build(), ["validate", str(path), "--json"])
    assert done.exit_code == 0
    assert json.loads(done.output) == {"events": 1, "counts": {}, "faults": []}


def test_USE_5_the_command_says_what_it_made_of_the_columns(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text("user,article_id,ts\nann,a1,1700000000\nbob,a2,1700000001\n")
    out = tmp_path / "news site"
    done = CliRunner().invoke(build(), ["init", "--from", str(path), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "column     article_id is item_id" in done.output
    assert "2 click" in done.output
    assert 'namespace = "news-site"' in (out / "liverank.toml").read_text()
