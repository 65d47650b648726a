"""State in Redis behind a fence: a call's state, due times, offset, clock and outbox move in one step, and only while
this owner's epoch and its last position stand there.

Two ways to write, one meaning. `FencedStore.fence`: a Lua compare-and-set, one a call, which also tells whether an
earlier attempt was written. `FencedStore.commit`: plain commands of the whole poll behind a watch, at half the cost;
what it did not write, `fence` decides.

Keys of partition p of generation g (docs/specs/fold.md), all under one hash tag, so one slot of a Redis Cluster::

    <ns>:{<ns>.<g>.<p>}:<kind>:<key>     hash    a key's fields
    <ns>:{<ns>.<g>.<p>}:<kind>.meta      hash    epoch, position, clock, version, layout, s<source>
    <ns>:{<ns>.<g>.<p>}:<kind>.due       zset    key -> due_ms
    <ns>:{<ns>.<g>.<p>}:<kind>.outbox    list    one blob per call
    <ns>:{<ns>.<g>.<p>}:<kind>.restored  string  while the past is restored: this partition is done (streams/restore.py)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from features import native
from features.redis import Guarded, Packed, Redis, Script, send_packed, translated, write_guarded
from streams.calls import Call, Position, SourceMark
from streams.errors import FenceError

__all__ = ["LAYOUT", "FencedStore", "Meta"]

#: Version of the layout of keys, fields and outbox.
LAYOUT: Final = b"1"

#: Partitions of a poll share a transaction up to so many bytes: Redis serves nobody else meanwhile (some ms).
_GROUP_BYTES: Final = 256 * 1024

# ARGV: epoch, start, end, clock, version, trim (0/1), outbox blob,
#       n_marks, {field, text}, n_due, {key, due_ms or ''}, then per state key: n_set, {field, bytes}, n_del, {field}
_FENCE = """
local have = redis.call('HMGET', KEYS[1], 'epoch', 'position')
if have[1] ~= ARGV[1] or have[2] ~= ARGV[2] then return {have[1] or '', have[2] or ''} end
local at = 8
local marks = tonumber(ARGV[at])
redis.call('HSET', KEYS[1], 'position', ARGV[3], 'clock', ARGV[4], unpack(ARGV, at + 1, at + 2 * marks))
if ARGV[5] ~= '' then redis.call('HSET', KEYS[1], 'version', ARGV[5]) end
at = at + 1 + 2 * marks
local n = tonumber(ARGV[at])
for i = at + 1, at + 2 * n, 2 do
  if ARGV[i + 1] == '' then redis.call('ZREM', KEYS[2], ARGV[i])
  else redis.call('ZADD', KEYS[2], ARGV[i + 1], ARGV[i]) end
end
at = at + 1 + 2 * n
if ARGV[6] == '1' then redis.call('DEL', KEYS[3]) end
if ARGV[7] ~= '' then redis.call('RPUSH', KEYS[3], ARGV[7]) end
for k = 4, #KEYS do
  local set = tonumber(ARGV[at])
  if set > 0 then redis.call('HSET', KEYS[k], unpack(ARGV, at + 1, at + 2 * set)) end
  at = at + 1 + 2 * set
  local del = tonumber(ARGV[at])
  if del > 0 then redis.call('HDEL', KEYS[k], unpack(ARGV, at + 1, at + del)) end
  at = at + 1 + del
end
return 1
"""

# ARGV: position where there is none, layout, least epoch
_ACQUIRE = """
if redis.call('HEXISTS', KEYS[1], 'position') == 0 then
  if ARGV[1] == '' then return false end
  redis.call('HSET', KEYS[1], 'position', ARGV[1], 'clock', '0', 'layout', ARGV[2])
