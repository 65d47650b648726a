"""Feast's own serialisers are the golden values of `features.wire`."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import FloatList, StringList, Value
from google.protobuf.timestamp_pb2 import Timestamp

from features import wire
from features.errors import RowFormatError

TEXTS = ["", "u", "user-1", "Zoë ✓", "x" * 127, "y" * 300]


@pytest.mark.parametrize("text", TEXTS)
def test_entity_keys_equal_feasts(text: str) -> None:
    key = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=text)])
    assert wire.entity_key("liverank_live", ("user_id",), (text,)) == _redis_key("liverank_live", key)


def test_keys_of_two_entities_equal_feasts() -> None:
    key = EntityKey(join_keys=["user_id", "category"], entity_values=[Value(string_val="u1"), Value(string_val="jazz")])
    assert wire.entity_key("p", ("user_id", "category"), ("u1", "jazz")) == _redis_key("p", key)
    assert wire.entity_key("p", ("category", "user_id"), ("jazz", "u1")) == _redis_key("p", key)


@pytest.mark.parametrize("name", ["a:b", "user_activity:p00", "", "abc", "abcd", "abcde", "ü:vector"])
def test_fields_equal_feasts(name: str) -> None:
    assert wire.murmur3_32(name.encode()).to_bytes(4, "little") == _mmh3(name)


def test_a_field_is_view_and_feature() -> None:
    assert wire.feature_field("user_activity", "p00") == _mmh3("user_activity:p00")
    assert wire.timestamp_field("v") == b"_ts:v"


@pytest.mark.parametrize("data", [b"", b"\x01", b"z" * 127, b"z" * 128, b"z" * 40_000])
def test_bytes_values(data: bytes) -> None:
    packed = wire.pack_bytes(data)
    assert packed == Value(bytes_val=data).SerializeToString()
    assert wire.unpack_bytes(packed) == data


@pytest.mark.parametrize("text", TEXTS)
def test_string_values(text: str) -> None:
    packed = wire.pack_string(text)
    assert packed == Value(string_val=text).SerializeToString()
    assert wire.unpack_string(packed) == text


@pytest.mark.parametrize("number", [0, 1, 127, 128, -1, 2**62, -(2**63)])
def test_integer_values(number: int) -> None:
    packed = wire.pack_int64(number)
    assert packed == Value(int64_val=number).SerializeToString()
    assert wire.unpack_int64(packed) == number


@pytest.mark.parametrize("number", [0.0, -1.5, 1e300, float("inf")])
def test_double_values(number: float) -> None:
    packed = wire.pack_double(number)
    assert packed == Value(double_val=number).SerializeToString()
    assert wire.unpack_double(packed) == number


@pytest.mark.parametrize("dim", [0, 1, 64, 256])
def test_vectors(dim: int) -> None:
    vector = np.random.default_rng(1).normal(size=dim).astype(np.float32)
    packed = wire.pack_floats(vector)
    assert packed == Value(float_list_val=FloatList(val=vector.tolist())).SerializeToString()
    np.testing.assert_array_equal(wire.unpack_floats(packed), vector)


@pytest.mark.parametrize("texts", [[], [""], ["a", "", "ü" * 100]])
def test_string_lists(texts: list[str]) -> None:
    packed = wire.pack_strings(texts)
    assert packed == Value(string_list_val=StringList(val=texts)).SerializeToString()
    assert wire.unpack_strings(packed) == texts


@pytest.mark.parametrize("ts_ms", [0, 1, 999, 1000, 1_760_000_000_000, 1_760_000_000_123])
def test_timestamps(ts_ms: int) -> None:
    stamp = Timestamp()
    stamp.FromDatetime(datetime.fromtimestamp(ts_ms / 1000, tz=UTC))
    packed = wire.pack_timestamp(ts_ms)
    assert packed == stamp.SerializeToString()
    assert wire.unpack_timestamp_ms(packed) == ts_ms


def test_absent_values_are_empty() -> None:
    assert wire.unpack_bytes(None) == b""
    assert wire.unpack_string(None) == ""
    assert wire.unpack_int64(None) == 0
    assert wire.unpack_floats(None).size == 0
    assert wire.unpack_timestamp_ms(None) == 0


def test_a_value_of_another_type_is_refused() -> None:
    with pytest.raises(RowFormatError, match="bytes value was expected"):
        wire.unpack_bytes(wire.pack_string("x"))
    with pytest.raises(RowFormatError, match="end too soon"):
        wire.unpack_bytes(b"\x0a")
