"""The contract at its edges: read, check and key what producers send.

Every refusal is a `ContractError` with a reason code of `docs/specs/dead-letters.md`; nothing else is raised, whatever
the bytes are.
Cost: about 3 us for a protobuf event of the usual size, decoding included; about 35 us for JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Final

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from liverank.errors import ContractError
from liverank.ids import event_id_of, uuid7, uuid7_ms
from liverank.v1 import event_pb2, item_pb2
from liverank.v1.event_pb2 import Event
from liverank.v1.item_pb2 import ItemChange

__all__ = [
    "DERIVED",
    "INTERNAL",
    "LONG_DWELL_S",
    "NEGATIVE",
    "POSITIVE",
    "PRODUCED",
    "SHORT_DWELL_S",
    "Headers",
    "decode_event",
    "decode_item",
    "event_id_of",
    "event_key",
    "header",
    "polarity",
    "read_item",
    "uuid7",
    "uuid7_ms",
    "validate_event",
    "validate_item",
]

Headers = Mapping[str, bytes] | Iterable[tuple[str, bytes]] | None

CONTENT_TYPE: Final = "content-type"
JSON_TYPE: Final = b"application/json"
PRODUCER_HEADER: Final = "liverank-producer"
"""Names who sent a record, for operators; optional, at most 64 bytes of UTF-8."""
INTERNAL_HEADER: Final = "liverank-internal"
FORWARDED_HEADER: Final = "liverank-forwarded"

MAX_BYTES: Final = 64 * 1024
MAX_INTERNAL_BYTES: Final = 512 * 1024
MAX_FUTURE_MS: Final = 5 * 60 * 1000
MIN_TS_MS: Final = 10**11  # March 1973; anything smaller is a time in seconds
MAX_VALUE: Final = 10**12  # of an event's value, either sign, and of a price: sums of such stay far inside float64
MAX_SLOTS: Final = 200
MAX_PHI: Final = 32
MAX_VECTOR: Final = 1024
MAX_VARIANTS: Final = 16
SHORT_DWELL_S: Final = 5.0
LONG_DWELL_S: Final = 30.0
MID_RATING: Final = 5.0

_T = event_pb2.EventType
_ABANDON: Final = int(_T.EVENT_TYPE_ABANDON)
_CLICK, _DWELL, _RATING = int(_T.EVENT_TYPE_CLICK), int(_T.EVENT_TYPE_DWELL), int(_T.EVENT_TYPE_RATING)
_SURVEY, _EXPOSURE = int(_T.EVENT_TYPE_SURVEY), int(_T.EVENT_TYPE_EXPOSURE)
_CONTROL = int(_T.EVENT_TYPE_CONTROL)
_IDENTIFY = int(_T.EVENT_TYPE_IDENTIFY)

POSITIVE: Final[frozenset[int]] = frozenset(
    int(t) for t in (_T.EVENT_TYPE_CLICK, _T.EVENT_TYPE_LIKE, _T.EVENT_TYPE_SAVE, _T.EVENT_TYPE_PURCHASE)
)
"""Types that are good news whatever their value. Dwell, rating and survey depend on it: see `polarity`."""

NEGATIVE: Final[frozenset[int]] = frozenset(
    int(t)
    for t in (
        _T.EVENT_TYPE_SKIP,
        _T.EVENT_TYPE_DISMISS,
        _T.EVENT_TYPE_THUMBS_DOWN,
        _T.EVENT_TYPE_NOT_INTERESTED,
    )
)
"""Types that are bad news whatever their value: four of the six signals (also: short dwell, abandoning)."""

INTERNAL: Final[frozenset[int]] = frozenset((int(_T.EVENT_TYPE_TICK), _CONTROL))
"""Types that only liverank's own processes write, with the header `liverank-internal`."""

DERIVED: Final[frozenset[int]] = frozenset((int(_T.EVENT_TYPE_ABANDON), int(_T.EVENT_TYPE_VARIANT)))
"""Types that a fold derives (a session without good news timed out; counts of a variant); never on the log."""

