"""A feature is added with Feast's own command; what is wrong is refused before anything changes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from operators import SAVES

from features import tiles
from features.apply import open_store, store_yaml
from features.category_tiles import category_windows
from features.columns import event_columns, text_hash
from features.deployment import CHECKOUT
from features.online import OnlineWriter, Row
from features.provider import read_program
from features.redis import connect, format_version
from features.user_row import UserRowReader
from features.wire import pack_bytes
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
)

T0, HOUR = 1_760_000_000_000, 3_600_000


def operators_apply(settings: Settings, repo: Path) -> subprocess.CompletedProcess[str]:
    """`feast -c REPO -f feature_store.yaml apply`, as an operator types it."""
    feast = Path(sys.executable).with_name("feast")
    environment = {**os.environ, **settings.environment(), "PYTHONWARNINGS": "ignore"}
    command = [str(feast), "-c", str(repo), "-f", str(store_yaml(settings)), "apply"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)


def test_an_operator_adds_a_feature_with_feasts_own_command(applied: Settings, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    shutil.copytree(CHECKOUT / "features" / "repo", repo, ignore=shutil.ignore_patterns("__pycache__"))
    client = connect(applied)
    before = client.get(f"{applied.namespace}:program")
    (repo / "saves.py").write_text(SAVES.replace('function="sum"', 'function="frobnicate"'))
    refused = operators_apply(applied, repo)
    assert refused.returncode != 0
    assert "saves.py:15: view 'user_category_saves', aggregate 'saves_6h': function must be one of" in refused.stderr
    assert client.get(f"{applied.namespace}:program") == before

    (repo / "saves.py").write_text(SAVES)
    done = operators_apply(applied, repo)
    assert done.returncode == 0, done.stderr
    assert "new: user_category_saves" in done.stdout
    program = read_program(client, applied.namespace)
    assert program is not None
    view = program.view("user_category_saves")
    assert view.entity == "user_category"

    state = tiles.new(view)
    save = event_columns(Event(type=EventType.EVENT_TYPE_SAVE), "jazz")
    for age_ms in (0, HOUR, 7 * HOUR):
        state.add(T0 - age_ms, save, 1.0, "jazz")
    fields = state.dirty()
    values = {name.decode().split(":")[1]: pack_bytes(page) for name, page in fields.items()}
    writer = OnlineWriter(client, applied.feast_project)
    writer.write([Row(view.name, "user_id", "u1", values, T0, format_version(1, 1, 0))])
    assert category_windows(view, fields, T0)[1].tolist() == [[2.0]]
    store = open_store(applied)
    answer = store.get_online_features(
        ["user_category_windows:saves_6h"], [{"user_id": "u1", "as_of_ms": T0, "category": "jazz"}]
    ).to_dict()
    assert answer["saves_6h"] == [2.0]
    reader = UserRowReader(store, category_of_hash={text_hash("jazz"): "jazz"})
    row = reader.read("u1")
    index, windows = row.category_windows(T0)
    assert windows[index["jazz"]][row.category_window_names.index("saves_6h")] == 2.0


def test_a_repo_read_for_another_namespace_is_refused(applied: Settings, tmp_path: Path) -> None:
    other = applied.model_copy(update={"namespace": "another"})
    feast = Path(sys.executable).with_name("feast")
    environment = {**os.environ, **other.environment(), "PYTHONWARNINGS": "ignore"}
    command = [str(feast), "-c", str(CHECKOUT / "features/repo"), "-f", str(store_yaml(applied)), "apply"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode != 0
    assert f"set LIVERANK_NAMESPACE={applied.namespace}" in done.stderr
