"""Other processes that fold the past together with this one.

They are started before there is anything to do, as one takes a second to begin. Work lies in a pipe that all of them
and this process read: whoever is free takes the next. A helper that dies took its work with it, and ends the run.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Final, NamedTuple, Self

from liverank.errors import ConfigError, CorruptError, LiverankError, UnavailableError
from streams.catalogue import Catalogue
from streams.restore_tools import Folded, Job, Progress, Tools

__all__ = ["Helpers", "Task", "n_processes", "serve"]

#: Fewer records are folded by this process alone: another one takes a second to start.
_ALONE: Final = 50_000
_ERRORS: Final = (ConfigError, CorruptError, UnavailableError)
_TASK: Final = struct.Struct("<ccxxiq")
#: Tasks that surely find room in a pipe.
_MOST: Final = 1000
_CODE: Final = "from streams.restore_helpers import serve; serve({}, {})"


class Task(NamedTuple):
    """A call of `Tools`.

    Attributes
    ----------
    rows : bool
        Write the rows of a partition that was folded; else fold it.
    """

    rows: bool
    kind: str
    partition: int
    n_effects: int

    def run(self, tools: Tools) -> Folded:
        """Do it."""
        return (tools.write_rows if self.rows else tools.fold)(self.kind, self.partition, self.n_effects)

    def pack(self) -> bytes:
        """The form in the pipe."""
        return _TASK.pack(b"r" if self.rows else b"f", self.kind.encode(), self.partition, self.n_effects)

    @classmethod
    def unpack(cls, packed: bytes) -> Task:
        """Inverse of `pack`."""
        what, kind, partition, n_effects = _TASK.unpack(packed)
        return cls(what == b"r", kind.decode(), partition, n_effects)


def n_processes(n_records: int, n_partitions: int, wanted: int = 0) -> int:
    """How many processes fold a past: `wanted`, else as many as there are cores, or one for a short past."""
    usual = len(os.sched_getaffinity(0)) if n_records > _ALONE else 1
    return min(wanted or usual, n_partitions)


class Helpers:
    """Processes beside this one, for the life of a `with` statement.

    Parameters
    ----------
    n : int
        Processes in all, this one included; 1 = there are no others.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self._tasks, self._more = Pipe(duplex=False)
        os.set_blocking(self._tasks.fileno(), False)
        self._others: dict[Connection, subprocess.Popen[bytes]] = {}
        self._done: deque[Folded] = deque()
        for _ in range(n - 1):
            ours, theirs = Pipe()
            fds = theirs.fileno(), self._tasks.fileno()
            self._others[ours] = subprocess.Popen(
                [sys.executable, "-c", _CODE.format(*fds)],
                pass_fds=fds,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL,
            )
            theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._others.values():
            process.kill()  # what is being folded is folded anew by the next run
            process.wait()
        for connection in (*self._others, self._tasks, self._more):
            connection.close()

    def begin(self, job: Job, name: str, table: Catalogue) -> None:
        """Tell the others what all work is about; returns at once, though they may still be starting."""

        def send(other: Connection) -> None:
            with suppress(OSError):  # it died: whoever waits for its work finds out
                other.send((job, name, self.n, table))

        for other in self._others:
            threading.Thread(target=send, args=(other,), name="restore", daemon=True).start()

    def run(self, tasks: Sequence[Task], here: Tools, tell: Progress) -> Iterator[Folded]:
        """Do tasks, here and in the others, the first ones first; yield what came of them, in any order.

        Raises
        ------
        ConfigError, CorruptError, UnavailableError
            What one of them met; or one of them died.
        """
        for start in range(0, len(tasks), _MOST):
            some = tasks[start : start + _MOST]
            for task in some:
                os.write(self._more.fileno(), task.pack())
            n = 0
            while n < len(some):
                if (mine := _next(self._tasks)) is not None:
                    self._done.append(mine.run(here))
                elif not self._done:
                    wait(self._others)
                self.listen(tell)
                while self._done:
                    yield self._done.popleft()
                    n += 1

    def listen(self, tell: Progress) -> None:
        """Take what the others said meanwhile; never waits."""
        for other in wait(self._others, timeout=0.0):
            if not isinstance(other, Connection):
                continue
            try:
                while other.poll():
                    said = other.recv()
                    if isinstance(said, Folded):
                        self._done.append(said)
                    elif isinstance(said[1], int):
                        tell(*said)
                    else:
                        raise next((known for known in _ERRORS if known.__name__ == said[0]), LiverankError)(said[1])
            except (EOFError, OSError) as error:
                raise UnavailableError(
                    f"a process that folded ended with {self._others[other].wait()} (is there enough memory?): "
                    "run the same again, it goes on"
                ) from error


def _next(tasks: Connection) -> Task | None:
    """Take the next task; None = there is none now."""
    try:
        packed = os.read(tasks.fileno(), _TASK.size)
    except BlockingIOError:
        return None
    if not packed:
        raise EOFError("the run that wanted this has ended")
    return Task.unpack(packed)


def serve(connection: int, tasks: int) -> None:
    """What a helper does until the run that started it ends.

    Parameters
    ----------
    connection, tasks : int
        File descriptors.
    """
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run's own process ends this one

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)  # the run that wanted this was killed

    threading.Thread(target=watch, name="parent", daemon=True).start()
    with Connection(connection) as run, Connection(tasks) as work, suppress(EOFError):
        job, name, n, table = run.recv()
        tools = Tools(job, name, n, table, lambda what, n: run.send((what, n)))
        while True:
            wait([work])
            task = _next(work)
            if task is None:
                continue  # another one took it
            try:
                run.send(task.run(tools))
            except LiverankError as error:  # not all of ours can be pickled
                kind = next((known.__name__ for known in _ERRORS if isinstance(error, known)), LiverankError.__name__)
                run.send((kind, str(error)))
