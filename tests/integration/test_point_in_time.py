"""Training truth on the real stack: what was served is what the archive gives, and nothing of the future."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore
from typer.testing import CliRunner

from evaluation.features.served import served_decisions
from features.apply import apply_here, open_store
from features.deployment import CHECKOUT
from features.errors import PointInTimeError
from features.examples import table_of
from features.feature_history import feature_history
from features.item_vectors import active_space, read_vectors
from features.redis import connect
from features.user_row import UserRowReader
from liverank import EventProducer, new_event
from liverank.cli import build
from liverank.client import Client
from liverank.settings import Settings
from liverank.v1.decision_pb2 import Decision
from liverank.v1.item_pb2 import Item, ItemChange
from liverank.v1.stream_pb2 import Example
from ranker.columns import COLUMNS
from ranker.models import load_model, write_model
from ranker.training.heads import BoosterParameters
from ranker.training.package import build as train_heads
from ranker.training.rejoined import rejoined
from ranker.training.served import join
from tests.recount.namespace import settle

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
)

USERS = [f"u{at}" for at in range(8)]
ITEMS = [f"i{at}" for at in range(24)]
KINDS = ("jazz", "folk", "rock")
ROUNDS = 7
HEADS = ("click", "dismiss")
QUICK = BoosterParameters(n_trees=10, n_leaves=7, light_trees=5, min_leaf_rows=10)


def until(what: str, found: Callable[[], Any], seconds: float = 40) -> Any:
    deadline_s = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < deadline_s, f"{what}: not within {seconds} s"
        time.sleep(0.05)
    return answer


def serve(settings: Settings, store: FeatureStore) -> list[Decision]:
    """Rounds of events and requests; a request is made when everything sent before can be read."""
    with EventProducer(settings) as producer:
        for at, item_id in enumerate(ITEMS):
            item = Item(title=f"{KINDS[at % 3]} {at}", categories=[KINDS[at % 3]], available=True, price=1.0 + at)
            producer.send_item(ItemChange(item_id=item_id, upsert=item))
        producer.flush()
        reader = UserRowReader(store)
        rng = np.random.default_rng(5)
        with Client(settings.ranker.grpc) as client:
            until("the ranker serves", lambda: ranks(client))
            until("items have vectors", lambda: embedded(settings))
            for turn in range(ROUNDS):
                newest = {}
                for user in USERS:
                    for kind in ("click", "impression", "save", "like"):
                        event = new_event(kind, user_id=user, item_id=str(rng.choice(ITEMS)))
                        event.event_ts_ms -= int(rng.integers(0, 3 * 86_400_000))
                        producer.send(event)
                    last = new_event("click", user_id=user, item_id=str(rng.choice(ITEMS)))
                    producer.send(last)
                    newest[user] = last.event_ts_ms
                producer.flush()
                until("users' rows", lambda: all(quiet(reader, *each) for each in newest.items()))  # noqa: B023
                settle(settings, quiet_s=1.0)  # vectors follow within the second; there is no mark to wait for
                for user in USERS:
                    client.rank(user, k=7, surface=f"round-{turn}")
                    time.sleep(0.15)  # a slate's first slots count as seen, which is in items' rows within 0.1 s
    until("decisions", lambda: len(served(settings)) == ROUNDS * len(USERS))
    return served(settings)


def served(settings: Settings) -> list[Decision]:
    return [made for made in served_decisions(settings) if made.surface.startswith("round-")]


def embedded(settings: Settings) -> bool:
    client = connect(settings)
    space = active_space(client, settings)
    return space is not None and len(read_vectors(client, settings, ITEMS, space)) == len(ITEMS)


def ranks(client: Client) -> bool:
    try:
        return len(client.rank("nobody", k=20).items) >= 20
    except grpc.RpcError:
        return False


def quiet(reader: UserRowReader, user: str, ts_ms: int) -> bool:
    row = reader.read(user)
    return row.newest_event_ts_ms >= ts_ms and row.computed_ms >= ts_ms


def labels(decisions: list[Decision]) -> pa.Table:
    """Label rows that the windows' close would give: clicks on all but one kind."""
    rows = []
    for made in decisions:
        for position, slot in enumerate(made.slots, 1):
            clicked = float(int(slot.item_id[1:]) % 3 > 0)
            rows.append(
                Example(
                    request_id=made.request_id, position=position, user_id=made.user_id, item_id=slot.item_id,
                    exposure_ts_ms=made.decided_ts_ms, drawn=True, outcomes={"click": clicked, "dismiss": 1 - clicked},
                )
            )  # fmt: skip
    return table_of(rows)