PRODUCED: Final[frozenset[int]] = frozenset(int(v) for v in _T.values() if 0 < v < 50)
"""Types that apps and producers send."""

_KNOWN: Final = PRODUCED | INTERNAL | {_EXPOSURE}
_WITHOUT_ITEM: Final = INTERNAL | {
    _EXPOSURE,
    _SURVEY,
    int(_T.EVENT_TYPE_SEARCH),
    int(_T.EVENT_TYPE_SESSION_END),
    _IDENTIFY,
}


def polarity(event_type: int, value: float) -> int:
    """+1 good news about the item, -1 bad news, 0 neither.

    Dwell: below `SHORT_DWELL_S` -1, from `LONG_DWELL_S` +1. Rating (0 to 10): above 5 +1, below -1. Survey (0 to 1):
    the same about 0.5.
    """
    if event_type in POSITIVE:
        return 1
    if event_type in NEGATIVE or event_type == _ABANDON:
        return -1
    if event_type == _DWELL:
        return 1 if value >= LONG_DWELL_S else -1 if value < SHORT_DWELL_S else 0
    middle = MID_RATING if event_type == _RATING else 0.5 if event_type == _SURVEY else None
    if middle is None:
        return 0
    return (value > middle) - (value < middle)


def header(headers: Headers, name: str) -> bytes | None:
    """The value of a record header, the first where it is repeated; None where it is absent."""
    if not headers:
        return None
    if isinstance(headers, Mapping):
        return headers.get(name)
    return next((value for key, value in headers if key == name), None)


def event_key(event: Event) -> bytes:
    """Kafka key of an event: user_id, else session_id, as UTF-8; of an `identify` the session_id, whose past moves.

    Raises
    ------
    ContractError
        `missing_id`, where both are empty.
    """
    key: str = event.session_id if event.type == _IDENTIFY else event.user_id or event.session_id
    if not key:
        raise ContractError("missing_id", "user_id or session_id is required, both are empty")
    return key.encode()


def decode_event(value: bytes | None, headers: Headers = None) -> Event:
    """An `Event` from a record's value: protobuf, or proto3 JSON where the header `content-type` is `application/json`.

    Unknown fields are ignored in both (a newer producer's), unknown types are refused.

    Raises
    ------
    ContractError
        `malformed`, `too_large`, `unknown_type` (JSON with an unknown name).
    """
    event = Event()
    document = _decode(event, value, headers)
    if document is not None and isinstance(name := document.get("type"), str) and name not in _T.keys():  # noqa: SIM118
        raise ContractError("unknown_type", f"type is one of EventType, got {name[:64]!r}")
    return event


def decode_item(value: bytes | None, headers: Headers = None) -> ItemChange:
    """An `ItemChange` from a record's value, as `decode_event` does."""
    change = ItemChange()
    _decode(change, value, headers)
    return change


def _decode(message: Message, value: bytes | None, headers: Headers) -> dict[str, object] | None:
    name = message.DESCRIPTOR.name
    if value is None:
        raise ContractError("malformed", f"a record holds one {name}, got no value")
    if len(value) > MAX_BYTES:
        most = MAX_BYTES if header(headers, INTERNAL_HEADER) is None else MAX_INTERNAL_BYTES
        if len(value) > most:
            raise ContractError("too_large", f"a {name} has at most {most} bytes, got {len(value)}")
    if headers and (header(headers, CONTENT_TYPE) or b"").split(b";")[0].strip().lower() == JSON_TYPE:
        return _decode_json(message, value, name)
    try:
        message.ParseFromString(value)
    except DecodeError as error:
        raise ContractError(
            "malformed", f"not a protobuf {name} ({error}); JSON needs the header content-type: application/json"
        ) from error
    return None


