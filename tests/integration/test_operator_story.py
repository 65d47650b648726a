"""An operator's story: a feature in plain Feast is served, with its past, without a restart; bad ones are refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from operators import SAVES
from typer.testing import CliRunner

from evaluation.features.served import served_decisions
from evaluation.features.skew import skew
from features.apply import apply_here, store_yaml
from features.deployment import CHECKOUT
from features.generate import DefinitionError
from features.provider import read_program
from features.redis import connect, namespace_token
from features.wire import entity_key, timestamp_field, version_field
from liverank import EventProducer, new_event
from liverank.cli import build
from liverank.client import Client
from liverank.settings import Settings
from liverank.v1.decision_pb2 import MODE_SHADOW
from liverank.v1.item_pb2 import Item, ItemChange
from streams.past import read_catalogue

MakeRunning = Callable[..., Settings]
KINDS = ("jazz", "folk", "rock")
N_ITEMS = 12
FEATURE = "user_category_windows:saves_6h"

IMPURE = """
import random


def shaken(frame):
    return frame.assign(luck=[random.random() for _ in range(len(frame))])


"""
BAD = {
    "unknown function": (
        SAVES.replace('function="sum"', 'function="frobnicate"'),
        "Aggregation(",
        "view 'user_category_saves', aggregate 'saves_6h': function must be one of sum, count, mean, min, max, "
        "count_distinct, got 'frobnicate'",
    ),
    "too fine a slide": (
        SAVES.replace("timedelta(minutes=5)", "timedelta(seconds=30)"),
        "Aggregation(",
        "view 'user_category_saves', aggregate 'saves_6h': slide_interval must divide time_window (6 h) into 1 to 192 "
        "whole slides of at least 1 s, got 30 s; the smallest legal slide is 2 min",
    ),
    "impure transformation": (
        SAVES.replace("user_category_saves = ", IMPURE + "user_category_saves = ").replace(
            "    aggregations=[", '    mode="pandas",\n    udf=shaken,\n    udf_string="shaken",\n    aggregations=['
        ),
        "StreamFeatureView(\n",
        "view 'user_category_saves', transformation: two runs over the same rows differ; it must be pure",
    ),
}
"""Definitions that are refused: text, what stands in the line that is named, the message."""


def feast(settings: Settings, repo: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`feast -c REPO -f feature_store.yaml ...`, as an operator types it."""
    program = Path(sys.executable).with_name("feast")
    environment = {**os.environ, **settings.environment(), "PYTHONWARNINGS": "ignore"}
    command = [str(program), "-c", str(repo), "-f", str(store_yaml(settings)), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)


def until(what: str, found: Callable[[], Any], seconds: float) -> Any:
    """Wait until `found` gives something true."""
    deadline_s = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < deadline_s, f"{what}: not within {seconds} s"
        time.sleep(0.1)
    return answer


def values(address: str, user: str = "ann") -> dict[str, dict[str, float]]:
    """Features that no model reads, by item, as the explanation of a Rank reply shows them."""
    with Client(address) as client:
        reply = client.rank(user, k=N_ITEMS, mode=MODE_SHADOW, explain=True)
    return {item.item_id: {each.feature: each.value for each in item.explanation.not_used} for item in reply.items}


def kind_of(item_id: str) -> str:
    return KINDS[int(item_id.removeprefix("i")) % len(KINDS)]


