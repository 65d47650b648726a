"""The feature repo, the provider and readers on a real Redis."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis.connection
from feast import FeatureStore
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from features import tiles
from features.apply import apply, apply_here, client_yaml, materialize, open_store, store_yaml
from features.columns import event_columns, text_hash
from features.cross_values import cross_values
from features.errors import OwnedViewError
from features.item_load import item_ids, load_from_feast, parity
from features.item_table import ItemTable
from features.online import OnlineWriter, Row
from features.program import FeatureProgram
from features.provider import read_program
from features.redis import connect, format_version
from features.user_row import UserRowReader
from features.wire import entity_key, pack_bytes, pack_double, pack_floats, pack_int64, pack_string, pack_strings
from liverank.settings import Settings
from liverank.v1 import event_pb2, item_pb2
from liverank.v1.event_pb2 import Event, EventType
from ranker.columns import COLUMNS, CROSSES, FEATURE_SERVICE, INDEX, build

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
)

T0 = 1_760_000_000_000
HOUR, DAY = 3_600_000, 86_400_000
KINDS = ("jazz", "folk")


@pytest.fixture
def store(applied: Settings) -> FeatureStore:
    """Its Feast store."""
    return open_store(applied, timeout_s=10.0)


@pytest.fixture
def program(applied: Settings) -> FeatureProgram:
    """Its published program."""
    found = read_program(connect(applied), applied.namespace)
    assert found is not None
    return found


def some_events(n: int, seed: int) -> Iterator[tuple[Event, str]]:
    rng = np.random.default_rng(seed)
    kinds = (EventType.EVENT_TYPE_CLICK, EventType.EVENT_TYPE_IMPRESSION, EventType.EVENT_TYPE_DISMISS)
    for age_ms in sorted(rng.integers(0, 20 * DAY, n).tolist(), reverse=True):
        kind = kinds[int(rng.integers(3))]
        yield Event(type=kind, item_id=f"i{rng.integers(9)}", event_ts_ms=T0 - age_ms), KINDS[int(rng.integers(2))]


def write_user(settings: Settings, program: FeatureProgram, user_id: str, *, seed: int, offset: int = 1) -> None:
    """Rows as the user fold publishes them."""
    states = [tiles.new(view) for view in program.of_entity("user", "user_category")]
    for event, category in some_events(200, seed):
        row = event_columns(event, category)
        for state in states:
            state.add(event.event_ts_ms, row, 1.0, category)
    rows = [
        Row(
            state.view.name,
            "user_id",
            user_id,
            {name.decode().split(":")[1]: pack_bytes(page) for name, page in state.dirty().items()},
            T0,
            format_version(1, offset, 0),
        )
        for state in states
        if state.view.aggregates
    ]
    vector = np.random.default_rng(seed).normal(size=8)
    vectors = {"vector_1w": vector, "vector_1m": vector[::-1], "vector_6m": np.zeros(8)}
    values = {name: pack_floats(value) for name, value in vectors.items()}
    values |= {"space": pack_string("words"), "computed_ms": pack_int64(T0 + 5)}
    rows.append(Row("user_vectors", "user_id", user_id, values, T0, format_version(1, offset, 0)))
    assert all(OnlineWriter(connect(settings), settings.feast_project).write(rows))


def write_item(settings: Settings, program: FeatureProgram, item_id: str, *, seed: int) -> None:
    """Rows as the item fold, the catalogue agent and the enrichment publish them."""
    state = tiles.new(program.view("item_activity"))
    for event, category in some_events(100, seed):
        shown = event.type == EventType.EVENT_TYPE_IMPRESSION
        state.add(event.event_ts_ms, event_columns(event, category, expected=0.5 if shown else None))
    pages = {name.decode().split(":")[1]: pack_bytes(page) for name, page in state.dirty().items()}
    catalogue = {
        "title": pack_string(item_id),
        "price": pack_double(12.5),
        "available": pack_int64(1),
        "creator": pack_string("ann"),
        "categories": pack_strings(["jazz", "folk"]),
        "published_ts_ms": pack_int64(T0 - 3 * DAY),
        "version": pack_int64(4),
    }
    vector = np.random.default_rng(seed + 100).normal(size=8)
    semantic = {"vector": pack_floats(vector), "space": pack_string("words"), "attributes": pack_string("")}
    version = format_version(1, seed, 0)
    rows = [
        Row("item_activity", "item_id", item_id, pages, T0, version),
        Row("item_catalogue", "item_id", item_id, catalogue, T0, version),
        Row("item_semantic", "item_id", item_id, semantic, T0, version),
    ]
    assert all(OnlineWriter(connect(settings), settings.feast_project).write(rows))


def stored(settings: Settings, join_key: str, entity_id: str) -> dict[bytes, bytes]:
    key = entity_key(settings.feast_project, (join_key,), (entity_id,))
    return dict(connect(settings).hgetall(key))


def test_FEA_1_apply_twice_reports_no_change_and_all_columns_resolve(
    namespace: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    apply_here(namespace)
    assert "published" in capsys.readouterr().out
    store = open_store(namespace)
    before = sorted_views(store)
    history = {view.name: len(store.list_feature_view_versions(view.name)) for view in before}
    apply_here(namespace)
    assert "no change" in capsys.readouterr().out
    store.refresh_registry()
    assert sorted_views(store) == before
    assert {view.name: len(store.list_feature_view_versions(view.name)) for view in before} == history
    assert apply(namespace) == str(store_yaml(namespace))  # nothing to do: no process is started

    service = store.get_feature_service(FEATURE_SERVICE)
    served = {
        f"{projection.name}:{feature.name}"
        for projection in service.feature_view_projections
        for feature in projection.features
    }
    assert [name for name in COLUMNS if name not in served] == []
    assert {entity.name for entity in store.list_entities()} >= {"user", "item", "session", "category"}
    assert all(view.owner for view in store.list_stream_feature_views())
    assert {view.name for view in store.list_feature_views()} == {"item_semantic"}
    crosses = store.get_on_demand_feature_view("crosses")
    assert {feature.name for feature in crosses.features} == set(CROSSES)


def sorted_views(store: FeatureStore) -> list[Any]:
    views = [*store.list_stream_feature_views(), *store.list_on_demand_feature_views(), *store.list_feature_views()]
    return sorted(views, key=lambda view: str(view.name))


def test_rows_equal_what_feasts_own_writer_stores(applied: Settings, store: FeatureStore) -> None:
    view = store.get_stream_feature_view("user_vectors")
    vector = [0.5, -1.25, 3.0]
    values = {"vector_1w": Value(), "space": Value(string_val="words"), "computed_ms": Value(int64_val=7)}
    values["vector_1w"].float_list_val.val.extend(vector)
    key = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val="theirs")])
    stamp = datetime.fromtimestamp(T0 / 1000, UTC)
    RedisOnlineStore().online_write_batch(store.config, view, [(key, values, stamp, None)], None)
    ours = {"vector_1w": pack_floats(np.array(vector)), "space": pack_string("words"), "computed_ms": pack_int64(7)}
    writer = OnlineWriter(connect(applied), applied.feast_project)
    writer.write([Row("user_vectors", "user_id", "ours", ours, T0, format_version(1, 1, 0))])
    mine = stored(applied, "user_id", "ours")
    assert mine.pop(b"_lr:user_vectors") == format_version(1, 1, 0)
    assert mine == stored(applied, "user_id", "theirs")


def test_an_older_version_is_refused_and_an_equal_one_taken(applied: Settings) -> None:
    writer = OnlineWriter(connect(applied), applied.feast_project, ttl_s=3600)

    def row(value: int, offset: int) -> Row:
        return Row("user_vectors", "user_id", "u", {"computed_ms": pack_int64(value)}, T0, format_version(1, offset, 0))

    assert writer.write([row(1, 5), row(2, 5), row(3, 4), row(4, 6)]) == [True, True, False, True]
    key = entity_key(applied.feast_project, ("user_id",), ("u",))
    assert 0 < connect(applied).ttl(key) <= 3600
    assert pack_int64(4) in stored(applied, "user_id", "u").values()


def test_materialize_and_push_leave_owned_rows_byte_equal(
    applied: Settings, store: FeatureStore, program: FeatureProgram, capsys: pytest.CaptureFixture[str]
) -> None:
    for user in ("still", "moving"):
        write_user(applied, program, user, seed=1)
    write_item(applied, program, "i1", seed=2)
    still, item = stored(applied, "user_id", "still"), stored(applied, "item_id", "i1")
    now = datetime.now(UTC)
    frame = {
        "item_id": ["fresh"],
        "event_timestamp": [now],
        "created": [now],
        "vector": [[1.0, 2.0]],
        "space": ["words"],
        "attributes": [""],
    }
    schema = pq.read_schema(store_yaml(applied).with_name("item_semantic.parquet"))
    pq.write_table(pa.table(frame, schema=schema), store_yaml(applied).with_name("item_semantic.parquet"))

    done = threading.Event()
    last = [0]

    def live() -> None:
        while not done.is_set():
            last[0] += 1
            write_user(applied, program, "moving", seed=last[0] % 3, offset=last[0] + 1)

    traffic = threading.Thread(target=live)
    traffic.start()
    try:
        store.materialize(start_date=now - timedelta(days=1), end_date=now + timedelta(minutes=1))
        for name in ("user_vectors", "user_activity"):
            names = {field.name for field in store.get_stream_feature_view(name).features}
            values = dict.fromkeys(names, b"evil") | {"user_id": "still", "event_timestamp": now + timedelta(days=1)}
            with pytest.raises(OwnedViewError, match=f"{name}.*written by liverank's workers"):
                store.write_to_online_store(name, pd.DataFrame([values | typed(name)]), transform_on_write=False)
    finally:
        done.set()
        traffic.join()
    out = capsys.readouterr().out
    for view in program.views:
        assert f"{view.name}: written by liverank's workers from Kafka, skipped" in out
    assert stored(applied, "user_id", "still") == still
    assert stored(applied, "item_id", "i1") == item
    expected = last[0]
    write_user(applied, program, "again", seed=expected % 3, offset=expected + 1)
    assert stored(applied, "user_id", "moving") == stored(applied, "user_id", "again")
    answer = store.get_online_features(["item_semantic:vector"], [{"item_id": "fresh"}]).to_dict()
    assert answer["vector"] == [[1.0, 2.0]]


def typed(view: str) -> dict[str, Any]:
    """Values that Feast itself takes for a view's fields."""
    if view != "user_vectors":
        return {}
    vectors = {name: [1.0] for name in ("vector_1w", "vector_1m", "vector_6m")}
    return {**vectors, "space": "evil", "computed_ms": 1}