def _decode_json(message: Message, value: bytes, name: str) -> dict[str, object]:
    try:
        document = json.loads(value)
        if not isinstance(document, dict):
            raise ContractError("malformed", f"a JSON {name} is an object, got {type(document).__name__}")
        json_format.ParseDict(document, message, ignore_unknown_fields=True)
    except (ValueError, TypeError, OverflowError, RecursionError, json_format.Error) as error:
        if isinstance(error, ContractError):
            raise
        raise ContractError("malformed", f"not proto3 JSON of a {name}: {str(error)[:300]}") from error
    return document


def validate_event(event: Event, *, now_ms: int, internal: bool = False, exposures: bool = True) -> None:
    """Refuse an event that breaks the contract.

    Parameters
    ----------
    event : Event
        As decoded; not changed.
    now_ms : int
        The record's append time (the server's clock in Track), ms since the UTC epoch.
    internal : bool
        The record carries the namespace's internal token: ticks and control records are allowed.
    exposures : bool
        False where apps send (Track): exposures are written by the ranker only.

    Raises
    ------
    ContractError
        Codes of `docs/specs/dead-letters.md`: `unknown_type`, `not_allowed`, `missing_id`, `bad_timestamp`, `future`,
        `not_finite`, `bad_value`, `too_large`, `bad_exposure`.
    """
    kind = event.type
    if kind not in _KNOWN:
        raise ContractError("unknown_type", f"type is one of EventType (1 to 15 for producers), got {kind}")
    if kind in INTERNAL:
        if not internal:
            raise ContractError("not_allowed", f"{_T.Name(kind)} is for liverank's own processes; do not send it")
        return
    if kind == _EXPOSURE and not exposures:
        raise ContractError("not_allowed", "exposures are written by the ranker; send EVENT_TYPE_IMPRESSION")
    event_id = event.event_id
    if not event_id:
        raise ContractError("missing_id", "event_id is required: any text unique to the event, e.g. a UUID")
    _text("event_id", event_id, 64)
    user_id, session_id, item_id = event.user_id, event.session_id, event.item_id
    if not user_id and not session_id:
        raise ContractError("missing_id", "user_id or session_id is required, both are empty")
    _text("user_id", user_id, 128)
    _text("session_id", session_id, 128)
    if kind == _IDENTIFY and (not user_id or not session_id or user_id == session_id):
        raise ContractError("missing_id", "EVENT_TYPE_IDENTIFY needs a user_id and a session_id, and they differ")
    if item_id:
        _text("item_id", item_id, 128)
    elif kind not in _WITHOUT_ITEM:
        raise ContractError("missing_id", f"item_id is required for {_T.Name(kind)}")
    _timestamp(event.event_ts_ms, now_ms)
    value = event.value
    if value:
        _value(kind, value)
    _text("request_id", event.request_id, 64)
    if not 0 <= event.position <= 10_000:
        raise ContractError("bad_value", f"position counts from 1 (0 = unknown) to 10,000, got {event.position}")
    _text("surface", event.surface, 64)
    _text("anonymous_id", event.anonymous_id, 128)
    if event.attributes:
        _attributes("attributes", event.attributes, 16)
    if event.HasField("context"):
        _context(event.context)
    if event.HasField("exposure"):
        _exposure(event)
    elif kind == _EXPOSURE:
        raise ContractError("bad_exposure", "an exposure event needs its field `exposure`")
    if event.HasField("control"):
        raise ContractError("not_allowed", f"field `control` belongs to control records, got it with {_T.Name(kind)}")


def read_item(value: bytes | None, headers: Headers = None, *, key: bytes | None) -> ItemChange:
    """Decode and validate a record of the topic `items`; one without a value (a tombstone) removes the item of its key.

    Raises
    ------
    ContractError
        See `decode_item` and `validate_item`.
    """
    if value:
        change = decode_item(value, headers)
    else:
        removed = item_pb2.ItemRemoved(reason="tombstone")
        change = ItemChange(item_id=(key or b"").decode(errors="replace"), removed=removed)
    validate_item(change)
    return change


