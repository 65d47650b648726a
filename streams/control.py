"""Control records that change the feature program of a partition (docs/specs/control.md).

A view starts to count at the record `activate`, gets what was counted before it by `merge`, stops at `remove`, and its
fields leave the state by `sweep`. Each record is applied once, like an event; applying it again changes nothing. Views
of items are told to the item fold by the user fold, numbered like any effect, so that they start at the same record.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from features.errors import ProgramError
from features.program import ViewProgram
from liverank.errors import ContractError
from liverank.v1.event_pb2 import Control
from liverank.v1.stream_pb2 import ItemEffect
from streams.fold import Context, KeyState
from streams.program import PROGRAM_KEY, ProgramState

__all__ = [
    "KINDS",
    "Activate",
    "Adopt",
    "Command",
    "Erase",
    "Erased",
    "Merge",
    "Remove",
    "Sweep",
    "Void",
    "apply_control",
    "control",
    "parse_control",
    "staged",
    "write_staged",
]


@dataclass(frozen=True, kw_only=True)
class Activate:
    """Count these views, each under the name of its activation, from this record on."""

    views: tuple[tuple[str, ViewProgram], ...]


@dataclass(frozen=True, kw_only=True)
class Remove:
    """Stop counting these tiles, if they count by this activation."""

    tiles_id: str
    activation: str


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Add what was counted before the activations: pages by key, in the file at `path` with this hash."""

    activations: tuple[str, ...]
    path: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Delete the fields of removed tiles from the keys that the file names."""

    tiles_id: str
    path: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Erase:
    """Delete everything of a user and of these sessions; `job` names the request, which is done once."""

    user_id: str
    sessions: tuple[str, ...]
    job: str


@dataclass(frozen=True, kw_only=True)
class Erased:
    """What stands in the archive where an `Erase` stood: the sums that its user left, without an id.

    Attributes
    ----------
    keys : tuple of int
        Hashes of the state keys that were erased.
    at_ms : int
        Newest event time of what was erased.
    path, sha256 : str
        File of effects on items and of statistics (`streams.erasure`).
    """

    keys: tuple[int, ...]
    at_ms: int
    job: str
    path: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Void:
    """What stands in the archive where an event of an erased user stood. Does nothing."""


@dataclass(frozen=True, kw_only=True)
class Adopt:
    """Fold these events, encoded and with the append times of their records, as the user's.

    Attributes
    ----------
    whole : bool
        What they had added to sums before was taken back, so they add to sums again.
    late : bool
        They were never counted: views of sessions count them too.
    hops : int
        How often they moved on because the user id turned out to be a session's.
    """

    user_id: str
    events: tuple[tuple[bytes, int], ...]
    whole: bool
    late: bool = False
    hops: int = 0


Command = Activate | Remove | Merge | Sweep | Erase | Erased | Void | Adopt
KINDS: Final = ("activate", "merge", "remove", "sweep", "erase", "erased", "void", "adopt")


@runtime_checkable
class _Merging(Protocol):
    """A state that takes pages counted apart."""

    def merge(self, pages: Mapping[bytes, bytes]) -> None:
        """Add the tiles of these pages."""
        ...


def control(command: Command) -> Control:
    """The record's body."""
    match command:
        case Activate(views=views):
            body: dict[str, Any] = {"views": [[activation, view.to_dict()] for activation, view in views]}
        case Remove(tiles_id=tiles_id, activation=activation):
            body = {"tiles_id": tiles_id, "activation": activation}
        case Merge(activations=activations):
            body = {"activations": list(activations), "path": command.path, "sha256": command.sha256}
        case Sweep(tiles_id=tiles_id):
            body = {"tiles_id": tiles_id, "path": command.path, "sha256": command.sha256}
        case Erase() | Erased() | Void():
            body = asdict(command)
        case Adopt(events=events):
            body = {**asdict(command), "events": [[b64encode(packed).decode(), ts_ms] for packed, ts_ms in events]}
    payload = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return Control(kind=type(command).__name__.lower(), payload=payload)


