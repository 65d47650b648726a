"""The archive of `events` for another number of partitions: the same records, each in the partition of its key.

Generation g+1 finds its past in three places: imported history (0), everything between as one sequence a partition
(g), and its own log. All have its number of partitions. What is written here becomes the first two.
"""

from __future__ import annotations

import heapq
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from features.archive import part_dir, partitions_of, write_part
from features.generation import Note
from liverank.contract import FORWARDED_HEADER, INTERNAL_HEADER
from liverank.errors import ContractError
from liverank.kafka import Record
from liverank.partition import partition as partition_of
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType
from streams.control import Adopt, Command, Erase, Erased, control, write_staged
from streams.fold import Parsed
from streams.past import live_records
from streams.restore_parts import Stage
from streams.seal import seal_of
from streams.staging import write_json
from streams.ticks import TICK_VALUE
from streams.users import UserFold

__all__ = ["Counts", "Dealt", "commit", "deal", "destination", "discard", "rekeyed"]

#: Records in memory before files are written.
_FILE_RECORDS: Final = 100_000
_WAITING: Final = 200_000
#: Ticks that are closer are one, ms.
_TICK_MS: Final = 1_000


@dataclass(kw_only=True)
class Counts:
    """What came of the records of a generation: every one is counted once.

    Attributes
    ----------
    read : int
    kept : int
        Records in their new partitions, but for those that are made anew.
    anew, strays : int
        Read and left out: ticks, and copies of what an erased user left, are made anew; a stray was forwarded, and the
        forwarded record is kept.
    """

    read: int = 0
    kept: int = 0
    anew: int = 0
    strays: int = 0


class _Found(NamedTuple):
    """A record and where it goes; None = everywhere, as a tick."""

    record: Record
    target: int | None
    erased: Erased | None = None


@dataclass(kw_only=True)
class _Numbers:
    """Offsets of the new partitions."""

    following: list[int] = field(default_factory=list)

    def take(self, topic: str, target: int, record: Record) -> Record:
        offset = self.following[target]
        self.following[target] += 1
        headers = tuple(pair for pair in record.headers if pair[0] != FORWARDED_HEADER)
        return record._replace(topic=topic, partition=target, offset=offset, headers=headers)


def destination(settings: Settings, generation: int, note: Note) -> Path:
    """Folder in which the records of a generation wait for the switch."""
    return part_dir(settings, "events", generation, 0).parent.with_name(f"{generation}.for-{note.new}")


def _mark(settings: Settings, note: Note) -> Path:
    """Says that everything is written, and what."""
    return destination(settings, note.old, note).with_suffix(f".for-{note.new}.json")


def discard(settings: Settings, note: Note) -> None:
    """Delete what was written for a switch that has not begun."""
    _mark(settings, note).unlink(missing_ok=True)
    for generation in (0, note.old):
        shutil.rmtree(destination(settings, generation, note), ignore_errors=True)


def commit(settings: Settings, note: Note) -> None:
    """Put what was written in the place of what was there; may be interrupted and repeated."""
    base = destination(settings, note.old, note).parent
    for generation in (0, note.old):
        ready, place = destination(settings, generation, note), base / str(generation)
        before = base / f"{generation}.before-{note.new}"
        if ready.is_dir():
            if place.is_dir():
                shutil.rmtree(before, ignore_errors=True)
                place.rename(before)
            ready.rename(place)
        shutil.rmtree(before, ignore_errors=True)
    _mark(settings, note).unlink(missing_ok=True)
    if note.old > 1:  # its records are among those of the generation after it
        shutil.rmtree(base / str(note.old - 1), ignore_errors=True)


