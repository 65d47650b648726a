"""Writing a poll on a thread of its own: what a store that is away, or another owner, makes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import pytest

from features.redis import Link, Packed, RedisUnavailableError
from liverank.kafka import KafkaUnavailableError
from streams.calls import Call, Position
from streams.commit import Commit, Committer
from streams.errors import FenceError, FoldBugError
from streams.failpoints import Failpoints
from streams.metrics import FoldMetrics, StepClock
from streams.outbox import Output
from streams.publisher import Pending, Visible

T = TypeVar("T")


class Stores:
    """Redis and Kafka: every action is noted; those in `away` fail so many times."""

    def __init__(self, away: Mapping[str, int] | None = None, refuse: Sequence[int] = ()) -> None:
        self.did: list[Any] = []
        self.threads: set[str] = set()
        self.shown: set[int] = set()
        self._away = dict(away or {})
        self._refuse = refuse

    def _note(self, name: str, what: Any) -> None:
        self.threads.add(threading.current_thread().name)
        if self._away.get(name, 0):
            self._away[name] -= 1
            raise (KafkaUnavailableError if name in ("send", "confirmed") else RedisUnavailableError)("away")
        self.did.append((name, what))

    def fence(self, epochs: Mapping[int, int], calls: Sequence[Call]) -> dict[int, FenceError]:
        self._note("fence", [call.partition for call in calls])
        return {p: FenceError(p, "another owner") for p in self._refuse if p in epochs}

    def commit(self, epochs: Mapping[int, int], calls: Sequence[Call], rows: Mapping[int, Packed]) -> set[int]:
        return {p for p in self.shown if p in rows and p not in self._refuse}

    def pack(self, visible: Visible) -> Packed | None:
        return None if visible.erased else Packed(b"", 0)

    def send(self, outputs: Sequence[Output]) -> None:
        self._note("send", [output.value for output in outputs])

    def confirmed(self, timeout_s: float) -> bool:
        self._note("confirmed", None)
        return True

    def build(self, pending: Mapping[tuple[int, str], Pending]) -> Visible:
        return Visible([(p, key) for p, key in pending], [], [], [], [])  # type: ignore[misc]

    def write(self, what: Any, ends: Mapping[int, int] | None = None) -> None:
        self._note("rows" if ends is None else "positions", what.entities if ends is None else dict(ends))


class Insisting:
    """Patience without waiting."""

    def __init__(self) -> None:
        self.used = 0

    def insist(self, action: Callable[[], T], doing: str) -> T:
        self.used += 1
        while True:
            try:
                return action()
            except (KafkaUnavailableError, RedisUnavailableError):
                continue

    def until(self, done: Callable[[], bool]) -> None:
        self.used += 1
        while True:
            try:
                if done():
                    return
            except KafkaUnavailableError:
                continue


def call(partition: int) -> Call:
    made = Call(partition, Position(1, 4, 0), Position(1, 7, 0), 0)
    made.pages = {"u": {b"v:a": b"1"}, "#sums": {b"_s": b"2"}}
    made.states = {"u": object(), "#sums": object()}  # type: ignore[dict-item]
    made.outputs = [
        Output("examples", -1, b"u", b"e%d" % partition),
        Output("user-changes", -1, b"u", b"c%d" % partition),
    ]
    made.seal()
    return made


def commit(stores: Stores, *, link: Link | None = None) -> tuple[Commit, Insisting]:
    patience: Any = Insisting()
    anything: Any = stores
    committer = Committer(
        anything, anything, anything, anything, link=link or Link(), patience=patience,
        failpoints=Failpoints("", "users"), metrics=FoldMetrics("users"), topic="events", steps=StepClock(),
    )  # fmt: skip
    assert committer.land() is None
    committer.start([call(0), call(3)], {0: 1, 3: 1, 5: 1}, 99)
    landed = committer.land()
    assert landed is not None
    assert committer.land() is None
    committer.close()
    return landed, patience


WHOLE = [
    ("fence", [0, 3]), ("send", [b"e0", b"e3"]), ("rows", [(0, "u"), (3, "u")]), ("send", [b"c0", b"c3"]),
    ("confirmed", None), ("positions", {0: 8, 3: 8}),
]  # fmt: skip


def test_a_poll_is_fenced_then_published_in_order_on_a_thread_of_its_own() -> None:
    stores = Stores()
    landed, patience = commit(stores)
    assert stores.did == WHOLE
    assert (landed.refused, sorted(landed.statistics), landed.oldest_ms) == ({}, [(0, "#sums"), (3, "#sums")], 99)
    assert patience.used == 0
    assert threading.current_thread().name not in stores.threads


@pytest.mark.parametrize("away", ["fence", "send", "rows", "confirmed", "positions"])
def test_where_a_store_is_away_the_engine_goes_on_from_there(away: str) -> None:
    stores = Stores({away: 3})
    _, patience = commit(stores)
    assert patience.used > 0
    done = [each for at, each in enumerate(stores.did) if each not in stores.did[:at]]
    assert done == WHOLE
    if away != "fence":
        assert [name for name, _ in stores.did].count("fence") == 1


def test_of_a_partition_that_another_owner_has_nothing_is_published() -> None:
    stores = Stores(refuse=[3])
    landed, _ = commit(stores)
    assert set(landed.refused) == {3}
    assert stores.did == [
        ("fence", [0, 3]), ("send", [b"e0"]), ("rows", [(0, "u")]), ("send", [b"c0"]), ("confirmed", None),
        ("positions", {0: 8}),
    ]  # fmt: skip


def test_after_a_lost_connection_everything_is_refused_unsent() -> None:
    link = Link()
    link.lost = True
    stores = Stores()
    landed, _ = commit(stores, link=link)
    assert set(landed.refused) == {0, 3, 5}
    assert [name for name, what in stores.did if what] == []


def test_a_bug_on_the_thread_ends_the_engine() -> None:
    stores = Stores()

    def confirmed(timeout_s: float) -> bool:
        raise FoldBugError("an output was refused for good")

    stores.confirmed = confirmed  # type: ignore[method-assign]
    with pytest.raises(FoldBugError):
        commit(stores)


def test_rows_that_went_with_the_fence_are_not_written_again() -> None:
    stores = Stores(refuse=[3])
    stores.shown = {0}
    landed, _ = commit(stores)
    assert (landed.shown, set(landed.refused)) == ({0}, {3})
    assert stores.did == [
        ("fence", [3]), ("send", [b"e0"]), ("rows", []), ("send", [b"c0"]), ("confirmed", None), ("positions", {0: 8}),
    ]  # fmt: skip