def validate_item(change: ItemChange, *, dims: Mapping[str, int] | None = None) -> None:
    """Refuse a catalogue change that breaks the contract.

    Parameters
    ----------
    change : ItemChange
        As decoded; not changed.
    dims : Mapping of str to int, optional
        Length of the vectors of each space known so far; another length is refused.

    Raises
    ------
    ContractError
        `missing_id`, `malformed` (no change set, two ids that differ), `not_finite`, `bad_value`, `bad_timestamp`,
        `too_large`, `bad_vector`.
    """
    if not change.item_id:
        raise ContractError("missing_id", "item_id is required in a catalogue change")
    _text("item_id", change.item_id, 128)
    kind = change.WhichOneof("change")
    if kind is None:
        raise ContractError("malformed", "a catalogue change sets `upsert` or `removed`, got neither")
    if kind == "removed":
        _text("removed.reason", change.removed.reason, 1024)
        return
    item = change.upsert
    if item.item_id and item.item_id != change.item_id:
        raise ContractError("malformed", f"upsert.item_id {item.item_id!r} differs from item_id {change.item_id!r}")
    _text("title", item.title, 1024)
    _text("text", item.text, 16 * 1024)
    _text("creator", item.creator, 128)
    _finite("price", item.price)
    if not 0 <= item.price <= MAX_VALUE:
        raise ContractError("bad_value", f"price is 0 (none) or more, at most 1e12, got {item.price}")
    if item.published_ts_ms and item.published_ts_ms < MIN_TS_MS:
        raise ContractError("bad_timestamp", f"published_ts_ms is ms since the UTC epoch, got {item.published_ts_ms}")
    for name, values, most in (("categories", item.categories, 16), ("regions", item.regions, 300)):
        if len(values) > most:
            raise ContractError("too_large", f"an item has at most {most} {name}, got {len(values)}")
        for text in values:
            if not text:
                raise ContractError("bad_value", f"an empty text in {name}")
            _text(name, text, 128)
    _attributes("attributes", item.attributes, 32)
    _variants(item)
    _vectors(item, dims or {})


def _variants(item: item_pb2.Item) -> None:
    names = [variant.variant_id for variant in item.variants]
    if len(names) > MAX_VARIANTS:
        raise ContractError("too_large", f"an item has at most {MAX_VARIANTS} variants, got {len(names)}")
    if not all(names) or len(set(names)) != len(names):
        raise ContractError("bad_value", f"variants of an item have different ids that are not empty, got {names}")
    for variant in item.variants:
        _text("variant_id", variant.variant_id, 64)
        _attributes("variant.attributes", variant.attributes, 16)


def _vectors(item: item_pb2.Item, dims: Mapping[str, int]) -> None:
    spaces = [vector.space for vector in item.vectors]
    if len(set(spaces)) != len(spaces):
        raise ContractError("bad_vector", f"one vector a space, got spaces {spaces[:8]}")
    for vector in item.vectors:
        if not vector.space:
            raise ContractError("bad_vector", "a vector names its space, got an empty name")
        _text("space", vector.space, 128)
        length = len(vector.values)
        allowed = dims.get(vector.space)
        if not 2 <= length <= MAX_VECTOR or (allowed is not None and length != allowed):
            expected = str(allowed) if allowed is not None else f"2 to {MAX_VECTOR}"
            raise ContractError("bad_vector", f"a vector of space {vector.space!r} has {expected} values, got {length}")
        if not math.isfinite(math.fsum(abs(value) for value in vector.values)):
            raise ContractError("not_finite", f"vector of space {vector.space!r} holds NaN or infinity")


