"""FEA-4: a stream that stands still is seen, named in every reply, and stops nothing."""

from __future__ import annotations

import pytest
from ranker_world import World

from liverank.settings import Settings
from liverank.v1 import personalization_pb2 as pb
from ranker import degrade
from ranker.staleness import BEHIND_S, StalenessFeed

NOW_MS = 1_760_000_000_000


class Clocks:
    """Redis as far as the feed asks it."""

    def __init__(self) -> None:
        self.clocks: dict[str, int] = {}
        self._asked: list[str] = []

    def pipeline(self, *, transaction: bool) -> Clocks:
        self._asked = []
        return self

    def hget(self, key: str, field: str) -> None:
        assert field == "clock"
        self._asked.append(key)

    def execute(self) -> list[bytes | None]:
        return [b"%d" % self.clocks[key] if key in self.clocks else None for key in self._asked]


def key(partition: int) -> str:
    return f"live:{{live.1.{partition}}}:u.meta"


def test_FEA_4_the_oldest_clock_counts() -> None:
    redis, now = Clocks(), [NOW_MS]
    feed = StalenessFeed(Settings(), redis, lambda: 1, 4, now_ms=lambda: now[0])
    feed.step()
    assert not feed.behind()  # nothing was ever folded
    redis.clocks = {key(0): NOW_MS - 300, key(2): NOW_MS - 900, key(3): 0}
    feed.step()
    assert feed.staleness_s == 0.9
    now[0] += int(BEHIND_S * 1000)
    feed.step()
    assert feed.behind()
    redis.clocks = {key(0): now[0], key(2): now[0]}
    feed.step()
    assert not feed.behind()


def test_recorded_time_is_never_stale() -> None:
    redis = Clocks()
    redis.clocks = {key(0): 5}
    feed = StalenessFeed(Settings(clock="data"), redis, lambda: 1, 1, now_ms=lambda: NOW_MS)
    feed.step()
    assert not feed.behind()


@pytest.mark.parametrize("behind", [False, True])
def test_FEA_4_replies_go_on_and_say_so(behind: bool) -> None:
    world = World(200)
    world.pipeline._behind = lambda: behind
    asked = pb.RankRequest(user_id="u", k=10)
    reply = pb.RankReply.FromString(world.pipeline.rank(asked, remaining_ms=1e6))
    assert len(reply.items) == 10
    assert (degrade.STALE_STREAM in reply.rungs) == behind
    assert reply.policy != "none"
