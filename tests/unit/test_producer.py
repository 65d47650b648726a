"""EventProducer over a scripted transport: validation, keys, errors surfaced. Delivery itself: tests/integration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import liverank
from liverank.calls import new_event
from liverank.errors import ConfigError, ContractError, UnavailableError
from liverank.producer import EventProducer, Undelivered
from liverank.settings import Endpoints, NamespaceEndpoints, Settings
from liverank.v1.event_pb2 import Event, EventType
from liverank.v1.item_pb2 import Item, ItemChange

OnDelivery = Callable[[Exception | None, int, int], None]


class Scripted:
    """Delivers at `flush`; refuses the items named in `refuse`."""

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes | None, bytes, int | None]] = []
        self.waiting: list[OnDelivery] = []
        self.refuse: set[int] = set()
        self.stuck = 0

    def produce(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes,
        headers: Sequence[tuple[str, bytes]] | None = None,
        timestamp_ms: int | None = None,
        on_delivery: OnDelivery | None = None,
    ) -> None:
        self.headers = headers
        self.records.append((topic, key, value, timestamp_ms))
        assert on_delivery is not None
        self.waiting.append(on_delivery)

    def poll(self, timeout_s: float = 0.0) -> int:
        return 0

    def flush(self, timeout_s: float) -> int:
        for n, done in enumerate(self.waiting):
            done(UnavailableError("broker away") if n in self.refuse else None, 0, n)
        self.waiting.clear()
        return self.stuck


def settings(tmp_path: Path, **changes: object) -> Settings:
    return Settings(home=tmp_path, namespace="t", **changes)  # type: ignore[arg-type]


def test_events_go_to_the_generation_that_is_live_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("liverank.producer.time.monotonic", lambda: now_s)
    producer = EventProducer(settings(tmp_path), transport=(transport := Scripted()))
    for generation in (2, 3):
        found = Endpoints(kafka="k", redis="r", namespaces={"t": NamespaceEndpoints(generation=generation)})
        (tmp_path / "endpoints.json").write_text(found.model_dump_json())
        producer.send(new_event("click", user_id="u", item_id="i"))
        now_s += 1.5
        producer.send(new_event("click", user_id="u", item_id="i"))
    assert [topic.rpartition(".")[2] for topic, *_ in transport.records] == ["1", "2", "2", "3"]


def test_events_are_keyed_completed_and_left_alone(tmp_path: Path) -> None:
    transport = Scripted()
    given = Event(type=EventType.EVENT_TYPE_CLICK, user_id="u", item_id="i")
    with EventProducer(settings(tmp_path), transport=transport) as producer:
        producer.send(given)
        producer.send(new_event("session_end", session_id="s"))
        producer.send_item(ItemChange(item_id="i", upsert=Item(item_id="i")))
    assert producer.n_delivered == 3
    (topic, key, value, ts), (_, other, _, _), (items, item_key, _, _) = transport.records
    assert (topic, key, ts) == ("liverank.t.events.1", b"u", None)
    assert (other, items, item_key) == (b"s", "liverank.t.items", b"i")
    sent = Event.FromString(value)
    assert sent.event_id
    assert sent.event_ts_ms
    assert not given.event_id


def test_a_data_clock_sets_the_record_time(tmp_path: Path) -> None:
    transport = Scripted()
    EventProducer(settings(tmp_path, clock="data"), transport=transport).send(
        new_event("rating", user_id="u", item_id="i", event_ts_ms=1_362_062_307_000)
    )
    assert transport.records[0][3] == 1_362_062_307_000


def test_broken_events_are_refused_at_once(tmp_path: Path) -> None:
    transport = Scripted()
    producer = EventProducer(settings(tmp_path), transport=transport)
    with pytest.raises(ContractError, match="missing_id"):
        producer.send(new_event("click", user_id="u"))
    with pytest.raises(ContractError, match="missing_id"):
        producer.send_item(ItemChange())
    assert not transport.records


def test_delivery_errors_surface(tmp_path: Path) -> None:
    transport = Scripted()
    transport.refuse = {1}
    told: list[Undelivered] = []
    producer = EventProducer(settings(tmp_path), transport=transport, on_error=told.append)
    producer.send_all(new_event("click", user_id="u", item_id=f"i{n}") for n in range(3))
    with pytest.raises(UnavailableError, match=r"1 records were not delivered.*broker away"):
        producer.flush()
    assert [u.message.item_id for u in told] == ["i1"] == [u.message.item_id for u in producer.undelivered]
    assert (producer.n_delivered, producer.n_failed) == (2, 1)
    producer.flush()  # told once
    transport.stuck = 4
    with pytest.raises(UnavailableError, match="4 records still wait"):
        producer.close()


def test_no_address_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="liverank up"):
        EventProducer(settings(tmp_path))


def test_the_public_surface_is_pinned() -> None:
    assert liverank.__all__ == [
        "AsyncClient",
        "Client",
        "ConfigError",
        "ContractError",
        "DeadlineExceededError",
        "EventProducer",
        "LiverankError",
        "NotFoundError",
        "Retry",
        "Settings",
        "UnavailableError",
        "new_event",
        "resolve",
    ]
    assert all(getattr(liverank, name).__name__ == name for name in liverank.__all__)
    with pytest.raises(AttributeError, match="Clientt"):
        _ = liverank.Clientt


def test_a_producer_may_name_itself(tmp_path: Path) -> None:
    transport = Scripted()
    with EventProducer(settings(tmp_path), name="checkout", transport=transport) as producer:
        producer.send(new_event("click", user_id="u", item_id="i"))
    assert transport.headers == [("liverank-producer", b"checkout")]
    with pytest.raises(ConfigError, match="64 bytes"):
        EventProducer(settings(tmp_path), name="x" * 65, transport=transport)
