"""Numbers of outputs as bytes: an encoded message gets its field `number`, an effect its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from features import native
from liverank.v1.stream_pb2 import Number

__all__ = ["numbered"]


def _numbered(generation: int, partition: int, offset: int, step: int, index: int, message: bytes) -> bytes:
    place = Number(generation=generation, partition=partition, offset=offset, step=step, index=index)
    packed = place.SerializeToString()
    return bytes((0x0A, len(packed))) + packed + message


numbered: Final[Callable[[int, int, int, int, int, bytes], bytes]] = (
    _numbered if native.core is None else native.core.numbered
)
"""`numbered(generation, partition, offset, step, index, message)`: the message with its field `number` (1) set."""
