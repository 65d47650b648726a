"""Files without erased users: events of the archive become voids, their `erase` the sums that they left, rows of
decisions and examples go (docs/specs/control.md). Due within 24 hours of an erase; may be interrupted and begun again
at any point.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from features.archive import files_of, last_offset, part_dir, partitions_of, read_part, rewrite_file, rewriting
from features.examples import examples_dir, remove_users
from features.generation import active_generation
from features.hashing import id_hash
from features.program import FeatureProgram
from features.redis import Redis, connect, namespace_token, translated
from liverank.contract import CONTENT_TYPE, INTERNAL_HEADER, decode_event, event_key
from liverank.errors import ConfigError, ContractError, UnavailableError
from liverank.kafka import Record, partition_counts
from liverank.settings import Settings
from liverank.v1.decision_pb2 import Decision
from liverank.v1.event_pb2 import Event, EventType
from liverank.v1.stream_pb2 import ItemEffect
from streams.activation import read_partitions
from streams.catalogue import Catalogue, History
from streams.control import Adopt, Erase, Erased, Void, control, parse_control, staged
from streams.erasure import ERASED_KEY, ErasedKeys, write_left
from streams.past import MemoryStore, feed, imported_records, memory_part, newest_imported_ms, read_catalogue, tick_at
from streams.program import pinned_program
from streams.rows import state_key
from streams.users import UserFold

__all__ = ["EraseReport", "OwnRecords", "live_generation", "only_writer", "rewrite"]

_CONTROL: Final = int(EventType.EVENT_TYPE_CONTROL)
_TICK: Final = int(EventType.EVENT_TYPE_TICK)


@dataclass(kw_only=True)
class EraseReport:
    """What a rewrite removed: (rows, files) by store; users are those whose records still stood in the archive."""

    users: int = 0
    removed: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, store: str, rows: int, files: int) -> None:
        """Count rows and files of a store."""
        have = self.removed.get(store, (0, 0))
        self.removed[store] = (have[0] + rows, have[1] + files)


@dataclass(frozen=True, kw_only=True)
class _Erasure:
    """An `erase` that stands in the archive."""

    command: Erase
    generation: int
    partition: int
    record: Record
    clock_ms: int

    @property
    def key(self) -> bytes:
        return self.command.user_id.encode()

    def path(self, settings: Settings) -> Path:
        """File of what is left, relative to `settings.home`."""
        name = f"{self.partition}-{self.record.offset:016d}.parquet"
        return Path("archive") / settings.namespace / "erased" / str(self.generation) / name


@dataclass(kw_only=True)
class _Past:
    """Records of one user in its partition, each with the clock before it; `before`: of the generations before."""

    imported: list[Record] = field(default_factory=list)
    before: list[tuple[Record, int]] = field(default_factory=list)
    live: list[tuple[Record, int]] = field(default_factory=list)


def live_generation(settings: Settings, client: Redis) -> tuple[int, int]:
    """Return the live generation and its number of partitions.

    Raises
    ------
    ConfigError
        The namespace has no topics.
    """
    generation = active_generation(client, settings)
    topic = settings.topic("events", generation)
    n = partition_counts(settings.kafka.bootstrap, [topic]).get(topic)
    if n is None:
        raise ConfigError(f"there is no topic {topic}: run `liverank up` first")
    return generation, n


class OwnRecords:
    """Finds the records of users."""

    def __init__(self, users: Sequence[str]) -> None:
        self._users = {user.encode() for user in users}
        self._pattern = re.compile(b"|".join(map(re.escape, sorted(self._users))))

    def owner(self, record: Record) -> tuple[bytes, int] | None:
        """User and newest event time of a record, if it holds events of one of these users and can be decoded.

        A login is its session's; events that moved by one are the user's.
        """
        event = self.event(record)
        if event is None:
            return None
        if event.type != _CONTROL:
            return event_key(event), event.event_ts_ms
        moved = parse_control(event.control)
        times = [Event.FromString(packed).event_ts_ms for packed, _ in moved.events] if isinstance(moved, Adopt) else []
        return (moved.user_id.encode(), max(times, default=0)) if isinstance(moved, Adopt) else None

    def event(self, record: Record) -> Event | None:
        """The event, if it is one of these users, or the record of events that moved to one."""
        internal = record.header(INTERNAL_HEADER) is not None
        if not internal and record.header(CONTENT_TYPE) is None and not self._pattern.search(record.value):
            return None
        try:
            event = decode_event(record.value, record.headers)
            if event.type == _CONTROL:
                command = parse_control(event.control) if internal and event.control.kind == "adopt" else None
                return event if isinstance(command, Adopt) and command.user_id.encode() in self._users else None
            return event if event.type != _TICK and event_key(event) in self._users else None
        except ContractError:
            return None


def rewrite(settings: Settings, *, on_progress: Callable[[str, int], None] | None = None) -> EraseReport:
    """Remove erased users from archive, decisions and label rows, and from replies that wait in Redis.

    Every `erase` that the archive holds is worked off. Safe to interrupt and to repeat; `rebuild` and backfills wait
    for its end.

    Raises
    ------
    UnavailableError
        Kafka or Redis is away, or a view is being backfilled; run it again.
    ConfigError
        Another rewrite is under way.
    OSError
        The disk refuses; run it again.
    """
    tell = on_progress or (lambda _what, _done: None)
    client = connect(settings, retries=3)
    token, generation, n = namespace_token(client, settings.namespace), *live_generation(settings, client)
    report = EraseReport()
    with only_writer(settings):
        erasures = [
            found
            for g in sorted({g for g, _, _ in files_of(settings, "events")} - {0})
            for p in partitions_of(settings, "events", g)
            for found in _erasures(settings, g, p)
        ]
        if not erasures:
            rewriting(settings).unlink(missing_ok=True)
            return report
        _require_merged(settings, client, generation, n)
        report.users = len({found.key for found in erasures})
        table, _ = read_catalogue(settings, n)
        commands: dict[tuple[int, int, int], Erased] = {}
        for g, p in sorted({(found.generation, found.partition) for found in erasures}):
            own = [found for found in erasures if (found.generation, found.partition) == (g, p)]
            for found, command in _left(settings, own, table, token, n):
                commands[g, p, found.record.offset] = command
                tell("sums", len(commands))
        gone: dict[str, int] = {}
        for found in erasures:
            at_ms = commands[found.generation, found.partition, found.record.offset].at_ms
            gone[found.command.user_id] = max(at_ms, gone.get(found.command.user_id, 0))
        rewriting(settings).touch()
        _void(settings, erasures, gone, token, report, tell)
        _decisions(settings, gone, report, tell)
        report.add("examples", *remove_users(examples_dir(settings), gone))
        report.add("replies", _replies(settings, client, gone), 0)
        # Last: as long as the requests stand there, an interrupted rewrite finds them and goes on.
        for g, p, path in files_of(settings, "events"):

            def done(record: Record, g: int = g, p: int = p) -> Record:
                command = commands.get((g, p, record.offset))
                return record if command is None else _control_record(record, command, token)

            if any(place[:2] == (g, p) for place in commands):
                report.add("requests", rewrite_file(path, done), 0)
        rewriting(settings).unlink()
    return report


@contextmanager
def only_writer(settings: Settings) -> Iterator[None]:
    """Nobody else writes files of the archive anew meanwhile.

    Raises
    ------
    ConfigError
        Somebody does.
    """
    lock = rewriting(settings).with_name("lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError("an erase or a repartition writes the archive anew; wait for its end") from error
        yield


def _require_merged(settings: Settings, client: Redis, generation: int, n: int) -> None:
    """A backfill counts an activated view up to its record: nothing before that may be moved meanwhile."""
    program = pinned_program(client, settings.namespace)
    partitions = read_partitions(client, settings, program, generation=generation, n_partitions=n)
    late = {each.view.name for state in partitions.all for each in state.views if not each.merged and each.activation}
    if late:
        raise UnavailableError(
            f"{', '.join(sorted(late))}: still warming; rewrite when `liverank features list` agrees"
        )


def _erasures(settings: Settings, generation: int, partition: int) -> Iterator[_Erasure]:
    """The requests in a partition's archive, with the clock at each."""
    clock_ms, wall = 0, settings.clock == "wall"
    folder = part_dir(settings, "events", generation, partition)
    for record in read_part(folder, settings.topic("events", generation), partition):
        if wall:
            clock_ms = max(clock_ms, record.append_ts_ms)
        if record.header(INTERNAL_HEADER) is None:
            continue
        try:
            event = decode_event(record.value, record.headers)
            if event.type == _TICK:
                clock_ms = max(clock_ms, record.append_ts_ms)
            command = parse_control(event.control) if event.type == _CONTROL else None
        except ContractError:
            continue
        if isinstance(command, Erase):
            yield _Erasure(
                command=command, generation=generation, partition=partition, record=record, clock_ms=clock_ms
            )