@dataclass(kw_only=True)
class Dealt:
    """The archive is written for the new partitions.

    Attributes
    ----------
    counts : Counts
    newest_ms : int
        Newest append time of imported history.
    again : bool
        An earlier attempt wrote it: what it folded counts too.
    """

    counts: Counts = field(default_factory=Counts)
    newest_ms: int = 0
    again: bool = False

    def stages(self, settings: Settings, note: Note) -> tuple[Stage, ...]:
        """What is to be folded, in order."""
        return tuple(
            Stage(
                generation=generation,
                folder=destination(settings, generation, note),
                topic=settings.topic("events", generation),
                tick_ms=0 if generation else self.newest_ms,
            )
            for generation in (0, note.old)
        )


def _sources(settings: Settings, note: Note) -> str:
    """Hash of what is dealt: files' names, sizes and times; an erase may have rewritten them."""
    digest = sha256()
    for generation in sorted({0, note.old - 1, note.old}):
        folder = part_dir(settings, "events", generation, 0).parent
        for path in sorted(folder.glob("*/*.parquet")):
            about = path.stat()
            digest.update(f"{generation} {path.relative_to(folder)} {about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def deal(settings: Settings, note: Note, decoder: UserFold, token: bytes, tell: Callable[[Counts], None]) -> Dealt:
    """Write the archive for the new partitions, or find it written.

    Parameters
    ----------
    decoder : UserFold
        Parses records; folds nothing.
    token : bytes
        The namespace's.
    tell : callable
        Called every thousand records.
    """
    mark, sources = _mark(settings, note), _sources(settings, note)
    found = json.loads(mark.read_text()) if mark.exists() else {}
    if found.get("sources") == sources:
        return Dealt(counts=Counts(**found["counts"]), newest_ms=found["newest_ms"], again=True)
    discard(settings, note)
    dealt = Dealt()
    for generation in (0, note.old):
        writer = _PartWriter(destination(settings, generation, note))
        for n, record in enumerate(rekeyed(settings, note, generation, decoder, token, dealt.counts)):
            writer.write(record)
            if generation == 0:
                dealt.newest_ms = max(dealt.newest_ms, record.append_ts_ms)
            if n % 1000 == 0:
                tell(dealt.counts)
        writer.flush()
    write_json(mark, {"counts": asdict(dealt.counts), "newest_ms": dealt.newest_ms, "sources": sources})
    return dealt


class _PartWriter:
    """Writes records of all partitions into files of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: dict[int, list[Record]] = {}
        self._n = 0

    def write(self, record: Record) -> None:
        """Take a record; those of a partition come in order."""
        waiting = self._waiting.setdefault(record.partition, [])
        waiting.append(record)
        self._n += 1
        if len(waiting) >= _FILE_RECORDS or self._n >= _WAITING:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        for partition, records in self._waiting.items():
            write_part(self._folder / str(partition), records)
        self._waiting, self._n = {}, 0


def rekeyed(
    settings: Settings, note: Note, generation: int, fold: UserFold, token: bytes, counts: Counts
) -> Iterator[Record]:
    """Yield the past of `note.new` that a generation number stands for, in its new partitions.

    Parameters
    ----------
    generation : int
        0: imported history. `note.old`: everything after it, up to the seals; it ends with a tick of their time.
    fold : UserFold
        Decodes records.

    Raises
    ------
    CorruptError
        The archive misses records.
    """
    numbers = _Numbers(following=[0] * note.n_new)
    topic = settings.topic("events", generation)
    if generation == 0:
        parts = [_whole(settings, 0, p) for p in partitions_of(settings, "events", 0)]
        lives = [_merged([_routed(settings, part, fold, note, counts, None) for part in parts])]
    else:
        before = partitions_of(settings, "events", note.old - 1) if note.old > 1 else []
        earlier = [_routed(settings, _whole(settings, note.old - 1, p), fold, note, counts, None) for p in before]
        sealed = [
            _routed(settings, live_records(settings, note.old, p, end - 1, own=True), fold, note, counts, note.n_old)
            for p, end in enumerate(note.ends)
        ]
        lives = [_merged(earlier), _merged(sealed)]
    told_ms = 0

    def tick(ts_ms: int) -> Iterator[Record]:
        nonlocal told_ms
        told_ms = ts_ms
        for target in range(note.n_new):
            bare = Record(topic, 0, 0, None, TICK_VALUE, ((INTERNAL_HEADER, token),), ts_ms)
            yield numbers.take(topic, target, bare)

    for life in lives:
        newest_ms = told_ms
        for found in life:
            record = found.record
            if found.target is None:
                seal = seal_of(record)
                newest_ms = max(newest_ms, record.append_ts_ms, seal.clock_ms if seal else 0)
                least_ms = _TICK_MS if settings.clock == "wall" else 1
                if newest_ms >= told_ms + least_ms:
                    yield from tick(newest_ms)
                continue
            counts.kept += 1
            yield numbers.take(topic, found.target, record)
            if found.erased is not None:
                yield from _known_everywhere(settings, numbers, topic, found.erased, found, note, token)
        if newest_ms > told_ms and life is not lives[-1]:
            yield from tick(newest_ms)
    if generation:
        yield from tick(max(note.clock_ms, told_ms))


def _known_everywhere(
    settings: Settings, numbers: _Numbers, topic: str, erased: Erased, found: _Found, note: Note, token: bytes
) -> Iterator[Record]:
    """What an erased user left holds no id: its sums are counted in one partition, its hashed keys known in all."""
    path = _nothing(settings)
    digest = write_staged(settings.home / path, [])
    bare = Erased(keys=erased.keys, at_ms=erased.at_ms, job=erased.job, path=str(path), sha256=digest)
    value = Event(type=EventType.EVENT_TYPE_CONTROL, control=control(bare)).SerializeToString()
    record = found.record._replace(key=None, value=value, headers=((INTERNAL_HEADER, token),))
    for target in range(note.n_new):
        if target != found.target:
            yield numbers.take(topic, target, record)


def _nothing(settings: Settings) -> Path:
    """File of what an erased user left in partitions that only know its keys, relative to `settings.home`."""
    return Path("archive") / settings.namespace / "erased" / "nothing.parquet"


def _routed(
    settings: Settings, part: Iterable[Record], fold: UserFold, note: Note, counts: Counts, n_before: int | None
) -> Iterator[_Found]:
    """Say where each record of a partition goes.

    Parameters
    ----------
    n_before : int or None
        Partitions among which a record may have strayed; None = these records were sorted before.
    """
    for record in part:
        counts.read += 1
        try:
            parsed = fold.parse(record)
        except ContractError:  # a dead letter, again and again
            yield _Found(record, record.partition % note.n_new)
            continue
        if parsed.tick:
            counts.anew += 1
            yield _Found(record, None)
            continue
        route = _route(parsed)
        if route is None:
            erased = parsed.body if isinstance(parsed.body, Erased) else None
            if erased is not None and erased.path == str(_nothing(settings)):
                counts.anew += 1
                continue
            yield _Found(record, record.partition % note.n_new, erased)
        elif n_before is not None and partition_of(route, n_before) != record.partition:
            counts.strays += 1
        else:
            yield _Found(record, partition_of(route, note.n_new))


def _route(parsed: Parsed) -> bytes | None:
    """Key that decides the partition of a record; None = any will do."""
    body = parsed.body
    if isinstance(body, Adopt | Erase):
        return body.user_id.encode()
    return None if isinstance(body, Command) else parsed.route


def _merged(parts: Sequence[Iterator[_Found]]) -> Iterator[_Found]:
    """All partitions by append time, each in its own order; a tick comes after the events of its instant."""

    def key(found: _Found) -> tuple[int, bool, int, int]:
        record = found.record
        return record.append_ts_ms, found.target is None, record.partition, record.offset

    return heapq.merge(*parts, key=key)


def _whole(settings: Settings, generation: int, partition: int) -> Iterator[Record]:
    folder = part_dir(settings, "events", generation, 0).parent
    return Stage(generation=generation, folder=folder, topic=settings.topic("events", generation)).records(partition)
