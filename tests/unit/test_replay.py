"""Replay: baselines, samples, ticks in order with events, nothing but SHADOW, a verdict that repeats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evaluation.replay import Popularity, Replayer, ReplayPlan, Sampled, judge, repeat_share, sample, user_state
from liverank.calls import new_event
from liverank.errors import ConfigError
from liverank.v1 import personalization_pb2 as pb
from liverank.v1.decision_pb2 import MODE_SHADOW
from liverank.v1.event_pb2 import Event, EventType

DAY_MS = 86_400_000
T0 = 1_362_062_307_000


def rating(user: str, item: str, at_ms: int) -> Event:
    return new_event("rating", event_id=f"{user}-{item}", user_id=user, item_id=item, value=8, event_ts_ms=at_ms)


def test_popularity_counts_and_decays_exactly() -> None:
    ids = ["a", "b", "c", "d"]
    all_time, decayed = Popularity(ids), Popularity(ids, DAY_MS)
    for item, day in (("a", 0), ("a", 0), ("a", 0), ("b", 3), ("c", 0), ("zz", 1)):
        all_time.add(item, T0 + day * DAY_MS)
        decayed.add(item, T0 + day * DAY_MS)
    # b: 1; a: 3 / 8; c: 1 / 8
    assert all_time.top(4) == ["a", "b", "c", "d"]
    assert decayed.top(3) == ["b", "a", "c"]
    assert decayed.top(2, {"b"}) == ["a", "c"]
    assert all_time.top(9) == ids
    assert Popularity([]).top(3) == []


def test_user_states_and_samples() -> None:
    assert user_state(0) == "cold"
    assert user_state(1000) == "warm"
    events = [rating("u", f"i{n % 5}", T0 + n) for n in range(100)]
    plan = ReplayPlan(n_sampled=20)
    picked = sample(events, frozenset({"i0", "i1"}), plan)
    assert len(picked) == 20
    assert picked == sample(events, frozenset({"i0", "i1"}), plan)
    assert {events[n].item_id for n in picked} == {"i0", "i1"}
    assert len(sample(events, frozenset({"i0", "i1"}), ReplayPlan(n_sampled=41))) == 40
    with pytest.raises(ConfigError, match="known item"):
        sample(events, frozenset({"i9"}), plan)
    for broken in ({"imported": 1.0}, {"k": 0}, {"n_sampled": 0}, {"tick_ms": 60_001}, {"half_life_ms": 0}):
        with pytest.raises(ConfigError, match=next(iter(broken))):
            ReplayPlan(**broken)  # type: ignore[arg-type]


def test_repeats_are_counted_a_user() -> None:
    events = [rating(user, item, T0 + at) for at, (user, item) in enumerate(["ua", "ub", "va", "ua", "ua"])]
    assert repeat_share(events) == 0.4
    assert repeat_share([*events, Event(type=EventType.EVENT_TYPE_IMPRESSION, user_id="u", item_id="a")]) == 0.4


def test_own_items_stay_where_users_take_items_again() -> None:
    log = Log()
    run = replayer(log, ReplayPlan(n_sampled=1, repeats=True))
    run.learn(rating("u", "i3", T0 - 1))
    (one,) = run.run([rating("u", "i3", T0)], frozenset({0}))
    request = next(call for name, call in log.calls if name == "rank")
    assert request["exclude_item_ids"] == []
    assert one.hits == (True, True, True)


def test_idle_minutes_have_no_ticks() -> None:
    log = Log()
    year_ms = 365 * 86_400_000
    replayer(log, ReplayPlan(n_sampled=1)).run([rating("u", "i1", T0), rating("u", "i2", T0 + year_ms)], frozenset())
    ticks = [record["timestamp_ms"] for name, record in log.calls if name == "record" and record["key"] is None]
    assert ticks == [T0, T0, T0 + year_ms, T0 + year_ms, T0 + year_ms + 60_000, T0 + year_ms + 60_000]


class Log:
    """Producer, progress and client in one: keeps the order of everything."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def produce(self, topic: str, **record: Any) -> None:
        self.calls.append(("record", record))

    def flush(self, timeout_s: float) -> int:
        self.calls.append(("flush", None))
        return 0

    def poll(self, timeout_s: float = 0.0) -> int:
        return 0

    def wait(self, **_: Any) -> dict[str, int]:
        self.calls.append(("wait", None))
        return {}

    def rank(self, user_id: str, **request: Any) -> pb.RankReply:
        self.calls.append(("rank", {"user_id": user_id, **request}))
        return pb.RankReply(items=[pb.RankedItem(item_id="i3")])


