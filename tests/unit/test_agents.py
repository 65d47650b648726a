"""Agents without Faust: batches are handled until done, bad records become dead letters, repeats do no harm."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from features.examples import read_examples
from features.near_line import Change
from features.redis import RedisUnavailableError
from features.wire import unpack_floats, unpack_int64, unpack_string
from liverank.kafka import Record
from liverank.settings import Settings
from liverank.v1.event_pb2 import DeadLetter
from liverank.v1.item_pb2 import Item, ItemChange, ItemRemoved, ItemVector
from liverank.v1.stream_pb2 import Example, Number, UserChange
from streams.agents.batches import Pace, attempt, drive
from streams.agents.catalogue import CatalogueHandler
from streams.agents.dead import letter
from streams.agents.dead_letters import DeadLetterCounter
from streams.agents.examples import ExampleSink
from streams.agents.services import AgentServices
from streams.agents.vectors import VectorHandler


def record(value: bytes, offset: int = 0, partition: int = 0, topic: str = "t") -> Record:
    return Record(topic, partition, offset, b"k", value, (), 1_000 + offset)


class Letters:
    """Stands for the dead letter writer."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.flushed = 0

    def write(self, record: Record, reason: str, detail: str) -> None:
        self.reasons.append(reason)

    def flush(self) -> None:
        self.flushed += 1


