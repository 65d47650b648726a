from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EventType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_TYPE_UNSPECIFIED: _ClassVar[EventType]
    EVENT_TYPE_IMPRESSION: _ClassVar[EventType]
    EVENT_TYPE_CLICK: _ClassVar[EventType]
    EVENT_TYPE_DWELL: _ClassVar[EventType]
    EVENT_TYPE_LIKE: _ClassVar[EventType]
    EVENT_TYPE_SAVE: _ClassVar[EventType]
    EVENT_TYPE_RATING: _ClassVar[EventType]
    EVENT_TYPE_PURCHASE: _ClassVar[EventType]
    EVENT_TYPE_SEARCH: _ClassVar[EventType]
    EVENT_TYPE_SKIP: _ClassVar[EventType]
    EVENT_TYPE_DISMISS: _ClassVar[EventType]
    EVENT_TYPE_THUMBS_DOWN: _ClassVar[EventType]
    EVENT_TYPE_NOT_INTERESTED: _ClassVar[EventType]
    EVENT_TYPE_SESSION_END: _ClassVar[EventType]
    EVENT_TYPE_SURVEY: _ClassVar[EventType]
    EVENT_TYPE_IDENTIFY: _ClassVar[EventType]
    EVENT_TYPE_EXPOSURE: _ClassVar[EventType]
    EVENT_TYPE_TICK: _ClassVar[EventType]
    EVENT_TYPE_CONTROL: _ClassVar[EventType]
    EVENT_TYPE_ABANDON: _ClassVar[EventType]
    EVENT_TYPE_VARIANT: _ClassVar[EventType]

class ExtraStatistics(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXTRA_STATISTICS_UNSPECIFIED: _ClassVar[ExtraStatistics]
    EXTRA_STATISTICS_ARMS: _ClassVar[ExtraStatistics]
    EXTRA_STATISTICS_LOGISTIC: _ClassVar[ExtraStatistics]
    EXTRA_STATISTICS_ITEMS: _ClassVar[ExtraStatistics]
EVENT_TYPE_UNSPECIFIED: EventType
EVENT_TYPE_IMPRESSION: EventType
EVENT_TYPE_CLICK: EventType
EVENT_TYPE_DWELL: EventType
EVENT_TYPE_LIKE: EventType
EVENT_TYPE_SAVE: EventType
EVENT_TYPE_RATING: EventType
EVENT_TYPE_PURCHASE: EventType
EVENT_TYPE_SEARCH: EventType
EVENT_TYPE_SKIP: EventType
EVENT_TYPE_DISMISS: EventType
EVENT_TYPE_THUMBS_DOWN: EventType
EVENT_TYPE_NOT_INTERESTED: EventType
EVENT_TYPE_SESSION_END: EventType
EVENT_TYPE_SURVEY: EventType
EVENT_TYPE_IDENTIFY: EventType
EVENT_TYPE_EXPOSURE: EventType
EVENT_TYPE_TICK: EventType
EVENT_TYPE_CONTROL: EventType
EVENT_TYPE_ABANDON: EventType
EVENT_TYPE_VARIANT: EventType
EXTRA_STATISTICS_UNSPECIFIED: ExtraStatistics
EXTRA_STATISTICS_ARMS: ExtraStatistics
EXTRA_STATISTICS_LOGISTIC: ExtraStatistics
EXTRA_STATISTICS_ITEMS: ExtraStatistics

class Attribute(_message.Message):
    __slots__ = ("text", "number", "flag")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    FLAG_FIELD_NUMBER: _ClassVar[int]
    text: str
    number: float
    flag: bool
    def __init__(self, text: _Optional[str] = ..., number: _Optional[float] = ..., flag: _Optional[bool] = ...) -> None: ...

class Context(_message.Message):
    __slots__ = ("device", "region", "language", "utc_offset_minutes", "query", "attributes")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Attribute
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Attribute, _Mapping]] = ...) -> None: ...
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    UTC_OFFSET_MINUTES_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    device: str
    region: str
    language: str
    utc_offset_minutes: int
    query: str
    attributes: _containers.MessageMap[str, Attribute]
    def __init__(self, device: _Optional[str] = ..., region: _Optional[str] = ..., language: _Optional[str] = ..., utc_offset_minutes: _Optional[int] = ..., query: _Optional[str] = ..., attributes: _Optional[_Mapping[str, Attribute]] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("event_id", "type", "user_id", "session_id", "item_id", "event_ts_ms", "value", "request_id", "position", "surface", "context", "attributes", "anonymous_id", "exposure", "control")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Attribute
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Attribute, _Mapping]] = ...) -> None: ...
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TS_MS_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SURFACE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    ANONYMOUS_ID_FIELD_NUMBER: _ClassVar[int]
    EXPOSURE_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    type: EventType
    user_id: str
    session_id: str
    item_id: str
    event_ts_ms: int
    value: float
    request_id: str
    position: int
    surface: str
    context: Context
    attributes: _containers.MessageMap[str, Attribute]
    anonymous_id: str
    exposure: Exposure
    control: Control
    def __init__(self, event_id: _Optional[str] = ..., type: _Optional[_Union[EventType, str]] = ..., user_id: _Optional[str] = ..., session_id: _Optional[str] = ..., item_id: _Optional[str] = ..., event_ts_ms: _Optional[int] = ..., value: _Optional[float] = ..., request_id: _Optional[str] = ..., position: _Optional[int] = ..., surface: _Optional[str] = ..., context: _Optional[_Union[Context, _Mapping]] = ..., attributes: _Optional[_Mapping[str, Attribute]] = ..., anonymous_id: _Optional[str] = ..., exposure: _Optional[_Union[Exposure, _Mapping]] = ..., control: _Optional[_Union[Control, _Mapping]] = ...) -> None: ...

