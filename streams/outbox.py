"""The outbox: what a fenced call still owes to its readers.

One blob per call, appended to the list ``<kind>.outbox`` in the same fenced write. It holds the *names* of changed
keys and fields (their bytes are in the state) and every Kafka output in full. Layout (little endian, golden-tested),
after the version byte ``1``::

    u32 n_dirty   { u16 len, key utf-8; u16 n_fields; { u16 len, field } }
    u32 n_outputs { u8 len, topic; i32 partition (-1 = by key); i32 key length (-1 = none), key; u32 length, value;
                    u8 n_headers { u8 len, name; u16 len, value } }

A key with no fields means "all its fields": so it is written, unless a field was deleted (what is not there any more
must be named).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from features import native
from features.state.effects import joined
from streams.errors import OutboxError

__all__ = [
    "ANNOUNCES_ROWS",
    "CHANGES_PER_RECORD",
    "EFFECTS_PER_RECORD",
    "Output",
    "decode_outbox",
    "encode_outbox",
    "pack_changes",
    "pack_effects",
    "public_fields",
]

_VERSION = b"\x01"
_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_II = struct.Struct("<ii")

# : A record of item effects holds at most this many, so that the item fold never meets a record that touches more
# keys than a call may.
EFFECTS_PER_RECORD = 64
#: A record of user changes holds at most this many.
CHANGES_PER_RECORD = 500
#: The topic that tells of rows: what it says must not come before them.
ANNOUNCES_ROWS = "user-changes"
#: Tag of `UserChange.more`.
_MORE = b"\x2a"


class Output(NamedTuple):
    """One Kafka record that a fold sends.

    Attributes
    ----------
    topic : str
        Short name (``examples``); the publisher adds namespace and generation.
    partition : int
        -1 = by key.
    """

    topic: str
    partition: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


def pack_effects(generation: int, source: int, effects: Mapping[int, Sequence[bytes]]) -> list[Output]:
    """Pack numbered effects (`features.state.effects.numbered_effect`) into records, by target partition, in order."""
    return [
        Output("item-effects", target, None, joined(generation, source, entries[start : start + EFFECTS_PER_RECORD]))
        for target, entries in effects.items()
        for start in range(0, len(entries), EFFECTS_PER_RECORD)
    ]


def pack_changes(changes: Sequence[tuple[bytes, bytes]]) -> list[Output]:
    """Pack encoded `UserChange`s, each with its key, into records by the first one's key, in order: one holds the rest
    in its field `more`.
    """
    outputs = []
    for start in range(0, len(changes), CHANGES_PER_RECORD):
        (key, first), *rest = changes[start : start + CHANGES_PER_RECORD]
        parts = [first]
        for _, change in rest:
            parts += (_MORE, _varint(len(change)), change)
        outputs.append(Output(ANNOUNCES_ROWS, -1, key, b"".join(parts)))
    return outputs


def _varint(value: int) -> bytes:
    return bytes((value,)) if value < 0x80 else bytes((value & 0x7F | 0x80,)) + _varint(value >> 7)


def public_fields(key: str, fields: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return those that readers see: of a partition's own keys all, else those without an underscore in front."""
    if key[:1] == "#":
        return fields.copy()
    if native.core is not None:
        public: dict[bytes, bytes] = native.core.public_fields(fields)
        return public
    return {name: data for name, data in fields.items() if name[:1] != b"_"}


def encode_outbox(dirty: Mapping[str, Sequence[bytes]], outputs: Sequence[Output]) -> bytes:
    """Return the blob of one call; `features.native` has a twin."""
    if native.core is not None:
        blob: bytes = native.core.encode_outbox(dirty, outputs)
        return blob
    return encode_slowly(dirty, outputs)


def encode_slowly(dirty: Mapping[str, Sequence[bytes]], outputs: Sequence[Output]) -> bytes:
    """Return the blob of one call: what `encode_outbox` means."""
    parts = [_VERSION, _U32.pack(len(dirty))]
    u16 = _U16.pack
    for key, fields in dirty.items():
        name = key.encode()
        parts += (u16(len(name)), name, u16(len(fields)))
        for field in fields:
            parts += (u16(len(field)), field)
    parts.append(_U32.pack(len(outputs)))
    for topic, partition, key_, value, headers in outputs:
        short = topic.encode()
        parts += (bytes((len(short),)), short, _II.pack(partition, -1 if key_ is None else len(key_)), key_ or b"")
        parts += (_U32.pack(len(value)), value, bytes((len(headers),)))
        for name_, data in headers:
            text = name_.encode()
            parts += (bytes((len(text),)), text, u16(len(data)), data)
    return b"".join(parts)


class _Reader:
    """Walks over a blob and never past its end."""

    def __init__(self, blob: bytes) -> None:
        self._blob = blob
        self._at = 0

    def take(self, n: int) -> bytes:
        end = self._at + n
        if end > len(self._blob):
            raise OutboxError(f"outbox blob ends at {len(self._blob)} bytes, {end} wanted; run `liverank rebuild`")
        data = self._blob[self._at : end]
        self._at = end
        return data

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int(_U16.unpack(self.take(2))[0])

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4))[0])

    def pair(self) -> tuple[int, int]:
        first, second = _II.unpack(self.take(8))
        return first, second

    @property
    def done(self) -> bool:
        return self._at == len(self._blob)


def decode_outbox(blob: bytes) -> tuple[dict[str, list[bytes]], list[Output]]:
    """Return (dirty fields by key, outputs) of a blob.

    Raises
    ------
    OutboxError
        The version is unknown, or lengths do not fit.
    """
    reader = _Reader(blob)
    if (version := reader.take(1)) != _VERSION:
        raise OutboxError(
            f"outbox blob of version {version!r}, this program reads {_VERSION!r}; use the matching release"
        )
    dirty = {}
    for _ in range(reader.u32()):
        key = reader.take(reader.u16()).decode()
        dirty[key] = [reader.take(reader.u16()) for _ in range(reader.u16())]
    outputs = []
    for _ in range(reader.u32()):
        topic = reader.take(reader.u8()).decode()
        partition, key_length = reader.pair()
        key_ = reader.take(key_length) if key_length >= 0 else None
        value = reader.take(reader.u32())
        headers = tuple((reader.take(reader.u8()).decode(), reader.take(reader.u16())) for _ in range(reader.u8()))
        outputs.append(Output(topic, partition, key_, value, headers))
    if not reader.done:
        raise OutboxError("outbox blob has bytes after its end; run `liverank rebuild`")
    return dirty, outputs
