"""Feast's own commands and its web page over a namespace's registry show everything that serving reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from feast import FeatureStore
from feast.cli.cli import cli
from feast.errors import FeatureViewNotFoundException

from features.apply import apply_here, open_store, store_yaml
from features.deployment import CHECKOUT
from features.online_store import _plain_view
from infra.stack.ports import choose as free_port
from liverank.settings import Settings
from ranker.columns import COLUMNS, FEATURE_SERVICE

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
)

VIEWS = {
    "stream-feature-views": {
        "user_activity", "user_category_activity", "user_history", "user_seen", "user_session", "user_vectors",
        "item_activity", "item_trend", "item_surfaces", "item_neighbours", "item_variants", "item_catalogue",
    },
    "on-demand-feature-views": {"user_windows", "user_category_windows", "item_windows", "crosses"},
    "feature-views": {"item_semantic", "user_windows", "user_category_windows", "item_windows", "crosses"},
    "feature-services": {"ranker_v1", "user_state_v1", "item_state_v1"},
}  # fmt: skip


def feast(settings: Settings, *arguments: str) -> list[str]:
    """The command line in this process, as `python -m feast` runs it."""
    from click.testing import CliRunner

    command = ["-c", str(CHECKOUT / "features" / "repo"), "-f", str(store_yaml(settings)), *arguments]
    done = CliRunner().invoke(cli, command, env=settings.environment())
    assert done.exit_code == 0, (command, done.output, done.exception)
    return done.output.splitlines()


def test_FEA_1_feasts_own_lists_show_every_view_and_its_web_page_the_registry(namespace: Settings) -> None:
    apply_here(namespace)
    for kind, names in VIEWS.items():
        listed = {line.split(" ", 1)[0] for line in feast(namespace, kind, "list")[1:]}
        assert listed >= names, kind
    described = "\n".join(feast(namespace, "feature-views", "describe", "user_activity"))
    assert "user_activity" in described

    port = free_port()
    program = Path(sys.executable).with_name("feast")
    command = [str(program), "-f", str(store_yaml(namespace)), "ui", "--host", "127.0.0.1", "-p", str(port)]
    environment = {**os.environ, **namespace.environment(), "PYTHONWARNINGS": "ignore"}
    with (namespace.home / "ui.log").open("w") as log:
        page = subprocess.Popen(command, cwd=store_yaml(namespace).parent, env=environment, stdout=log, stderr=log)
    try:
        project = namespace.feast_project
        service = fetch(port, f"/api/v1/feature_services/{FEATURE_SERVICE}?project={project}")
        served = {
            f"{projection['featureViewName']}:{column['name']}"
            for projection in service["spec"]["features"]
            for column in projection["featureColumns"]
        }
        assert [name for name in COLUMNS if name not in served] == []
        views = fetch(port, f"/api/v1/feature_views?project={project}")["featureViews"]
        shown = {view["spec"]["name"] for view in views}
        assert shown >= set.union(*VIEWS.values()) - VIEWS["feature-services"]
    finally:
        page.terminate()
        page.wait(30)


def fetch(port: int, path: str) -> Any:
    """JSON of a page, once it is up."""
    deadline_s = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.read().decode()[:500]}") from error
        except OSError:
            assert time.monotonic() < deadline_s, "feast ui is not up within 120 s"
            time.sleep(0.2)


def test_feast_alone_still_needs_our_answer(namespace: Settings) -> None:
    apply_here(namespace)
    store = open_store(namespace)
    assert type(store) is FeatureStore
    assert store.get_feature_view("user_activity").name == "user_activity"
    with pytest.raises(FeatureViewNotFoundException):
        store.get_feature_view("nothing")
    with pytest.raises(FeatureViewNotFoundException):
        _plain_view(store, "user_activity")
