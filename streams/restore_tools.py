"""What a process needs to fold partitions of the past: the job, its tools, the mark that a partition leaves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol

from features.program import FeatureProgram
from features.redis import connect, format_version, namespace_token
from liverank.errors import CorruptError
from liverank.settings import Settings
from streams.calls import Call
from streams.catalogue import Catalogue, History
from streams.collector import quiet, still
from streams.fence import FencedStore
from streams.fold import Fold
from streams.items import ItemFold
from streams.outbox import Output
from streams.reading import ItemVersions
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

__all__ = ["Folded", "Job", "Outputs", "Progress", "Tools"]

#: States of one fold in memory, over all processes.
_CACHE_STATES: Final = 50_000
#: Largest numbers of a version (features/redis.py).
_LAST_OFFSET: Final = 10**16 - 1
_LAST_STEP: Final = 999_999

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
                for path in stage.files(partition):
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

    def rows_version(self, n_effects: int) -> bytes:
        """Version of the partition's rows: above everything of before.

        Parameters
        ----------
        n_effects : int
            See `Tools.fold`.
        """
        end = self.offset
        if self.kind == "i":
            end = (self.records[-1] if n_effects < 0 else n_effects) - 1
        # Imported history lies before all that is live, and another import may be shorter. So does all that is there of
        # a generation without a record.
        whole = self.generation and end >= 0
        last = (self.generation, end) if whole else (self.generation - 1, _LAST_OFFSET)
        return format_version(max(0, last[0]), last[1], _LAST_STEP)


class Tools:
    """Folds partitions of a job in this process.

    Parameters
    ----------
    name : str
        Of the job (`Job.name`).
    n_processes : int
        How many fold at the same time.
    table : Catalogue
        All versions of all items.
    tell : callable
        Called with (step, records more).
    """

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

    def fold(self, kind: str, partition: int, n_effects: int) -> Folded:
        """Fold a partition from the beginning, and write its rows if all of them are still in memory.

        Parameters
        ----------
        n_effects : int
            Records that the partition of `item-effects` holds; -1: as many as were folded. A restore packs effects
            otherwise than the live fold did, so an item's row takes the version of the last of these: newer than all
            before, older than all to come.
        """
        job = self.job
        wipe(self.folds[kind], self.client, job.settings, self.stores[kind], partition, rows=job.anew)
        with still():
            return (self._users if kind == "u" else self._items)(partition, n_effects)

    def write_rows(self, kind: str, partition: int, n_effects: int) -> Folded:
        """Write what readers see of a partition that was folded."""
        done = self.found(kind, partition)
        if done is None:
            raise CorruptError(f"Redis lost what was restored of partition {partition}: run it again")
        version = done.rows_version(n_effects)
        write_rows(self.folds[kind], self.client, self.job.settings, self.stores[kind], partition, version)
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
            on_effects=on_effects, silent=self._outputs is None, rows=job.rows,
        )  # fmt: skip

    def _users(self, partition: int, n_effects: int) -> Folded:
        job, outputs = self.job, self._outputs
        spool = Spool(job.spool, partition)
        if outputs is not None:
            outputs.begin(partition)

        def pass_on(calls: Sequence[Call]) -> None:
            if outputs is not None:
                outputs.take(outputs_of(calls))

        past = self._past("u", partition, pass_on, spool.take)
        counts = fold_users(past, job.stages, partition, self._catalogues, lambda n: self._tell("events", n))
        return self._done("u", past, tuple(counts), n_effects, spool.close, outputs.end if outputs else dict)

    def _items(self, partition: int, n_effects: int) -> Folded:
        job = self.job
        past = self._past("i", partition)
        n = fold_items(past, job.stages, partition, job.n_partitions, job.spool, lambda n: self._tell("items", n))
        return self._done("i", past, (n,), n_effects, lambda: None, dict)

    def _done(
        self,
        kind: str,
        past: PastPartition,
        records: tuple[int, ...],
        n_effects: int,
        close: Callable[[], None],
        end: Callable[[], Mapping[str, int]],
    ) -> Folded:
        """Make all of it whole, and then say so."""
        position, clock_ms, sources = past.finish()
        close()
        done = Folded(
            job=self._name, kind=kind, partition=past.partition, generation=position.generation,
            offset=position.offset, clock_ms=clock_ms,
            sources={source: mark.text().decode() for source, mark in sources.items()},
            records=records, counted=dict(end()),
        )  # fmt: skip
        done = replace(done, seen=past.write_rows(done.rows_version(n_effects)))
        self.stores[kind].set_mark(done.partition, done.to_json())
        return done
