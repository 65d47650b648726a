from liverank.v1 import event_pb2 as _event_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Number(_message.Message):
    __slots__ = ("generation", "partition", "offset", "step", "index")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    generation: int
    partition: int
    offset: int
    step: int
    index: int
    def __init__(self, generation: _Optional[int] = ..., partition: _Optional[int] = ..., offset: _Optional[int] = ..., step: _Optional[int] = ..., index: _Optional[int] = ...) -> None: ...

class Example(_message.Message):
    __slots__ = ("number", "request_id", "position", "user_id", "item_id", "exposure_ts_ms", "closed_ts_ms", "surface", "policy", "arm", "base_model", "schema", "propensity", "pinned", "drawn", "seen", "outcomes", "reward", "correction", "phi", "p_shown", "heads", "catalogue_version", "variant_id", "variant_propensity")
    class OutcomesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    EXPOSURE_TS_MS_FIELD_NUMBER: _ClassVar[int]
    CLOSED_TS_MS_FIELD_NUMBER: _ClassVar[int]
    SURFACE_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    PROPENSITY_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    DRAWN_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    CORRECTION_FIELD_NUMBER: _ClassVar[int]
    PHI_FIELD_NUMBER: _ClassVar[int]
    P_SHOWN_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    CATALOGUE_VERSION_FIELD_NUMBER: _ClassVar[int]
    VARIANT_ID_FIELD_NUMBER: _ClassVar[int]
    VARIANT_PROPENSITY_FIELD_NUMBER: _ClassVar[int]
    number: Number
    request_id: str
    position: int
    user_id: str
    item_id: str
    exposure_ts_ms: int
    closed_ts_ms: int
    surface: str
    policy: str
    arm: str
    base_model: str
    schema: str
    propensity: float
    pinned: bool
    drawn: bool
    seen: bool
    outcomes: _containers.ScalarMap[str, float]
    reward: float
    correction: bool
    phi: _containers.RepeatedScalarFieldContainer[float]
    p_shown: _containers.RepeatedScalarFieldContainer[float]
    heads: _containers.RepeatedScalarFieldContainer[str]
    catalogue_version: int
    variant_id: str
    variant_propensity: float
    def __init__(self, number: _Optional[_Union[Number, _Mapping]] = ..., request_id: _Optional[str] = ..., position: _Optional[int] = ..., user_id: _Optional[str] = ..., item_id: _Optional[str] = ..., exposure_ts_ms: _Optional[int] = ..., closed_ts_ms: _Optional[int] = ..., surface: _Optional[str] = ..., policy: _Optional[str] = ..., arm: _Optional[str] = ..., base_model: _Optional[str] = ..., schema: _Optional[str] = ..., propensity: _Optional[float] = ..., pinned: _Optional[bool] = ..., drawn: _Optional[bool] = ..., seen: _Optional[bool] = ..., outcomes: _Optional[_Mapping[str, float]] = ..., reward: _Optional[float] = ..., correction: _Optional[bool] = ..., phi: _Optional[_Iterable[float]] = ..., p_shown: _Optional[_Iterable[float]] = ..., heads: _Optional[_Iterable[str]] = ..., catalogue_version: _Optional[int] = ..., variant_id: _Optional[str] = ..., variant_propensity: _Optional[float] = ...) -> None: ...

class UserChange(_message.Message):
    __slots__ = ("number", "user_id", "newest_event_ts_ms", "clock_ms", "more")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    NEWEST_EVENT_TS_MS_FIELD_NUMBER: _ClassVar[int]
    CLOCK_MS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    number: Number
    user_id: str
    newest_event_ts_ms: int
    clock_ms: int
    more: _containers.RepeatedCompositeFieldContainer[UserChange]
    def __init__(self, number: _Optional[_Union[Number, _Mapping]] = ..., user_id: _Optional[str] = ..., newest_event_ts_ms: _Optional[int] = ..., clock_ms: _Optional[int] = ..., more: _Optional[_Iterable[_Union[UserChange, _Mapping]]] = ...) -> None: ...

class ItemRow(_message.Message):
    __slots__ = ("number", "item_id", "pages", "event_ts_ms")
    class PagesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    EVENT_TS_MS_FIELD_NUMBER: _ClassVar[int]
    number: Number
    item_id: str
    pages: _containers.ScalarMap[str, bytes]
    event_ts_ms: int
    def __init__(self, number: _Optional[_Union[Number, _Mapping]] = ..., item_id: _Optional[str] = ..., pages: _Optional[_Mapping[str, bytes]] = ..., event_ts_ms: _Optional[int] = ...) -> None: ...

class ItemEffects(_message.Message):
    __slots__ = ("generation", "source_partition", "effects", "control")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_PARTITION_FIELD_NUMBER: _ClassVar[int]
    EFFECTS_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    generation: int
    source_partition: int
    effects: _containers.RepeatedCompositeFieldContainer[ItemEffect]
    control: _event_pb2.Control
    def __init__(self, generation: _Optional[int] = ..., source_partition: _Optional[int] = ..., effects: _Optional[_Iterable[_Union[ItemEffect, _Mapping]]] = ..., control: _Optional[_Union[_event_pb2.Control, _Mapping]] = ...) -> None: ...

class ItemEffect(_message.Message):
    __slots__ = ("offset", "step", "index", "event", "pairs", "clock_ms", "control")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    CLOCK_MS_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    offset: int
    step: int
    index: int
    event: ItemEvent
    pairs: ItemPairs
    clock_ms: int
    control: _event_pb2.Control
    def __init__(self, offset: _Optional[int] = ..., step: _Optional[int] = ..., index: _Optional[int] = ..., event: _Optional[_Union[ItemEvent, _Mapping]] = ..., pairs: _Optional[_Union[ItemPairs, _Mapping]] = ..., clock_ms: _Optional[int] = ..., control: _Optional[_Union[_event_pb2.Control, _Mapping]] = ...) -> None: ...

class ItemEvent(_message.Message):
    __slots__ = ("item_id", "type", "event_ts_ms", "value", "sign", "surface", "expected", "position")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    EVENT_TS_MS_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    SIGN_FIELD_NUMBER: _ClassVar[int]
    SURFACE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    type: int
    event_ts_ms: int
    value: float
    sign: float
    surface: str
    expected: float
    position: int
    def __init__(self, item_id: _Optional[str] = ..., type: _Optional[int] = ..., event_ts_ms: _Optional[int] = ..., value: _Optional[float] = ..., sign: _Optional[float] = ..., surface: _Optional[str] = ..., expected: _Optional[float] = ..., position: _Optional[int] = ...) -> None: ...

class ItemPairs(_message.Message):
    __slots__ = ("item_id", "other_hashes", "weights", "event_ts_ms")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    OTHER_HASHES_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    EVENT_TS_MS_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    other_hashes: _containers.RepeatedScalarFieldContainer[int]
    weights: _containers.RepeatedScalarFieldContainer[float]
    event_ts_ms: int
    def __init__(self, item_id: _Optional[str] = ..., other_hashes: _Optional[_Iterable[int]] = ..., weights: _Optional[_Iterable[float]] = ..., event_ts_ms: _Optional[int] = ...) -> None: ...

class StoredReply(_message.Message):
    __slots__ = ("request_hash", "reply", "exposure")
    REQUEST_HASH_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    EXPOSURE_FIELD_NUMBER: _ClassVar[int]
    request_hash: bytes
    reply: bytes
    exposure: bytes
    def __init__(self, request_hash: _Optional[bytes] = ..., reply: _Optional[bytes] = ..., exposure: _Optional[bytes] = ...) -> None: ...