class Rows:
    """Stands for the online writer: keeps the last row of each (view, entity)."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Any] = {}

    def write(self, rows: Sequence[Any]) -> list[bool]:
        self.rows.update({(row.view, row.entity_id): row for row in rows})
        return [True] * len(rows)


def services(fatal: Callable[[str, BaseException], None] = lambda *_: None) -> AgentServices:
    return AgentServices(settings=Settings(), generation=1, name_of=lambda _: None, fatal=fatal)


class Flaky:
    name = "flaky"

    def __init__(self, errors: list[Exception]) -> None:
        self.errors, self.done = errors, 0

    def handle(self, records: Sequence[Record]) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.done += 1


async def no_sleep(_: float) -> None:
    return None


def test_a_batch_is_repeated_while_a_store_is_away() -> None:
    handler = Flaky([RedisUnavailableError("away")] * 7)
    assert asyncio.run(attempt(handler, [record(b"")], services(), no_sleep))
    assert handler.done == 1


@pytest.mark.parametrize("error", [ValueError("bug"), KeyError("bug")])
def test_a_bug_ends_the_worker_and_is_not_acknowledged(error: Exception) -> None:
    died: list[tuple[str, BaseException]] = []
    handler = Flaky([error])
    assert not asyncio.run(attempt(handler, [record(b"")], services(lambda *a: died.append(a)), no_sleep))
    assert died == [("flaky", error)]
    assert handler.done == 0


class FakeStream:
    """A Faust stream as `take_events` of 0.15 behaves: acknowledges in a `finally`."""

    def __init__(self, batches: list[list[Any]]) -> None:
        self.batches, self.acked = batches, []  # type: ignore[var-annotated]

    async def ack(self, event: Any) -> bool:
        self.acked.append(event.message.offset)
        return True

    async def take_events(self, max_: int, within: float) -> AsyncIterator[list[Any]]:
        for batch in self.batches:
            try:
                yield list(batch)
            finally:
                for event in batch:
                    await self.ack(event)


def event(offset: int) -> Any:
    message = SimpleNamespace(topic="t", partition=0, offset=offset, key=b"k", value=b"v", headers=[], timestamp=1.5)
    return SimpleNamespace(message=message)


def test_only_handled_batches_are_acknowledged() -> None:
    stream = FakeStream([[event(0), event(1)], [event(2)], [event(3)]])
    handler = Flaky([])
    handle = handler.handle

    def second_fails(records: Sequence[Record]) -> None:
        if records[0].offset == 2:
            raise ValueError("bug")
        handle(records)

    handler.handle = second_fails  # type: ignore[method-assign]
    asyncio.run(drive(stream, handler, services(), Pace(records=10, within_s=0.1)))
    assert stream.acked == [0, 1, 3]


def test_a_cancelled_batch_is_not_acknowledged() -> None:
    stream = FakeStream([[event(0)], [event(1)]])
    handler = Flaky([])

    async def run() -> None:
        task = asyncio.create_task(drive(stream, handler, services(), Pace(records=10, within_s=0.1)))
        handler.errors = [RedisUnavailableError("away")] * 10_000
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert stream.acked == []


class NearLine:
    def __init__(self) -> None:
        self.calls: list[dict[str, Change]] = []

    def write(self, changes: dict[str, Change]) -> int:
        self.calls.append(dict(changes))
        return len(changes)


def change(user: str, offset: int, clock_ms: int = 5_000, newest_ms: int = 4_000) -> bytes:
    number = Number(generation=1, partition=0, offset=offset)
    return UserChange(number=number, user_id=user, clock_ms=clock_ms, newest_event_ts_ms=newest_ms).SerializeToString()


def test_EMB_2_changes_of_a_batch_are_coalesced_per_user() -> None:
    near_line, letters = NearLine(), Letters()
    handler = VectorHandler(near_line, letters)  # type: ignore[arg-type]
    handler.handle(
        [
            record(change("a", 1), 1),
            record(change("b", 2), 2),
            record(change("a", 9, 8_000, 9_500), 3),
            record(b"\xff", 4),
        ]
    )
    assert near_line.calls == [
        {
            "a": Change(b"0001.0000000000000009.000000", 9_500, 9_500),
            "b": Change(b"0001.0000000000000002.000000", 5_000, 4_000),
        }
    ]
    assert letters.reasons == ["malformed"]
    assert letters.flushed == 1
    together = UserChange.FromString(change("c", 3))
    together.more.extend([UserChange.FromString(change("a", 11)), UserChange.FromString(change("a", 10))])
    handler.handle([record(together.SerializeToString())])
    assert {user: each.version[-9:-7] for user, each in near_line.calls.pop().items()} == {"c": b"03", "a": b"11"}
    letters.flushed = 0
    handler.handle([record(UserChange().SerializeToString())])
    assert letters.reasons == ["malformed", "malformed"]
    assert len(near_line.calls) == 1


class Spaces:
    """The two Redis commands that choosing a space needs."""

    def __init__(self, active: bytes | None = None) -> None:
        self.active = active

    def get(self, _key: str) -> bytes | None:
        return self.active

    def set(self, _key: str, value: str, nx: bool = False) -> bool | None:
        if nx and self.active is not None:
            return None
        self.active = value.encode()
        return True


def catalogue(active: bytes | None = None) -> tuple[CatalogueHandler, Rows, Letters, Spaces]:
    from features.llm import StubProvider

    rows, letters, spaces = Rows(), Letters(), Spaces(active)
    provider = StubProvider(16, chat_model="")
    return CatalogueHandler(spaces, Settings(), rows, provider, letters), rows, letters, spaces  # type: ignore[arg-type]


def upsert(item_id: str, title: str, **fields: Any) -> bytes:
    return ItemChange(item_id=item_id, upsert=Item(title=title, **fields)).SerializeToString()


def test_new_items_get_rows_and_vectors_at_once() -> None:
    handler, rows, letters, spaces = catalogue()
    handler.handle(
        [
            record(upsert("i1", "old title"), 1),
            record(upsert("i1", "space opera", price=2.5, available=True, categories=["scifi"]), 2),
            record(ItemChange(item_id="i2", removed=ItemRemoved()).SerializeToString(), 3),
            record(b"\xff\xff", 4),
            record(upsert("", "no id"), 5),
            record(b"", 6),
        ]
    )
    row = rows.rows["item_catalogue", "i1"]
    assert unpack_string(row.values["title"]) == "space opera"
    assert unpack_int64(row.values["available"]) == 1
    assert unpack_int64(row.values["version"]) == 2
    assert row.version == b"0000.0000000000000002.000000"
    assert unpack_int64(rows.rows["item_catalogue", "i2"].values["available"]) == 0
    assert letters.reasons == ["malformed", "missing_id"]
    assert spaces.active == b"stub/stub-16/16/t1"
    semantic = rows.rows["item_semantic", "i1"]
    assert unpack_floats(semantic.values["vector"]).shape == (16,)
    assert unpack_string(semantic.values["space"]) == "stub/stub-16/16/t1"
    assert ("item_semantic", "i2") not in rows.rows


def test_a_vector_of_another_length_is_a_dead_letter_and_the_item_counts() -> None:
    handler, rows, letters, _ = catalogue(b"stub/stub-16/16/t1")
    vectors = [ItemVector(space="stub/stub-16/16/t1", values=[1.0] * 15)]
    handler.handle([record(upsert("i1", "space opera", vectors=vectors), 1)])
    assert letters.reasons == ["bad_vector"]
    assert unpack_string(rows.rows["item_catalogue", "i1"].values["title"]) == "space opera"


def test_a_tombstone_removes_the_item_of_its_key() -> None:
    handler, rows, letters, _ = catalogue()
    handler.handle([record(upsert("k", "space opera", available=True), 1), record(b"", 2)])
    assert unpack_int64(rows.rows["item_catalogue", "k"].values["available"]) == 0
    assert not letters.reasons


def test_items_wait_for_enrichment_where_another_space_is_active() -> None:
    handler, rows, _, spaces = catalogue(b"openai/big/256/t1")
    handler.handle([record(upsert("i1", "space opera"), 1)])
    assert spaces.active == b"openai/big/256/t1"
    assert list(rows.rows) == [("item_catalogue", "i1")]


def test_examples_go_to_files_once(tmp_path: Path) -> None:
    letters = Letters()
    sink = ExampleSink(tmp_path, letters)  # type: ignore[arg-type]
    batch = [
        record(Example(request_id=f"r{i}", position=1, number=Number(offset=i)).SerializeToString(), i, i % 2)
        for i in range(10)
    ]
    sink.handle([*batch, record(b"\xff\xff", 11)])
    sink.handle(batch[3:])
    assert sorted(read_examples(tmp_path)["request_id"].to_pylist()) == [f"r{i}" for i in range(10)]
    assert letters.reasons == ["malformed"]


def test_dead_letters_are_counted_by_reason_with_bounded_labels() -> None:
    counter = DeadLetterCounter()
    value = letter(record(b"bad", 3, 1, "events"), "malformed", "no protobuf").SerializeToString()
    found = DeadLetter.FromString(value)
    assert (found.reason, found.topic, found.partition, found.offset, found.value) == (
        "malformed",
        "events",
        1,
        3,
        b"bad",
    )
    counter.handle([record(value), record(value), record(b"\xff\xff")])
    assert counter.counts[("malformed", "events")] == 2
    assert counter.counts[("unreadable", "t")] == 1
    for i in range(400):
        counter.handle([record(DeadLetter(reason=f"x{i}").SerializeToString())])
    assert len(counter.counts) <= 257