def parse_control(record: Control) -> Command:
    """Read a control record.

    Raises
    ------
    ContractError
        `bad_control`: unknown kind, or a body that is not one of that kind.
    """
    try:
        body = json.loads(record.payload)
        match record.kind:
            case "activate":
                return Activate(views=tuple((str(name), ViewProgram.from_dict(view)) for name, view in body["views"]))
            case "remove":
                return Remove(tiles_id=str(body["tiles_id"]), activation=str(body["activation"]))
            case "merge":
                names = tuple(map(str, body["activations"]))
                return Merge(activations=names, path=str(body["path"]), sha256=str(body["sha256"]))
            case "sweep":
                return Sweep(tiles_id=str(body["tiles_id"]), path=str(body["path"]), sha256=str(body["sha256"]))
            case "erase":
                sessions = tuple(map(str, body["sessions"]))
                return Erase(user_id=_named(body["user_id"]), sessions=sessions, job=_job(body["job"]))
            case "erased":
                keys, path, digest = tuple(map(int, body["keys"])), str(body["path"]), str(body["sha256"])
                return Erased(keys=keys, at_ms=int(body["at_ms"]), job=_job(body["job"]), path=path, sha256=digest)
            case "void":
                return Void()
            case "adopt":
                events = tuple((b64decode(packed, validate=True), int(ts_ms)) for packed, ts_ms in body["events"])
                flags = {"whole": bool(body["whole"]), "late": bool(body["late"])}
                return Adopt(user_id=_named(body["user_id"]), events=events, hops=int(body["hops"]), **flags)
    except (KeyError, TypeError, ValueError, ProgramError) as error:
        raise ContractError("bad_control", f"the body of {record.kind!r} cannot be read: {error}") from error
    raise ContractError("bad_control", f"kind must be one of {', '.join(KINDS)}, got {record.kind[:32]!r}")


def _named(user_id: object) -> str:
    if not isinstance(user_id, str) or not user_id:
        raise ValueError("user_id is a text that is not empty")
    return user_id


def _job(job: object) -> str:
    if not isinstance(job, str) or len(bytes.fromhex(job)) != 8:
        raise ValueError("job is 16 hex digits")
    return job


