"""Feast's Redis wire format, written by hand: keys, fields and values of online rows, without importing Feast.

Rows are a hash per entity at `entity_key_bytes(...) + project`; a feature lies in the field of its name's MurmurHash3,
as a serialised `feast.types.Value`; a view's event time in `_ts:<view>`. Golden tests compare every function with
Feast's own writer (entity key serialisation version 3). Layout: docs/specs/feast-rows.md.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.errors import RowFormatError

__all__ = [
    "entity_key",
    "feature_field",
    "key_head",
    "murmur3_32",
    "pack_bytes",
    "pack_double",
    "pack_floats",
    "pack_int64",
    "pack_string",
    "pack_strings",
    "pack_timestamp",
    "timestamp_field",
    "unpack_bytes",
    "unpack_double",
    "unpack_floats",
    "unpack_int64",
    "unpack_string",
    "unpack_strings",
    "unpack_timestamp_ms",
    "version_field",
]

_STRING: Final = 2  # feast.types.ValueType.STRING
_MASK: Final = 0xFFFFFFFF
_BYTES_TAG, _STRING_TAG, _INT64_TAG, _DOUBLE_TAG = 0x0A, 0x12, 0x20, 0x29
_STRINGS_TAG, _FLOATS_TAG = b"\x62", b"\x82\x01"


@lru_cache(maxsize=64)
def key_head(names: tuple[str, ...]) -> bytes:
    """What every Redis key of rows with these join keys begins with."""
    parts = [struct.pack("<I", len(names))]
    for name in names:
        data = name.encode()
        parts += (struct.pack("<II", _STRING, len(data)), data)
    return b"".join(parts)


def entity_key(project: str, join_keys: tuple[str, ...], values: tuple[str, ...]) -> bytes:
    """Redis key of a row.

    Parameters
    ----------
    project : str
        Feast project.
    join_keys, values : tuple of str
        Names of the entity's join keys and their values; any order.
    """
    if len(join_keys) == 1:
        data = values[0].encode()
        return key_head(join_keys) + struct.pack("<II", _STRING, len(data)) + data + project.encode()
    pairs = sorted(zip(join_keys, values, strict=True))
    parts = [key_head(tuple(name for name, _ in pairs))]
    for _, value in pairs:
        data = value.encode()
        parts += (struct.pack("<II", _STRING, len(data)), data)
    parts.append(project.encode())
    return b"".join(parts)


def murmur3_32(data: bytes) -> int:
    """MurmurHash3, x86 32 bits, seed 0, unsigned."""
    value = 0
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        value = _mix(value, int.from_bytes(data[at : at + 4], "little"))
        value = ((value << 13 | value >> 19) & _MASK) * 5 + 0xE6546B64 & _MASK
    if whole < len(data):
        value = _mix(value, int.from_bytes(data[whole:], "little"))
    value ^= len(data)
    value = (value ^ value >> 16) * 0x85EBCA6B & _MASK
    value = (value ^ value >> 13) * 0xC2B2AE35 & _MASK
    return value ^ value >> 16


def _mix(value: int, block: int) -> int:
    block = block * 0xCC9E2D51 & _MASK
    block = (block << 15 | block >> 17) & _MASK
    return value ^ (block * 0x1B873593 & _MASK)


@lru_cache(maxsize=16_384)
def feature_field(view: str, feature: str) -> bytes:
    """Hash field of a feature: 4 bytes."""
    return struct.pack("<I", murmur3_32(f"{view}:{feature}".encode()))


@lru_cache(maxsize=1024)
def timestamp_field(view: str) -> bytes:
    """Hash field of a view's event time."""
    return f"_ts:{view}".encode()


@lru_cache(maxsize=1024)
def version_field(view: str) -> bytes:
    """Hash field of a view's version: liverank's own, which Feast never reads."""
    return f"_lr:{view}".encode()


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def pack_bytes(data: bytes) -> bytes:
    """`Value(bytes_val=data)`."""
    return b"\x0a" + _varint(len(data)) + data


def pack_string(text: str) -> bytes:
    """`Value(string_val=text)`."""
    data = text.encode()
    return b"\x12" + _varint(len(data)) + data


