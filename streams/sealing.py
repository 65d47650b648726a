"""Ending a generation: producers fall silent, every partition gets its seal, folds and archive reach it; and what
arrives behind a seal goes on to the next generation.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from features.archive import last_offset, part_dir
from features.generation import Note, write_note
from features.redis import Redis, translated
from liverank.contract import FORWARDED_HEADER, INTERNAL_HEADER, PRODUCER_HEADER
from liverank.errors import ConfigError, ContractError, UnavailableError
from liverank.kafka import LogReader, Producer, Record, Tp, end_offsets
from liverank.partition import partition as partition_of
from liverank.settings import Settings
from streams.control import Adopt, Erase
from streams.fence import FencedStore
from streams.seal import SEAL, Seal, seal_of
from streams.ticks import TICK_VALUE
from streams.users import UserFold

__all__ = ["KEEP_S", "Tell", "await_archive", "await_folds", "await_silence", "forward_late", "seal"]

Tell = Callable[[str], None]
#: The seals' time lies so far ahead that no record before a seal is later, ms.
_AHEAD_MS: Final = 2_000
_POLL_S: Final = 0.2
_PATIENCE_S: Final = 60.0
#: How long positions of what was forwarded are kept: longer than the log.
KEEP_S: Final = 8 * 86_400


def _topic(settings: Settings, note: Note) -> str:
    return settings.topic("events", note.old)


def _name(record: Record) -> str:
    return (record.header(PRODUCER_HEADER) or b"").decode("utf-8", "replace") or "producers without a name"


def _by_name(names: Counter[str]) -> str:
    return ", ".join(f"{name} ({n:,})" for name, n in names.most_common(5))


def await_silence(settings: Settings, note: Note, quiet_s: float, tell: Tell) -> int:
    """Wait until no producer has sent an event for `quiet_s`; return the newest append time of all records.

    Parameters
    ----------
    tell : callable
        Is told who still sends.
    """
    topic = _topic(settings, note)
    # From the last record before on, for its time.
    starts = {Tp(topic, p): max(0, begin - 1) for p, begin in enumerate(note.begins)}
    reader = LogReader(settings.kafka.bootstrap, starts, name="repartition")
    names: Counter[str] = Counter()
    newest_ms, quiet_since_s = 0, time.monotonic()
    try:
        while True:
            records = reader.poll_batch(2000, _POLL_S)
            for record in records:
                newest_ms = max(newest_ms, record.append_ts_ms)
                if record.header(INTERNAL_HEADER) is None and record.offset >= note.begins[record.partition]:
                    names[_name(record)] += 1
                    quiet_since_s = time.monotonic()
            silent_s = time.monotonic() - quiet_since_s
            if silent_s >= quiet_s and len(records) < 2000:
                return newest_ms
            came = f"; since the seal came events of {_by_name(names)}" if names else ""
            tell(f"waiting until nobody has sent an event for {quiet_s:g} s ({silent_s:.0f} s){came}")
    finally:
        reader.close()


def seal(settings: Settings, client: Redis, note: Note, token: bytes, newest_ms: int) -> Note:
    """Write the seals, unless they are there; return the note that knows them.

    Raises
    ------
    ConfigError
        An earlier attempt wrote some of them and was interrupted.
    UnavailableError
        Kafka is away.
    """
    topic = _topic(settings, note)
    if note.clock_ms:
        found = _seals(settings, note)
        if found and len(found) < note.n_old:
            raise ConfigError(
                f"only {len(found)} of {note.n_old} partitions of {topic} were sealed when the command was "
                "interrupted: run `liverank repartition --abort`, then begin again"
            )
        if found:
            return _sealed(settings, client, note, found)
    wall = settings.clock == "wall"
    clock_ms = max(newest_ms, int(time.time() * 1000)) + _AHEAD_MS if wall else newest_ms
    note = replace(note, clock_ms=max(1, clock_ms))
    write_note(client, settings.namespace, note)
    offsets: dict[int, int] = {}
    errors: list[Exception] = []

    def delivered(error: Exception | None, partition: int, offset: int) -> None:
        if error is not None:
            errors.append(error)
        else:
            offsets[partition] = offset

    producer = Producer(settings.kafka.bootstrap, linger_ms=0)
    for partition in range(note.n_old):
        producer.produce(
            topic, key=None, value=TICK_VALUE, partition=partition, on_delivery=delivered,
            headers=((INTERNAL_HEADER, token), Seal(note.ident, note.clock_ms).header()),
            timestamp_ms=None if wall else note.clock_ms,
        )  # fmt: skip
    if producer.flush(30.0) or errors:
        raise UnavailableError(f"{topic} did not take its seals: {errors[:1] or 'not within 30 s'}; run it again")
    return _sealed(settings, client, note, offsets)


def _sealed(settings: Settings, client: Redis, note: Note, offsets: Mapping[int, int]) -> Note:
    note = replace(note, ends=tuple(offsets[p] for p in range(note.n_old)))
    late = max((record.append_ts_ms for record in _at(settings, note)), default=0)
    if late > note.clock_ms:
        raise ConfigError(
            f"a seal was appended {late - note.clock_ms} ms after the time that it gives: the broker is slow or its "
            "clock is ahead; run `liverank repartition --abort`, then begin again"
        )
    write_note(client, settings.namespace, note)
    return note


def _at(settings: Settings, note: Note) -> list[Record]:
    """The seals themselves."""
    return list(_read(settings, note, note.ends, [end + 1 for end in note.ends], lambda r: seal_of(r) is not None))


def _seals(settings: Settings, note: Note) -> dict[int, int]:
    """Offsets of the seals of this repartition that are in the log, by partition."""
    tps = [Tp(_topic(settings, note), p) for p in range(note.n_old)]
    ends = end_offsets(settings.kafka.bootstrap, tps)
    own = _read(settings, note, note.begins, [ends[tp] for tp in tps], lambda r: seal_of(r) is not None)
    return {r.partition: r.offset for r in own if (found := seal_of(r)) is not None and found.ident == note.ident}


def _read(
    settings: Settings,
    note: Note,
    begins: Mapping[int, int] | tuple[int, ...],
    ends: list[int],
    wanted: Callable[[Record], bool],
) -> list[Record]:
    """Records of the sealed topic between offsets."""
    topic = _topic(settings, note)
    positions = {Tp(topic, p): begins[p] for p in range(note.n_old) if begins[p] < ends[p]}
    left = {tp.partition for tp in positions}
    found: list[Record] = []
    if not left:
        return found
    reader = LogReader(settings.kafka.bootstrap, positions, name="repartition")
    deadline_s = time.monotonic() + _PATIENCE_S
    try:
        while left:
            if time.monotonic() > deadline_s:
                raise UnavailableError(f"{topic} gives nothing of partitions {sorted(left)} within {_PATIENCE_S:g} s")
            for record in reader.poll_batch(2000, _POLL_S):
                if record.offset < ends[record.partition] and wanted(record):
                    found.append(record)
                if record.offset + 1 >= ends[record.partition]:
                    left.discard(record.partition)
    finally:
        reader.close()
    return found


def await_folds(settings: Settings, client: Redis, note: Note, tell: Tell) -> None:
    """Wait until both folds have folded the sealed generation and published what came of it."""
    users = FencedStore(client, namespace=settings.namespace, generation=note.old, kind="u")
    items = FencedStore(client, namespace=settings.namespace, generation=note.old, kind="i")
    ends = {p: end + 1 for p, end in enumerate(note.ends)}
    _await(settings, client, users, "users", _topic(settings, note), ends, tell)
    topic = settings.topic("item-effects", note.old)
    effects = end_offsets(settings.kafka.bootstrap, [Tp(topic, p) for p in range(note.n_old)])
    _await(settings, client, items, "items", topic, {tp.partition: end for tp, end in effects.items()}, tell)


def _await(
    settings: Settings,
    client: Redis,
    store: FencedStore,
    fold: str,
    topic: str,
    ends: Mapping[int, int],
    tell: Tell,
) -> None:
    while True:
        left = 0
        for partition, end in ends.items():
            meta = store.meta(partition)
            folded = meta.position.offset + 1 if meta is not None else 0
            with translated("reading a position"):
                key = f"{settings.namespace}:position:fold.{fold}:{partition}"
                published = int(client.hget(key, topic) or 0)
            left += max(0, end - min(folded, published))
        if not left:
            return
        tell(f"the fold of {fold} has {left:,} records left (workers must be up)")
        time.sleep(_POLL_S)


def await_archive(settings: Settings, note: Note, tell: Tell) -> None:
    """Wait until the archive holds the sealed generation."""
    while left := sum(
        max(0, end - last_offset(part_dir(settings, "events", note.old, p))) for p, end in enumerate(note.ends)
    ):
        tell(f"the archive has {left:,} records left (workers must be up)")
        time.sleep(_POLL_S)


def forward_late(
    settings: Settings, client: Redis, note: Note, token: bytes, fold: UserFold
) -> tuple[int, Counter[str]]:
    """Send what arrived behind the seals on to the next generation; return how many records, and whose.

    May be repeated: events that went on before are repeats, and positions are kept.

    Raises
    ------
    UnavailableError
        Kafka or Redis is away; run it again.
    """
    key = f"{settings.namespace}:late:{note.old}"
    with translated("reading how far late events were forwarded"):
        stored = {int(p): int(offset) for p, offset in client.hgetall(key).items()}
    begins = {p: stored.get(p, end + 1) for p, end in enumerate(note.ends)}
    tps = [Tp(_topic(settings, note), p) for p in range(note.n_old)]
    ends = end_offsets(settings.kafka.bootstrap, tps)
    until = [ends[tp] for tp in tps]
    producer = Producer(settings.kafka.bootstrap, linger_ms=5)
    target, names, n = settings.topic("events", note.new), Counter[str](), 0
    for record in _read(settings, note, begins, until, lambda _: True):
        where = _where(record, note, fold)
        if where is None:
            continue
        event_key, partition, internal = where
        headers = [pair for pair in record.headers if pair[0] not in (FORWARDED_HEADER, SEAL)]
        producer.produce(
            target, key=event_key, value=record.value, partition=partition, headers=headers,
            timestamp_ms=record.append_ts_ms if settings.clock == "data" else None,
        )  # fmt: skip
        n += 1
        if not internal:
            names[_name(record)] += 1
    if producer.flush(60.0):
        raise UnavailableError(f"{target} did not take all within 60 s; run it again")
    with translated("noting how far late events were forwarded"):
        client.hset(key, mapping=dict(enumerate(until)))
        client.expire(key, KEEP_S)
    return n, names


def _where(record: Record, note: Note, fold: UserFold) -> tuple[bytes | None, int, bool] | None:
    """Key and partition of a late record in the next generation, and whether a fold or a command wrote it.

    None: it means nothing there (ticks; control records of views, which count everything there).
    """
    try:
        parsed = fold.parse(record)
    except ContractError:  # becomes a dead letter there
        return record.key, record.partition % note.n_new, False
    if parsed.tick:
        return None
    if isinstance(parsed.body, Adopt | Erase):
        return None, partition_of(parsed.body.user_id.encode(), note.n_new), True
    if parsed.route is None:
        return None
    return parsed.route, partition_of(parsed.route, note.n_new), record.header(FORWARDED_HEADER) is not None
