"""Event and item files: the documented import and export format (docs/events.md).

JSONL (`.jsonl`, `.jsonl.gz`, `.jsonl.zst`): one proto3 JSON message a line. Parquet (`.parquet`): one row a message,
columns named as its scalar fields; nested fields as protobuf bytes or JSON text. Readers stream; a fault names its file
and line or row. pyarrow and zstandard come with the extra `server` and are imported when used.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from liverank.calls import attribute, event_type
from liverank.contract import decode_event, decode_item
from liverank.errors import ConfigError, ContractError
from liverank.v1.event_pb2 import Event, EventType
from liverank.v1.item_pb2 import Item, ItemChange

JSONL_SUFFIXES: Final = (".jsonl", ".jsonl.gz", ".jsonl.zst")
_JSON_HEADERS: Final = {"content-type": b"application/json"}
_EVENT_SCALARS: Final = (
    "event_id",
    "user_id",
    "session_id",
    "item_id",
    "event_ts_ms",
    "value",
    "request_id",
    "position",
    "surface",
    "anonymous_id",
)
_EVENT_NESTED: Final = ("context", "exposure")
_ITEM_SCALARS: Final = ("title", "text", "price", "available", "creator", "published_ts_ms")
_ITEM_LISTS: Final = ("categories", "regions")
_BATCH: Final = 8192

_M = TypeVar("_M", Event, ItemChange)
_R = TypeVar("_R", bytes, dict[str, Any])


def read_events(path: Path) -> Iterator[Event]:
    """The events of a file, in its order, decoded but not validated.

    Raises
    ------
    ContractError
        A line or row that is no event, with the contract's reason code, the file and the line.
    ConfigError
        The file is missing, of an unknown kind, or without a required column.
    """
    if _is_parquet(path):
        yield from _decoded(path, "row", _rows(path, ("type", "event_ts_ms")), _event_of_row)
    else:
        yield from _decoded(path, "line", _lines(path), lambda line: decode_event(line, _JSON_HEADERS))


def scan_events(path: Path) -> Iterator[tuple[int, Event | ContractError]]:
    """Every line or row with its number (from 1): the event, not validated, or why it is none; no empty lines.

    Raises
    ------
    ConfigError
        See `read_events`.
    """
    parquet = _is_parquet(path)
    records: Iterable[Any] = _rows(path, ("type", "event_ts_ms")) if parquet else _lines(path)
    for number, record in enumerate(records, 1):
        if not record:
            continue
        try:
            yield number, _event_of_row(record) if parquet else decode_event(record, _JSON_HEADERS)
        except ContractError as error:
            yield number, error


def read_items(path: Path) -> Iterator[ItemChange]:
    """The catalogue changes of a file, in its order; see `read_events`. JSON lines may also be bare items."""
    if _is_parquet(path):
        yield from _decoded(path, "row", _rows(path, ("item_id",)), _item_of_row)
    else:
        yield from _decoded(path, "line", _lines(path), _item_of_line)


def write_events(path: Path, events: Iterable[Event]) -> int:
    """Write events; returns how many. The suffix chooses the kind."""
    if _is_parquet(path):
        return _write_parquet(path, (_row_of_event(event) for event in events), _event_schema())
    return _write_lines(path, events)


def write_items(path: Path, changes: Iterable[ItemChange]) -> int:
    """Write catalogue changes; returns how many."""
    if _is_parquet(path):
        return _write_parquet(path, (_row_of_item(change) for change in changes), _item_schema())
    return _write_lines(path, changes)


def _is_parquet(path: Path) -> bool:
    if path.name.endswith(".parquet"):
        return True
    if path.name.endswith(JSONL_SUFFIXES):
        return False
    raise ConfigError(f"a file ends in .parquet, {', '.join(JSONL_SUFFIXES)}; got {path.name}")


def _decoded(path: Path, unit: str, records: Iterable[_R], decode: Callable[[_R], _M]) -> Iterator[_M]:
    for number, record in enumerate(records, 1):
        if not record:
            continue
        try:
            message = decode(record)
        except ContractError as error:
            raise ContractError(error.reason, f"{path}, {unit} {number}: {error.detail}") from error
        yield message


@contextmanager
def _opened(path: Path, mode: str) -> Iterator[IO[bytes]]:
    if "r" in mode and not path.exists():
        raise ConfigError(f"no file {path}")
    if path.name.endswith(".gz"):
        with gzip.open(path, mode) as file:
            yield file  # type: ignore[misc]
    elif path.name.endswith(".zst"):
        import zstandard

        with zstandard.open(path, mode) as file:
            # zstandard's readers know no lines.
            yield io.BufferedReader(file) if "r" in mode else file
    else:
        with path.open(mode) as file:
            yield file


def _lines(path: Path) -> Iterator[bytes]:
    with _opened(path, "rb") as file:
        yield from (line.strip() for line in file)


def _write_lines(path: Path, messages: Iterable[Message]) -> int:
    written = 0
    with _opened(path, "wb") as file:
        for message in messages:
            text = json.dumps(json_format.MessageToDict(message, preserving_proto_field_name=True), ensure_ascii=False)
            file.write(text.encode() + b"\n")
            written += 1
    return written


def _rows(path: Path, required: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    if not path.exists():
        raise ConfigError(f"no file {path}")
    file = pq.ParquetFile(path)
    missing = [name for name in required if name not in file.schema_arrow.names]
    if missing:
        raise ConfigError(f"{path} needs the columns {', '.join(required)}; it lacks {', '.join(missing)}")
    for batch in file.iter_batches(batch_size=_BATCH):
        yield from batch.to_pylist()


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]], schema: Any) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    written = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        chunk: list[dict[str, Any]] = []
        for row in rows:
            chunk.append(row)
            if len(chunk) == _BATCH:
                writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
                written += len(chunk)
                chunk = []
        if chunk:
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
            written += len(chunk)
    return written


def _scalars(row: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: row[name] for name in names if row.get(name) is not None}


def _event_of_row(row: Mapping[str, Any]) -> Event:
    kind = row["type"]
    try:
        number: Any = event_type(kind) if isinstance(kind, str) else kind
        event = Event(type=number, **_scalars(row, _EVENT_SCALARS))
    except (TypeError, ValueError) as error:
        if isinstance(error, ContractError):
            raise
        raise ContractError("malformed", f"a column of the wrong type: {error}") from error
    for name in _EVENT_NESTED:
        _merge(getattr(event, name), row.get(name), name)
    _merge_attributes(event, row.get("attributes"))
    return event


def _item_of_row(row: Mapping[str, Any]) -> ItemChange:
    if row.get("removed"):
        change = ItemChange(item_id=row["item_id"])
        change.removed.SetInParent()
        return change
    try:
        fields = {"available": True, **_scalars(row, (*_ITEM_SCALARS, *_ITEM_LISTS))}
        item = Item(item_id=row["item_id"], **fields)
    except (TypeError, ValueError) as error:
        raise ContractError("malformed", f"a column of the wrong type: {error}") from error
    _merge_attributes(item, row.get("attributes"))
    for space, values in (
        (row.get("vectors") or []) if not isinstance(row.get("vectors"), dict) else row["vectors"].items()
    ):
        item.vectors.add(space=space, values=values)
    if row.get("variants"):
        try:
            json_format.ParseDict({"variants": json.loads(row["variants"])}, item, ignore_unknown_fields=True)
        except (ValueError, TypeError, json_format.Error) as error:
            raise ContractError("malformed", f"column variants is a JSON list of variants: {error}") from error
    return ItemChange(item_id=item.item_id, upsert=item)


def _item_of_line(line: bytes) -> ItemChange:
    change = decode_item(line, _JSON_HEADERS)
    if change.WhichOneof("change") is None:
        # A bare item: the whole line is its state.
        document = json.loads(line)
        document.setdefault("available", True)
        try:
            json_format.ParseDict(document, change.upsert, ignore_unknown_fields=True)
        except (ValueError, TypeError, json_format.Error) as error:
            raise ContractError("malformed", f"neither a catalogue change nor an item: {str(error)[:300]}") from error
    return change


def _merge(message: Message, value: bytes | str | None, name: str) -> None:
    if not value:
        return
    try:
        if isinstance(value, bytes):
            message.ParseFromString(value)
        else:
            json_format.Parse(value, message, ignore_unknown_fields=True)
        message.SetInParent()
    except (DecodeError, ValueError, json_format.Error) as error:
        raise ContractError("malformed", f"column {name} is protobuf bytes or JSON text: {error}") from error


def _merge_attributes(message: Event | Item, value: str | None) -> None:
    if not value:
        return
    try:
        document = json.loads(value)
        for key, plain in document.items():
            message.attributes[key].CopyFrom(attribute(plain))
    except (ValueError, TypeError, AttributeError) as error:
        raise ContractError(
            "malformed", f"column attributes is a JSON object of texts, numbers, flags: {error}"
        ) from error


def _plain_attributes(message: Event | Item) -> str | None:
    if not message.attributes:
        return None
    plain = {
        key: getattr(value, value.WhichOneof("value") or "text") for key, value in sorted(message.attributes.items())
    }
    return json.dumps(plain, ensure_ascii=False)


def _row_of_event(event: Event) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(event, name) for name in _EVENT_SCALARS}
    row["type"] = EventType.Name(event.type).removeprefix("EVENT_TYPE_").lower()
    for name in _EVENT_NESTED:
        row[name] = getattr(event, name).SerializeToString(deterministic=True) if event.HasField(name) else None
    row["attributes"] = _plain_attributes(event)
    return row


def _row_of_item(change: ItemChange) -> dict[str, Any]:
    item = change.upsert
    row: dict[str, Any] = {name: getattr(item, name) for name in _ITEM_SCALARS}
    row |= {name: list(getattr(item, name)) for name in _ITEM_LISTS}
    row |= {"item_id": change.item_id, "removed": change.WhichOneof("change") == "removed"}
    row["attributes"] = _plain_attributes(item)
    variants = [json_format.MessageToDict(variant) for variant in item.variants]
    row["variants"] = json.dumps(variants, ensure_ascii=False, sort_keys=True) if variants else None
    row["vectors"] = [(vector.space, list(vector.values)) for vector in item.vectors]
    return row


def _event_schema() -> Any:
    import pyarrow as pa

    types = {"event_ts_ms": pa.int64(), "value": pa.float64(), "position": pa.int32()}
    columns = [(name, types.get(name, pa.string())) for name in ("type", *_EVENT_SCALARS)]
    return pa.schema([*columns, *((name, pa.binary()) for name in _EVENT_NESTED), ("attributes", pa.string())])


def _item_schema() -> Any:
    import pyarrow as pa

    types = {"price": pa.float64(), "available": pa.bool_(), "published_ts_ms": pa.int64(), "removed": pa.bool_()}
    names = ("item_id", *_ITEM_SCALARS, "removed", "attributes", "variants")
    columns = [(name, types.get(name, pa.string())) for name in names]
    lists = [(name, pa.list_(pa.string())) for name in _ITEM_LISTS]
    return pa.schema([*columns, *lists, ("vectors", pa.map_(pa.string(), pa.list_(pa.float32())))])
