"""Operators' definitions: what compiles, what is refused, and that messages name file and line."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import dill
import numpy as np
import pandas as pd
import pytest

from features import tiles
from features.columns import row_of
from features.compile import compile_registry, complete
from features.deployment import CHECKOUT
from features.errors import ProgramError
from features.generate import stream_views, window_views
from features.transform import sample, transform

pytestmark = pytest.mark.filterwarnings(
    "ignore:Stream feature views are experimental", "ignore:On demand feature view is an experimental"
)

HEAD = """\
from datetime import timedelta
from feast import Aggregation, Entity, Field, FileSource, KafkaSource, StreamFeatureView
from feast.data_format import JsonFormat
from feast.types import Float64
from feast.value_type import ValueType

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
category = Entity(name="category", join_keys=["category"], value_type=ValueType.STRING)
events = KafkaSource(
    name="events", kafka_bootstrap_servers="k", topic="liverank.live.events", timestamp_field="event_timestamp",
    message_format=JsonFormat(schema_json=""),
    batch_source=FileSource(name="archive", path="none.parquet", timestamp_field="event_timestamp"),
)
"""

SAVES = """
saves = StreamFeatureView(
    name="saves", entities=[user], source=events, timestamp_field="event_timestamp",
    schema=[Field(name="saves_6h", dtype=Float64)],
    aggregations=[
        Aggregation(column="save", function="sum", time_window=timedelta(hours=6),
                    slide_interval=timedelta(minutes=5), name="saves_6h"),
    ],
)
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """Writes a definitions file with its own module name; forgets the module afterwards."""
    name = f"definitions_{tmp_path.name.replace('-', '_')}"

    def into(text: str) -> Path:
        (tmp_path / f"{name}.py").write_text(HEAD + dedent(text))
        importlib.invalidate_caches()
        return tmp_path

    yield into
    sys.modules.pop(name, None)
    sys.path[:] = [path for path in sys.path if path != str(tmp_path)]


def refusal(repo: Path) -> str:
    with pytest.raises(ProgramError) as found:
        window_views(repo, "user")
    return str(found.value)


def test_a_plain_definition_becomes_pages_and_an_on_demand_view(write: Write) -> None:
    repo = write(SAVES)
    (view,) = window_views(repo, "user")
    assert view.name == "user_windows"
    assert [feature.name for feature in view.features] == ["saves_6h"]
    (stored,) = stream_views(repo)
    names = {field.name for field in stored.features}
    program = compile_registry([stored], "liverank_live").view("saves")
    assert names == {f"saves_{program.digest}_p00", "user_id"}
    assert program.entity == "user"
    assert program.names == ("saves_6h",)
    assert program.layout.rings[0].n_tiles == 73


def test_the_on_demand_function_is_self_contained_and_equals_serving(write: Write) -> None:
    repo = write(SAVES)
    (view,) = window_views(repo, "user")
    assert view.udf_string is not None
    assert "import features" not in view.udf_string
    assert "from features" not in view.udf_string
    assert "import liverank" not in view.udf_string
    (stored,) = stream_views(repo)
    program = complete(stored)
    state = tiles.new(program)
    t0 = 1_760_000_000_000
    for minute in range(0, 600, 11):
        state.add(t0 - minute * 60_000, row_of(save=1))
    fields = state.dirty()
    pages = {
        name: [fields.get(field), None] for name, field in zip(program.page_names, program.page_fields, strict=True)
    }
    scope: dict[str, object] = {}
    exec(compile(view.udf_string, "udf", "exec"), scope)
    run = scope["user_windows"]
    assert callable(run)
    for as_of_ms in (t0, t0 + 1_234_567, t0 + 30 * 86_400_000):
        answer = run({"as_of_ms": [as_of_ms, as_of_ms], **pages})
        assert answer["saves_6h"] == [tiles.windows(program, fields, as_of_ms)[0], 0.0]
    broken = run({"as_of_ms": [t0], **{name: [b"hello world"] for name in program.page_names}})
    assert np.isnan(broken["saves_6h"][0])


def test_views_of_sessions_have_windows_of_their_own_where_there_are_any(write: Write) -> None:
    other = SAVES.replace("saves = Stream", "of_session = Stream").replace('name="saves"', 'name="of_session"')
    session = 'session = Entity(name="session", join_keys=["session_id"], value_type=ValueType.STRING)'
    repo = write(SAVES + session + other.replace("entities=[user]", "entities=[session]"))
    users, sessions = window_views(repo, "user", optional=["session"])
    assert (users.name, sessions.name) == ("user_windows", "session_windows")
    (stored,) = [view for view in stream_views(repo) if view.name == "of_session"]
    assert [column.name for column in stored.entity_columns] == ["session_id"]
    assert compile_registry([stored], "p").views[0].entity == "session"