def replayer(log: Log, plan: ReplayPlan) -> Replayer:
    return Replayer(
        plan,
        client=log,  # type: ignore[arg-type]
        producer=log,  # type: ignore[arg-type]
        progress=log,  # type: ignore[arg-type]
        topic="t",
        n_partitions=2,
        token=b"secret",
        item_ids=[f"i{n}" for n in range(5)],
    )


def test_everything_told_so_far_has_passed_before_a_rank() -> None:
    log = Log()
    events = [rating("u", f"i{n}", T0 + n * 90_000) for n in range(4)]
    run = replayer(log, ReplayPlan(n_sampled=1))
    run.learn(rating("u", "i4", T0 - 1))
    (one,) = run.run(events, frozenset({3}))
    names = [name for name, _ in log.calls]
    at = names.index("rank")
    assert names[at - 2 : at] == ["flush", "wait"]
    told = [record for name, record in log.calls[:at] if name == "record"]
    times = [record["timestamp_ms"] for record in told]
    assert times == sorted(times)
    ticks = [record for record in told if record["key"] is None]
    assert {record["partition"] for record in ticks} == {0, 1}
    assert all(record["headers"] == (("liverank-internal", b"secret"),) for record in ticks)
    minutes = sorted({record["timestamp_ms"] for record in ticks})
    assert minutes[0] == T0
    assert all((minute - T0) % 60_000 == 0 for minute in minutes[:-2])
    assert minutes[-1] == events[3].event_ts_ms
    assert sum(record["key"] == b"u" for record in told) == 3
    request = log.calls[at][1]
    assert request["mode"] == MODE_SHADOW
    assert request["shadow"].greedy
    assert request["shadow"].as_of_ms == events[3].event_ts_ms
    assert request["exclude_item_ids"] == ["i4", "i0", "i1", "i2"]
    assert one == Sampled("u-i3", "u", "cold", (True, True, True), ())
    last = [record for name, record in log.calls if name == "record" and record["key"] is None][-1]
    assert last["timestamp_ms"] == events[3].event_ts_ms + 60_000
    assert Event.FromString(last["value"]).type == EventType.EVENT_TYPE_TICK


def test_the_verdict_is_plain_and_repeats() -> None:
    rng = np.random.default_rng(1)

    def sampled(p: tuple[float, float, float]) -> list[Sampled]:
        hits = rng.random((600, 3)) < p
        return [
            Sampled(str(n), f"u{n % 200}", user_state(n // 4), (bool(h[0]), bool(h[1]), bool(h[2])), ())
            for n, h in enumerate(hits)
        ]

    good = judge(sampled((0.3, 0.1, 0.2)), 10)
    assert good.verdict().startswith("liverank is ahead of popular, 1-day half-life: Recall@10 0.")
    assert [row.state for row in good.rows] == ["cold", "warming", "mature", "warm", "all"]
    assert "behind" in judge(sampled((0.1, 0.1, 0.3)), 10).verdict()
    assert "not distinguishable from" in judge(sampled((0.2, 0.1, 0.2)), 10).verdict()
    same = sampled((0.3, 0.1, 0.2))
    assert judge(same, 10).to_json() == judge(list(same), 10).to_json()
    assert good.table().row_count == 5