def _left(
    settings: Settings, erasures: Sequence[_Erasure], table: Catalogue, token: bytes, n: int
) -> Iterator[tuple[_Erasure, Erased]]:
    """What the users of one partition had added to sums, written to files; a file that is there is taken as it is."""
    pasts: dict[bytes, _Past] | None = None
    newest_ms = newest_imported_ms(settings)
    erased: dict[bytes, Mapping[bytes, bytes]] = {}
    since: dict[bytes, int] = {}
    for found in erasures:
        path = settings.home / found.path(settings)
        if not path.exists():
            if pasts is None:
                pasts = _pasts(settings, erasures)
            store, effects = _folded(
                settings, found, pasts[found.key], since.get(found.key, -1), erased.get(found.key), table, token, n,
                newest_ms,
            )  # fmt: skip
            write_left(path, effects, store.fields)
        digest = sha256(path.read_bytes()).hexdigest()
        kept = dict(staged(path, digest))[ERASED_KEY]
        erased[found.key], since[found.key] = kept, found.record.offset
        keys, at_ms = ErasedKeys(kept).of_job(found.command.job)
        yield (
            found,
            Erased(keys=keys, at_ms=at_ms, job=found.command.job, path=str(found.path(settings)), sha256=digest),
        )


def _pasts(settings: Settings, erasures: Sequence[_Erasure]) -> dict[bytes, _Past]:
    """Records of the users of one partition."""
    first = erasures[0]
    partition, generation = first.partition, first.generation
    own = OwnRecords([found.command.user_id for found in erasures])
    pasts = {found.key: _Past() for found in erasures}
    for record in imported_records(settings, partition):
        if (owner := own.owner(record)) is not None:
            pasts[owner[0]].imported.append(record)
    clock_ms, wall = newest_imported_ms(settings), settings.clock == "wall"
    held: dict[bytes, int] = {}
    topic = settings.topic("events", generation)
    folders = [part_dir(settings, "events", g, partition) for g in range(max(1, generation - 1), generation + 1)]
    parts = [read_part(folder, topic, partition) for folder in folders]
    n_before = sum(last_offset(folder) + 1 for folder in folders[:-1])
    for at, record in enumerate(chain(*parts)):
        owner = own.owner(record)
        if owner is not None and owner[1] > held.get(owner[0], -1):
            found = pasts[owner[0]]
            (found.before if at < n_before else found.live).append((record, clock_ms))
        if (earlier := _erased(record)) is not None:
            for key in pasts:
                if id_hash(state_key(key.decode())) in earlier.keys:
                    held[key] = earlier.at_ms
        if wall or (record.header(INTERNAL_HEADER) is not None and Event.FromString(record.value).type == _TICK):
            clock_ms = max(clock_ms, record.append_ts_ms)
    return pasts


