"""Versioned writes of Feast rows: a row is replaced only by a version that is not older.

Feast's own writer skips a row whose event time is not newer, without a word; a fold must be able to write a row twice,
and an owner that lost its partition must not be able to overwrite its successor. So the version of the writer's log
decides, inside Redis, in one Lua call a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, Final, NamedTuple

from features import native
from features.redis import Packed, Redis, Script
from features.wire import (
    entity_key,
    feature_field,
    key_head,
    pack_bytes,
    pack_timestamp,
    timestamp_field,
    version_field,
)

__all__ = ["SESSION_ROW_TTL_S", "EntityRow", "OnlineWriter", "Row", "Tombstone", "join_key_of"]

SESSION_ROW_TTL_S: Final = 8 * 86_400
"""TTL of a session's row, renewed by every write: a day more than the fold keeps the session."""


class EntityRow(NamedTuple):
    """Features of one entity, of any views, whose values are bytes: what a fold publishes of a state.

    Parameters
    ----------
    join_key, entity_id : str
        As in `Row`.
    fields : mapping of bytes to bytes
        ``view:feature`` -> its bytes; empty = null.
    event_ts_ms, version
        As in `Row`, for all of them.
    """

    join_key: str
    entity_id: str
    fields: Mapping[bytes, bytes]
    event_ts_ms: int
    version: bytes

    def rows(self) -> list[Row]:
        """The rows, one a view."""
        values: dict[str, dict[str, bytes]] = {}
        for field, data in self.fields.items():
            view, feature = _names(field)
            values.setdefault(view, {})[feature] = pack_bytes(data) if data else b""
        return [
            Row(view, self.join_key, self.entity_id, features, self.event_ts_ms, self.version)
            for view, features in values.items()
        ]


@lru_cache(maxsize=4096)
def _names(field: bytes) -> tuple[str, str]:
    view, _, feature = field.decode().partition(":")
    return view, feature


class Row(NamedTuple):
    """Some features of one view for one entity.

    Parameters
    ----------
    view : str
        Feast feature view.
    join_key, entity_id : str
        Name and value of the entity's join key, e.g. `user_id`.
    values : mapping of str to bytes
        Feature -> serialised `feast.types.Value` (`features.wire.pack_*`); `b""` makes it null. Features that are not
        named keep their value.
    event_ts_ms : int
        Event time of the newest event in the row.
    version : bytes
        `features.redis.format_version` of the record that caused it.
    """

    view: str
    join_key: str
    entity_id: str
    values: Mapping[str, bytes]
    event_ts_ms: int
    version: bytes


class Tombstone(NamedTuple):
    """An entity was erased: nothing of its row is left but versions, which keep older writers out for a while.

    Parameters
    ----------
    join_key, entity_id : str
        As in `Row`.
    views : tuple of str
        Views that may write the row; those that it holds already are kept out too.
    version : bytes
        Of the record that erased it. A row that holds a newer version stays: this is a repeat.
    ttl_s : int
        How long the versions are kept; the first newer row makes them last.
    """

    join_key: str
    entity_id: str
    views: tuple[str, ...]
    version: bytes
    ttl_s: int


# KEYS[1] an entity's hash; ARGV: its TTL in seconds (0 = none), the version, how many views, their version fields, how
# many arguments each has, then for each the version field, the version, fields and values.
_WRITE: Final = """
local n = tonumber(ARGV[3])
local have = redis.call('HMGET', KEYS[1], unpack(ARGV, 4, 3 + n))
local out, wrote, kept = {}, false, false
for i = 1, n do
  if have[i] and have[i] > ARGV[2] then out[i], kept = 0, true else out[i], wrote = 1, true end
end
local at = 4 + 2 * n
if not kept then redis.call('HSET', KEYS[1], unpack(ARGV, at))
else
  for i = 1, n do
    local size = tonumber(ARGV[3 + n + i])
    if out[i] == 1 then redis.call('HSET', KEYS[1], unpack(ARGV, at, at + size - 1)) end
    at = at + size
  end
end
if wrote then
  if ARGV[1] ~= '0' then redis.call('EXPIRE', KEYS[1], ARGV[1]) else redis.call('PERSIST', KEYS[1]) end
end
return out
"""

# KEYS[1] an entity's hash; ARGV: version, seconds, version fields
_ERASE: Final = """
local old = redis.call('HKEYS', KEYS[1])
local versions = {}
for i = 3, #ARGV do versions[ARGV[i]] = true end
for _, field in ipairs(old) do
  if string.sub(field, 1, 4) == '_lr:' then
    if redis.call('HGET', KEYS[1], field) > ARGV[1] then return 0 end
    versions[field] = true
  end
end
redis.call('DEL', KEYS[1])
for field in pairs(versions) do redis.call('HSET', KEYS[1], field, ARGV[1]) end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
"""


