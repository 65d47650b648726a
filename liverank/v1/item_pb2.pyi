from liverank.v1 import event_pb2 as _event_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Item(_message.Message):
    __slots__ = ("item_id", "title", "text", "price", "available", "creator", "categories", "published_ts_ms", "regions", "attributes", "vectors", "variants")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _event_pb2.Attribute
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_event_pb2.Attribute, _Mapping]] = ...) -> None: ...
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    CREATOR_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_TS_MS_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    VARIANTS_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    title: str
    text: str
    price: float
    available: bool
    creator: str
    categories: _containers.RepeatedScalarFieldContainer[str]
    published_ts_ms: int
    regions: _containers.RepeatedScalarFieldContainer[str]
    attributes: _containers.MessageMap[str, _event_pb2.Attribute]
    vectors: _containers.RepeatedCompositeFieldContainer[ItemVector]
    variants: _containers.RepeatedCompositeFieldContainer[ItemVariant]
    def __init__(self, item_id: _Optional[str] = ..., title: _Optional[str] = ..., text: _Optional[str] = ..., price: _Optional[float] = ..., available: _Optional[bool] = ..., creator: _Optional[str] = ..., categories: _Optional[_Iterable[str]] = ..., published_ts_ms: _Optional[int] = ..., regions: _Optional[_Iterable[str]] = ..., attributes: _Optional[_Mapping[str, _event_pb2.Attribute]] = ..., vectors: _Optional[_Iterable[_Union[ItemVector, _Mapping]]] = ..., variants: _Optional[_Iterable[_Union[ItemVariant, _Mapping]]] = ...) -> None: ...

class ItemVariant(_message.Message):
    __slots__ = ("variant_id", "attributes")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _event_pb2.Attribute
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_event_pb2.Attribute, _Mapping]] = ...) -> None: ...
    VARIANT_ID_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    variant_id: str
    attributes: _containers.MessageMap[str, _event_pb2.Attribute]
    def __init__(self, variant_id: _Optional[str] = ..., attributes: _Optional[_Mapping[str, _event_pb2.Attribute]] = ...) -> None: ...

class ItemVector(_message.Message):
    __slots__ = ("space", "values")
    SPACE_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    space: str
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, space: _Optional[str] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...

class ItemChange(_message.Message):
    __slots__ = ("item_id", "upsert", "removed")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    UPSERT_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    upsert: Item
    removed: ItemRemoved
    def __init__(self, item_id: _Optional[str] = ..., upsert: _Optional[_Union[Item, _Mapping]] = ..., removed: _Optional[_Union[ItemRemoved, _Mapping]] = ...) -> None: ...

class ItemRemoved(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...
