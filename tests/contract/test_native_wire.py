"""What folds write and read on the wire, in machine code, is what Python writes and reads."""

from __future__ import annotations

import math
import os
import random

import pytest

from features import native
from features.online import EntityRow, OnlineWriter
from features.redis import format_version
from features.state.effects import Effects, _item_event, _item_pairs, _numbered_effect, _read_effects, joined
from features.state.params import RewardWeights
from liverank.contract import validate_event
from liverank.errors import ContractError
from liverank.v1.event_pb2 import Control, Event, EventType
from liverank.v1.stream_pb2 import Example, ItemEffect, ItemEffects, ItemRow
from streams.fence import _flat
from streams.numbers import _item_row, _numbered, _user_change
from streams.outbox import Output, encode_slowly

core = native.core
pytestmark = pytest.mark.skipif(
    core is None and os.environ.get("CI") != "true", reason=f"no native state: {native.why_not}"
)

T0 = 1_700_000_000_000
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
FIELDS = ("request_id", "shown_ms", "append_ts_ms", "surface", "user_id", "session_id", "head_bits")
REWARDS = RewardWeights().in_order


def item(rng: random.Random) -> str:
    return f"item-{rng.randrange(60)}"


@pytest.mark.parametrize("seed", range(20))
def test_effects(seed: int) -> None:
    rng = random.Random(seed)

    def number() -> float:
        return rng.choice([0.0, 1.0, -1.0, rng.random(), 1e300])

    event = (
        item(rng),
        rng.randrange(60),
        rng.randrange(-1, T0),
        number(),
        number(),
        rng.choice(["", "é"]),
        number(),
        3,
    )
    n = rng.randrange(4)
    pairs = (item(rng), [rng.getrandbits(63) - (1 << 62) for _ in range(n)], [number() for _ in range(n)], T0)
    for ours, theirs in (
        (_item_event(*event), core.item_event(*event)),
        (_item_pairs(*pairs), core.item_pairs(*pairs)),
    ):
        assert ItemEffect.FromString(ours) == ItemEffect.FromString(theirs)
        place = (rng.randrange(1 << 40), rng.randrange(3), rng.randrange(3000))
        entries = [make(*place, theirs) for make in (_numbered_effect, core.numbered_effect)]
        assert len({ItemEffects.FromString(each).effects[0].SerializeToString() for each in entries}) == 1
    clock = _numbered_effect(1, 0, 0, ItemEffect(clock_ms=T0).SerializeToString())
    controls = ItemEffect(control=Control(kind="activate", payload=b"x")).SerializeToString()
    packed = joined(2, 3, [*entries, clock, core.numbered_effect(*place, controls), core.numbered_effect(1, 2, 3, b"")])
    for record in (packed, ItemEffects(generation=1, control=Control(kind="k")).SerializeToString(), b""):
        assert Effects(*core.read_effects(record)) == _read_effects(record)
    for broken in (b"\x1a", b"\x1a\x05abc", b"\xff" * 12):
        with pytest.raises(ValueError, match="protobuf"):
            core.read_effects(broken)


def exposure(rng: random.Random) -> Event:
    event = Event(event_id="r", type=EventType.EVENT_TYPE_EXPOSURE, user_id="u", event_ts_ms=T0, surface="h")
    heads = rng.choice([["click", "dismiss"], ["click"], []])
    event.exposure.heads.extend(heads)
    for _ in range(rng.randrange(1, 12)):
        event.exposure.slots.add(
            item_id=item(rng), catalogue_version=rng.randrange(-1, 9), propensity=0.1 + 0.9 * rng.random(),
            p_shown=[rng.random() for _ in heads], p_first=[rng.random() for _ in heads],
            phi=[rng.random() for _ in range(4)] if heads else [],
        )  # fmt: skip
    return event