end
local epoch = math.max(tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0'), tonumber(ARGV[3])) + 1
redis.call('HSET', KEYS[1], 'epoch', string.format('%d', epoch))
return redis.call('HGETALL', KEYS[1])
"""


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What the store knows of a partition."""

    epoch: int
    position: Position
    clock_ms: int
    version: bytes
    sources: Mapping[int, SourceMark]


def _meta(fields: Mapping[bytes, bytes]) -> Meta:
    return Meta(
        epoch=int(fields[b"epoch"]),
        position=Position.of(fields[b"position"]),
        clock_ms=int(fields[b"clock"]),
        version=fields.get(b"version", b""),
        sources={int(name[1:]): SourceMark.of(text) for name, text in fields.items() if name[:1] == b"s"},
    )


def _escaped(text: str) -> str:
    """A key as a pattern that matches only itself."""
    return "".join(f"\\{letter}" if letter in "*?[]^\\" else letter for letter in text)


class FencedStore:
    """The state of one fold instance in Redis. One thread.

    Parameters
    ----------
    namespace : str
    generation : int
        Generation that the keys carry.
    kind : str
        ``u`` or ``i``.

    Notes
    -----
    Every method raises `RedisUnavailableError` where Redis is away; all may then be repeated.
    """

    def __init__(self, client: Redis, *, namespace: str, generation: int, kind: str) -> None:
        self._client = client
        self._prefix = f"{namespace}:{{{namespace}.{generation}."
        self._kind = kind
        self._fence = Script(client, _FENCE)
        self._acquire = Script(client, _ACQUIRE)

    def key(self, partition: int, key: str) -> bytes:
        """Return the Redis key of a state."""
        return f"{self._prefix}{partition}}}:{self._kind}:{key}".encode()

    def _part(self, partition: int, name: str) -> bytes:
        return f"{self._prefix}{partition}}}:{self._kind}.{name}".encode()

    def meta(self, partition: int) -> Meta | None:
        """Return what is stored of the partition; None = nothing ever was."""
        with translated("reading a partition's position"):
            fields = self._client.hgetall(self._part(partition, "meta"))
        return _meta({b"epoch": b"0", **fields}) if b"position" in fields else None

    def acquire(self, partition: int, *, start: Position | None, least_epoch: int = 0) -> Meta | None:
        """Raise the epoch, which fences every earlier owner, and return what is stored.

        Parameters
        ----------
        start : Position, optional
            Written where nothing is stored. None: then return None and write nothing.
        least_epoch : int
            The new epoch is above it (where the store was rolled back below an epoch that this process has used).
        """
        args: list[bytes | str | int] = [
            self._part(partition, "meta"),
            start.text() if start else b"",
            LAYOUT,
            least_epoch,
        ]
        reply = self._acquire.run_many([(1, args)], "taking a partition over")[0]
        if not reply:
            return None
        pairs = list(reply)
        return _meta(dict(zip(pairs[::2], pairs[1::2], strict=True)))

    def load(self, partition: int, keys: Sequence[str]) -> list[Mapping[bytes, bytes]]:
        """Return the fields of each key, in one round trip; empty = none."""
        return self.load_many([(partition, key) for key in keys])

    def keys(self, partition: int) -> Iterator[list[str]]:
        """Yield the keys of a partition's states, some at a time; each at least once while nothing is written."""
        base = f"{self._prefix}{partition}}}:{self._kind}:"
        found: list[str] = []
        with translated("listing states"):
            for raw in self._client.scan_iter(match=f"{_escaped(base)}*", count=5000):
                found.append(raw.decode()[len(base) :])
                if len(found) == 1000:
                    yield found
                    found = []
        yield found

    def load_many(self, keys: Sequence[tuple[int, str]]) -> list[Mapping[bytes, bytes]]:
        """Return the fields of each (partition, key), in one round trip."""
        if not keys:
            return []
        with translated("reading states"):
            pipe = self._client.pipeline(transaction=False)
            for partition, key in keys:
                pipe.hgetall(self.key(partition, key))
            return list(pipe.execute())

    def due_between(self, partition: int, after_ms: int, until_ms: int) -> list[tuple[str, int]]:
        """Return (key, due_ms) with after_ms < due_ms <= until_ms, in order of time."""
        with translated("reading the due index"):
            found = self._client.zrangebyscore(self._part(partition, "due"), f"({after_ms}", until_ms, withscores=True)
        return [(key.decode(), int(score)) for key, score in found]

    def outbox(self, partition: int) -> list[bytes]:
        """Return the blobs of the outbox, oldest first."""
        with translated("reading an outbox"):
            return list(self._client.lrange(self._part(partition, "outbox"), 0, -1))

    def fence(self, epochs: Mapping[int, int], calls: Sequence[Call]) -> dict[int, FenceError]:
        """Write calls, in order, in one round trip; return the partitions that were refused.

        A call that was applied by an earlier attempt whose reply was lost counts as done, so this may be repeated
        until it returns.

        Parameters
        ----------
        epochs : mapping
            The epoch of this owner, by partition.
        """
        encoded = [self._encode(epochs[call.partition], call) for call in calls]
        if native.core is not None:
            sha = self._fence.sha()
            pack = native.core.fence_command
            replies = self._fence.run_packed([pack(sha, *each) for each in encoded], "fencing")
        else:
            replies = self._fence.run_many([_flat(*each) for each in encoded], "fencing")
        refused: dict[int, FenceError] = {}
        for index, (call, reply) in enumerate(zip(calls, replies, strict=True)):
            if reply == 1 or call.partition in refused:
                continue
            epoch, position = (bytes(part) for part in reply)
            done = epoch == b"%d" % epochs[call.partition] and any(
                later.partition == call.partition and later.end.text() == position for later in calls[index:]
            )
            if not done:
                refused[call.partition] = FenceError(
                    call.partition,
                    f"the store holds epoch {epoch!r} and position {position!r}, this owner has "
                    f"{epochs[call.partition]} and {call.start.text()!r}",
                )
        return refused

    def commit(self, epochs: Mapping[int, int], calls: Sequence[Call], rows: Mapping[int, Packed]) -> set[int]:
        """Write the calls of a poll and, in the same step, what readers see of them; return the partitions written.

        Of the other partitions nothing is written: the store stands elsewhere, or was touched meanwhile; `fence` tells.

        Parameters
        ----------
        rows : mapping
            By partition, commands that write its rows. Only partitions named here are written.

        Notes
        -----
        Rows need no version here: who writes them holds the fence of their partition at that moment, so nobody has
        written newer ones.
        """
        if native.core is None:
            return set()
        wanted: dict[int, list[Call]] = {}
        for call in calls:
            if call.partition in rows:
                wanted.setdefault(call.partition, []).append(call)
        groups: list[list[int]] = []
        transactions: list[Guarded] = []
        size = _GROUP_BYTES
        for partition, some in wanted.items():
            if any(call.start.step or call.end.step for call in some):
                continue
            parts = [native.core.call_commands(*self._encode(epochs[partition], call)) for call in some]
            parts.append(rows[partition])
            holds = {
                self._part(partition, "meta"): {b"epoch": b"%d" % epochs[partition], b"position": some[0].start.text()}
            }
            n = sum(part[1] for part in parts)
            data = b"".join(part[0] for part in parts)
            if size + len(data) > _GROUP_BYTES:
                groups.append([partition])
                transactions.append(Guarded(holds, Packed(data, n)))
                size = len(data)
            else:
                groups[-1].append(partition)
                before = transactions[-1]
                transactions[-1] = Guarded(
                    {**before.holds, **holds}, Packed(before.commands.data + data, before.commands.n + n)
                )
                size += len(data)
        written = write_guarded(self._client, transactions, "fencing")
        return {partition for group, done in zip(groups, written, strict=True) if done for partition in group}

    def restore(self, calls: Sequence[Call]) -> None:
        """Write state without a fence: only while nothing else writes this generation (import, rebuild)."""
        packed: list[bytes] = []
        with translated("restoring state"):
            pipe = self._client.pipeline(transaction=False)
            for call in calls:
                if native.core is not None:
                    packed += native.core.page_commands(self.key(call.partition, ""), call.pages)
                else:
                    self._restore_pages(pipe, call)
                due = self._part(call.partition, "due")
                if later := {key: due_ms for key, due_ms in call.due.items() if due_ms is not None}:
                    pipe.zadd(due, later)
                if never := [key for key, due_ms in call.due.items() if due_ms is None]:
                    pipe.zrem(due, *never)
            pipe.execute()
        send_packed(self._client, packed, "restoring state")

    def _restore_pages(self, pipe: Redis, call: Call) -> None:
        for key, fields in call.pages.items():
            kept = {name: data for name, data in fields.items() if data}
            gone = [name for name, data in fields.items() if not data]
            if kept:
                pipe.hset(self.key(call.partition, key), mapping=kept)
            if gone:
                pipe.hdel(self.key(call.partition, key), *gone)

    def restore_meta(self, partition: int, meta: Meta) -> None:
        """Write where a restored partition stands; from now on it has an owner's state."""
        fields: dict[bytes, bytes | int] = {
            b"position": meta.position.text(),
            b"clock": meta.clock_ms,
            b"version": meta.version,
            b"layout": LAYOUT,
        }
        fields.update({b"s%d" % source: mark.text() for source, mark in meta.sources.items()})
        with translated("restoring a position"):
            self._client.hset(self._part(partition, "meta"), mapping=fields)

    def mark(self, partition: int) -> bytes:
        """Return what a restore noted of a partition that it had finished; empty = nothing."""
        with translated("reading how far a restore is"):
            return bytes(self._client.get(self._part(partition, "restored")) or b"")

    def set_mark(self, partition: int, mark: str) -> None:
        """Note it; empty = forget it."""
        key = self._part(partition, "restored")
        with translated("noting how far a restore is"):
            if mark:
                self._client.set(key, mark)
            else:
                self._client.delete(key)

    def forget_meta(self, partition: int) -> None:
        """Forget where a partition stands: no worker takes anything until `restore_meta`."""
        with translated("forgetting a position"):
            self._client.delete(self._part(partition, "meta"))

    def wipe(self, partitions: Iterable[int], *, going: Callable[[int, Sequence[str]], None] | None = None) -> int:
        """Delete everything of these partitions; return how many keys went.

        Parameters
        ----------
        going : callable, optional
            Called with a partition and keys of its states before they are deleted.
        """
        n = 0
        with translated("deleting state"):
            for partition in partitions:
                base = f"{self._prefix}{partition}}}:{self._kind}"
                for pattern in (f"{_escaped(base)}:*", f"{_escaped(base)}.*"):
                    keys = list(self._client.scan_iter(match=pattern, count=5000))
                    for start in range(0, len(keys), 1000):
                        if going is not None and pattern.endswith(":*"):
                            going(partition, [key.decode()[len(base) + 1 :] for key in keys[start : start + 1000]])
                        n += int(self._client.unlink(*keys[start : start + 1000]))
        return n

    def _encode(
        self, epoch: int, call: Call
    ) -> tuple[list[bytes], bytes, list[bytes | str | int], dict[str, dict[bytes, bytes]]]:
        """Keys of the partition, what keys of states begin with, the call's arguments, its pages."""
        base = f"{self._prefix}{call.partition}}}:{self._kind}"
        keys = [f"{base}.meta".encode(), f"{base}.due".encode(), f"{base}.outbox".encode()]
        args: list[bytes | str | int] = [epoch, call.start.text(), call.end.text(), call.clock_ms, call.version]
        args += (b"1" if call.trim else b"0", call.blob, len(call.sources))
        for source, mark in call.sources.items():
            args += (b"s%d" % source, mark.text())
        args.append(len(call.due))
        for key, due_ms in call.due.items():
            args += (key, b"" if due_ms is None else due_ms)
        return keys, f"{base}:".encode(), args, call.pages


def _flat(
    keys: list[bytes], prefix: bytes, args: list[bytes | str | int], pages: Mapping[str, Mapping[bytes, bytes]]
) -> tuple[int, list[bytes | str | int]]:
    """A call's keys and arguments; `features.native` has a twin, `fence_command`."""
    rest: list[bytes | str | int] = []
    for fields in pages.values():
        gone = [name for name, data in fields.items() if not data]
        rest.append(len(fields) - len(gone))
        for name, data in fields.items():
            if data:
                rest += (name, data)
        rest += (len(gone), *gone)
    all_keys = [*keys, *(prefix + key.encode() for key in pages)]
    return len(all_keys), [*all_keys, *args, *rest]
