"""Live traffic against scripted ends: what is asked, what is sent, what is reported. And the demo's files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluation.demo import DemoPlan, build_world, is_probe, write_history
from evaluation.simulator import World, WorldParams
from evaluation.traffic import Traffic
from liverank.contract import validate_event
from liverank.errors import UnavailableError
from liverank.files import read_events, read_items
from liverank.v1 import personalization_pb2 as pb
from liverank.v1.decision_pb2 import MODE_SERVE
from liverank.v1.event_pb2 import Event

PARAMS = WorldParams(seed=3, n_items=300, n_users=60)
START_MS = 1_757_000_000_000
POPULAR = [f"item-{row}" for row in range(20)]


class Ends:
    """Client and producer in one."""

    def __init__(self, world: World, failures: int = 0) -> None:
        self.slate = [item.item_id for item in world.catalogue.items[:10]]
        self.asked: list[dict[str, Any]] = []
        self.sent: list[Event] = []
        self.tracked: list[Event] = []
        self.failures = failures

    def rank(self, user_id: str, **request: Any) -> pb.RankReply:
        if self.failures:
            self.failures -= 1
            raise UnavailableError("away")
        self.asked.append({"user_id": user_id, **request})
        items = [pb.RankedItem(item_id=item_id, position=n) for n, item_id in enumerate(self.slate, 1)]
        return pb.RankReply(request_id=f"request-{len(self.asked)}", items=items, rungs=["stale"])

    def track(self, events: list[Event], **_: Any) -> pb.TrackReply:
        self.tracked += events
        return pb.TrackReply(accepted=len(events))

    def send_all(self, events: list[Event]) -> int:
        self.sent += events
        return len(events)

    def flush(self, timeout_s: float) -> None:
        pass


@pytest.fixture(name="world", scope="module")
def _world() -> World:
    return World.build(PARAMS, START_MS)


def traffic(world: World, ends: Ends, **options: Any) -> Traffic:
    behaviour = world.behaviour(pace=0.001)
    return Traffic(world, behaviour, ends, ends, world.population.users, POPULAR, **options)  # type: ignore[arg-type]


def test_slates_are_served_and_reactions_go_both_ways(world: World) -> None:
    ends = Ends(world, failures=2)
    report = traffic(world, ends, track_share=0.5).run(n_requests=60, rate=5_000.0)
    assert (report.requests, report.failed, report.slots) == (60, 2, 600)
    assert {request["mode"] for request in ends.asked} == {MODE_SERVE}
    assert {request["context"].device for request in ends.asked} <= {"phone", "desktop", "tv"}
    assert ends.sent
    assert ends.tracked
    for event in [*ends.sent, *ends.tracked]:
        validate_event(event, now_ms=event.event_ts_ms, exposures=False)
        assert event.request_id.startswith("request-")
        assert ends.slate[event.position - 1] == event.item_id
    assert sum(report.events.values()) == len(ends.sent) + len(ends.tracked)
    assert 0 < report.value < report.oracle < 1
    assert 0 < report.popular <= report.common < report.oracle
    assert report.rungs["stale"] == 60
    assert "oracle" in report.summary()
    assert "stale 60" in report.summary()


def test_event_ids_differ_from_run_to_run(world: World) -> None:
    ends = Ends(world)
    for _ in range(2):
        traffic(world, ends, track_share=0.0).run(n_requests=10, rate=5_000.0)
    assert len({event.event_id for event in ends.sent}) == len(ends.sent)


def test_the_demo_writes_its_past_in_the_documented_format(tmp_path: Path) -> None:
    plan = DemoPlan(days=20.0, params=replace(PARAMS))
    world = build_world(plan, START_MS)
    files = write_history(world, plan, tmp_path / "history")
    events = list(read_events(files.events))
    assert len(events) == files.n_events
    assert events[-1].event_ts_ms < START_MS - 40 * 60_000
    assert len(list(read_items(files.items))) == files.n_items == PARAMS.n_items
    assert len(set(files.active)) == len(files.active) > 5
    assert sum(is_probe(user) for user in files.active) < len(files.active) / 2