def odd(rng: random.Random) -> Event:
    """An event that keeps the contract, or breaks it in some place."""
    if rng.random() < 0.4:
        event = exposure(rng)
        for slot in event.exposure.slots:
            slot.propensity = rng.choice([slot.propensity] * 30 + [0.0, 1.5, math.nan])
            slot.item_id = rng.choice([slot.item_id] * 30 + [""])
            if slot.phi and rng.random() < 0.05:
                slot.phi[0] = math.inf
            if rng.random() < 0.05:
                slot.p_first.append(0.5)
    else:
        event = Event(
            event_id="e", type=rng.randrange(0, 16), user_id="u", item_id="i", event_ts_ms=T0, value=8.0, surface="h"
        )
        if event.type == EventType.EVENT_TYPE_SURVEY:
            event.value = 0.5
    for _ in range(rng.choice([0, 0, 1, 2])):
        name = rng.choice(["event_id", "user_id", "session_id", "item_id", "request_id", "surface", "anonymous_id"])
        setattr(event, name, rng.choice(["", "x" * 64, "x" * 65, "x" * 128, "x" * 129, "é" * 40]))
    if rng.random() < 0.2:
        event.event_ts_ms = rng.choice([0, -1, 10**11, 10**11 - 1, T0 + 300_000, T0 + 300_001, T0 + 10**9])
    if rng.random() < 0.2:
        event.value = rng.choice([-1.0, 2.0, 0.0, math.nan, math.inf, 1e12, -1e12, 1.000001e12, -1e303])
    if rng.random() < 0.1:
        event.position = rng.choice([-1, 10_000, 10_001])
    if rng.random() < 0.05:
        event.context.device = rng.choice(["phone", "x" * 99])
    if rng.random() < 0.05:
        event.attributes["a"].text = rng.choice(["b", "x" * 2000])
    return event


@pytest.mark.parametrize("seed", range(3))
def test_what_is_plainly_right_keeps_the_contract(seed: int) -> None:
    rng, plain_events, refused = random.Random(seed), 0, 0
    for _ in range(3000):
        event = odd(rng)
        packed = event.SerializeToString()
        if core.plain_event(packed, T0):
            validate_event(event, now_ms=T0)
            plain_events += 1
        else:
            try:
                validate_event(event, now_ms=T0)
            except ContractError:
                refused += 1
    assert plain_events > 500
    assert refused > 500
    assert not core.plain_event(b"\xff" * 20, T0)


def arguments(command: bytes) -> list[bytes]:
    """The arguments of a packed Redis command."""
    (found,) = all_arguments(command)
    return found


def all_arguments(commands: bytes) -> list[list[bytes]]:
    """The arguments of packed Redis commands, one after the other."""
    found, rest = [], commands
    while rest:
        head, rest = rest.split(b"\r\n", 1)
        found.append([])
        for _ in range(int(head[1:])):
            size, rest = rest.split(b"\r\n", 1)
            found[-1].append(rest[: int(size[1:])])
            rest = rest[int(size[1:]) + 2 :]
    return found


def as_sent(each: bytes | str | int) -> bytes:
    return each if isinstance(each, bytes) else str(each).encode()


def test_a_fence_is_sent_alike() -> None:
    pages = {"u1": {b"a": b"1", b"b": b"", b"c": b"\r\n" * 300}, "é": {b"x": b""}, "#stats:m:s": {b"d": bytes(70_000)}}
    keys, prefix, args = [b"k1", b"k2", b"k3"], b"ns:{ns.1.0}:u:", [7, b"1:2:0", "text", -5, b""]
    n_keys, flat = _flat(keys, prefix, args, pages)
    sent = arguments(core.fence_command("sha", keys, prefix, args, pages))
    assert sent == [b"EVALSHA", b"sha", str(n_keys).encode(), *map(as_sent, flat)]


