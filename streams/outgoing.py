"""What a partition's fold sends: numbered outputs and effects, collected in the open call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from features.state.effects import Sink
from liverank.contract import INTERNAL_HEADER
from liverank.kafka import Record
from liverank.partition import partition as partition_of
from liverank.v1.event_pb2 import Control, DeadLetter, Event, EventType
from streams.calls import Call
from streams.errors import FoldBugError
from streams.numbers import numbered
from streams.outbox import Output

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from liverank.v1.stream_pb2 import ItemEffect

__all__ = ["FORWARDED", "Outgoing"]

FORWARDED: Final = ("liverank-forwarded", b"1")
#: At most this many bytes of a poison record are kept in its dead letter.
_DEAD_VALUE_BYTES: Final = 256 * 1024


class Outgoing:
    """The sending half of `streams.fold.Context`; numbers are (offset, step, place) within the partition."""

    def __init__(self, call: Call, *, partition: int, n_partitions: int, generation: int, step: int) -> None:
        self.partition = partition
        self.generation = generation
        self.n_partitions = n_partitions
        self._call = call
        self._record: Record | None = None
        self.sink = Sink(n_partitions, partition_of)
        self.sink.step = step
        self.sink.effects = call.effects

    def emit(
        self, topic: str, message: Message | bytes, *, key: bytes | None = None, partition: int | None = None
    ) -> None:
        """See `Context.emit`."""
        sink = self.sink
        if isinstance(message, bytes):
            value = numbered(self.generation, self.partition, sink.offset, sink.step, sink.place, message)
            sink.place += 1
        else:
            if "number" in message.DESCRIPTOR.fields_by_name:
                number = message.number  # type: ignore[attr-defined]
                number.generation = self.generation
                number.partition = self.partition
                number.offset = sink.offset
                number.step = sink.step
                number.index = sink.place
                sink.place += 1
            value = message.SerializeToString()
        call = self._call
        call.outputs.append(Output(topic, -1 if partition is None else partition, key, value))
        call.size_bytes += len(value)

    def change(self, key: bytes, change: bytes) -> None:
        """See `Context.change`."""
        sink = self.sink
        value = numbered(self.generation, self.partition, sink.offset, sink.step, sink.place, change)
        sink.place += 1
        self._call.changes.append((key, value))
        self._call.size_bytes += len(value)

    def effect(self, item_id: str, effect: ItemEffect | bytes) -> None:
        """See `Context.effect`."""
        self.sink.effect(item_id, effect if isinstance(effect, bytes) else effect.SerializeToString())

    def broadcast(self, make: Callable[[], ItemEffect]) -> None:
        """See `Context.broadcast`."""
        for target in range(self.n_partitions):
            self.sink.number(target, make().SerializeToString())

    def dead_letter(self, reason: str, detail: str) -> None:
        """See `Context.dead_letter`."""
        record = self._record
        if record is None:
            raise FoldBugError(f"dead letter {reason} without a record")
        letter = DeadLetter(
            reason=reason,
            detail=detail[:4096],
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            key=record.key or b"",
            value=record.value[:_DEAD_VALUE_BYTES],
            headers=dict(record.headers),
            append_ts_ms=record.append_ts_ms,
        )
        self.emit("dead-letter", letter, key=record.key)

    def control(self, partition: int, control: Control, token: bytes) -> None:
        """See `Context.control`."""
        value = Event(type=EventType.EVENT_TYPE_CONTROL, control=control).SerializeToString()
        self._call.outputs.append(Output("events", partition, None, value, ((INTERNAL_HEADER, token),)))
        self._call.size_bytes += len(value)

    def forward(self, record: Record, *, route: bytes | None = None) -> None:
        """See `Context.forward`."""
        key = route if route is not None else record.key
        if key is None:
            raise FoldBugError("a record without a key cannot be forwarded")
        target = partition_of(key, self.n_partitions)
        self._call.outputs.append(Output("events", target, key, record.value, (*record.headers, FORWARDED)))
