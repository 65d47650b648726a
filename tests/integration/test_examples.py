"""The examples and the app commands against a running system: a newcomer's first ten minutes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation.simulator import World, WorldParams
from liverank.calls import now_ms
from liverank.client import Client
from liverank.producer import EventProducer
from liverank.settings import Settings
from liverank.v1.decision_pb2 import MODE_SHADOW

ROOT = Path(__file__).parents[2]
N_ITEMS = 120


@pytest.fixture(name="running")
def _running(make_running: Callable[..., Settings]) -> Settings:
    settings = make_running(workers=1, rankers=1)
    world = World.build(WorldParams(n_items=N_ITEMS, n_users=40, popular_rate=0.12), now_ms() - 86_400_000 * 61)
    with EventProducer(settings) as producer:
        for change in world.catalogue.changes():
            producer.send_item(change)
    with Client(settings.ranker.grpc, deadline_s=5.0) as client:
        end_s = time.monotonic() + 60
        while len(client.rank("nobody", k=N_ITEMS, mode=MODE_SHADOW).items) < 20:
            assert time.monotonic() < end_s, "the ranker never got the catalogue"
            time.sleep(0.1)
    return settings


def run(settings: Settings, *command: str) -> str:
    """Run a command as a user would, with addresses from the environment; returns what it printed."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LIVERANK_")},
        "LIVERANK_NAMESPACE": settings.namespace,
        "LIVERANK_HOME": str(settings.home),
        "LIVERANK_KAFKA__BOOTSTRAP": settings.kafka.bootstrap,
        "LIVERANK_REDIS__URL": settings.redis.url,
        "LIVERANK_RANKER__GRPC": settings.ranker.grpc,
        "COLUMNS": "200",
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


def test_USE_10_examples_and_commands_run(running: Settings) -> None:
    cli = str(Path(sys.executable).with_name("liverank"))
    assert "accepted: 1" in run(running, sys.executable, "examples/app.py", "user-1")
    assert run(running, sys.executable, "examples/async_app.py").count("item-") == 24
    assert "delivered: 101" in run(running, sys.executable, "examples/producer.py")

    slate = json.loads(run(running, cli, "rank", "--user", "user-1", "--serve", "--explain", "--json"))
    assert len(slate["items"]) == 10
    first = slate["items"][0]
    assert first["explanation"]["heads"]
    tracked = run(
        running,
        cli,
        "track",
        "like",
        "-u",
        "user-1",
        "-i",
        first["item_id"],
        "-r",
        slate["request_id"],
        "--position",
        "1",
    )
    assert tracked.startswith("accepted: ")
    assert "propensity" in run(running, cli, "rank", "--user", "user-1")

    end_s = time.monotonic() + 20
    while True:
        # A reply does not wait for its log: the decision may take a moment to be found.
        try:
            explained = json.loads(run(running, cli, "explain", slate["request_id"], "--json"))
            break
        except AssertionError:
            if time.monotonic() > end_s:
                raise
    assert explained["decision"]["request_id"] == slate["request_id"]
    assert [item["item_id"] for item in explained["items"]] == [item["item_id"] for item in slate["items"]]