class Wire:
    """Stands in for Redis: keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[list[bytes]] = []

    def script_load(self, source: str) -> str:
        return "sha"

    def pipeline(self, transaction: bool) -> Wire:
        return self

    def execute_command(self, *args: bytes | str | int) -> None:
        self.sent.append([as_sent(each) for each in args])

    def execute(self, raise_on_error: bool) -> list[list[int]]:
        return [[1]] * len(self.sent)

    @property
    def connection_pool(self) -> Wire:
        return self

    def get_connection(self) -> Wire:
        return self

    def release(self, connection: Wire) -> None:
        return

    def send_packed_command(self, commands: list[bytes]) -> None:
        for each in commands:
            self.sent += all_arguments(each)

    def read_response(self) -> list[int]:
        return [1]


def test_restored_pages_are_sent_as_they_are() -> None:
    pages = {"u1": {b"a": b"1", b"b": b"", b"c": b"\r\n"}, "å": {b"x": b""}, "#d": {b"p": b"0"}}
    sent = [arguments(command) for command in core.page_commands(b"ns:u:", pages)]
    assert sent == [
        [b"HSET", b"ns:u:u1", b"a", b"1", b"c", b"\r\n"],
        [b"HDEL", b"ns:u:u1", b"b"],
        [b"HDEL", "ns:u:å".encode(), b"x"],
        [b"HSET", b"ns:u:#d", b"p", b"0"],
    ]


def test_rows_are_sent_alike() -> None:
    version = format_version(1, 42, 0)
    entities = [
        EntityRow("user_id", "ü", {b"v:a": b"1" * 200, b"w:x": b"", b"v:b": b"2"}, T0 + 7, version),
        EntityRow("user_id", "u2", {b"user_session:state": bytes(1000)}, T0, version),
        EntityRow("item_id", "i", {b"abc:d": b"e"}, 0, version),
    ]
    ours, theirs = Wire(), Wire()
    OnlineWriter(ours, "project", ttl_s=9).write([row for entity in entities for row in entity.rows()])
    OnlineWriter(theirs, "project", ttl_s=9).write_entities(entities)
    assert ours.sent == theirs.sent
    assert len(theirs.sent) == 3


def test_item_rows() -> None:
    row = (1, 1 << 40, 3, "é", {b"v:a": b"1" * 200, b"w:x": b""}, T0)
    assert ItemRow.FromString(core.item_row(*row)) == ItemRow.FromString(_item_row(*row))


def test_numbers() -> None:
    place = (1, 3, 1 << 40, 2, 77, Example(user_id="u").SerializeToString())
    assert core.numbered(*place) == _numbered(*place)
    assert Example.FromString(core.numbered(*place)).number.offset == 1 << 40


@pytest.mark.parametrize("seed", range(20))
def test_outboxes(seed: int) -> None:
    rng = random.Random(seed)

    def data(most: int) -> bytes:
        return rng.randbytes(rng.randrange(most))

    dirty = {f"ü{at}" + "k" * rng.randrange(90): [data(60) for _ in range(rng.randrange(4))] for at in range(5)}
    outputs = [
        Output(
            rng.choice(["examples", "item-effects"]),
            rng.randrange(-1, 300),
            rng.choice([None, data(100)]),
            data(3000),
            tuple((f"h{at}", data(300)) for at in range(rng.randrange(3))),
        )
        for _ in range(rng.randrange(6))
    ]
    assert core.encode_outbox(dirty, outputs) == encode_slowly(dirty, outputs)


def test_public_fields() -> None:
    fields = {b"_d1": b"x", b"v:a": b"", b"": b"1", b"v:b": b"2"}
    assert core.public_fields(fields) == {b"v:a": b"", b"": b"1", b"v:b": b"2"}


@pytest.mark.parametrize("change", [("u-1", T0, T0 + 5), ("é" * 60, 0, -1), ("", -5, 0)])
def test_user_changes(change: tuple[str, int, int]) -> None:
    assert core.user_change(*change) == _user_change(*change)