def _folded(
    settings: Settings,
    found: _Erasure,
    past: _Past,
    since: int,
    erased: Mapping[bytes, bytes] | None,
    table: Catalogue,
    token: bytes,
    n: int,
    newest_ms: int,
) -> tuple[MemoryStore, list[ItemEffect]]:
    """Fold one user alone, up to its erase: its effects, and a store with its statistics."""
    fold = UserFold(settings, FeatureProgram(project=settings.feast_project, views=()), token=token, follow=False)
    store, effects = MemoryStore(), list[ItemEffect]()
    if erased is not None:
        store.fields[ERASED_KEY] = dict(erased)
    part = partial(memory_part, settings, fold, store, partition=found.partition, n_partitions=n)
    first = part(generation=0, catalogue=History(table))
    for record in past.imported if since < 0 else ():
        feed(fold, first, record)
    if newest_ms:
        tick_at(first, newest_ms)
    effects += store.take(first)
    second = part(generation=found.generation, catalogue=table)
    second.resume(first.clock_ms, {})
    for record, clock_ms in past.before if since < 0 else ():
        tick_at(second, clock_ms)
        feed(fold, second, record)
    for record, clock_ms in past.live:
        if since < record.offset < found.record.offset:
            tick_at(second, clock_ms)
            feed(fold, second, record)
    tick_at(second, found.clock_ms)
    feed(fold, second, found.record)
    effects += store.take(second)
    return store, effects


