"""Progress: lags from ends and positions; waiting goes stage by stage and gives up in time."""

from __future__ import annotations

from typing import Any

import pytest

from evaluation.errors import LagError
from evaluation.progress import Progress
from liverank.settings import Settings


class FakeRedis:
    """Hashes only."""

    def __init__(self) -> None:
        self.hashes: dict[str, dict[str, int]] = {}

    def pipeline(self, transaction: bool) -> Any:
        outer = self

        class Pipe:
            def __init__(self) -> None:
                self.wanted: list[tuple[str, str]] = []

            def hget(self, key: str, field: str) -> None:
                self.wanted.append((key, field))

            def execute(self) -> list[bytes | None]:
                found = (outer.hashes.get(key, {}).get(field) for key, field in self.wanted)
                return [None if value is None else str(value).encode() for value in found]

        return Pipe()

    def scan_iter(self, match: str, count: int) -> list[bytes]:
        return [key.encode() for key in self.hashes if key.startswith(match.rstrip("*"))]


class FakeOffsets:
    """Ends that a test sets."""

    def __init__(self) -> None:
        self.by_topic: dict[str, int] = {}

    def ends(self, tps: list[Any]) -> dict[Any, int]:
        return {tp: self.by_topic.get(tp.topic, 0) for tp in tps}


@pytest.fixture(name="parts")
def _parts(monkeypatch: pytest.MonkeyPatch) -> tuple[Progress, FakeRedis, FakeOffsets]:
    offsets, redis = FakeOffsets(), FakeRedis()
    monkeypatch.setattr("evaluation.progress.OffsetClient", lambda _: offsets)
    settings = Settings(namespace="t", stack={"partitions": 2})  # type: ignore[arg-type]
    return Progress(settings, redis), redis, offsets


def test_lags_count_all_partitions_and_all_rankers(parts: tuple[Progress, FakeRedis, FakeOffsets]) -> None:
    progress, redis, offsets = parts
    offsets.by_topic = {"liverank.t.events.1": 10, "liverank.t.items": 3}
    redis.hashes = {
        "t:position:fold.users:0": {"liverank.t.events.1": 10},
        "t:position:fold.users:1": {"liverank.t.events.1": 7},
        "t:position:ranker-0:0": {"liverank.t.items": 3},
        "t:position:ranker-0:1": {"liverank.t.items": 3},
        "t:position:ranker-1:0": {"liverank.t.items": 3},
    }
    lags = {(lag.topic, lag.reader): lag.records for lag in progress.lags()}
    assert lags["events", "fold.users"] == 3
    assert lags["items", "ranker-0"] == 0
    assert lags["items", "ranker-1"] == 3
    assert lags["item-effects", "fold.items"] == 0


def test_waiting_gives_up_with_the_reader_that_is_behind(parts: tuple[Progress, FakeRedis, FakeOffsets]) -> None:
    progress, redis, offsets = parts
    assert set(progress.wait(timeout_s=0.1).values()) == {0}
    offsets.by_topic = {"liverank.t.item-effects.1": 4}
    with pytest.raises(LagError, match=r"fold\.items is still 8 records behind on liverank\.t\.item-effects\.1"):
        progress.wait(timeout_s=0.02)
    for partition in range(2):
        redis.hashes[f"t:position:fold.items:{partition}"] = {"liverank.t.item-effects.1": 4}
    assert progress.wait(timeout_s=0.1)["item-effects"] == 0