def pack_int64(value: int) -> bytes:
    """`Value(int64_val=value)`."""
    return b"\x20" + _varint(value & 0xFFFFFFFFFFFFFFFF)


def pack_double(value: float) -> bytes:
    """`Value(double_val=value)`."""
    return struct.pack("<Bd", _DOUBLE_TAG, value)


def pack_floats(values: NDArray[np.floating[Any]]) -> bytes:
    """`Value(float_list_val=FloatList(val=values))`; values are cast to float32."""
    data = np.ascontiguousarray(values, dtype="<f4").tobytes()
    inner = b"\x0a" + _varint(len(data)) + data if data else b""
    return _FLOATS_TAG + _varint(len(inner)) + inner


def pack_strings(values: tuple[str, ...] | list[str]) -> bytes:
    """`Value(string_list_val=StringList(val=values))`."""
    inner = b"".join(b"\x0a" + _varint(len(data)) + data for data in map(str.encode, values))
    return _STRINGS_TAG + _varint(len(inner)) + inner


def pack_timestamp(ts_ms: int) -> bytes:
    """`google.protobuf.Timestamp` of a time in ms since the UTC epoch."""
    seconds, ms = divmod(ts_ms, 1000)
    out = b"\x08" + _varint(seconds & 0xFFFFFFFFFFFFFFFF) if seconds else b""
    return out + b"\x10" + _varint(ms * 1_000_000) if ms else out


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def _payload(data: bytes, tag: int, kind: str) -> bytes:
    try:
        if data[0] != tag:
            raise RowFormatError(f"a {kind} value was expected, got a Feast value with tag {data[0]:#x}")
        length, at = _read_varint(data, 1)
    except IndexError:
        raise RowFormatError(f"a {kind} value was expected, got {len(data)} bytes that end too soon") from None
    return data[at : at + length]


def unpack_bytes(data: bytes | None) -> bytes:
    """Payload of a stored bytes value; `b""` where nothing is stored."""
    return _payload(data, _BYTES_TAG, "bytes") if data else b""


def unpack_string(data: bytes | None) -> str:
    """Payload of a stored string value; `""` where nothing is stored."""
    return _payload(data, _STRING_TAG, "string").decode() if data else ""


def unpack_int64(data: bytes | None) -> int:
    """A stored int64 value; 0 where nothing is stored."""
    if not data:
        return 0
    if data[0] != _INT64_TAG:
        raise RowFormatError(f"an int64 value was expected, got a Feast value with tag {data[0]:#x}")
    value, _ = _read_varint(data, 1)
    return value - (1 << 64) if value >> 63 else value


def unpack_double(data: bytes | None) -> float:
    """A stored double value; 0 where nothing is stored."""
    if not data:
        return 0.0
    if data[0] != _DOUBLE_TAG or len(data) != 9:
        raise RowFormatError(f"a double value was expected, got a Feast value with tag {data[0]:#x}")
    return float(struct.unpack_from("<d", data, 1)[0])


def unpack_strings(data: bytes | None) -> list[str]:
    """A stored list of strings; empty where nothing is stored."""
    if not data:
        return []
    inner = _payload(data, _STRINGS_TAG[0], "string list")
    found = []
    at = 0
    while at < len(inner):
        length, start = _read_varint(inner, at + 1)
        at = start + length
        found.append(inner[start:at].decode())
    return found


def unpack_floats(data: bytes | None) -> NDArray[np.float32]:
    """A stored list of float32; empty where nothing is stored."""
    if not data or data == _FLOATS_TAG + b"\x00":
        return np.empty(0, dtype=np.float32)
    if data[:2] != _FLOATS_TAG:
        raise RowFormatError(f"a float list was expected, got a Feast value with tag {data[0]:#x}")
    _, at = _read_varint(data, 2)
    return np.frombuffer(_payload(data[at:], _BYTES_TAG, "float list"), dtype="<f4")


def unpack_timestamp_ms(data: bytes | None) -> int:
    """Time of a stored timestamp in ms; 0 where nothing is stored."""
    seconds = nanos = at = 0
    data = data or b""
    while at < len(data):
        tag = data[at]
        value, at = _read_varint(data, at + 1)
        if tag == 0x08:
            seconds = value
        else:
            nanos = value
    return seconds * 1000 + nanos // 1_000_000