class Exposure(_message.Message):
    __slots__ = ("policy", "arm", "base_model", "schema", "drawn", "heads", "slots", "statistics")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    DRAWN_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    policy: str
    arm: str
    base_model: str
    schema: str
    drawn: bool
    heads: _containers.RepeatedScalarFieldContainer[str]
    slots: _containers.RepeatedCompositeFieldContainer[ExposureSlot]
    statistics: _containers.RepeatedScalarFieldContainer[ExtraStatistics]
    def __init__(self, policy: _Optional[str] = ..., arm: _Optional[str] = ..., base_model: _Optional[str] = ..., schema: _Optional[str] = ..., drawn: _Optional[bool] = ..., heads: _Optional[_Iterable[str]] = ..., slots: _Optional[_Iterable[_Union[ExposureSlot, _Mapping]]] = ..., statistics: _Optional[_Iterable[_Union[ExtraStatistics, str]]] = ...) -> None: ...

class ExposureSlot(_message.Message):
    __slots__ = ("item_id", "catalogue_version", "propensity", "pinned", "p_shown", "p_first", "phi", "category", "variant_id", "variant_propensity")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    CATALOGUE_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROPENSITY_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    P_SHOWN_FIELD_NUMBER: _ClassVar[int]
    P_FIRST_FIELD_NUMBER: _ClassVar[int]
    PHI_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    VARIANT_ID_FIELD_NUMBER: _ClassVar[int]
    VARIANT_PROPENSITY_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    catalogue_version: int
    propensity: float
    pinned: bool
    p_shown: _containers.RepeatedScalarFieldContainer[float]
    p_first: _containers.RepeatedScalarFieldContainer[float]
    phi: _containers.RepeatedScalarFieldContainer[float]
    category: str
    variant_id: str
    variant_propensity: float
    def __init__(self, item_id: _Optional[str] = ..., catalogue_version: _Optional[int] = ..., propensity: _Optional[float] = ..., pinned: _Optional[bool] = ..., p_shown: _Optional[_Iterable[float]] = ..., p_first: _Optional[_Iterable[float]] = ..., phi: _Optional[_Iterable[float]] = ..., category: _Optional[str] = ..., variant_id: _Optional[str] = ..., variant_propensity: _Optional[float] = ...) -> None: ...

class Control(_message.Message):
    __slots__ = ("kind", "payload")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    kind: str
    payload: bytes
    def __init__(self, kind: _Optional[str] = ..., payload: _Optional[bytes] = ...) -> None: ...

class DeadLetter(_message.Message):
    __slots__ = ("reason", "detail", "topic", "partition", "offset", "key", "value", "headers", "append_ts_ms")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    APPEND_TS_MS_FIELD_NUMBER: _ClassVar[int]
    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: _containers.ScalarMap[str, bytes]
    append_ts_ms: int
    def __init__(self, reason: _Optional[str] = ..., detail: _Optional[str] = ..., topic: _Optional[str] = ..., partition: _Optional[int] = ..., offset: _Optional[int] = ..., key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., headers: _Optional[_Mapping[str, bytes]] = ..., append_ts_ms: _Optional[int] = ...) -> None: ...
