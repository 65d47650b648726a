"""Who sends with a wrong clock, to a wrong partition or outside the contract is named."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from liverank.contract import PRODUCER_HEADER
from liverank.errors import ContractError
from liverank.kafka import Record
from liverank.v1.event_pb2 import Event, EventType
from streams.fold import Parsed
from streams.producers import ProducerWatch

NOW_MS = 1_700_000_000_000


def record(offset: int, name: str = "", *, forwarded: bool = False) -> Record:
    headers = ((PRODUCER_HEADER, name.encode()),) if name else ()
    if forwarded:
        headers += (("liverank-forwarded", b"1"),)
    return Record("events.1", 0, offset, b"u", b"", headers, NOW_MS)


def parsed(event_ts_ms: int, surface: str = "home") -> Parsed:
    event = Event(type=EventType.EVENT_TYPE_CLICK, user_id="u", item_id="i", event_ts_ms=event_ts_ms, surface=surface)
    return Parsed(("u",), event, b"u")


def value(metric: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(metric, labels) or 0.0


@pytest.fixture
def watch() -> ProducerWatch:
    return ProducerWatch(clock_s=iter(range(0, 10**9, 60)).__next__)


def test_a_clock_that_is_ahead_is_named_with_its_seconds_and_warned_about_once_in_ten_minutes(
    watch: ProducerWatch,
) -> None:
    with capture_logs() as said:
        watch.note([(record(at, "till-7"), parsed(NOW_MS + 42_000)) for at in range(5)])
        watch.note([(record(at, "till-8"), parsed(NOW_MS + 500)) for at in range(5)])
    assert value("liverank_producer_clock_ahead_seconds", producer="till-7") == 42.0
    assert value("liverank_producer_clock_ahead_seconds", producer="till-8") == 0.0
    assert [line["producer"] for line in said] == ["till-7"]
    assert "42.0 s ahead" in said[0]["event"]


def test_late_senders_are_named_by_their_mean_delay(watch: ProducerWatch) -> None:
    watch.note([(record(at, "offline"), parsed(NOW_MS - 900_000)) for at in range(64)])
    assert value("liverank_producer_delay_seconds", producer="offline") == pytest.approx(900.0)


def test_stray_partitioners_and_refused_records_are_counted_by_producer(watch: ProducerWatch) -> None:
    with capture_logs() as said:
        watch.note([(record(at, "legacy", forwarded=True), parsed(NOW_MS)) for at in range(3)])
        watch.note([(record(9, "legacy"), ContractError("missing_id", "item_id is required"))])
        watch.note([(record(10, forwarded=True), parsed(NOW_MS, surface="mail"))])
    assert value("liverank_producer_strays_total", producer="legacy") == 3.0
    assert value("liverank_producer_strays_total", producer="surface mail") == 1.0
    assert value("liverank_producer_refused_total", producer="legacy", reason="missing_id") == 1.0
    assert any("murmur2_random" in line["event"] for line in said)


def test_names_are_bounded(watch: ProducerWatch) -> None:
    watch.note([(record(at, f"app-{at}", forwarded=True), parsed(NOW_MS)) for at in range(300)])
    assert value("liverank_producer_strays_total", producer="(more than 100 producers)") == 200.0