class Saves:
    """Saves of one user, told live, counted by category."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.counts: Counter[str] = Counter()
        self._n = 0

    def send(self, n: int, *, age_ms: int = 60_000, counts: bool = True) -> None:
        """Send `n` saves, each twice: a repeat counts once."""
        with EventProducer(self.settings) as producer:
            for _ in range(n):
                self._n += 1
                item = f"i{self._n * 5 % N_ITEMS}"
                event = new_event("save", user_id="ann", item_id=item)
                event.event_ts_ms -= age_ms
                producer.send(event)
                producer.send(event)
                if counts:
                    self.counts[kind_of(item)] += 1


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
)
def test_FEA_1_FEA_8_a_feature_is_declared_backfilled_served_and_explained(
    make_running: MakeRunning, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_running(workers=1, rankers=1)
    with EventProducer(settings) as producer:
        for at in range(N_ITEMS):
            item = Item(title=f"record {at}", categories=[kind_of(f"i{at}")], available=True)
            producer.send_item(ItemChange(item_id=f"i{at}", upsert=item))
    address = settings.ranker.grpc
    until("items are served", lambda: len(served(address)) >= N_ITEMS - 2, 60)
    saves = Saves(settings)
    saves.send(40)
    saves.send(9, age_ms=7 * 3_600_000, counts=False)
    assert not any(FEATURE in each for each in values(address).values())

    repo = tmp_path / "repo"
    shutil.copytree(CHECKOUT / "features" / "repo", repo, ignore=shutil.ignore_patterns("__pycache__"))
    (repo / "saves.py").write_text(SAVES)
    done = feast(settings, repo, "apply")
    assert done.returncode == 0, done.stderr
    assert "new: user_category_saves" in done.stdout
    applied_s = time.monotonic()
    for _ in range(5):  # while it is activated, backfilled and merged
        saves.send(4)
    found = until("explain shows the feature", lambda: whole(values(address)), 30)
    served_s = time.monotonic() - applied_s
    until("every save counts once", lambda: matches(values(address), saves.counts), 10)
    assert {kind_of(item_id) for item_id in found} == set(KINDS)
    saves.send(5)
    until("live saves count", lambda: matches(values(address), saves.counts), 10)
    with capsys.disabled():
        print(f" [explained {served_s:.1f} s after feast apply]", end="")

    assert command(settings, "backfill") == (0, "every view of the registry is served")
    _, listed = command(settings, "list", "--json")
    states = {each["name"]: each for each in json.loads(listed)}
    assert states[FEATURE] == {"name": FEATURE, "source": "user_category_saves", "state": "served", "model": ""}
    _, steps = command(settings, "lineage", FEATURE)
    assert "saves_6h = sum(save) over 6 h by 5 min" in steps
    skews(settings, address, saves)

    client = connect(settings)
    before = client.get(f"{settings.namespace}:program")
    here = settings.model_copy(update={"feast": settings.feast.model_copy(update={"repo": repo})})
    for what, (text, named, words) in BAD.items():
        (repo / "saves.py").write_text(text)
        line = text[: text.index(named)].count("\n") + 1
        if what == "unknown function":  # once as it is typed, then without a process each
            refused = feast(settings, repo, "apply")
            assert refused.returncode == 1
            assert "Traceback" not in refused.stderr + refused.stdout
            said = refused.stderr
        else:
            with pytest.raises(DefinitionError) as raised:
                apply_here(here)
            said = str(raised.value)
        assert f"saves.py:{line}: {words}" in said, (what, said[-1500:])
        assert client.get(f"{settings.namespace}:program") == before, what
    assert matches(values(address), saves.counts)

    (repo / "saves.py").unlink()
    apply_here(here)
    assert "removed: user_category_saves" in capsys.readouterr().out
    until("the state is freed", lambda: not fields_of(settings, "user_category_saves"), 30)
    until("explain forgets it", lambda: not any(FEATURE in each for each in values(address).values()), 10)


def command(settings: Settings, *arguments: str) -> tuple[int, str]:
    """Exit code and output of `liverank features ...`."""
    done = CliRunner().invoke(build(), ["features", *arguments], env=settings.environment())
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout.strip()


def skews(settings: Settings, address: str, saves: Saves) -> None:
    """What was served is what the log gives; a value that is not is named."""
    with Client(address) as client:
        for _ in range(4):
            saves.send(2)
            client.rank("ann", k=4)
    decisions = until("decisions", lambda: found if len(found := served_decisions(settings)) == 4 else None, 30)
    redis = connect(settings)
    program = read_program(redis, settings.namespace)
    assert program is not None
    table, _ = read_catalogue(settings, settings.stack.partitions)
    given: dict[str, Any] = {"table": table, "token": namespace_token(redis, settings.namespace)}
    report = skew(settings, decisions, program, **given)
    assert report.found == []
    assert report.rows == 16
    assert report.values >= 16 * 30
    feature, wrong = "user_windows:saves_30d", decisions[2]
    at = list(wrong.feature_names).index(feature)
    right = wrong.slots[1].features[at]
    wrong.slots[1].features[at] = right + 50
    (named,) = skew(settings, decisions, program, names=[feature, "user_windows:clicks_1d"], **given).found
    assert (named.feature, named.rows) == (feature, 1)
    assert (named.request_id, named.item_id) == (wrong.request_id, wrong.slots[1].item_id)
    # What was sent within the last moments before the request may not have been counted yet when it was served.
    assert named.served == right + 50
    assert right <= named.rebuilt <= right + 2


def served(address: str) -> dict[str, dict[str, float]]:
    try:
        return values(address)
    except grpc.RpcError:
        return {}


def whole(found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]] | None:
    return found if found and all(FEATURE in each for each in found.values()) else None


def matches(found: dict[str, dict[str, float]], counts: Counter[str]) -> bool:
    return {item: each[FEATURE] for item, each in found.items()} == {item: counts[kind_of(item)] for item in found}


def fields_of(settings: Settings, view: str) -> list[str]:
    """Fields of a view that lie in the folds' state or in the user's Feast row."""
    client, ns = connect(settings), settings.namespace
    found = []
    for key in client.scan_iter(match=f"{ns}:{{*:u:*", count=1000):
        if not key.endswith(b"#program"):
            found += [name for name in client.hkeys(key) if name.startswith(view.encode())]
    row = client.hkeys(entity_key(settings.feast_project, ("user_id",), ("ann",)))
    return [*found, *(name for name in row if name in (timestamp_field(view), version_field(view)))]
