"""Writing a poll: fence, publish, positions, on a thread of its own while the next poll is folded.

One poll is on its way at a time: the next is fenced only when everything of this one is confirmed, so the order of
writes is as if nothing ran beside it. What is folded meanwhile rests on states that may still be refused: then the
partition is dropped with all that was folded since (`streams.engine`). A store that is away ends the thread's attempt;
the engine's own thread goes on where it ended, with patience.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol, TypeVar

from features.redis import Link, Packed
from liverank.errors import UnavailableError
from liverank.kafka import KafkaUnavailableError
from streams.calls import Call
from streams.errors import FenceError
from streams.failpoints import Failpoints
from streams.fence import FencedStore
from streams.metrics import FoldMetrics, StepClock
from streams.patience import Patience
from streams.publisher import KafkaSink, Pending, PositionBoard, RowSink, Visible, announced, joined, merge_calls

__all__ = ["Commit", "Committer"]

T = TypeVar("T")

#: The thread waits so long for Kafka's acknowledgement; then it is the engine's turn, which serves the group, s.
_CONFIRM_S: Final = 1.0


class _Waits(Protocol):
    """What an action is run by: `streams.patience.Patience`, or `_Once`."""

    def insist(self, action: Callable[[], T], doing: str) -> T: ...

    def until(self, done: Callable[[], bool]) -> None: ...


class _Once:
    """Tries an action once."""

    def insist(self, action: Callable[[], T], doing: str) -> T:
        return action()

    def until(self, done: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + _CONFIRM_S
        while not done():
            if time.monotonic() > deadline_s:
                raise KafkaUnavailableError("what was produced is not acknowledged yet; is Kafka up?")


@dataclass(slots=True)
class Commit:
    """The calls of one poll, and how far their writing has come.

    Attributes
    ----------
    epochs : dict
        Of this owner, by partition.
    rows : dict
        What readers will see, by partition: made before the fence, since states go on changing.
    statistics : dict
        Changes of the partitions' own sums, by (partition, key): published later.
    oldest_ms : int
        Append time of the poll's first record.
    packed : dict, optional
        The same rows as commands, which go with the fence.
    shown : set
        Partitions whose calls and rows are written.
    refused : dict
        Partitions whose calls do not hold.
    """

    calls: list[Call]
    epochs: dict[int, int]
    rows: dict[int, Visible]
    statistics: dict[tuple[int, str], Pending]
    oldest_ms: int
    packed: dict[int, Packed] | None = None
    shown: set[int] = field(default_factory=set)
    n_fenced: int = 0
    stage: int = 0
    fenced_s: float = 0.0
    refused: dict[int, FenceError] = field(default_factory=dict)

    @property
    def holding(self) -> list[Call]:
        """The calls that were not refused."""
        return [call for call in self.calls if call.partition not in self.refused]


class Committer:
    """Fences the calls of one poll and publishes what holds. All methods belong to the engine's thread.

    Parameters
    ----------
    store, rows, sink, board
        Where calls, rows, outputs and positions go; nobody else uses them between `start` and `land`.
    link : Link
        Of the store's client.
    patience : Patience
        Of the engine: for what one attempt could not do.
    topic : str
        The fold's input, by which positions are noted.
    steps : StepClock
        CPU is booked here.
    """

    def __init__(
        self,
        store: FencedStore,
        rows: RowSink,
        sink: KafkaSink,
        board: PositionBoard,
        *,
        link: Link,
        patience: Patience,
        failpoints: Failpoints,
        metrics: FoldMetrics,
        topic: str,
        steps: StepClock,
    ) -> None:
        self._store, self._rows, self._sink, self._board = store, rows, sink, board
        self._link = link
        self._patience = patience
        self._failpoints = failpoints
        self._metrics = metrics
        self._topic = topic
        self._steps = steps
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._flight: tuple[Commit, Future[dict[str, int]]] | None = None

    def start(self, calls: Sequence[Call], epochs: Mapping[int, int], oldest_ms: int) -> None:
        """Send sealed calls on their way; only after `land`."""
        changes: dict[int, dict[tuple[int, str], Pending]] = {}
        statistics: dict[tuple[int, str], Pending] = {}
        for (partition, key), change in merge_calls(calls).items():
            if key[:1] == "#":
                statistics[partition, key] = change
            else:
                changes.setdefault(partition, {})[partition, key] = change
        rows = {partition: self._rows.build(pending) for partition, pending in changes.items()}
        self._steps.mark("row")
        commit = Commit(list(calls), dict(epochs), rows, statistics, oldest_ms)
        self._flight = commit, self._thread.submit(self._attempt, commit)

    def land(self) -> Commit | None:
        """Wait until the poll on its way is written and confirmed; return it. None = there was none.

        Raises
        ------
        StoppingError
            The engine was asked to stop while a store was away.
        FoldBugError
            A rule was broken.
        """
        if self._flight is None:
            return None
        commit, future = self._flight
        self._flight = None
        self._steps.mark("rest")
        for step, ns in future.result().items():
            self._steps.ns[step] = self._steps.ns.get(step, 0) + ns
        self._run(commit, self._patience, self._steps)
        return commit

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _attempt(self, commit: Commit) -> dict[str, int]:
        """Write as far as it goes; return the CPU by step."""
        steps = StepClock()
        try:
            self._run(commit, _Once(), steps)
        except UnavailableError:
            self._metrics.retries.inc()  # the engine goes on, and says so where it is not over by then
        return steps.take()

    def _run(self, commit: Commit, waits: _Waits, steps: StepClock) -> None:
        """Do what is left of a commit. Every stage may be repeated."""
        for stage, step in enumerate((self._fence, self._send, self._write, self._finish)):
            if commit.stage == stage:
                step(commit, waits, steps)
                commit.stage = stage + 1

    def _fence(self, commit: Commit, waits: _Waits, steps: StepClock) -> None:
        points, calls = self._failpoints, commit.calls
        if not commit.n_fenced:
            points.hit("before_fence")
        started_s = time.monotonic()
        one_by_one = points.name in ("between_calls", "in_record")
        while commit.n_fenced < len(calls):
            end = commit.n_fenced + 1 if one_by_one else len(calls)
            some = calls[commit.n_fenced : end]
            commit.refused |= waits.insist(partial(self._fence_now, commit, some, whole=not one_by_one), "fencing")
            commit.n_fenced = end
            if end < len(calls):
                points.hit("between_calls")
            if one_by_one and some[-1].end.step:
                points.hit("in_record")
        self._metrics.fence_s.observe(time.monotonic() - started_s)
        self._metrics.calls.inc(len(commit.holding))
        commit.fenced_s = time.monotonic()
        steps.mark("fence")
        points.hit("between_fence_and_publish")

    def _fence_now(self, commit: Commit, calls: Sequence[Call], *, whole: bool) -> dict[int, FenceError]:
        """Fence, unless Redis was away since the partitions were taken over.

        A Redis that comes back may be a second older. The position tells only if it is: rows and statistics that were
        published after the position moved would be lost in silence. So all partitions are taken over again, which
        publishes the stored outbox.
        """
        epochs = commit.epochs
        if self._link.lost:
            return {p: FenceError(p, "Redis was away: it may have come back older") for p in epochs}
        if whole and not commit.shown:
            if commit.packed is None:
                commit.packed = self._packed(commit)
            commit.shown = self._store.commit(epochs, calls, commit.packed)
        return self._store.fence(epochs, [call for call in calls if call.partition not in commit.shown])

    def _packed(self, commit: Commit) -> dict[int, Packed]:
        """Rows that may be written with the fence; none where an entity goes: then what goes comes first."""
        packed = {partition: self._rows.pack(visible) for partition, visible in commit.rows.items()}
        if None in packed.values():
            return {}
        nothing = Packed(b"", 0)
        return {call.partition: packed.get(call.partition) or nothing for call in commit.calls}

    def _send(self, commit: Commit, waits: _Waits, steps: StepClock) -> None:
        early, _ = announced([output for call in commit.holding for output in call.outputs])
        feed = joined(self._visible(commit)).feed
        waits.insist(partial(self._sink.send, [*early, *feed]), "producing")
        steps.mark("produce")

    def _write(self, commit: Commit, waits: _Waits, steps: StepClock) -> None:
        left = [
            visible._replace(entities=[]) if partition in commit.shown else visible
            for partition, visible in commit.rows.items()
            if partition not in commit.refused
        ]
        waits.insist(partial(self._rows.write, joined(left)), "writing rows")
        steps.mark("row write")

    def _finish(self, commit: Commit, waits: _Waits, steps: StepClock) -> None:
        holding = commit.holding
        _, late = announced([output for call in holding for output in call.outputs])
        waits.insist(partial(self._sink.send, late), "producing")
        waits.until(lambda: self._sink.confirmed(0.2))
        ends = {call.partition: call.end.offset + 1 for call in holding}
        waits.insist(lambda: self._board.write(self._topic, ends), "writing positions")
        self._metrics.publish_s.observe(time.monotonic() - commit.fenced_s)
        steps.mark("flush")
        self._failpoints.hit("after_publish")

    def _visible(self, commit: Commit) -> list[Visible]:
        return [visible for partition, visible in commit.rows.items() if partition not in commit.refused]
