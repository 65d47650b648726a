"""An operator declares two views while everything is under attack: activated, backfilled, merged, served."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from features.apply import store_yaml
from features.deployment import CHECKOUT
from features.program import FeatureProgram
from features.redis import connect
from liverank.settings import Settings
from streams.activation import served_key

__all__ = ["declare", "wait_until_served"]

_VIEWS = """
from datetime import timedelta
from entities import category, item, user
from feast import Aggregation, Field, StreamFeatureView
from feast.types import Float64
from sources import events

chaos_saves = StreamFeatureView(
    name="chaos_saves",
    entities=[user, category],
    source=events,
    timestamp_field="event_timestamp",
    schema=[Field(name="saves_6h", dtype=Float64)],
    aggregations=[
        Aggregation(
            column="save", function="sum", name="saves_6h",
            time_window=timedelta(hours=6), slide_interval=timedelta(minutes=5),
        )
    ],
)

chaos_skips = StreamFeatureView(
    name="chaos_skips",
    entities=[item],
    source=events,
    timestamp_field="event_timestamp",
    schema=[Field(name="skips_2d", dtype=Float64)],
    aggregations=[
        Aggregation(
            column="skip", function="sum", name="skips_2d",
            time_window=timedelta(days=2), slide_interval=timedelta(hours=1),
        )
    ],
)
"""


def declare(settings: Settings, timeout_s: float) -> bool:
    """`feast apply` of the repo with two more views, again and again while Redis is away; whether it worked."""
    repo = settings.home / "repo"
    shutil.copytree(CHECKOUT / "features" / "repo", repo, ignore=shutil.ignore_patterns("__pycache__"))
    (repo / "chaos_views.py").write_text(_VIEWS)
    program = Path(sys.executable).with_name("feast")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LIVERANK_")}
    environment |= {**settings.environment(), "PYTHONWARNINGS": "ignore", "PYTHONPATH": str(CHECKOUT)}
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        done = subprocess.run(
            [str(program), "-c", str(repo), "-f", str(store_yaml(settings)), "apply"],
            env=environment, cwd=CHECKOUT, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            return True
        sys.stderr.write(f"feast apply: {(done.stderr or done.stdout).strip()[-300:]}\n")
        time.sleep(2.0)
    return False


def wait_until_served(settings: Settings, timeout_s: float) -> FeatureProgram:
    """Return the declared program once every partition serves it in full.

    Raises
    ------
    RuntimeError
        Not in time.
    """
    deadline_s = time.monotonic() + timeout_s
    with connect(settings) as client:
        while True:
            declared = FeatureProgram.from_json(client.get(f"{settings.namespace}:program"))
            served = client.get(served_key(settings.namespace))
            if served and FeatureProgram.from_json(served).hash == declared.hash:
                return declared
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"the declared views are not served after {timeout_s:g} s")
            time.sleep(0.5)