def test_materialize_names_its_views(applied: Settings) -> None:
    materialize(applied, ["item_semantic"])


CLIENT = """
import json, sys, warnings
warnings.filterwarnings("ignore")
sys.path.append(sys.argv[1])
for name in ("liverank", "features", "ranker"):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"{name} is importable: this is no foreign client")
from pathlib import Path
from feast import FeatureStore
store = FeatureStore(fs_yaml_file=Path(sys.argv[2]))
wanted, rows = json.loads(sys.argv[3])
print("ANSWER" + json.dumps(store.get_online_features(wanted, rows, full_feature_names=True).to_dict()))
"""


def foreign_client(settings: Settings, wanted: list[str], rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """What a Feast client reads that does not have liverank: neither installed nor on the path."""
    packages = str(Path(pa.__file__).parents[1])
    given = json.dumps([wanted, rows])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", CLIENT, packages, str(client_yaml(settings)), given],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer = next(line for line in done.stdout.splitlines() if line.startswith("ANSWER"))
    return dict(json.loads(answer.removeprefix("ANSWER")))


def test_a_client_without_liverank_reads_the_same_user_values(
    applied: Settings, store: FeatureStore, program: FeatureProgram
) -> None:
    write_user(applied, program, "u1", seed=3)
    write_user(applied, program, "u2", seed=4)
    write_item(applied, program, "i1", seed=5)
    reader = UserRowReader(store, category_of_hash={text_hash(kind): kind for kind in KINDS})
    instants = {"u1": T0 + 3 * HOUR + 17, "u2": T0 + 9 * DAY}
    rows = [{"user_id": user, "as_of_ms": at, "category": "jazz"} for user, at in instants.items()]
    first = reader.read("u1")
    wanted = [f"user_windows:{name}" for name in first.window_names]
    wanted += [f"user_category_windows:{name}" for name in first.category_window_names]
    wanted += ["user_vectors:vector_1w", "user_vectors:space"]
    answer = foreign_client(applied, wanted, rows)
    for at, (user, as_of_ms) in enumerate(instants.items()):
        own = reader.read(user)
        theirs = [answer[f"user_windows__{name}"][at] for name in own.window_names]
        assert theirs == own.windows(as_of_ms).tolist()
        index, values = own.category_windows(as_of_ms)
        theirs = [answer[f"user_category_windows__{name}"][at] for name in own.category_window_names]
        assert theirs == values[index["jazz"]].tolist()
        np.testing.assert_array_equal(np.float32(answer["user_vectors__vector_1w"][at]), own.vectors[0])
        assert answer["user_vectors__space"][at] == own.space == "words"


def test_FEA_2_a_user_is_one_read_and_one_round_trip(
    applied: Settings, store: FeatureStore, program: FeatureProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_user(applied, program, "u1", seed=3)
    reader = UserRowReader(store)
    reader.read("u1")
    sent: list[object] = []
    original = redis.connection.Connection.send_packed_command

    def send(self: Any, command: Any, *args: Any, **kwargs: Any) -> Any:
        sent.append(command)
        return original(self, command, *args, **kwargs)

    monkeypatch.setattr(redis.connection.Connection, "send_packed_command", send)
    row = reader.read("u1")
    for _ in range(3):
        row.windows(T0)
        row.category_windows(T0)
        assert row.history.size == 0
        assert row.seen.size == 0
        assert row.session is None
    assert len(sent) == 1
    assert row.newest_event_ts_ms == T0
    assert row.ages_ms(T0 + 50)["user_activity"] == 50
    assert row.ages_ms(T0 + 50)["user_vectors"] == 45
    assert row.windows(T0).sum() > 0


def test_an_unknown_user_is_an_empty_row(store: FeatureStore) -> None:
    row = UserRowReader(store).read("nobody")
    assert row.newest_event_ts_ms == 0
    assert row.ages_ms(T0) == {}
    assert not row.windows(T0).any()
    assert row.category_windows(T0)[1].shape == (0, len(row.category_window_names))
    assert row.vectors.shape == (3, 0)


def test_the_item_table_loads_from_rows_and_equals_feast(
    applied: Settings, store: FeatureStore, program: FeatureProgram
) -> None:
    ids = [f"item-{at}" for at in range(30)]
    for at, item_id in enumerate(ids):
        write_item(applied, program, item_id, seed=at)
    client = connect(applied)
    assert sorted(item_ids(client, applied.feast_project)) == sorted(ids)
    table = ItemTable(program)
    assert load_from_feast(table, client, applied.feast_project) == 30
    assert len(table) == 30
    assert table.available[:30].all()
    assert table.has_vector[:30].all()
    assert table.space == "words"
    assert table.category_names[1:] == ["jazz", "folk"]
    assert table.event_ts_ms[0] == T0
    for as_of_ms in (T0, T0 + HOUR, T0 + 8 * DAY):
        assert parity(table, store, ids, as_of_ms) == []
    table.set_pages("item-3", [(field, b"") for field in table.page_fields], (9, 0, 0, 0))
    assert {difference.item_id for difference in parity(table, store, ids, T0)} == {"item-3"}


def test_crosses_through_feast_equal_the_rankers(
    applied: Settings, store: FeatureStore, program: FeatureProgram
) -> None:
    write_user(applied, program, "u1", seed=3)
    write_item(applied, program, "i1", seed=5)
    table = ItemTable(program)
    load_from_feast(table, connect(applied), applied.feast_project)
    user = UserRowReader(store, category_of_hash=table.category_of_hash).read("u1")
    as_of_ms = T0 + 2 * HOUR
    context = event_pb2.Context(device="tablet", utc_offset_minutes=120)
    own = build(user, table, np.array([0], np.int32), context=context, as_of_ms=as_of_ms)[0]
    from features.crosses import COMPUTED, GIVEN

    assert {*COMPUTED, *GIVEN} == set(CROSSES)
    request: dict[str, Any] = {f"given_{name}": float(own[INDEX[f"crosses:{name}"]]) for name in GIVEN}
    request |= {
        "user_id": "u1",
        "item_id": "i1",
        "as_of_ms": as_of_ms,
        "device_name": "tablet",
        "utc_offset_minutes": 120,
    }
    answer = store.get_online_features([f"crosses:{name}" for name in CROSSES], [request]).to_dict()
    for name in CROSSES:
        assert answer[name][0] == pytest.approx(float(own[INDEX[f"crosses:{name}"]]), rel=1e-5, abs=1e-6), name
    assert cross_values.__module__ == "features.cross_values"


def test_a_read_gives_up_when_redis_is_away(applied: Settings) -> None:
    from liverank.errors import UnavailableError

    away = applied.model_copy(update={"redis": applied.redis.model_copy(update={"url": "redis://127.0.0.1:1/0"})})
    reader = UserRowReader(open_store(away))
    start = time.monotonic()
    with pytest.raises(UnavailableError, match="reading a user's features"):
        reader.read("u1")
    assert time.monotonic() - start < 2
    assert item_pb2.Item().item_id == ""