def join_key_of(entity: str) -> str:
    """Join key of a program entity; (user, category) views lie in the user's row."""
    return {"user": "user_id", "user_category": "user_id", "item": "item_id", "session": "session_id"}[entity]


class OnlineWriter:
    """Writes rows of one Feast project into Redis.

    Idempotent and safe against old owners; rows of one call may be written in part if Redis goes away: repeat it.
    About 6 us a row of three pages, one round trip a call; consecutive rows of one entity and version share a Lua call.

    Parameters
    ----------
    client : Redis
        Of `features.redis.connect`.
    project : str
        Feast project (`settings.feast_project`).
    ttl_s : int
        Redis TTL of a row, renewed by every write; 0 = none. A net only: deletion is the fold's work.
    """

    def __init__(self, client: Redis, project: str, *, ttl_s: int = 0) -> None:
        self._script = Script(client, _WRITE)
        self._eraser = Script(client, _ERASE)
        self._project = project
        self._ttl = str(ttl_s).encode()
        # A session's row has nobody to delete it: what is left of it a week after its last event is empty.
        self._ttls = {"session_id": str(ttl_s or SESSION_ROW_TTL_S).encode()}
        self._packers: dict[str, Any] = {}

    def write_entities(self, entities: Sequence[EntityRow]) -> None:
        """Write what folds publish, in order. About 2 us an entity with native state.

        Raises
        ------
        RedisUnavailableError
            Redis is away; repeat the call.
        """
        if native.core is None:
            self.write([row for entity in entities for row in entity.rows()])
        else:
            self._script.run_packed(list(self._packed(entities)), "writing online rows")

    def pack(self, entities: Sequence[EntityRow]) -> Packed:
        """Return commands that write what folds publish whatever Redis holds: only for who may write nothing once
        another has written something newer. Only with native state.
        """
        data: list[bytes] = []
        n = 0
        for join_key, entity_id, fields, event_ts_ms, version in entities:
            if fields:
                packed, n_commands = self._packer(join_key).plain(entity_id, fields, event_ts_ms, version)
                data.append(packed)
                n += n_commands
        return Packed(b"".join(data), n)

    def erase(self, tombstones: Sequence[Tombstone]) -> None:
        """Empty the rows of erased entities, unless they were written anew since.

        Raises
        ------
        RedisUnavailableError
            Redis is away; repeat the call.
        """
        calls: list[tuple[int, list[bytes | str | int]]] = [
            (
                1,
                [
                    entity_key(self._project, (each.join_key,), (each.entity_id,)),
                    each.version,
                    each.ttl_s,
                    *map(version_field, each.views),
                ],
            )
            for each in tombstones
        ]
        self._eraser.run_many(calls, "erasing online rows")

    def _packed(self, entities: Iterable[EntityRow]) -> Iterable[bytes]:
        for join_key, entity_id, fields, event_ts_ms, version in entities:
            if not fields:
                continue
            yield self._packer(join_key).command(entity_id, fields, event_ts_ms, version)

    def _packer(self, join_key: str) -> Any:
        packer = self._packers.get(join_key)
        if packer is None:
            packer = self._packers[join_key] = native.core.RowPacker(
                self._script.sha().encode(), key_head((join_key,)), self._project, self._ttls.get(join_key, self._ttl)
            )
        return packer

    def write(self, rows: Sequence[Row]) -> list[bool]:
        """Write rows in order.

        Returns
        -------
        list of bool
            Whether each was written; False = a newer version is stored.

        Raises
        ------
        RedisUnavailableError
            Redis is away; repeat the call.
        """
        calls: list[tuple[int, list[bytes | str | int]]] = []
        for (join_key, entity_id, version), views in groupby(rows, lambda r: (r.join_key, r.entity_id, r.version)):
            fields: list[bytes] = []
            sizes: list[int] = []
            flat: list[bytes | str | int] = []
            for row in views:
                fields.append(version_field(row.view))
                sizes.append(4 + 2 * len(row.values))
                flat += (fields[-1], version, timestamp_field(row.view), pack_timestamp(row.event_ts_ms))
                for feature, value in row.values.items():
                    flat += (feature_field(row.view, feature), value)
            key = entity_key(self._project, (join_key,), (entity_id,))
            ttl = self._ttls.get(join_key, self._ttl)
            calls.append((1, [key, ttl, version, len(fields), *fields, *sizes, *flat]))
        replies = self._script.run_many(calls, "writing online rows")
        return [written == 1 for reply in replies for written in reply]
