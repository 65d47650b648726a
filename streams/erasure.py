"""Erasing a user in the fold: what the partition remembers of it, and what its sums keep (docs/specs/control.md).

The state `#erased` holds hashes, no ids: events of before that come late, and files staged before, must not bring an
erased user back. Sums (items, pairs, statistics) hold no id and stay as they are; where the archive is rewritten, a
file holds what the user had added to them, so that a rebuild counts it again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from features.hashing import id_hash
from features.state.dedup import HORIZON_MS
from features.state.pages import HEAD, body
from liverank.errors import ContractError
from liverank.partition import partition as partition_of
from liverank.v1.stream_pb2 import ItemEffect
from streams.control import Erase, Erased, staged, write_staged
from streams.errors import FoldBugError
from streams.fold import Context
from streams.rows import session_key, state_key
from streams.statistics import PREFIX, StatisticsState

__all__ = ["ERASED_KEY", "ErasedKeys", "apply_erase", "write_left"]

ERASED_KEY: Final = "#erased"
_FIELD: Final = b"e"
_ENTRY: Final = struct.Struct("<qqq8s")
_ITEM, _STATISTICS = "i:", "s:"


class ErasedKeys:
    """The keys that were erased in the last week; a `streams.fold.KeyState`.

    Entries: i64 hash of the state key, i64 newest event time of what was erased, i64 offset of the record, 8 bytes
    that name the request.
    """

    def __init__(self, fields: Mapping[bytes, bytes]) -> None:
        stored = fields.get(_FIELD)
        self._entries = list(_ENTRY.iter_unpack(body(_FIELD, stored, _ENTRY.size))) if stored else []
        self._changed = False
        self._index()

    def __bool__(self) -> bool:
        return bool(self._entries)

    def knows(self, job: str) -> bool:
        """Whether this request was done."""
        return any(entry[3] == bytes.fromhex(job) for entry in self._entries)

    def jobs(self) -> dict[str, int]:
        """Offset of each request's record."""
        return {entry[3].hex(): entry[2] for entry in self._entries}

    def of_job(self, job: str) -> tuple[tuple[int, ...], int]:
        """Hashes of the keys that a request erased, and the newest event time among them."""
        found = [entry for entry in self._entries if entry[3] == bytes.fromhex(job)]
        return tuple(entry[0] for entry in found), max((entry[1] for entry in found), default=0)

    def holds_back(self, key: str, event_ts_ms: int) -> bool:
        """Whether an event of this key is one of before the erase."""
        return event_ts_ms <= self._newest.get(id_hash(key), -1)

    def gone_since(self, key: str, offset: int) -> bool:
        """Whether the key was erased by a record after `offset`."""
        hashed = id_hash(key)
        return any(entry[0] == hashed and entry[2] > offset for entry in self._entries)

    def add(self, keys: Iterable[int], at_ms: int, offset: int, job: str, clock_ms: int) -> None:
        """Note keys (their hashes) as erased. Entries older than any event that can still be applied go."""
        kept = [entry for entry in self._entries if max(entry[1], 0) + HORIZON_MS > clock_ms]
        self._entries = kept + [(hashed, at_ms, offset, bytes.fromhex(job)) for hashed in keys]
        self._changed = True
        self._index()

    def due_ms(self) -> int | None:
        """Never due."""
        return None

    def dirty(self) -> dict[bytes, bytes]:
        """The stored form, if it changed."""
        if not self._changed:
            return {}
        self._changed = False
        return {_FIELD: HEAD + b"".join(_ENTRY.pack(*entry) for entry in self._entries)}

    def _index(self) -> None:
        self._newest: dict[int, int] = {}
        for hashed, at_ms, _, _ in self._entries:
            self._newest[hashed] = max(at_ms, self._newest.get(hashed, -1))


def apply_erase(
    command: Erase | Erased, erased: ErasedKeys, ctx: Context, *, home: Path, offset: int, newest_ms: int = 0
) -> None:
    """Erase a user, or count again what an erased one left; once.

    Parameters
    ----------
    erased : ErasedKeys
        State `#erased` of the partition.
    home : Path
        Folder that paths of files count from.
    offset : int
        Of the record.
    newest_ms : int
        Newest event time of the user, which may lie ahead of the partition's clock.

    Raises
    ------
    ContractError
        `bad_control`: the user is not of this partition, or the file is not there. Nothing was changed.
    """
    if erased.knows(command.job):
        return
    if isinstance(command, Erased):
        rows = staged(home / command.path, command.sha256)
        for key, fields in rows:
            if key == ERASED_KEY:
                continue
            if key.startswith(_STATISTICS):
                name = key.removeprefix(_STATISTICS)
                state = ctx.state(name)
                if not isinstance(state, StatisticsState):
                    raise FoldBugError(f"state of {name!r} is a {type(state).__name__}, not statistics")
                state.merge(name, fields)
            else:
                for effect in fields.values():
                    ctx.effect(key.removeprefix(_ITEM), effect)
        ctx.state(ERASED_KEY)
        erased.add(command.keys, command.at_ms, offset, command.job, ctx.clock_ms)
        return
    home_of = partition_of(command.user_id.encode(), ctx.n_partitions)
    if home_of != ctx.partition:
        raise ContractError("bad_control", f"the user to erase is of partition {home_of}, not of {ctx.partition}")
    keys = [state_key(command.user_id), *map(session_key, command.sessions)]
    for key in keys:
        ctx.drop(key)
    ctx.state(ERASED_KEY)
    erased.add(map(id_hash, keys), max(ctx.clock_ms, newest_ms), offset, command.job, ctx.clock_ms)
    # The empty row must be out before anything of a new user with this id.
    ctx.write_now()


def write_left(path: Path, effects: Iterable[ItemEffect], states: Mapping[str, Mapping[bytes, bytes]]) -> str:
    """Write what an erased user had added to sums: effects by item, statistics by key; return the file's hash.

    Effects lose their numbers and their order among each other, but what is taken back stays behind what was added: an
    item that does not know a pair takes none back.

    Parameters
    ----------
    states : mapping
        Statistics of this user alone, and `#erased`, by state key.

    Raises
    ------
    OSError
        The disk refuses.
    """
    by_item: dict[str, list[tuple[bool, bytes]]] = {}
    for effect in effects:
        kind = effect.WhichOneof("effect")
        if kind not in ("event", "pairs"):
            continue
        bare = ItemEffect()
        bare.CopyFrom(effect)
        for name in ("offset", "step", "index"):
            bare.ClearField(name)
        back = any(weight < 0 for weight in bare.pairs.weights)
        packed = bare.SerializeToString(deterministic=True)
        by_item.setdefault(getattr(effect, kind).item_id, []).append((back, packed))
    rows: list[tuple[str, Mapping[bytes, bytes]]] = [
        (_ITEM + item_id, {b"%08d" % at: packed for at, (_, packed) in enumerate(sorted(found))})
        for item_id, found in by_item.items()
    ]
    rows += [(_STATISTICS + key, fields) for key, fields in states.items() if key.startswith(PREFIX)]
    rows.append((ERASED_KEY, states[ERASED_KEY]))
    return write_staged(path, rows)
