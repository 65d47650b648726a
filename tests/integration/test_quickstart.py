"""docs/quickstart.md: its code runs as it stands, top to bottom, against a worker and a ranker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from liverank.client import Client
from liverank.settings import Settings
from liverank.v1.decision_pb2 import MODE_SHADOW

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(
    r"^```(sh|python)\n(.*?)^```", (ROOT / "docs" / "quickstart.md").read_text(), re.MULTILINE | re.DOTALL
)
MakeRunning = Callable[..., Settings]


def test_the_quickstart_works_as_it_stands(make_running: MakeRunning, tmp_path: Path) -> None:
    settings = make_running(workers=1, rankers=1)
    environment = {**os.environ, **settings.environment(), "PYTHONWARNINGS": "ignore"}
    # The page says .venv/bin; the tests run in whatever environment they run.
    folder = f"{Path(sys.executable).parent}/"
    variables = ""
    outputs: dict[str, str] = {}
    for kind, code in BLOCKS:
        if kind == "python":
            name = code.split("\n", 1)[0].removeprefix("# ")
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
            )
        else:
            name = code.split("\n", 1)[0]
            code = code.replace(".venv/bin/", folder)
            if "ask()" in code:
                variables = code
            script = "set -euo pipefail\n" + variables + code
            done = subprocess.run(
                ["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180
            )
        assert done.returncode == 0, f"{name}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stdout + done.stderr, name
        outputs[name] = done.stdout
        if name == "catalogue.py":
            items_are_served(settings.ranker.grpc)
    assert len(outputs["app.py"].splitlines()) == 6
    assert outputs["producer.py"] == "2 delivered\n"
    assert "user_activity" in outputs['feast() { .venv/bin/feast -c features/repo -f $YAML "$@"; }']
    assert "'clicks_1d': [1.0]" in outputs["features.py"]
    assert '"accepted":1' in re.sub(r"\s", "", outputs[next(name for name in outputs if name.startswith("curl"))])
    assert any(output.startswith("delivered ") for output in outputs.values())


def items_are_served(address: str) -> None:
    deadline_s = time.monotonic() + 30
    with Client(address) as client:
        while True:
            try:
                if len(client.rank("nobody", k=5, mode=MODE_SHADOW).items) == 5:
                    return
            except grpc.RpcError:
                pass
            if time.monotonic() > deadline_s:
                pytest.fail("the items are not served within 30 s")
            time.sleep(0.1)