def test_FEA_3_FEA_6_what_was_served_is_what_the_join_gives(
    make_running: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_running(workers=1, rankers=1)
    store = open_store(settings, timeout_s=10.0)
    decisions = serve(settings, store)
    start_s = time.monotonic()
    again = rejoined(settings, decisions)
    seconds = time.monotonic() - start_s
    assert [made.request_id for made in again] == [made.request_id for made in decisions]
    logged, joined = (np.array([s.features for made in each for s in made.slots]) for each in (decisions, again))
    agree = np.isclose(logged, joined, rtol=1e-6, atol=1e-6)
    sizes = [len(made.slots) for made in decisions]
    settled = [bool(rows.all()) for rows in np.split(agree, np.cumsum(sizes)[:-1])]
    if not agree.all():  # what was appended just before a request may not have been readable yet
        agree |= between(settings, decisions, logged, joined)
    worst = {COLUMNS[at]: int((~agree[:, at]).sum()) for at in np.flatnonzero(~agree.all(axis=0))}
    moving = (logged.std(axis=0) > 0).sum()
    with capsys.disabled():
        print(
            f" [{agree.mean():.4%} of {agree.size:,} values, {moving} columns move, join {seconds:.1f} s {worst}, "
            f"{sum(settled)} of {len(settled)} slates equal]",
            end="",
        )
    assert agree.mean() >= 0.999, worst
    assert moving >= 40

    # FEA-6: one model from the log and from the join, of the slates that nothing overtook (training needs 40).
    assert sum(settled) >= 45, f"{sum(settled)} of {len(settled)} slates were made when all before could be read"
    kept = [[made for made, one in zip(each, settled, strict=True) if one] for each in (decisions, again)]
    table = labels(kept[0])
    ours, theirs = (join(table, each, HEADS) for each in kept)
    assert len(ours) == len(theirs) == sum(len(made.slots) for made in kept[0])
    assert ours.counts == theirs.counts
    predicted = []
    for data in (ours, theirs):
        model = train_heads(data, weights={"click": 1.0, "dismiss": -2.0}, space="", parameters=QUICK)
        path = write_model(tmp_path / "models", model.manifest, model.files)
        predicted.append(load_model(path).predict(data.X, np.ones(len(data), dtype=np.int32)))
    apart = np.abs(predicted[0] - predicted[1])
    with capsys.disabled():
        print(f" [predictions apart by {apart.max():.1e} at most, {apart.mean():.1e} on average]", end="")
    assert predicted[0].std() > 0.01
    assert np.quantile(apart, 0.99) < 1e-6

    planted(settings, store, decisions)
    commands(settings, tmp_path, decisions)


def between(settings: Settings, decisions: list[Decision], logged: Any, joined: Any) -> Any:
    """Whether served values lie between those of a second earlier and those of the request."""
    earlier = []
    for made in decisions:
        copy = Decision()
        copy.CopyFrom(made)
        copy.decided_ts_ms -= 1_000
        earlier.append(copy)
    before = np.array([slot.features for made in rejoined(settings, earlier) for slot in made.slots])
    return (logged >= np.minimum(before, joined) - 1e-6) & (logged <= np.maximum(before, joined) + 1e-6)


def planted(settings: Settings, store: FeatureStore, decisions: list[Decision]) -> None:
    """A value planted now, of a time before the requests, appears in no row of theirs, and in a row of now."""
    made = decisions[-1]
    with EventProducer(settings) as producer:
        for at in range(500):
            event = new_event("purchase", user_id=made.user_id, item_id=made.slots[0].item_id, event_id=f"planted-{at}")
            event.event_ts_ms = made.decided_ts_ms - 60_000
            producer.send(event)
        producer.flush()
    (again,) = rejoined(settings, [made])
    np.testing.assert_allclose(
        [slot.features for slot in again.slots], [slot.features for slot in made.slots], rtol=1e-6, atol=1e-6
    )
    rows = pd.DataFrame({"user_id": [made.user_id], "event_timestamp": [datetime.now(UTC)]})
    found = feature_history(store, "user_state_v1", rows)
    assert found.num_rows == 1
    assert found["user_history__page_0"][0].as_py()
    assert len(found["user_vectors__vector_1w"][0].as_py()) > 0
    windows = store.get_historical_features(
        rows.assign(as_of_ms=0), ["user_windows:purchases_1d", "user_windows:clicks_7d"], full_feature_names=True
    ).to_df()
    assert windows["user_windows__purchases_1d"].tolist() == [500.0]
    with pytest.raises(PointInTimeError, match="'user_id'"):
        feature_history(store, "user_state_v1", rows.drop(columns="user_id"))
    with pytest.raises(PointInTimeError, match="item_state_v1, ranker_v1"):
        feature_history(store, "ranker_v9", rows)


def commands(settings: Settings, tmp_path: Path, decisions: list[Decision]) -> None:
    """`liverank features history` writes the same."""
    made = decisions[0]
    entities, out = tmp_path / "rows.jsonl", tmp_path / "out.parquet"
    lines = [
        {"user_id": made.user_id, "item_id": slot.item_id, "event_timestamp": made.decided_ts_ms} for slot in made.slots
    ]
    entities.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["features", "history", "--service", "ranker_v1", "--entities", str(entities), "--out", str(out)]
    done = CliRunner().invoke(build(), [*arguments, "--json"], env=settings.environment())
    assert done.exit_code == 0, (done.output, done.exception)
    table = pq.read_table(out)
    assert table.num_rows == len(made.slots)
    for name in ("user_windows:clicks_7d", "item_windows:clicks_30d", "user_category_windows:clicks_30d"):
        at = list(made.feature_names).index(name)
        assert table[name.replace(":", "__")].to_pylist() == [slot.features[at] for slot in made.slots], name
    assert set(table.column_names) >= {"user_id", "item_id", "event_timestamp", "crosses__item_ctr"}
    assert not [name for name in table.column_names if "page" in name or "_p0" in name]


OWN = """
from datetime import timedelta

from entities import session, user
from feast import Aggregation, FeatureView, Field, FileSource, StreamFeatureView
from feast.types import Float64
from sources import events

income = FeatureView(
    name="income", entities=[user], ttl=timedelta(days=30), schema=[Field(name="eur", dtype=Float64)],
    source=FileSource(name="income_file", path=r"{path}", timestamp_field="event_timestamp"),
)
session_clicks = StreamFeatureView(
    name="session_clicks", entities=[session], source=events, timestamp_field="event_timestamp",
    schema=[Field(name="clicks_1d", dtype=Float64)],
    aggregations=[
        Aggregation(
            column="click", function="sum", name="clicks_1d",
            time_window=timedelta(days=1), slide_interval=timedelta(hours=1),
        )
    ],
)
"""
SERVICE = """
from feast import FeatureService
from own import income
from windows import session_windows, user_windows

mixed = FeatureService(name="mixed", features=[user_windows[["clicks_1d"]], session_windows, income])
"""


def test_FEA_3_views_of_files_and_of_sessions_follow_the_same_rule(namespace: Settings, tmp_path: Path) -> None:
    """No worker runs: what is asked for comes from the log."""
    repo, file = tmp_path / "repo", tmp_path / "income.parquet"
    shutil.copytree(CHECKOUT / "features" / "repo", repo, ignore=shutil.ignore_patterns("__pycache__"))
    (repo / "own.py").write_text(OWN.format(path=file))
    (repo / "own_services.py").write_text(SERVICE)
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    days = [start - timedelta(days=40), start - timedelta(days=2), start]
    pq.write_table(pa.table({"user_id": ["ann"] * 3, "event_timestamp": days, "eur": [1.0, 2.0, 3.0]}), file)
    settings = namespace.model_copy(update={"feast": namespace.feast.model_copy(update={"repo": repo})})
    apply_here(settings)
    store = open_store(settings, timeout_s=10.0)
    with EventProducer(settings) as producer:
        for user, visit in (("ann", "s1"), ("ann", "s1"), ("ann", "s2"), ("bob", "s3")):
            producer.send(new_event("click", user_id=user, session_id=visit, item_id="i1"))
        producer.flush()
    sent = datetime.now(UTC) + timedelta(seconds=2)
    rows = pd.DataFrame(
        [
            ("ann", "s1", start),  # the file's newest row is not strictly before
            ("ann", "s1", start + timedelta(milliseconds=1)),
            ("ann", "s2", sent),
            ("bob", "s3", sent),
            ("ann", "s1", sent),
            ("ann", "s1", sent),
            ("nobody", "none", sent),
            ("ann", "s1", start - timedelta(days=5)),  # 35 days after the row of 40 days ago: past its ttl
        ],
        columns=["user_id", "session_id", "event_timestamp"],
    )
    found = feature_history(store, "mixed", rows).to_pandas()
    assert found["user_id"].tolist() == rows["user_id"].tolist()
    assert found["user_windows__clicks_1d"].tolist() == [0, 0, 3, 1, 3, 3, 0, 0]
    assert found["session_windows__clicks_1d"].tolist() == [0, 0, 1, 1, 2, 2, 0, 0]
    assert found["income__eur"].fillna(-1).tolist() == [2, 3, 3, -1, 3, 3, -1, -1]