def _is_request(record: Record) -> bool:
    """Whether it is a control record of erasing itself."""
    return record.header(INTERNAL_HEADER) is not None and Event.FromString(record.value).control.kind != "adopt"


def _erased(record: Record) -> Erased | None:
    """The record of an earlier rewrite."""
    if record.header(INTERNAL_HEADER) is None:
        return None
    try:
        event = decode_event(record.value, record.headers)
        command = parse_control(event.control) if event.type == _CONTROL else None
    except ContractError:
        return None
    return command if isinstance(command, Erased) else None


def _control_record(record: Record, command: Erased | Void, token: bytes) -> Record:
    event = Event(type=EventType.EVENT_TYPE_CONTROL, control=control(command))
    headers = ((INTERNAL_HEADER, token),)
    return record._replace(key=None, value=event.SerializeToString(), headers=headers)


def _void(
    settings: Settings,
    erasures: Sequence[_Erasure],
    gone: Mapping[str, int],
    token: bytes,
    report: EraseReport,
    tell: Callable[[str, int], None],
) -> None:
    """Replace the users' events in the archive; offsets and append times stay."""
    own = OwnRecords(list(gone))
    until: dict[tuple[int, int, bytes], int] = {}
    for found in erasures:
        place = (found.generation, found.partition, found.key)
        until[place] = max(found.record.offset, until.get(place, -1))
    users = {user.encode(): at_ms for user, at_ms in gone.items()}
    for at, (g, p, path) in enumerate(files_of(settings, "events")):

        def void(record: Record, g: int = g, p: int = p) -> Record:
            key, ts_ms = own.owner(record) or (record.key or b"", record.append_ts_ms)
            if key not in users or _is_request(record):
                return record
            old = g == 0 or record.offset < until.get((g, p, key), -1) or ts_ms <= users[key]
            return _control_record(record, Void(), token) if old else record

        n = rewrite_file(path, void)
        report.add("events", n, n > 0)
        tell("events", at + 1)


def _decisions(
    settings: Settings, gone: Mapping[str, int], report: EraseReport, tell: Callable[[str, int], None]
) -> None:
    def keep(record: Record) -> Record | None:
        try:
            decision = Decision.FromString(record.value)
        except DecodeError:
            return record
        return None if decision.decided_ts_ms <= gone.get(decision.user_id, -1) else record

    for at, (_, _, path) in enumerate(files_of(settings, "decisions")):
        n = rewrite_file(path, keep)
        report.add("decisions", n, n > 0)
        tell("decisions", at + 1)


def _replies(settings: Settings, client: Redis, gone: Mapping[str, int]) -> int:
    """Delete replies that are kept for a retry, and exposures that wait; they live 30 minutes at most."""
    pattern, n = re.compile(b"|".join(re.escape(user.encode()) for user in gone)), 0
    with translated("deleting kept replies"):
        for key in client.scan_iter(match=f"{settings.namespace}:reply:*", count=1000):
            if pattern.search(client.get(key) or b""):
                n += int(client.unlink(key))
    return n
