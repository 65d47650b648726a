"""State from recorded events: import, rebuild and repartition fold the past, a partition at a time, on all cores.

First every partition of `events` is folded by the user fold, then every partition of items takes what those did to it
(`streams.restore_parts`), then what readers see is written. A partition that is done leaves a mark in Redis beside its
state: the same call, interrupted and made again, goes on with the partitions that have none. The mark names the job,
a hash of the records, the feature program and the catalogue; another job begins anew. Only `Restore.finish` writes
positions, and a worker takes nothing while one is missing.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import shutil
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Final, Protocol

from features.program import FeatureProgram
from features.redis import connect, format_version, namespace_token, translated
from liverank.errors import ConfigError, CorruptError, LiverankError, UnavailableError
from liverank.settings import Settings
from streams.calls import Call, Position, SourceMark
from streams.catalogue import Catalogue, History
from streams.collector import quiet, still
from streams.fence import FencedStore, Meta
from streams.fold import Fold
from streams.items import ItemFold
from streams.outbox import Output
from streams.partition_fold import ItemVersions
from streams.restore_parts import (
    Effects,
    PastPartition,
    Spool,
    Stage,
    fold_items,
    fold_users,
    outputs_of,
    wipe,
    write_rows,
)
from streams.users import UserFold

__all__ = ["Folded", "Job", "Outputs", "Restore"]

#: States of one fold in memory, over all processes.
_CACHE_STATES: Final = 50_000
#: Fewer records are folded by this process alone: another one takes a second to start.
_ALONE: Final = 50_000
#: Largest numbers of a version (features/redis.py).
_LAST_OFFSET: Final = 10**16 - 1
_LAST_STEP: Final = 999_999
_ERRORS: Final = (ConfigError, CorruptError, UnavailableError)

Progress = Callable[[str, int], None]


class Outputs(Protocol):
    """Takes what a partition of the user fold sends to Kafka; lives in the process that folds."""

    def begin(self, partition: int) -> None:
        """Forget what an interrupted run left of the partition."""
        ...

    def take(self, outputs: Sequence[Output]) -> None:
        """Take outputs, in order."""
        ...

    def end(self) -> Mapping[str, int]:
        """Make all of it whole; return what is to be counted."""
        ...


def _nowhere(_settings: Settings) -> Outputs | None:
    """Label rows, dead letters and changes are there already."""
    return None


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to fold, and where to.

    Attributes
    ----------
    store_generation : int
        Generation of the state's keys.
    stages : tuple of Stage
        In order of their generations.
    rows : bool
        Readers see what is there now under earlier versions: rows of before go, or get the new content.
    anew : bool
        Nothing of before may be left of rows, statistics and states, as readers see them.
    outputs : callable
        Makes the `Outputs` of a process; can be pickled.
    """

    settings: Settings
    program: FeatureProgram
    n_partitions: int
    store_generation: int
    stages: tuple[Stage, ...]
    rows: bool = False
    anew: bool = False
    outputs: Callable[[Settings], Outputs | None] = _nowhere

    @property
    def spool(self) -> Path:
        """Folder of what waits for the item fold."""
        settings = self.settings
        return settings.home / "archive" / settings.namespace / "restore" / str(self.store_generation)

    def name(self, table: Catalogue) -> str:
        """Hash of everything that the result depends on."""
        digest = sha256(f"{self.n_partitions} {self.store_generation} {self.settings.clock}".encode())
        digest.update(self.settings.streams.model_dump_json().encode())
        digest.update(self.program.to_json().encode())
        digest.update(table.digest())
        for stage in self.stages:
            digest.update(f"{stage.generation} {stage.topic} {stage.tick_ms}".encode())
            for partition in range(self.n_partitions):
                for path in sorted((stage.folder / str(partition)).glob("*.parquet")):
                    digest.update(f"{partition} {path.name}".encode() + sha256(path.read_bytes()).digest())
        return digest.hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class Folded:
    """Where a partition of one of the folds stands; the mark that it leaves, as JSON.

    Attributes
    ----------
    records : tuple of int
        Records of each stage (user fold), or those of the last one (item fold).
    counted : mapping
        What its outputs counted.
    seen : bool
        Its rows are written.
    """

    job: str
    kind: str
    partition: int
    generation: int
    offset: int
    clock_ms: int
    sources: Mapping[int, str]
    records: tuple[int, ...]
    counted: Mapping[str, int] = field(default_factory=dict)
    seen: bool = False

    def to_json(self) -> str:
        """The stored form."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> Folded:
        """Inverse of `to_json`."""
        body = json.loads(text)
        body["sources"] = {int(source): mark for source, mark in body["sources"].items()}
        body["records"] = tuple(body["records"])
        return cls(**body)


class _Tools:
    """What a process needs to fold partitions of a job."""

    def __init__(self, job: Job, name: str, n_processes: int, table: Catalogue, tell: Progress) -> None:
        quiet()
        self.job, self._name, self._tell = job, name, tell
        settings = job.settings
        self.client = connect(settings, retries=3)
        token = namespace_token(self.client, settings.namespace)
        self.folds: dict[str, Fold] = {
            "u": UserFold(settings, job.program, token=token, follow=False),
            "i": ItemFold(settings, job.program),
        }
        self.stores = {
            kind: FencedStore(self.client, namespace=settings.namespace, generation=job.store_generation, kind=kind)
            for kind in self.folds
        }
        self._catalogues: dict[bool, ItemVersions] = {False: table, True: History(table)}
        self._cache_states = _CACHE_STATES // n_processes
        self._outputs = job.outputs(settings)

    def found(self, kind: str, partition: int) -> Folded | None:
        """What an earlier run of this job left of a partition that it had finished."""
        mark = self.stores[kind].mark(partition)
        done = Folded.from_json(mark) if mark else None
        if done is None or done.job != self._name:
            return None
        return done if kind == "i" or Spool.path(self.job.spool, partition).exists() else None

    def fold(self, kind: str, partition: int) -> Folded:
        """Fold a partition from the beginning."""
        job = self.job
        wipe(self.folds[kind], self.client, job.settings, self.stores[kind], partition, rows=job.anew)
        with still():
            return self._users(partition) if kind == "u" else self._items(partition)

    def write_rows(self, kind: str, partition: int, version: bytes) -> Folded:
        """Write what readers see of a partition."""
        write_rows(self.folds[kind], self.client, self.job.settings, self.stores[kind], partition, version)
        done = self.found(kind, partition)
        if done is None:
            raise CorruptError(f"Redis lost what was restored of partition {partition}: run it again")
        done = replace(done, seen=True)
        self.stores[kind].set_mark(partition, done.to_json())
        return done

    def _past(
        self,
        kind: str,
        partition: int,
        on_calls: Callable[[Sequence[Call]], None] = lambda _calls: None,
        on_effects: Callable[[int, int, Effects], None] = lambda _generation, _clock_ms, _effects: None,
    ) -> PastPartition:
        job = self.job
        return PastPartition(
            self.folds[kind], self.client, job.settings, partition=partition, n_partitions=job.n_partitions,
            store_generation=job.store_generation, cache_states=self._cache_states, on_calls=on_calls,
            on_effects=on_effects, silent=self._outputs is None,
        )  # fmt: skip

    def _users(self, partition: int) -> Folded:
        job, outputs = self.job, self._outputs
        spool = Spool(job.spool, partition)
        if outputs is not None:
            outputs.begin(partition)

        def pass_on(calls: Sequence[Call]) -> None:
            if outputs is not None:
                outputs.take(outputs_of(calls))

        past = self._past("u", partition, pass_on, spool.take)
        counts = fold_users(past, job.stages, partition, self._catalogues, lambda n: self._tell("events", n))
        return self._done("u", partition, past, tuple(counts), spool.close, outputs.end if outputs else dict)

    def _items(self, partition: int) -> Folded:
        job = self.job
        past = self._past("i", partition)
        n = fold_items(past, job.stages, partition, job.n_partitions, job.spool, lambda n: self._tell("items", n))
        return self._done("i", partition, past, (n,), lambda: None, dict)

    def _done(
        self,
        kind: str,
        partition: int,
        past: PastPartition,
        records: tuple[int, ...],
        close: Callable[[], None],
        end: Callable[[], Mapping[str, int]],
    ) -> Folded:
        """Make all of it whole, and then say so."""
        position, clock_ms, sources = past.finish()
        close()
        done = Folded(
            job=self._name, kind=kind, partition=partition, generation=position.generation, offset=position.offset,
            clock_ms=clock_ms, sources={source: mark.text().decode() for source, mark in sources.items()},
            records=records, counted=dict(end()),
        )  # fmt: skip
        self.stores[kind].set_mark(partition, done.to_json())
        return done


_tools: _Tools | None = None
"""In a process of a pool: its tools."""


def _begin_process(
    job: Job, name: str, n: int, table: Catalogue, told: multiprocessing.Queue[tuple[str, int]], ended: Event
) -> None:
    global _tools
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run's own process ends this one

    def watch() -> None:
        while os.getppid() == parent and not ended.wait(0.5):
            pass
        os._exit(1)  # the run that wanted this was interrupted or killed

    threading.Thread(target=watch, name="parent", daemon=True).start()
    _tools = _Tools(job, name, n, table, lambda what, n: told.put((what, n)))


def _in_process(method: str, *args: object) -> Folded | tuple[str, str]:
    """Call a method of the tools; errors of ours come back as (name of the class, text): not all can be pickled."""
    if _tools is None:
        raise RuntimeError("this process was not begun")
    try:
        done: Folded = getattr(_tools, method)(*args)
    except LiverankError as error:
        kind = next((known.__name__ for known in _ERRORS if isinstance(error, known)), LiverankError.__name__)
        return kind, str(error)
    return done


class Restore:
    """One run of a job. The namespace must be kept from workers meanwhile (`streams.history.maintenance`).

    Parameters
    ----------
    job : Job
    table : Catalogue
        All versions of all items.
    on_progress : callable, optional
        Called with (step, records or partitions done): `events`, `items`, `rows`.
    processes : int
        0: as many as there are cores, or one for a short past.

    Raises
    ------
    ConfigError, CorruptError, UnavailableError
        From every method; run the same once more, it goes on.
    """

    def __init__(self, job: Job, table: Catalogue, *, on_progress: Progress | None = None, processes: int = 0) -> None:
        self._job = job
        self._name = job.name(table)
        self._tell = on_progress or (lambda _step, _done: None)
        self._table = table
        self._n = min(processes, job.n_partitions) if processes else _usual_processes(job)
        self._told: Counter[str] = Counter()
        self._from_others: multiprocessing.Queue[tuple[str, int]] | None = None
        self._here = _Tools(job, self._name, self._n, table, self._count)
        self.users: list[Folded] = []
        self.items: list[Folded] = []

    def run(self, n_effects: Sequence[int] = ()) -> None:
        """Fold everything that is not done.

        Parameters
        ----------
        n_effects : sequence of int, optional
            Records that `item-effects` holds, by partition; default: as many as were folded. A restore packs effects
            otherwise than the live fold did, so an item's row takes the version of the last of these: newer than all
            before, older than all to come.
        """
        job, here = self._job, self._here
        places = [(kind, partition) for kind in ("u", "i") for partition in range(job.n_partitions)]
        found = {place: here.found(*place) for place in places}
        if not any(found.values()):
            self._begin()
        for kind, partition in places:
            here.stores[kind].forget_meta(partition)
        with self._pool() as call:
            for kind in ("u", "i"):
                missing = [partition for partition in range(job.n_partitions) if found[kind, partition] is None]
                for done in call("fold", [(kind, partition) for partition in missing]):
                    found[kind, done.partition] = done
            everyone = {place: done for place, done in found.items() if done is not None}
            if job.rows:
                unseen = [(*place, self._version(done, n_effects)) for place, done in everyone.items() if not done.seen]
                for n, _ in enumerate(call("write_rows", unseen), start=1):
                    self._tell("rows", n)
        self.users, self.items = ([everyone[kind, p] for p in range(job.n_partitions)] for kind in ("u", "i"))

    def finish(self, *, live: bool) -> None:
        """Say where each partition stands; the store may be taken over now.

        Parameters
        ----------
        live : bool
            The last stage is the live log: go on after its last offset. Otherwise at the log's beginning.
        """
        job, here = self._job, self._here
        # Users last: a worker takes nothing while one of their positions is missing (takeover.py).
        for done in (*self.items, *self.users):
            position = Position(job.store_generation, -1, 0)
            if live and done.kind == "u":
                position = Position(done.generation, done.offset, 0)
            sources = {source: SourceMark.of(text.encode()) for source, text in done.sources.items()}
            version = format_version(done.generation, max(0, done.offset), 0)
            meta = Meta(epoch=0, position=position, clock_ms=done.clock_ms, version=version, sources=sources)
            here.stores[done.kind].restore_meta(done.partition, meta)
        for done in (*self.items, *self.users):
            here.stores[done.kind].set_mark(done.partition, "")
        shutil.rmtree(job.spool, ignore_errors=True)

    def _begin(self) -> None:
        """Nothing of this job is there: what is there is another's."""
        job, client = self._job, self._here.client
        shutil.rmtree(job.spool, ignore_errors=True)
        if job.anew:
            with translated("deleting statistics"):
                partials = list(client.scan_iter(match=f"{job.settings.namespace}:bandit:*", count=5000))
                for start in range(0, len(partials), 1000):
                    client.unlink(*partials[start : start + 1000])

    def _version(self, done: Folded, n_effects: Sequence[int]) -> bytes:
        """Version of a partition's rows: above everything of before."""
        end = done.offset
        if done.kind == "i":
            end = (n_effects[done.partition] if n_effects else done.records[-1]) - 1
        # Imported history lies before all that is live, and another import may be shorter. So does all that is there of
        # a generation without a record.
        last = (done.generation, end) if done.generation and end >= 0 else (done.generation - 1, _LAST_OFFSET)
        return format_version(max(0, last[0]), last[1], _LAST_STEP)

    def _count(self, what: str, n: int) -> None:
        self._told[what] += n
        self._tell(what, self._told[what])
        self._hear()

    def _hear(self) -> None:
        """Pass on what other processes told."""
        while self._from_others is not None:
            try:
                what, n = self._from_others.get_nowait()
            except queue.Empty:
                return
            self._told[what] += n
            self._tell(what, self._told[what])

    @contextmanager
    def _pool(self) -> Iterator[Callable[[str, Sequence[tuple[object, ...]]], Iterator[Folded]]]:
        """Give a function that calls a method of the tools for each of many arguments, here and in other processes."""
        if self._n == 1:
            yield lambda method, many: (getattr(self._here, method)(*args) for args in many)
            return
        context = multiprocessing.get_context("spawn")
        told: multiprocessing.Queue[tuple[str, int]] = context.Queue()
        ended = context.Event()
        begin = (self._job, self._name, self._n, self._table, told, ended)
        pool = ProcessPoolExecutor(self._n - 1, mp_context=context, initializer=_begin_process, initargs=begin)
        self._from_others = told
        try:
            yield lambda method, many: self._calls(pool, method, many)
        except BaseException:
            ended.set()  # what is being folded is folded anew by the next run
            raise
        finally:
            self._from_others = None
            pool.shutdown(wait=True, cancel_futures=True)

    def _calls(self, pool: ProcessPoolExecutor, method: str, many: Sequence[tuple[object, ...]]) -> Iterator[Folded]:
        """Call a method for each of many arguments: one after the other here, meanwhile others in other processes."""
        left = deque(many)
        waiting: set[Future[Folded | tuple[str, str]]] = set()
        try:
            while left or waiting:
                # Each of the others has one to do next, as this process looks only between two of its own.
                while left and len(waiting) < 2 * (self._n - 1):
                    waiting.add(pool.submit(_in_process, method, *left.popleft()))
                if left:
                    yield getattr(self._here, method)(*left.popleft())
                ended, waiting = wait(waiting, timeout=0.0 if left else 0.2)
                self._hear()
                for future in ended:
                    yield _result(future)
        except BrokenProcessPool as error:
            raise UnavailableError(
                "a process that folded was killed (is there enough memory?): run the same again, it goes on"
            ) from error


def _usual_processes(job: Job) -> int:
    """As many as there are cores, or one for a short past."""
    import pyarrow.parquet as pq

    folders = [stage.folder / str(p) for stage in job.stages for p in range(job.n_partitions)]
    n = sum(pq.read_metadata(path).num_rows for folder in folders for path in folder.glob("*.parquet"))
    return min(len(os.sched_getaffinity(0)), job.n_partitions) if n > _ALONE else 1


def _result(future: Future[Folded | tuple[str, str]]) -> Folded:
    done = future.result()
    if isinstance(done, Folded):
        return done
    name, text = done
    raise next((known for known in _ERRORS if known.__name__ == name), LiverankError)(text)