def staged(path: Path, digest: str) -> list[tuple[str, dict[bytes, bytes]]]:
    """Fields by key of a staging file, in the order of the keys.

    Raises
    ------
    ContractError
        `bad_control`: the file is not there, or is not the one that was meant.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        data = path.read_bytes()
    except OSError as error:
        raise ContractError("bad_control", f"the staging file cannot be read: {error}") from error
    if sha256(data).hexdigest() != digest:
        raise ContractError("bad_control", f"{path} is not the staging file that was meant: its hash differs")
    table = pq.read_table(pa.BufferReader(data))
    found: dict[str, dict[bytes, bytes]] = {}
    for key, field, page in zip(*(table.column(name).to_pylist() for name in ("key", "field", "page")), strict=True):
        found.setdefault(key, {})[field] = page
    return list(found.items())


def apply_control(
    command: Command,
    state: ProgramState,
    ctx: Context,
    *,
    home: Path,
    offset: int,
    source: int | None = None,
    gone: Callable[[str, int], bool] = lambda _key, _offset: False,
) -> None:
    """Apply a control record to a partition.

    Parameters
    ----------
    command : Command
    state : ProgramState
        The program of the partition.
    ctx : Context
    home : Path
        Folder that paths of staging files count from.
    offset : int
        Of the record, for `activate`.
    source : int, optional
        Item fold: source partition from which the view counts; the caller has called `Context.reload` then. None = the
        record stands in the fold's own log.
    gone : callable
        Whether a key was erased after an offset: what was staged of it before stays out.

    Raises
    ------
    ContractError
        `bad_control`; nothing more was changed.
    """
    match command:
        case Activate(views=views):
            new = [
                (activation, view)
                for activation, view in views
                if not state.is_running(activation, source) and not state.counts_apart_from(activation, view)
            ]
            for _, view in new:
                state.check_swept(view)
            if not new:
                return
            if source is None:
                ctx.reload()
            ctx.state(PROGRAM_KEY)
            for activation, view in new:
                state.activate(activation, view, offset, source, ctx.n_partitions)
            of_items = tuple((activation, view) for activation, view in new if view.entity == "item")
            if source is None and of_items:
                ctx.broadcast(lambda: ItemEffect(control=control(Activate(views=of_items))))
        case Remove(tiles_id=tiles_id, activation=activation):
            running = state.of_tiles(tiles_id)
            if running is None or running.activation != activation:
                return
            if source is None:
                ctx.reload()
            ctx.state(PROGRAM_KEY)
            state.remove(running)
            if source is None and running.view.entity == "item":
                ctx.broadcast(lambda: ItemEffect(control=control(command)))
        case Merge(activations=activations):
            wanted = [found for name in activations if (found := state.running(name)) is not None and not found.merged]
            if not wanted:
                return
            fields = {field for each in wanted for field in each.view.page_fields}
            since = min(each.offset for each in wanted)
            for key, pages in _chunks(command, state, ctx, home):
                own = {field: page for field, page in pages.items() if field in fields}
                if own and not gone(key, since):
                    _merging(ctx.state(key), key).merge(own)
            state.merged(activations)
        case Sweep(tiles_id=tiles_id):
            left = {field.encode() for field in state.leaving.get(tiles_id, ())}
            if not left:
                return
            for key, pages in _chunks(command, state, ctx, home):
                ctx.erase(key, [field for field in pages if field in left])
            state.swept(tiles_id)
        case Erase() | Erased() | Void() | Adopt():
            raise ContractError("bad_control", f"{type(command).__name__.lower()} is for the user fold alone")


def _chunks(
    command: Merge | Sweep, state: ProgramState, ctx: Context, home: Path
) -> Iterator[tuple[str, dict[bytes, bytes]]]:
    """Keys of the staging file that are not done yet; each call notes how far it is, so that a new owner goes on."""
    rows = staged(home / command.path, command.sha256)
    start = state.begin(command.sha256)
    ctx.state(PROGRAM_KEY)
    for at in range(start, len(rows)):
        if (at - start) % _PREFETCH == 0:
            ctx.prefetch([key for key, _ in rows[at : at + _PREFETCH]])
        yield rows[at]
        ctx.state(PROGRAM_KEY)
        state.done(at + 1, command.sha256)
        ctx.split()
    ctx.state(PROGRAM_KEY)


_PREFETCH: Final = 100


def _merging(state: KeyState, key: str) -> _Merging:
    if not isinstance(state, _Merging):
        raise ContractError("bad_control", f"the staging file names {key!r}, which holds no tiles")
    return state


def write_staged(path: Path, rows: Sequence[tuple[str, Mapping[bytes, bytes]]]) -> str:
    """Write a staging file, keys in order; return its hash. Equal rows give equal bytes.

    Raises
    ------
    OSError
        The disk refuses.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = [(key, field, page) for key, fields in sorted(rows) for field, page in sorted(fields.items())]
    columns = list(zip(*flat, strict=True)) if flat else [(), (), ()]
    schema = pa.schema([("key", pa.string()), ("field", pa.binary()), ("page", pa.binary())])
    table = pa.Table.from_arrays(
        [pa.array(column, each.type) for column, each in zip(columns, schema, strict=True)], schema=schema
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.tmp")
    try:
        pq.write_table(table, staging, compression="zstd")
        digest = sha256(staging.read_bytes()).hexdigest()
        staging.rename(path)
    finally:
        staging.unlink(missing_ok=True)
    return digest
