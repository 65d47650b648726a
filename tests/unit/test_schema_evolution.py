"""The contract of the version before and this one understand each other, both ways.

`tests/golden/contract_previous.pb` is the contract as it was released before (a descriptor set); replace it at a
release by::

    protoc -Iprotos --include_imports --descriptor_set_out=tests/golden/contract_previous.pb protos/liverank/v1/*.proto
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import FieldDescriptor

from liverank.contract import decode_event, read_item, validate_event, validate_item
from liverank.v1 import decision_pb2, event_pb2, item_pb2, personalization_pb2, stream_pb2

GOLDEN = Path(__file__).parents[1] / "golden" / "contract_previous.pb"
NOW_MS = 1_760_000_000_000
CURRENT = {
    **event_pb2.DESCRIPTOR.message_types_by_name,
    **item_pb2.DESCRIPTOR.message_types_by_name,
    **decision_pb2.DESCRIPTOR.message_types_by_name,
    **stream_pb2.DESCRIPTOR.message_types_by_name,
    **personalization_pb2.DESCRIPTOR.message_types_by_name,
}


@pytest.fixture(scope="module")
def previous() -> dict[str, Any]:
    """Message classes of the version before, by name."""
    pool = descriptor_pool.DescriptorPool()
    files = descriptor_pb2.FileDescriptorSet.FromString(GOLDEN.read_bytes())
    for file in files.file:
        pool.Add(file)
    found = {}
    for file in files.file:
        for name, kind in pool.FindFileByName(file.name).message_types_by_name.items():
            if file.package.startswith("liverank"):
                found[name] = message_factory.GetMessageClass(kind)
    return found


def test_ING_9_no_field_changed_its_number_type_or_meaning(previous: dict[str, Any]) -> None:
    assert {"Event", "ItemChange", "Decision", "Example", "RankRequest", "RankReply"} <= set(previous)
    for name, kind in previous.items():
        now = CURRENT[name]
        for field in kind.DESCRIPTOR.fields:
            same = now.fields_by_number.get(field.number)
            assert same is not None, f"{name}.{field.name} (number {field.number}) is gone: reserve it instead"
            assert (same.name, same.type, same.is_repeated) == (field.name, field.type, field.is_repeated), name
            if field.type == FieldDescriptor.TYPE_ENUM:
                old = {value.number: value.name for value in field.enum_type.values}
                new = {value.number: value.name for value in same.enum_type.values}
                assert old.items() <= new.items(), f"{name}.{field.name}"


def event(kind: Any) -> Any:
    """An exposure with all that the previous version knew."""
    made = kind(event_id="e", user_id="u", session_id="s", event_ts_ms=NOW_MS, request_id="r", surface="home", type=50)
    made.context.device = "phone"
    made.exposure.policy = "thompson"
    made.exposure.heads.extend(["click"])
    made.exposure.slots.add(item_id="i", propensity=0.5, p_shown=[0.1], p_first=[0.2], phi=[1.0, 2.0])
    return made


def test_ING_9_a_producer_of_the_version_before_is_understood(previous: dict[str, Any]) -> None:
    sent = event(previous["Event"])
    read = decode_event(sent.SerializeToString(), ())
    validate_event(read, now_ms=NOW_MS)
    assert json_format.MessageToDict(read) == json_format.MessageToDict(sent)
    as_json = json_format.MessageToJson(sent).encode()
    assert decode_event(as_json, (("content-type", b"application/json"),)) == read
    change = previous["ItemChange"](item_id="i")
    change.upsert.item_id = "i"
    change.upsert.title = "Title"
    change.upsert.categories.append("c")
    validate_item(read_item(change.SerializeToString(), (), key=b"i"))


def test_ING_9_a_consumer_of_the_version_before_understands_this_one(previous: dict[str, Any]) -> None:
    """Fields that it does not know pass through it unharmed."""
    sent = event(event_pb2.Event)
    old = previous["Event"].FromString(sent.SerializeToString())
    assert event_pb2.Event.FromString(old.SerializeToString()) == sent
    decision = decision_pb2.Decision(request_id="r")
    _fill(decision)
    relayed = previous["Decision"].FromString(decision.SerializeToString()).SerializeToString()
    assert decision_pb2.Decision.FromString(relayed) == decision


def _fill(message: Any) -> None:
    """Set every plain field, so that new ones are among them."""
    for field in message.DESCRIPTOR.fields:
        if field.is_repeated or field.type == FieldDescriptor.TYPE_MESSAGE:
            continue
        value: Any = {
            FieldDescriptor.CPPTYPE_STRING: b"x" if field.type == FieldDescriptor.TYPE_BYTES else "x",
            FieldDescriptor.CPPTYPE_BOOL: True,
            FieldDescriptor.CPPTYPE_FLOAT: 0.5,
            FieldDescriptor.CPPTYPE_DOUBLE: 0.5,
        }.get(field.cpp_type, 1)
        setattr(message, field.name, value)