def test_category_views_join_the_users_row(write: Write) -> None:
    text = SAVES.replace("entities=[user]", "entities=[user, category]")
    repo = write(text)
    (view,) = window_views(repo, "user_category")
    assert view.name == "user_category_windows"
    (stored,) = stream_views(repo)
    assert stored.entities == ["user"]
    assert stored.tags["liverank.packed"] == "category"
    assert compile_registry([stored], "p").views[0].entity == "user_category"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('function="sum"', 'function="frobnicate"', "function must be one of sum, count, mean, min, max"),
        ('column="save"', 'column="saved"', "no column 'saved'; columns are one, impression"),
        ("timedelta(minutes=5)", "timedelta(minutes=1)", "nearest to yours: 2 min"),
        ("timedelta(minutes=5)", "timedelta(minutes=7)", "nearest to yours: 7.5 min|nearest to yours"),
        ("time_window=timedelta(hours=6),", "", "time_window is required"),
        ("entities=[user]", "entities=[category]", r"entities must be one of \[user\]; \[item\]; \[user, category\]"),
        ('name="saves",', 'name="saves", tags={"liverank.publsh": "x"},', "unknown view tag 'liverank.publsh'"),
        (
            "schema=[Field(",
            'schema=[Field(name="x", dtype=Float64, tags={"liverank.lastk": "3"}), Field(',
            "unknown field tag 'liverank.lastk'",
        ),
    ],
)
def test_bad_definitions_are_refused_with_file_line_and_what_is_legal(
    write: Write, old: str, new: str, words: str
) -> None:
    assert old in SAVES
    message = refusal(write(SAVES.replace(old, new)))
    assert pytest.importorskip("re").search(words, message), message
    path, line, rest = message.split(":", 2)
    assert path.endswith(".py"), message
    assert 14 <= int(line) <= 24, message
    assert "saves" in rest


def test_a_repeated_name_within_an_entity_is_refused(write: Write) -> None:
    repo = write(SAVES + SAVES.replace("saves = ", "more = ").replace('name="saves",', 'name="more_saves",'))
    views = stream_views(repo)
    with pytest.raises(ProgramError, match="view 'more_saves' of the same entity already has an aggregate 'saves_6h'"):
        compile_registry(views, "p")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return frame.assign(x=frame['value'].mean())", "row-wise"),
        ("import random; return frame.assign(x=[random.random() for _ in range(len(frame))])", "it must be pure"),
        ("return 3", "must return a DataFrame"),
        ("return frame[['value']]", "must keep all columns"),
        ("return frame.assign(x=frame['nothing'])", "raised KeyError"),
    ],
)
def test_transformations_must_be_pure_and_row_wise(write: Write, body: str, words: str) -> None:
    text = f"\ndef change(frame):\n    {body}\n" + SAVES.replace(
        'name="saves",', 'name="saves", mode="pandas", udf=change, udf_string="x",'
    )
    assert words in refusal(write(text))


def test_a_transformation_may_filter_and_add_columns(write: Write) -> None:
    text = (
        "\ndef change(frame):\n    return frame.assign(big=frame['value'] > 10)[frame['value'] > 1]\n"
        + SAVES.replace('name="saves",', 'name="saves", mode="pandas", udf=change, udf_string="x",').replace(
            'column="save"', 'column="big"'
        )
    )
    repo = write(text)
    window_views(repo, "user")
    (stored,) = stream_views(repo)
    program = compile_registry([stored], "p").views[0]
    assert program.extra_columns == ("big",)
    assert program.transformation is not None
    for name in [name for name in sys.modules if name.startswith("definitions_")]:
        del sys.modules[name]
    sys.path.remove(str(repo))  # a worker does not have the operator's file
    assert dill.loads(program.transformation)(sample(3)).columns[-1] == "big"
    frame = sample(20)
    changed = transform(stored.udf, frame)  # type: ignore[arg-type]
    assert set(changed.index) == set(frame.index[frame["value"] > 1])
    pd.testing.assert_series_equal(changed["one"], frame["one"][changed.index])


def test_the_shipped_repo_compiles_and_names_no_view_twice() -> None:
    text = "".join(path.read_text() for path in (CHECKOUT / "features" / "repo").glob("*.py"))
    for name in (
        "user_activity", "user_category_activity", "user_history", "user_session", "user_seen", "user_vectors",
        "item_activity", "item_trend", "item_neighbours", "item_catalogue", "item_semantic", "ranker_v1",
    ):  # fmt: skip
        assert text.count(f'name="{name}"') == 1
