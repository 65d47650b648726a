"""Export and import: what one namespace gives out makes the same state in another."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import MakeNamespace
from crash import traffic
from test_import_rebuild import STREAMS, items, past

from features.redis import connect
from liverank.files import read_events, read_items, write_events, write_items
from liverank.settings import Settings
from streams.export import Exported, export_events, export_items
from streams.history import import_history
from tests.recount.program import PROGRAM

KINDS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")


def ready(make_namespace: MakeNamespace) -> Settings:
    made = make_namespace(streams=STREAMS)
    with connect(made) as client:
        client.set(f"{made.namespace}:program", PROGRAM.to_json())
    return made


def state(settings: Settings) -> dict[str, dict[bytes, bytes]]:
    """All fields of users, items and statistics by key, without the namespace's name."""
    with connect(settings) as client:
        found = {}
        for key in sorted(client.scan_iter(f"{settings.namespace}:{{*", count=1000)):
            name = key.decode().replace(settings.namespace, "")
            if ":u:" in name or ":i:" in name:
                found[name] = dict(client.hgetall(key))
        return found


@pytest.mark.parametrize("kind", [".parquet"])
def test_USE_6_export_then_import_gives_identical_state(
    make_namespace: MakeNamespace, tmp_path: Path, kind: str
) -> None:
    first = ready(make_namespace)
    import_history(first, past(traffic(400, seed=31), days=3), items=items())
    files = {suffix: tmp_path / f"events{suffix}" for suffix in KINDS}
    report = Exported()
    wanted = list(export_events(first, [0, 1], report=report))
    assert report.events == len(wanted) > 350
    for path in files.values():
        assert write_events(path, wanted) == len(wanted)
        assert list(read_events(path)) == wanted
    catalogue = tmp_path / f"items{kind}"
    assert write_items(catalogue, export_items(first)) == 40

    second = ready(make_namespace)
    steps: set[str] = set()
    again = import_history(
        second,
        read_events(files[kind]),
        items=read_items(catalogue),
        on_progress=lambda step, done, total: steps.add(step),
    )
    assert again.events == len(wanted)
    assert {"read", "fold", "finish"} <= steps
    made = state(first)
    assert len(made) > 20
    assert state(second) == made
