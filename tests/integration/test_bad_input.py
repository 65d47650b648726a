"""Bad input on the real stack: a dead letter with its reason for each bad record, a status with its reason for each bad
call, good input beside it untouched, no process restarted."""

from __future__ import annotations

import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from features.redis import connect
from features.user_row import UserRowReader
from infra.stack import Stack
from liverank.kafka import BEGINNING, LogReader, Producer, Tp, end_offsets
from liverank.settings import FeastSettings, RankerSettings, Settings
from liverank.v1 import personalization_pb2 as pb
from liverank.v1.decision_pb2 import MODE_SHADOW
from liverank.v1.event_pb2 import DeadLetter, Event, EventType
from liverank.v1.item_pb2 import Item, ItemChange, ItemVector
from liverank.v1.personalization_pb2_grpc import PersonalizationStub

PATIENCE_S = 40.0
JSON = (("content-type", b"application/json"),)
CLICK = EventType.EVENT_TYPE_CLICK
MakeRunning = Callable[..., Settings]


def event(**changes: Any) -> bytes:
    now_ms = time.time_ns() // 1_000_000
    return Event(
        **{"event_id": "e", "type": CLICK, "user_id": "u", "item_id": "i1", "event_ts_ms": now_ms, **changes}
    ).SerializeToString()


def item(item_id: str, **changes: Any) -> bytes:
    return ItemChange(
        item_id=item_id, upsert=Item(title="A title", available=True, categories=["jazz"], **changes)
    ).SerializeToString()


def bad_events() -> list[tuple[str, bytes, tuple[tuple[str, bytes], ...]]]:
    """Reason, value, headers."""
    far_ms = time.time_ns() // 1_000_000 + 86_400_000
    return [
        ("malformed", b"\xff\xff\xff", ()),
        ("malformed", b"{not json", JSON),
        ("unknown_type", event(type=40), ()),
        ("unknown_type", event(type=0), ()),
        ("unknown_type", b'{"type": "EVENT_TYPE_POKE", "event_id": "e"}', JSON),
        ("missing_id", event(event_id=""), ()),
        ("missing_id", event(user_id=""), ()),
        ("missing_id", event(item_id=""), ()),
        ("future", event(event_ts_ms=far_ms), ()),
        ("bad_timestamp", event(event_ts_ms=1_763_700_000), ()),
        ("not_finite", event(value=math.nan), ()),
        ("bad_value", event(value=1e303), ()),
        ("too_large", event(surface="s" * 65), ()),
        ("too_large", event(event_id="x" * 70_000), ()),
        ("not_allowed", event(type=EventType.EVENT_TYPE_TICK), ()),
    ]


def bad_items() -> list[tuple[str, bytes]]:
    return [
        ("malformed", b"\xff\xff\xff"),
        ("malformed", ItemChange(item_id="x").SerializeToString()),
        ("missing_id", ItemChange(upsert=Item(title="t")).SerializeToString()),
        ("too_large", item("x", text="t" * 16_385)),
        ("not_finite", item("x", price=math.nan)),
        ("bad_value", item("x", price=1e303)),
        ("bad_vector", item("x", vectors=[ItemVector(space="own", values=[1.0])])),
        ("not_finite", item("x", vectors=[ItemVector(space="own", values=[1.0, math.inf])])),
    ]


def dead_letters(settings: Settings) -> list[DeadLetter]:
    tps = [Tp(settings.topic("dead-letter"), p) for p in range(settings.stack.partitions)]
    ends = end_offsets(settings.kafka.bootstrap, tps)
    reader, found = LogReader(settings.kafka.bootstrap, dict.fromkeys(tps, BEGINNING)), []
    try:
        while len(found) < sum(ends.values()):
            found += [DeadLetter.FromString(record.value) for record in reader.poll_batch(1000, 1.0)]
    finally:
        reader.close()
    return found


