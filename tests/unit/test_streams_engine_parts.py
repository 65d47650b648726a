"""Parts of the fold engine that need no store: numbers, calls, outbox, due index, catalogue, partitioner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.redis import format_version, parse_version
from features.state.effects import numbered_effect
from liverank.errors import ConfigError, ContractError
from liverank.kafka import Record
from liverank.partition import murmur2, partition
from liverank.v1.item_pb2 import Item, ItemChange, ItemRemoved
from liverank.v1.stream_pb2 import Example, ItemEffect, ItemEffects, ItemEvent, UserChange
from streams.calls import Call, Limits, Position, SourceMark
from streams.catalogue import Catalogue, History
from streams.dues import DueIndex
from streams.errors import OutboxError
from streams.failpoints import Failpoints
from streams.fence import Meta
from streams.fold import Context, KeyState, Number, Parsed
from streams.outbox import (
    CHANGES_PER_RECORD,
    EFFECTS_PER_RECORD,
    Output,
    decode_outbox,
    encode_outbox,
    pack_changes,
    pack_effects,
)
from streams.partition_fold import PartitionFold
from streams.publisher import Pending, Visible
from streams.takeover import Takeover

# -- partitioner: Java's test vectors (org.apache.kafka.common.utils.UtilsTest)

JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "signed"), JAVA.items())
def test_murmur2_equals_java(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed & 0xFFFFFFFF
    assert partition(key, 8) == (signed & 0x7FFFFFFF) % 8


# -- versions


@given(st.lists(st.tuples(st.integers(0, 9999), st.integers(0, 10**16 - 1), st.integers(0, 999_999)), min_size=2))
def test_version_texts_sort_like_their_numbers(numbers: list[tuple[int, int, int]]) -> None:
    texts = [format_version(*number) for number in numbers]
    assert sorted(texts) == [format_version(*number) for number in sorted(numbers)]
    assert [parse_version(text) for text in texts] == numbers


@pytest.mark.parametrize("bad", [(-1, 0, 0), (0, -1, 0), (0, 0, 1_000_000), (10_000, 0, 0)])
def test_a_version_that_does_not_fit_is_refused(bad: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="outside"):
        format_version(*bad)


# -- outbox

HEADERS = st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=40)), max_size=3).map(tuple)
OUTPUTS = st.builds(
    Output,
    st.sampled_from(["examples", "events", "item-effects"]),
    st.integers(-1, 300),
    st.none() | st.binary(max_size=130),
    st.binary(max_size=2000),
    HEADERS,
)


@given(st.dictionaries(st.text(max_size=128), st.lists(st.binary(max_size=60), max_size=5)), st.lists(OUTPUTS))
def test_outbox_round_trips(dirty: dict[str, list[bytes]], outputs: list[Output]) -> None:
    assert decode_outbox(encode_outbox(dirty, outputs)) == (dirty, outputs)


def test_outbox_golden_bytes() -> None:
    """The layout of docs/specs/fold.md: a store written by this release must be readable by the next."""
    blob = encode_outbox({"u1": [b"v:f"]}, [Output("examples", -1, b"u1", b"\x01\x02", (("h", b"x"),))])
    assert blob.hex() == (
        "01" "01000000" "0200" "7531" "0100" "0300" "763a66"
        "01000000" "08" "6578616d706c6573" "ffffffff" "02000000" "7531" "02000000" "0102" "01" "01" "68" "0100" "78"
    )  # fmt: skip


def test_a_call_names_the_fields_of_a_key_only_where_one_went() -> None:
    """Whoever drains the outbox publishes the whole key otherwise; what is gone can only be published by name."""
    call = Call(0, Position(1, 0, 0), Position(1, 1, 0), 0)
    call.pages = {
        "changed": {b"_private": b"p", b"v:a": b"1", b"v:b": b"2"},
        "emptied": {b"_private": b"", b"v:a": b"", b"v:b": b"2"},
        "inner": {b"_private": b"p"},
        "#sums": {b"_s": b"1", b"d": b""},
    }
    call.owed = ("#late",)
    call.seal()
    assert decode_outbox(call.blob)[0] == {"#late": [], "changed": [], "emptied": [b"v:a", b"v:b"], "#sums": []}


def test_a_drained_key_is_published_whole_and_what_went_by_name() -> None:
    stored = {b"_private": b"p", b"v:a": b"1", b"v:b": b"2"}
    blobs = [encode_outbox(dirty, []) for dirty in ({"k": []}, {"k": [b"v:gone"]}, {"one": [b"v:a"]})]
    built: dict[tuple[int, str], Pending] = {}
    rows = Mock(build=lambda pending: built.update(pending) or Visible([], [], [], [], []))
    store = Mock(outbox=lambda _: blobs, load=lambda _, keys: [stored] * len(keys))
    setup = Mock(fold=Mock(kind="u"))
    meta = Meta(epoch=1, position=Position(1, 0, 0), clock_ms=0, version=b"v", sources={})
    Takeover(setup, store, rows, Mock(), Mock()).drain(3, meta)
    assert built[3, "k"].fields == {b"v:a": b"1", b"v:b": b"2", b"v:gone": b""}
    assert built[3, "one"].fields == {b"v:a": b"1"}


@pytest.mark.parametrize("blob", [b"", b"\x02", b"\x01\x01\x00\x00\x00", encode_outbox({}, []) + b"x"])
def test_a_broken_outbox_is_refused(blob: bytes) -> None:
    with pytest.raises(OutboxError):
        decode_outbox(blob)


def test_user_changes_travel_together_in_order_and_bounded() -> None:
    changes = [
        (b"u%d" % at, UserChange(user_id=f"u{at}" * (1 + at % 90), clock_ms=at).SerializeToString())
        for at in range(CHANGES_PER_RECORD + 3)
    ]
    outputs = pack_changes(changes)
    assert [(o.topic, o.partition, o.key) for o in outputs] == [
        ("user-changes", -1, b"u0"),
        ("user-changes", -1, b"u%d" % CHANGES_PER_RECORD),
    ]
    read = [UserChange.FromString(output.value) for output in outputs]
    clocks = [change.clock_ms for first in read for change in (first, *first.more)]
    assert clocks == list(range(CHANGES_PER_RECORD + 3))


def test_effects_are_packed_in_order_and_bounded() -> None:
    effect = ItemEffect(event=ItemEvent(item_id="i")).SerializeToString()
    effects = [numbered_effect(at, 0, 0, effect) for at in range(EFFECTS_PER_RECORD + 3)]
    outputs = pack_effects(1, 5, {2: effects})
    assert [(o.topic, o.partition) for o in outputs] == [("item-effects", 2)] * 2
    read = [ItemEffects.FromString(o.value) for o in outputs]
    assert [e.offset for r in read for e in r.effects] == list(range(EFFECTS_PER_RECORD + 3))
    assert {(r.generation, r.source_partition) for r in read} == {(1, 5)}


# -- positions and marks


def test_positions_and_marks_round_trip() -> None:
    assert Position.of(Position(1, -1, 3).text()) == Position(1, -1, 3)
    mark = SourceMark(Number(0, 12, 1, 7), 1_700_000_000_000)
    assert SourceMark.of(mark.text()) == mark


# -- due index


def test_due_keys_come_in_order_once_and_changes_are_remembered() -> None:
    index = DueIndex()
    index.extend([("b", 50), ("a", 50), ("late", 80)], 100)
    index.put("c", 40)
    index.put("late", None)
    index.put("far", 500)
    assert not index.any_due(39)
    assert index.pop_due(60) == [(40, "c"), (50, "a"), (50, "b")]
    assert index.pop_due(100) == []
    assert index.take_changes() == {"c": 40, "late": None, "far": 500}
    index.extend([("far", 500)], 1000)
    assert index.pop_due(500) == [(500, "far")]


# -- catalogue


def record(offset: int, item_id: str, ts_ms: int, category: str | None) -> Record:
    change = ItemChange(item_id=item_id)
    if category is None:
        change.removed.CopyFrom(ItemRemoved(reason="gone"))
    else:
        change.upsert.CopyFrom(Item(item_id=item_id, categories=[category], available=True))
    return Record("items", 0, offset, item_id.encode(), change.SerializeToString(), (), ts_ms)


def test_an_event_sees_the_newest_version_not_later_than_itself() -> None:
    table = Catalogue()
    for offset, (ts_ms, category) in enumerate([(1000, "a"), (2000, "b"), (3000, None)]):
        table.put_record(record(offset, "i", ts_ms, category))
    assert table.at("i", 999) is None
    assert [getattr(table.at("i", ts), "category", None) for ts in (1000, 1999, 2000, 2999)] == ["a", "a", "b", "b"]
    assert table.at("i", 3000) is None
    assert table.at("unknown", 3000) is None
    first = History(table).at("i", 1)
    assert first is not None
    assert first.category == "a"


def test_versions_that_no_event_can_ask_for_are_dropped() -> None:
    table, week_ms = Catalogue(), 7 * 86_400_000
    for offset in range(50):
        table.put_record(record(offset, "i", offset * week_ms, f"c{offset}"))
    held = table._versions["i"]
    assert len(held[0]) <= 3
    assert getattr(table.at("i", 50 * week_ms), "category", "") == "c49"


# -- failpoints


@pytest.mark.parametrize("spec", ["nowhere", "users.before_fence:x", "before_fence!sleep"])
def test_an_unknown_failpoint_is_refused(spec: str) -> None:
    with pytest.raises(ConfigError, match="allowed"):
        Failpoints(spec, "users")


def test_a_failpoint_of_another_fold_is_not_armed() -> None:
    assert Failpoints("items.before_fence", "users").name == ""
    assert Failpoints("before_fence:3", "users").name == "before_fence"


# -- one partition in memory


class Sums:
    """A state that counts, with pages of a given size and a due time that a test sets."""

    def __init__(self, n: int = 0, due: int | None = None, size: int = 10) -> None:
        self.n, self.due, self.size, self.changed = n, due, size, False

    def dirty(self) -> dict[bytes, bytes]:
        if not self.changed:
            return {}
        self.changed = False
        return {b"_n": b"%d" % self.n, b"v:f": b"%d" % self.n + b"." * self.size}

    def due_ms(self) -> int | None:
        return self.due


class SumFold:
    """Body = (key, due); emits one example per record and per due action."""

    name, kind = "users", "u"

    def __init__(self, size: int = 10) -> None:
        self.size = size

    def parse(self, record: Record) -> Parsed:
        raise NotImplementedError

    def new(self, key: str) -> KeyState:
        return Sums(size=self.size)

    def load(self, key: str, fields: Mapping[bytes, bytes]) -> KeyState:
        return Sums(int(fields[b"_n"]), size=self.size)

    def apply(self, record: Record, body: Any, ctx: Context) -> None:
        key, due = body
        if key == "poison":
            raise ContractError("bad_value", "poison")
        state: Any = ctx.state(key)
        state.n, state.due, state.changed = state.n + 1, due, True
        ctx.emit("examples", Example(request_id=key), key=key.encode())

    def on_due(self, key: str, due_ms: int, ctx: Context) -> None:
        state: Any = ctx.state(key)
        state.due, state.changed = None, True
        ctx.emit("examples", Example(request_id=f"{key}@{due_ms}"), key=key.encode())

    def rows(self, key: str, fields: Mapping[bytes, bytes], state: KeyState, version: bytes) -> Sequence[Any]:
        return []


class Nothing:
    """An empty store."""

    def load(self, partition: int, keys: Sequence[str]) -> list[Mapping[bytes, bytes]]:
        return [{} for _ in keys]

    def due_between(self, partition: int, after_ms: int, until_ms: int) -> list[tuple[str, int]]:
        return []


def partition_fold(fold: SumFold, *, limits: Limits | None = None, clock: Any = "wall") -> PartitionFold:
    return PartitionFold(
        fold, partition=0, n_partitions=1, generation=1, position=Position(1, -1, 0), clock_ms=0, sources={},
        reader=Nothing(), items=None, clock=clock, numbered_input=False, spill=lambda: None, cache_states=1000,
        limits=limits or Limits(),
    )  # fmt: skip


def feed(part: PartitionFold, offset: int, key: str, ts_ms: int = 1000, due: int | None = None) -> None:
    value = Record("events", 0, offset, key.encode(), b"", (), ts_ms)
    part.feed(value, Parsed((key,), (key, due), route=key.encode()))


def tick(part: PartitionFold, offset: int, ts_ms: int) -> None:
    part.feed(Record("events", 0, offset, None, b"", (), ts_ms), Parsed((), None, tick=True))


def numbers(part: PartitionFold) -> list[tuple[str, int, int, int]]:
    found = []
    for call in part.calls:
        for output in call.outputs:
            if output.topic == "examples":
                example = Example.FromString(output.value)
                found.append((example.request_id, example.number.offset, example.number.step, example.number.index))
    return found


def test_calls_cover_whole_records_and_at_most_so_many_keys() -> None:
    part = partition_fold(SumFold(), limits=Limits(keys=100))
    for offset in range(250):
        feed(part, offset, f"u{offset}")
    part.close()
    assert [call.end.offset for call in part.calls] == [99, 199, 249]
    assert [call.start.offset for call in part.calls] == [-1, 99, 199]
    assert [len(call.pages) for call in part.calls] == [100, 100, 50]
    assert part.calls[0].version == format_version(1, 99, 0)


def test_calls_are_cut_near_256_kb() -> None:
    part = partition_fold(SumFold(size=20_000))
    for offset in range(60):
        feed(part, offset, f"u{offset}")
    part.close()
    assert len(part.calls) >= 5
    assert max(call.size_bytes for call in part.calls) <= 256 * 1024 + 25_000


def test_numbers_do_not_depend_on_how_polls_are_cut() -> None:
    whole, pieces = partition_fold(SumFold()), partition_fold(SumFold())
    for offset in range(40):
        feed(whole, offset, f"u{offset % 7}", due=None)
        feed(pieces, offset, f"u{offset % 7}", due=None)
        if offset % 3 == 0:
            pieces.close()
    whole.close()
    pieces.close()
    assert numbers(whole) == numbers(pieces)
    assert len(pieces.calls) > len(whole.calls)


def test_many_due_users_take_calls_of_their_own_that_remove_what_they_did() -> None:
    part = partition_fold(SumFold())
    for offset in range(1000):
        feed(part, offset, f"u{offset:03}", ts_ms=1000, due=5000)
    part.close()
    part.calls.clear()
    tick(part, 1000, 6000)
    part.close()
    assert [(call.end.offset, call.end.step) for call in part.calls] == [(999, 1), (999, 2), (1000, 0)]
    assert [call.version for call in part.calls] == [format_version(1, 1000, step) for step in (0, 1, 2)]
    assert [sum(due is None for due in call.due.values()) for call in part.calls] == [400, 400, 200]
    due = numbers(part)
    assert [name for name, *_ in due] == [f"u{i:03}@5000" for i in range(1000)]
    assert [step for _, _, step, _ in due] == [0] * 400 + [1] * 400 + [2] * 200
    clocks = [entry for call in part.calls for entries in call.effects.values() for entry in entries]
    assert [e.clock_ms for e in ItemEffects.FromString(b"".join(clocks)).effects] == [6000]


def test_due_is_done_before_the_users_next_record() -> None:
    part = partition_fold(SumFold())
    feed(part, 0, "u", ts_ms=1000, due=2000)
    feed(part, 1, "u", ts_ms=3000)
    part.close()
    assert [name for name, *_ in numbers(part)] == ["u", "u@2000", "u"]


def test_in_a_data_namespace_only_ticks_move_the_clock() -> None:
    part = partition_fold(SumFold(), clock="data")
    feed(part, 0, "u", ts_ms=1000, due=2000)
    feed(part, 1, "u", ts_ms=3000, due=2000)
    assert part.clock_ms == 0
    tick(part, 2, 2500)
    part.close()
    assert part.clock_ms == 2500
    assert [name for name, *_ in numbers(part)] == ["u", "u", "u@2000"]


def test_poison_becomes_a_dead_letter_and_the_rest_goes_on() -> None:
    part = partition_fold(SumFold())
    feed(part, 0, "poison")
    part.feed(Record("events", 0, 1, b"k", b"x", (), 1000), ContractError("malformed", "no protobuf"))
    feed(part, 2, "u")
    part.close()
    (call,) = part.calls
    assert [o.topic for o in call.outputs] == ["dead-letter", "dead-letter", "examples"]
    assert call.end.offset == 2


def test_a_stray_is_forwarded_once_and_then_a_dead_letter() -> None:
    part = PartitionFold(
        SumFold(), partition=(partition(b"u", 8) + 1) % 8, n_partitions=8, generation=1, position=Position(1, -1, 0),
        clock_ms=0, sources={}, reader=Nothing(), items=None, clock="wall", numbered_input=False, spill=lambda: None,
        cache_states=10,
    )  # fmt: skip
    feed(part, 0, "u")
    forwarded = (("liverank-forwarded", b"1"),)
    part.feed(Record("events", 0, 1, b"u", b"v", forwarded, 1000), Parsed(("u",), ("u", None), route=b"u"))
    part.close()
    first, second = part.calls[0].outputs
    assert (first.topic, first.partition, first.headers) == ("events", partition(b"u", 8), forwarded)
    assert second.topic == "dead-letter"
    assert not part.calls[0].pages


def test_a_numbered_reader_keeps_the_highest_and_takes_the_slowest_clock() -> None:
    part = PartitionFold(
        SumFold(), partition=0, n_partitions=2, generation=1, position=Position(1, -1, 0), clock_ms=0, sources={},
        reader=Nothing(), items=None, clock="wall", numbered_input=True, spill=lambda: None, cache_states=10,
    )  # fmt: skip
    assert part.take(0, Number(1, 5, 0, 1))
    assert not part.take(0, Number(1, 5, 0, 1))
    assert not part.take(0, Number(1, 4, 9, 9))
    assert not part.take(0, Number(0, 99, 0, 0))
    assert part.take(1, Number(1, 1, 0, 0))
    part.source_clock(0, 9000)
    tick(part, 0, 1)
    assert part.clock_ms == 0
    part.source_clock(1, 7000)
    tick(part, 1, 1)
    assert part.clock_ms == 7000
