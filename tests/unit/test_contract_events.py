"""The contract at its edges: round trips, refusals, fuzzing."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from google.protobuf import json_format

from liverank.contract import (
    DERIVED,
    NEGATIVE,
    POSITIVE,
    decode_event,
    decode_item,
    event_id_of,
    event_key,
    header,
    polarity,
    uuid7,
    uuid7_ms,
    validate_event,
    validate_item,
)
from liverank.errors import ContractError
from liverank.v1.event_pb2 import Attribute, Context, Control, Event, EventType, Exposure, ExposureSlot
from liverank.v1.item_pb2 import Item, ItemChange, ItemRemoved, ItemVector

NOW_MS = 1_763_700_000_000
JSON_HEADERS = {"content-type": b"application/json"}
SPEC = Path(__file__).parents[2] / "docs" / "specs" / "dead-letters.md"
CODES = frozenset(re.findall(r"^\| `([a-z_]+)` \|", SPEC.read_text(), re.MULTILINE))


def event_of(type_: int, **changes: object) -> Event:
    """A full valid event of a type."""
    event = Event(
        event_id="e-1",
        type=type_,  # type: ignore[arg-type]
        user_id="u-1",
        session_id="s-1",
        item_id="i-1",
        event_ts_ms=NOW_MS - 1000,
        value=0.5,
        request_id=uuid7(NOW_MS, random.Random(1)),
        position=3,
        surface="home",
        context=Context(
            device="phone", region="DE", language="de-DE", utc_offset_minutes=60, attributes={"a": Attribute(flag=True)}
        ),
        attributes={"query": Attribute(text="größer"), "n": Attribute(number=2.5)},
        anonymous_id="anon",
    )
    if type_ == EventType.EVENT_TYPE_EXPOSURE:
        slot = ExposureSlot(item_id="i-1", propensity=0.25, p_shown=[0.1, 0.2], p_first=[0.2, 0.1], phi=[1.0, 0.5])
        event.exposure.CopyFrom(
            Exposure(
                policy="thompson", base_model="m", schema="s1", drawn=True, heads=["click", "dismiss"], slots=[slot]
            )
        )
    if type_ == EventType.EVENT_TYPE_CONTROL:
        event.control.CopyFrom(Control(kind="erase", payload=b"{}"))
    for name, value in changes.items():
        setattr(event, name, value)
    return event


def item_change(**changes: object) -> ItemChange:
    """A full valid catalogue change."""
    item = Item(
        item_id="i-1",
        title="A title",
        text="Some text",
        price=9.5,
        available=True,
        creator="c",
        categories=["a", "b"],
        published_ts_ms=NOW_MS,
        attributes={"year": Attribute(number=1999)},
        vectors=[ItemVector(space="own", values=[0.1, 0.2])],
    )
    for name, value in changes.items():
        setattr(item, name, value)
    return ItemChange(item_id="i-1", upsert=item)


def reason_of(event: Event, **options: bool) -> str:
    with pytest.raises(ContractError) as caught:
        validate_event(event, now_ms=NOW_MS, **options)
    assert caught.value.reason in CODES
    assert caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("type_", [value for value in EventType.values() if value and value not in DERIVED])
def test_ING_1_all_types_round_trip(type_: int) -> None:
    event = event_of(type_)
    validate_event(event, now_ms=NOW_MS, internal=True)
    assert decode_event(event.SerializeToString()) == event
    text = json_format.MessageToJson(event)
    assert decode_event(text.encode(), JSON_HEADERS) == event
    assert decode_event(text.encode(), [("content-type", b"application/json; charset=utf-8")]) == event


def test_ING_1_catalogue_changes_round_trip() -> None:
    for change in (item_change(), ItemChange(item_id="i-1", removed=ItemRemoved(reason="sold"))):
        validate_item(change)
        assert decode_item(change.SerializeToString()) == change
        assert decode_item(json_format.MessageToJson(change).encode(), JSON_HEADERS) == change


def _mutated(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        action = rng.randrange(4)
        at = rng.randrange(len(out) + 1)
        if action == 0:
            out[at:at] = rng.randbytes(rng.randint(1, 8))
        elif action == 1 and out:
            del out[at : at + rng.randint(1, 8)]
        elif action == 2 and at < len(out):
            out[at] = rng.randrange(256)
        else:
            out = out[: max(at, 1)]
    return bytes(out)


def _refusal(check: Callable[[], object]) -> ContractError | None:
    """What a check refuses; any other exception is a crash and fails the test."""
    try:
        check()
    except ContractError as error:
        return error
    return None


def test_ING_1_fuzzed_payloads_never_crash_and_every_refusal_has_a_code() -> None:
    rng = random.Random(20)
    seeds = [event_of(t) for t in EventType.values() if t and t not in DERIVED]
    binary = [event.SerializeToString() for event in seeds]
    text = [json_format.MessageToJson(event).encode() for event in seeds]

    def accept(payload: bytes, n: int) -> None:
        event = decode_event(payload, JSON_HEADERS if n % 2 else None)
        validate_event(event, now_ms=NOW_MS, internal=n % 3 == 0, exposures=n % 5 > 0)
        assert event.type in {51, 52} or event_key(event)

    refused = 0
    for n in range(10_000):
        base = rng.choice(text if n % 2 else binary)
        payload = rng.randbytes(rng.randint(0, 200)) if n % 10 == 0 else _mutated(base, rng)
        refusal = _refusal(partial(accept, payload, n))
        if refusal is not None:
            refused += 1
            assert refusal.reason in CODES
            assert refusal.detail
    assert refused > 5_000


def test_ING_1_fuzzed_catalogue_payloads_never_crash() -> None:
    rng = random.Random(21)
    binary = item_change().SerializeToString()
    text = json_format.MessageToJson(item_change()).encode()
    for n in range(2_000):
        payload = _mutated(text if n % 2 else binary, rng)
        headers = JSON_HEADERS if n % 2 else None
        refusal = _refusal(lambda payload=payload, headers=headers: validate_item(decode_item(payload, headers)))  # type: ignore[misc]
        assert refusal is None or refusal.reason in CODES


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"type": 0}, "unknown_type"),
        ({"type": 40}, "unknown_type"),
        ({"type": 53}, "unknown_type"),
        ({"type": 51}, "not_allowed"),
        ({"type": 52}, "not_allowed"),
        ({"event_id": ""}, "missing_id"),
        ({"event_id": "x" * 65}, "too_large"),
        ({"user_id": "", "session_id": ""}, "missing_id"),
        ({"user_id": "ü" * 65}, "too_large"),
        ({"item_id": ""}, "missing_id"),
        ({"event_ts_ms": 0}, "bad_timestamp"),
        ({"event_ts_ms": -5}, "bad_timestamp"),
        ({"event_ts_ms": NOW_MS // 1000}, "bad_timestamp"),
        ({"event_ts_ms": NOW_MS + 300_001}, "future"),
        ({"value": math.nan}, "not_finite"),
        ({"value": math.inf}, "not_finite"),
        ({"value": 1.000001e12}, "bad_value"),
        ({"value": -1e303}, "bad_value"),
        ({"position": -1}, "bad_value"),
        ({"surface": "s" * 65}, "too_large"),
        ({"type": EventType.EVENT_TYPE_DWELL, "value": -1.0}, "bad_value"),
        ({"type": EventType.EVENT_TYPE_SURVEY, "value": 2.0}, "bad_value"),
        ({"type": EventType.EVENT_TYPE_EXPOSURE}, "bad_exposure"),
    ],
)
def test_broken_events_are_refused_with_their_reason(changes: dict[str, object], reason: str) -> None:
    assert reason_of(event_of(EventType.EVENT_TYPE_CLICK, **changes)) == reason


def test_nested_faults_are_refused() -> None:
    click = event_of(EventType.EVENT_TYPE_CLICK)
    click.attributes["a"].number = math.nan
    assert reason_of(click) == "not_finite"
    click = event_of(EventType.EVENT_TYPE_CLICK)
    for n in range(17):
        click.attributes[f"k{n}"].flag = True
    assert reason_of(click) == "too_large"
    click = event_of(EventType.EVENT_TYPE_CLICK)
    click.context.utc_offset_minutes = 900
    assert reason_of(click) == "bad_value"
    click = event_of(EventType.EVENT_TYPE_CLICK)
    click.exposure.policy = "x"
    assert reason_of(click) == "not_allowed"
    assert reason_of(event_of(EventType.EVENT_TYPE_EXPOSURE), exposures=False) == "not_allowed"
    shown = event_of(EventType.EVENT_TYPE_EXPOSURE)
    shown.exposure.slots[0].propensity = 0.0
    assert reason_of(shown) == "bad_exposure"
    shown = event_of(EventType.EVENT_TYPE_EXPOSURE)
    shown.exposure.slots[0].phi[0] = math.nan
    assert reason_of(shown) == "not_finite"


def test_the_limits_themselves_are_allowed() -> None:
    event = event_of(
        EventType.EVENT_TYPE_CLICK, event_id="x" * 64, user_id="u" * 128, event_ts_ms=NOW_MS + 300_000, value=-1e12
    )
    validate_event(event, now_ms=NOW_MS)
    session_end = event_of(EventType.EVENT_TYPE_SESSION_END, item_id="", user_id="")
    validate_event(session_end, now_ms=NOW_MS)
    assert event_key(session_end) == b"s-1"


def test_decode_refuses_what_is_no_event() -> None:
    for value, headers, reason in (
        (None, None, "malformed"),
        (b"\xff\xff\xff", None, "malformed"),
        (b"{", JSON_HEADERS, "malformed"),
        (b"[1]", JSON_HEADERS, "malformed"),
        (b"[" * 60_000, JSON_HEADERS, "malformed"),
        (b'{"value": ' + b"9" * 10_000 + b"}", JSON_HEADERS, "malformed"),
        (b"\xff\xfe", JSON_HEADERS, "malformed"),
        (b'{"type": "EVENT_TYPE_POKE"}', JSON_HEADERS, "unknown_type"),
        (b" " * 65_537, None, "too_large"),
    ):
        with pytest.raises(ContractError) as caught:
            decode_event(value, headers)
        assert caught.value.reason == reason


def test_fields_of_a_newer_producer_are_ignored() -> None:
    click = event_of(EventType.EVENT_TYPE_CLICK)
    assert decode_event(click.SerializeToString() + b"\xfa\x3f\x01x").event_id == "e-1"
    text = json_format.MessageToJson(click).replace("{", '{"newField": 1,', 1)
    assert decode_event(text.encode(), JSON_HEADERS) == click


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"item_id": "other"}, "malformed"),
        ({"title": "t" * 1025}, "too_large"),
        ({"text": "t" * 16_385}, "too_large"),
        ({"price": math.nan}, "not_finite"),
        ({"price": -1.0}, "bad_value"),
        ({"price": 1e13}, "bad_value"),
        ({"published_ts_ms": 1_700_000_000}, "bad_timestamp"),
    ],
)
def test_broken_items_are_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ContractError) as caught:
        validate_item(item_change(**changes))
    assert caught.value.reason == reason


def test_broken_vectors_are_refused() -> None:
    for vectors, dims, reason in (
        ([ItemVector(space="own", values=[1.0])], {}, "bad_vector"),
        ([ItemVector(space="own", values=[1.0] * 1025)], {}, "bad_vector"),
        ([ItemVector(space="", values=[1.0, 2.0])], {}, "bad_vector"),
        ([ItemVector(space="own", values=[1.0, 2.0])] * 2, {}, "bad_vector"),
        ([ItemVector(space="own", values=[1.0, 2.0])], {"own": 3}, "bad_vector"),
        ([ItemVector(space="own", values=[1.0, math.nan])], {}, "not_finite"),
    ):
        change = item_change()
        del change.upsert.vectors[:]
        change.upsert.vectors.extend(vectors)
        with pytest.raises(ContractError) as caught:
            validate_item(change, dims=dims)
        assert caught.value.reason == reason
    with pytest.raises(ContractError, match="neither"):
        validate_item(ItemChange(item_id="i"))
    with pytest.raises(ContractError, match="missing_id"):
        validate_item(ItemChange())


def test_uuid7_carries_its_time_and_repeats_by_seed() -> None:
    first, second = uuid7(NOW_MS, random.Random(3)), uuid7(NOW_MS, random.Random(3))
    assert first == second
    assert uuid7_ms(first) == NOW_MS
    assert uuid7(NOW_MS + 1, random.Random(3)) > first
    for broken in ("", "x", "6fa459ea-ee8a-3ca4-894e-db77e160355e"):
        with pytest.raises(ContractError, match="bad_request_id"):
            uuid7_ms(broken)
    with pytest.raises(ContractError, match="bad_timestamp"):
        uuid7(1 << 48, random.Random(3))
    assert event_id_of("key", 0) == event_id_of("key", 0) != event_id_of("key", 1)


def test_polarity_by_type_and_value() -> None:
    assert all(polarity(t, 0.0) == 1 for t in POSITIVE)
    assert all(polarity(t, 0.0) == -1 for t in NEGATIVE | {EventType.EVENT_TYPE_ABANDON})
    dwell, rating, survey = EventType.EVENT_TYPE_DWELL, EventType.EVENT_TYPE_RATING, EventType.EVENT_TYPE_SURVEY
    assert [polarity(dwell, v) for v in (1, 10, 30)] == [-1, 0, 1]
    assert [polarity(rating, v) for v in (2, 5, 8)] == [-1, 0, 1]
    assert [polarity(survey, v) for v in (0.2, 0.5, 0.8)] == [-1, 0, 1]
    assert polarity(EventType.EVENT_TYPE_IMPRESSION, 0.0) == 0


def test_headers_as_map_or_list() -> None:
    assert header(None, "a") is None
    assert header({"a": b"1"}, "a") == b"1"
    assert header([("b", b"2"), ("a", b"1"), ("a", b"3")], "a") == b"1"
    assert header([("b", b"2")], "a") is None