def until(check: Callable[[], Any], what: str) -> Any:
    deadline_s = time.monotonic() + PATIENCE_S
    while not (answer := check()):
        if time.monotonic() > deadline_s:
            pytest.fail(f"not in {PATIENCE_S:g} s: {what}")
        time.sleep(0.1)
    return answer


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    """Status and reason of a refused call."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    reasons = [value for name, value in error.trailing_metadata() if name == "liverank-reason"]
    assert error.details()
    assert "Traceback" not in error.details()
    return error.code().name, reasons[0] if reasons else ""


def test_bad_input_is_refused_with_its_reason_and_nothing_is_lost(make_running: MakeRunning) -> None:
    settings = make_running(workers=1, rankers=1, ranker={"surfaces": ("home", "default")})
    stack = Stack(settings.model_copy(update={"ranker": RankerSettings(), "feast": FeastSettings()}))
    pids = {state.name: state.pid for state in stack.status().processes}
    events, items = settings.topic("events", 1), settings.topic("items")
    producer = Producer(settings.kafka.bootstrap, linger_ms=0)

    def send(topic: str, key: bytes, value: bytes, headers: tuple[tuple[str, bytes], ...] = ()) -> None:
        producer.produce(topic, key=key, value=value, headers=headers)

    sent: list[tuple[str, str, bytes]] = []
    send(settings.topic("item-rows"), b"x", b"\xff\xff\xff")  # what workers tell rankers; nobody else writes it
    assert producer.flush(10) == 0
    send(items, b"gone", item("gone"))
    send(items, b"gone", b"")  # a tombstone: removed, no dead letter
    for n, (reason, value) in enumerate(bad_items()):
        send(items, b"x", value)
        send(items, f"i{n}".encode(), item(f"i{n}"))
        sent.append((items, reason, value))
    for n, (reason, value, headers) in enumerate(bad_events()):
        send(events, b"u", value, headers)
        send(events, b"u", event(event_id=f"good-{n}", item_id="never-heard-of" if n % 2 else "i1"))
        sent.append((events, reason, value))
    assert producer.flush(10) == 0
    n_good = len(bad_events())

    letters = until(
        lambda: found if len(found := dead_letters(settings)) >= len(sent) else None, f"{len(sent)} dead letters"
    )
    assert sorted((letter.topic, letter.reason, letter.value) for letter in letters) == sorted(sent)
    assert all(letter.detail for letter in letters)
    assert len({(letter.topic, letter.partition, letter.offset) for letter in letters}) == len(sent)

    channel = grpc.insecure_channel(settings.ranker.grpc)
    stub = PersonalizationStub(channel)  # type: ignore[no-untyped-call]

    def rank(**fields: Any) -> pb.RankReply:
        request = pb.RankRequest(**{"user_id": "u", "k": 5, "mode": MODE_SHADOW, **fields})
        return stub.Rank(request, timeout=10)  # type: ignore[no-any-return]

    def unheard_of() -> set[str]:
        ids = ["x", *(f"i{n}" for n in range(len(bad_items())))]
        reply = rank(candidates=[pb.Candidate(item_id=one) for one in ids])
        return {left.item_id for left in reply.not_ranked if left.reason == "unknown"}

    def unavailable() -> bool:
        return [left.reason for left in rank(candidates=[pb.Candidate(item_id="gone")]).not_ranked] == ["unavailable"]

    until(lambda: unheard_of() == {"x"}, "good items are known, the refused one is not")
    until(unavailable, "the item with a tombstone is gone")

    # Good events on the same partition, those on an unknown item too, all count.
    from features.apply import open_store

    reader = UserRowReader(open_store(settings, timeout_s=10.0))

    def clicks() -> float:
        row = reader.read("u")
        values = row.windows(time.time_ns() // 1_000_000)
        return float(values[row.window_names.index("clicks_1d")])

    until(lambda: clicks() == n_good, f"{n_good} clicks counted")

    for fields, reason in (
        ({"k": 0}, "bad_value"),
        ({"k": -1}, "bad_value"),
        ({"k": 10_000}, "bad_value"),
        ({"surface": "moon"}, "unknown_surface"),
        ({"surface": "s" * 65}, "too_large"),
        ({"user_id": ""}, "missing_id"),
        ({"user_id": "u" * 129}, "too_large"),
        ({"request_id": "1"}, "bad_request_id"),
        ({"candidates": [pb.Candidate(item_id="i1", scores={"mine": math.nan})]}, "not_finite"),
        ({"filter": pb.Filter(conditions=[pb.Condition(field="colour")])}, "bad_filter"),
    ):
        assert refusal(lambda fields=fields: rank(**fields)) == ("INVALID_ARGUMENT", reason), fields  # type: ignore[misc]
    unknown = rank(candidates=[pb.Candidate(item_id="unheard-of"), pb.Candidate(item_id="i1")])
    assert [(one.item_id, one.reason) for one in unknown.not_ranked] == [("unheard-of", "unknown")]
    similar = pb.SimilarRequest(item_ids=["unheard-of"], k=5)
    assert refusal(lambda: stub.Similar(similar, timeout=10))[0] == "NOT_FOUND"
    for k in (0, 10_000):
        wrong = pb.SimilarRequest(item_ids=["i1"], k=k)
        assert refusal(lambda wrong=wrong: stub.Similar(wrong, timeout=10)) == ("INVALID_ARGUMENT", "bad_value")  # type: ignore[misc]
    assert refusal(lambda: stub.Track(pb.TrackRequest(), timeout=10)) == ("INVALID_ARGUMENT", "bad_value")
    raw = channel.unary_unary("/liverank.v1.Personalization/Rank")
    assert refusal(lambda: raw(b"\xff\xff\xff\xff", timeout=5))[0] in ("INTERNAL", "INVALID_ARGUMENT")

    for path, body, reason in (
        ("rank", b"{not json", "malformed"),
        ("rank", b'{"userId": "u", "k": 10000}', "bad_value"),
        ("rank", b'{"userId": "u", "k": "many"}', "malformed"),
        ("rank", b'{"userId": "u", "k": 5, "colour": 1}', "malformed"),
        ("rank", b"\xff\xfe", "malformed"),
        ("similar", b'{"k": 5}', "bad_value"),
        ("track", b'{"events": []}', "bad_value"),
    ):
        status, answer = post(settings, path, body)
        assert (status, answer["reason"]) == (400, reason), (path, body, answer)

    assert {state.name: state.pid for state in stack.status().processes} == pids, "a process was restarted"
    assert rank().items
    channel.close()
    with connect(settings) as client:
        assert client.get(f"{settings.namespace}:active") == b"1"


def post(settings: Settings, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(f"http://{settings.ranker.http}/v1/{path}", body)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())