def _exposure(event: Event) -> None:
    if event.type != _EXPOSURE:
        raise ContractError("not_allowed", f"field `exposure` belongs to exposures, got it with {_T.Name(event.type)}")
    exposure = event.exposure
    n_heads = len(exposure.heads)
    if not 1 <= len(exposure.slots) <= MAX_SLOTS:
        raise ContractError("bad_exposure", f"an exposure has 1 to {MAX_SLOTS} slots, got {len(exposure.slots)}")
    dim = len(exposure.slots[0].phi)
    for slot in exposure.slots:
        if not slot.item_id:
            raise ContractError("missing_id", "a slot of an exposure has no item_id")
        if not 0.0 < slot.propensity <= 1.0:
            raise ContractError("bad_exposure", f"a propensity lies in (0, 1], got {slot.propensity}")
        if len(slot.p_shown) != n_heads or len(slot.p_first) != n_heads:
            raise ContractError(
                "bad_exposure", f"one probability a head ({n_heads}), got {len(slot.p_shown)} and {len(slot.p_first)}"
            )
        if len(slot.phi) != dim or dim > MAX_PHI:
            raise ContractError(
                "bad_exposure", f"phi has one length in a slate, at most {MAX_PHI}, got {len(slot.phi)} and {dim}"
            )
        if slot.variant_id and not 0.0 < slot.variant_propensity <= 1.0:
            raise ContractError("bad_exposure", f"a propensity lies in (0, 1], got {slot.variant_propensity}")
        _text("variant_id", slot.variant_id, 64)
        if not math.isfinite(sum(slot.phi) + sum(slot.p_shown) + sum(slot.p_first)):
            raise ContractError("not_finite", f"slot of item {slot.item_id!r} holds NaN or infinity")


def _timestamp(event_ts_ms: int, now_ms: int) -> None:
    if event_ts_ms < MIN_TS_MS:
        hint = "it looks like seconds" if event_ts_ms > 10**8 else "it is missing or not an epoch time"
        raise ContractError("bad_timestamp", f"event_ts_ms is ms since the UTC epoch, got {event_ts_ms}: {hint}")
    if event_ts_ms > now_ms + MAX_FUTURE_MS:
        ahead_s = (event_ts_ms - now_ms) / 1000
        raise ContractError(
            "future", f"at most {MAX_FUTURE_MS // 1000} s ahead, got {ahead_s:.0f} s: check the sender's clock and unit"
        )


def _value(kind: int, value: float) -> None:
    _finite("value", value)
    if abs(value) > MAX_VALUE:
        raise ContractError("bad_value", f"value lies in [-1e12, 1e12], got {value}; send it in a larger unit")
    if kind == _DWELL and value < 0:
        raise ContractError("bad_value", f"dwell is in seconds, 0 or more, got {value}")
    if kind == _SURVEY and not 0 <= value <= 1:
        raise ContractError("bad_value", f"a survey answer lies in [0, 1], got {value}")


def _context(context: event_pb2.Context) -> None:
    _text("context.device", context.device, 32)
    _text("context.region", context.region, 32)
    _text("context.language", context.language, 35)
    _text("context.query", context.query, 512)
    if not -840 <= context.utc_offset_minutes <= 840:
        raise ContractError("bad_value", f"utc_offset_minutes lies in [-840, 840], got {context.utc_offset_minutes}")
    if context.attributes:
        _attributes("context.attributes", context.attributes, 16)


def _attributes(name: str, attributes: Mapping[str, event_pb2.Attribute], most: int) -> None:
    if len(attributes) > most:
        raise ContractError("too_large", f"{name} has at most {most} keys, got {len(attributes)}")
    for key, attribute in attributes.items():
        _text(f"a key of {name}", key, 64)
        _text(f"{name}[{key!r}]", attribute.text, 1024)
        _finite(f"{name}[{key!r}]", attribute.number)


def _text(name: str, text: str, most: int) -> None:
    # A character has at most 4 bytes, so short texts need no encoding.
    if len(text) * 4 > most and (size := len(text.encode())) > most:
        raise ContractError("too_large", f"{name} has at most {most} bytes, got {size}")


def _finite(name: str, number: float) -> None:
    if not math.isfinite(number):
        raise ContractError("not_finite", f"{name} is a finite number, got {number}")
