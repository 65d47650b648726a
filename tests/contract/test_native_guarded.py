"""Transactions behind a watch: what native code says to Redis, and what it makes of the answers."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from features import native

core = native.core
pytestmark = pytest.mark.skipif(
    core is None and os.environ.get("CI") != "true", reason=f"no native state: {native.why_not}"
)
Command = list[bytes]
HELD = [b"1", b"1:7:0"]


def packed(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def commands(peer: socket.socket) -> Iterator[Command]:
    """Commands as they come, to the end."""
    with peer.makefile("rb") as lines:
        while head := lines.readline():
            words = []
            for _ in range(int(head[1:])):
                size = int(lines.readline()[1:])
                words.append(lines.read(size + 2)[:-2])
            yield words


class Peer:
    """Answers like a Redis whose hashes hold `metas`, in pieces of any size."""

    def __init__(self, metas: dict[bytes, list[bytes]], rng: random.Random) -> None:
        self.metas = metas
        self.heard: list[Command] = []
        self.moved = False
        self.before_exec: Callable[[], None] = lambda: None
        self._queued: int | None = None
        self._broken = False
        self._rng = rng

    def answer(self, words: Command) -> bytes:
        self.heard.append(words)
        verb = words[0]
        if verb == b"MULTI":
            self._queued, self._broken = 0, False
        elif verb == b"EXEC":
            self.before_exec()
            n, self._queued = self._queued or 0, None
            if self._broken:
                return b"-EXECABORT Transaction discarded because of previous errors.\r\n"
            moved, self.moved = self.moved, False
            return b"*-1\r\n" if moved else b"*%d\r\n" % n + b":1\r\n" * n
        elif verb == b"UNKNOWN":
            self._broken = True
            return b"-ERR unknown command\r\n"
        elif self._queued is not None:
            self._queued += 1
            return b"+QUEUED\r\n"
        elif verb == b"HMGET":
            found = self.metas.get(words[1], [])
            return (
                b"*2\r\n"
                + b"".join(b"$%d\r\n%b\r\n" % (len(each), each) for each in found)
                + b"$-1\r\n" * (2 - len(found))
            )
        return b"+OK\r\n"

    def run(self, peer: socket.socket) -> None:
        waiting = b""
        for words in commands(peer):
            waiting += self.answer(words)
            while waiting and self._queued is None:  # as Redis, it reads on whether or not its answers are taken
                at = self._rng.choice((1, 3, 500))
                peer.sendall(waiting[:at])
                waiting = waiting[at:]


@contextmanager
def talking(peer: Peer) -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=peer.run, args=(theirs,))
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        thread.join()
        theirs.close()


def transaction(*keys: bytes, n: int = 3, verb: bytes = b"HSET") -> tuple[bytes, list[list[bytes]], bytes, int]:
    look = packed(b"WATCH", *keys) + b"".join(packed(b"HMGET", key, b"epoch", b"position") for key in keys)
    return look, [HELD for _ in keys], b"".join(packed(verb, b"k", b"%d" % at, b"v" * 700) for at in range(n)), n


def verbs(peer: Peer) -> str:
    return " ".join(words[0].decode() for words in peer.heard)


def test_what_holds_is_run_and_what_does_not_is_left() -> None:
    peer = Peer({b"a": HELD, b"b": [b"2", b"1:7:0"], b"c": HELD}, random.Random(1))
    with talking(peer) as ours:
        done = core.write_guarded(
            ours.fileno(),
            5000,
            [transaction(b"a", b"c", n=2), transaction(b"b"), transaction(b"none"), transaction(b"c", n=400)],
        )
    assert done == ([True, False, False, True], b"", b"")
    assert verbs(peer) == (
        "WATCH HMGET HMGET MULTI HSET HSET EXEC WATCH HMGET UNWATCH WATCH HMGET UNWATCH WATCH HMGET MULTI"
        + 400 * " HSET" + " EXEC"
    )  # fmt: skip


def test_what_moves_after_the_look_is_not_run() -> None:
    peer = Peer({b"a": HELD}, random.Random(2))
    peer.before_exec = lambda: setattr(peer, "moved", len(peer.heard) < 10)
    with talking(peer) as ours:
        done = core.write_guarded(ours.fileno(), 5000, [transaction(b"a"), transaction(b"a")])
    assert done == ([False, True], b"", b"")


def test_a_refused_command_ends_it() -> None:
    peer = Peer({b"a": HELD}, random.Random(3))
    with talking(peer) as ours:
        done, refused, away = core.write_guarded(
            ours.fileno(), 5000, [transaction(b"a"), transaction(b"a", n=1, verb=b"UNKNOWN"), transaction(b"a")]
        )
    assert (done, refused, away) == ([True], b"ERR unknown command", b"")
    assert verbs(peer).endswith("EXEC WATCH HMGET")


@pytest.mark.parametrize(
    ("answer", "said"),
    [(b"", b"Redis closed the connection"), (b"+OK\r\n?\r\n", b"Redis answered a reply of kind '?'"),
     (b"+OK\r\n$x\r\n", b"Redis answered a length that is none: x"), (b"+OK\r\n" * 3, b"Redis answered more")],
)  # fmt: skip
def test_a_connection_that_fails_is_told(answer: bytes, said: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)
        done, refused, away = core.write_guarded(ours.fileno(), 5000, [transaction(b"a")])
    assert (done, refused) == ([], b"")
    assert away.startswith(said)


def test_who_answers_too_late_is_left() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert core.write_guarded(ours.fileno(), 20, [transaction(b"a")]) == (
            [],
            b"",
            b"waiting for its answer took too long",
        )


def test_python_goes_on_meanwhile() -> None:
    peer = Peer({b"a": HELD}, random.Random(4))
    met = threading.Event()
    peer.before_exec = met.set  # this thread of Python runs while native code waits for it
    with talking(peer) as ours:
        assert core.write_guarded(ours.fileno(), 60_000, [transaction(b"a")])[0] == [True]
    assert met.is_set()
