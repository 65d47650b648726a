"""Numbers of outputs as bytes: an encoded message gets its field `number`, an effect its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from features import native
from liverank.v1.stream_pb2 import ItemRow, Number, UserChange

__all__ = ["item_row", "numbered", "user_change"]


def _numbered(generation: int, partition: int, offset: int, step: int, index: int, message: bytes) -> bytes:
    place = Number(generation=generation, partition=partition, offset=offset, step=step, index=index)
    packed = place.SerializeToString()
    return bytes((0x0A, len(packed))) + packed + message


def _item_row(
    generation: int, offset: int, step: int, item_id: str, fields: Mapping[bytes, bytes], event_ts_ms: int
) -> bytes:
    change = ItemRow(
        number=Number(generation=generation, offset=offset, step=step),
        item_id=item_id,
        pages={name.decode(): page for name, page in fields.items()},
        event_ts_ms=event_ts_ms,
    )
    return change.SerializeToString()


def _user_change(user_id: str, newest_event_ts_ms: int, clock_ms: int) -> bytes:
    change = UserChange(user_id=user_id, newest_event_ts_ms=newest_event_ts_ms, clock_ms=clock_ms)
    return change.SerializeToString()


item_row: Final[Callable[[int, int, int, str, Mapping[bytes, bytes], int], bytes]] = (
    _item_row if native.core is None else native.core.item_row
)
"""`item_row(generation, offset, step, item_id, fields, event_ts_ms)`: an encoded ItemRow."""

numbered: Final[Callable[[int, int, int, int, int, bytes], bytes]] = (
    _numbered if native.core is None else native.core.numbered
)
"""`numbered(generation, partition, offset, step, index, message)`: the message with its field `number` (1) set."""

user_change: Final[Callable[[str, int, int], bytes]] = _user_change if native.core is None else native.core.user_change
"""`user_change(user_id, newest_event_ts_ms, clock_ms)`: an encoded UserChange without its number."""
