"""The fence writes alike by its script and by plain commands behind a watch, and nothing once another owner came."""

from __future__ import annotations

import random
import select
import socket
import threading
from typing import Any

import pytest

import features.redis
from features import native
from features.online import EntityRow, OnlineWriter
from features.redis import Packed, Redis, RedisConfigError, connect, format_version
from features.wire import entity_key
from liverank.settings import Settings
from streams.calls import Call, Position, SourceMark
from streams.errors import FenceError
from streams.fence import FencedStore
from streams.fold import Number

pytestmark = pytest.mark.skipif(native.core is None, reason=f"no native state: {native.why_not}")
N = 3
START = Position(1, -1, 0)


def made(rng: random.Random, partition: int, start: Position, n_keys: int, *, trim: bool) -> Call:
    end = Position(1, start.offset + rng.randrange(1, 9), 0)
    call = Call(partition, start, end, rng.randrange(1 << 40), version=format_version(1, end.offset, 0), trim=trim)
    for key in rng.sample(["u1", "u2", "é", "#stats:m:s", *(f"k{i}" for i in range(40))], n_keys):
        key = f"{key}-{partition}"  # a key lies in one partition
        fields = {b"%d" % i: rng.randbytes(rng.choice((0, 3, 90, 1200))) for i in range(rng.randrange(1, 6))}
        call.pages[key] = fields
        call.due[key] = rng.choice((None, rng.randrange(1 << 40)))
    call.sources = {rng.randrange(N): SourceMark(Number(1, 2, 0, 3), 77)}
    call.blob = rng.choice((b"", rng.randbytes(40)))
    return call


def entities(call: Call) -> list[EntityRow]:
    return [
        EntityRow(
            "session_id" if key[:2] == "u2" else "user_id",
            key,
            {b"v:a": data, b"w:b": b"x", b"v:c": b""},
            7,
            call.version,
        )
        for key, fields in call.pages.items()
        for data in list(fields.values())[:1]
    ]


class Side:
    """A store and its rows, in a namespace of its own."""

    def __init__(self, client: Redis, settings: Settings, name: str) -> None:
        self.client = client
        self.name = f"{settings.namespace}-{name}"
        self.store = FencedStore(client, namespace=self.name, generation=1, kind="u")
        self.rows = OnlineWriter(client, self.name)
        self.epochs: dict[int, int] = {}
        for partition in range(N):
            meta = self.store.acquire(partition, start=START)
            assert meta is not None
            self.epochs[partition] = meta.epoch

    def packed(self, calls: list[Call]) -> dict[int, Packed]:
        found = {call.partition: Packed(b"", 0) for call in calls}
        for call in calls:
            data, n = self.rows.pack(entities(call))
            found[call.partition] = Packed(found[call.partition].data + data, found[call.partition].n + n)
        return found

    def dump(self) -> dict[bytes, Any]:
        name = self.name.encode()
        found: dict[bytes, Any] = {}
        for key in self.client.scan_iter(match=f"*{self.name}*", count=1000):
            kind = self.client.type(key)
            if kind == b"hash":
                value: Any = (self.client.hgetall(key), self.client.ttl(key) > 0)
            elif kind == b"zset":
                value = self.client.zrange(key, 0, -1, withscores=True)
            else:
                value = self.client.lrange(key, 0, -1)
            found[key.replace(name, b"ns")] = value
        return found


def test_STR_1_both_ways_write_the_same(namespace: Settings) -> None:
    client = connect(namespace)
    by_script, plain = Side(client, namespace, "a"), Side(client, namespace, "b")
    rng = random.Random(5)
    at = dict.fromkeys(range(N), START)
    for turn in range(25):
        calls = []
        for partition in rng.choices(range(N), k=rng.randrange(1, 5)):
            calls.append(made(rng, partition, at[partition], rng.choice((0, 3, 40)), trim=turn % 3 == 0))
            at[partition] = calls[-1].end
        assert by_script.store.fence(by_script.epochs, calls) == {}
        for call in calls:
            by_script.rows.write_entities(entities(call))
        assert plain.store.commit(plain.epochs, calls, plain.packed(calls)) == {call.partition for call in calls}
        # A poll whose answer was lost is repeated: it is written already.
        assert plain.store.commit(plain.epochs, calls, plain.packed(calls)) == set()
        assert plain.store.fence(plain.epochs, calls) == {}
    assert by_script.dump() == plain.dump()
    assert len(plain.dump()) > 100


@pytest.mark.parametrize("when", ["before the look", "after the look"])
def test_STR_1_an_owner_that_was_succeeded_writes_nothing(
    namespace: Settings, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    client = connect(namespace)
    side = Side(client, namespace, "a")
    successor = FencedStore(connect(namespace), namespace=side.name, generation=1, kind="u")
    calls = [made(random.Random(7), partition, START, 5, trim=True) for partition in range(N)]
    plain_socket = features.redis._plain_socket
    pumps: list[threading.Thread] = []
    ends: list[socket.socket] = []

    def between(connection: Any) -> socket.socket | None:
        """A way to Redis on which the successor comes before the look, or before what follows it."""
        real = plain_socket(connection)
        assert real is not None
        ours, inner = socket.socketpair()
        ours.settimeout(real.gettimeout())
        ends.extend((ours, inner))
        pumps.extend(threading.Thread(target=pump, args=ways) for ways in ((inner, real), (real, inner)))
        for thread in pumps:
            thread.start()
        return ours

    came = threading.Event()
    over = threading.Event()

    def pump(source: socket.socket, target: socket.socket) -> None:
        while not over.is_set():
            if not select.select([source], [], [], 0.01)[0]:
                continue
            data = source.recv(1 << 20)
            if not came.is_set() and (b"WATCH" if when == "before the look" else b"MULTI") in data:
                came.set()
                successor.acquire(1, start=None)
            target.sendall(data)

    monkeypatch.setattr(features.redis, "_plain_socket", between)
    before = side.dump()
    # All three share a transaction: one that does not hold takes the others with it.
    assert side.store.commit(side.epochs, calls, side.packed(calls)) == set()
    over.set()
    for thread in pumps:
        thread.join()
    for end in ends:
        end.close()
    assert came.is_set()
    monkeypatch.undo()
    after = side.dump()
    meta = next(key for key in before if b".1}:u.meta" in key)
    assert after.pop(meta)[0][b"epoch"] == b"2"
    before.pop(meta)
    assert after == before
    refused = side.store.fence(side.epochs, calls)
    assert {partition: type(error) for partition, error in refused.items()} == {1: FenceError}
    # The connection is as good as new.
    client.set(f"{side.name}:free", 1)


def test_a_refused_command_is_told(namespace: Settings) -> None:
    client = connect(namespace)
    side = Side(client, namespace, "a")
    call = made(random.Random(3), 0, START, 40, trim=False)
    client.set(entity_key(side.name, ("user_id",), ("u1-0",)), b"not a row")
    with pytest.raises(RedisConfigError, match="WRONGTYPE"):
        side.store.commit(side.epochs, [call], side.packed([call]))
    client.delete(entity_key(side.name, ("user_id",), ("u1-0",)))
    assert side.store.fence(side.epochs, [call]) == {}


def test_steps_of_one_record_are_left_to_the_script(namespace: Settings) -> None:
    side = Side(connect(namespace), namespace, "a")
    call = made(random.Random(3), 0, START, 3, trim=False)
    call.end = Position(1, -1, 1)
    assert side.store.commit(side.epochs, [call], side.packed([call])) == set()
    assert side.store.fence(side.epochs, [call]) == {}
