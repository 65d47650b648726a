"""Asking to erase users: control records into their partitions (docs/specs/control.md). Files: `erase_files`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from features.archive import last_offset, part_dir, partitions_of, read_part
from features.generation import read_note
from features.redis import connect, namespace_token, translated
from liverank.contract import INTERNAL_HEADER, decode_event
from liverank.errors import ContractError, UnavailableError
from liverank.kafka import OffsetClient, Producer, Record, Tp, end_offsets, partition_counts
from liverank.partition import partition as partition_of
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType
from streams.control import Erase, control
from streams.erase_files import OwnRecords, live_generation
from streams.erasure import ERASED_KEY, ErasedKeys

__all__ = ["Sent", "await_files", "await_folded", "send_erase"]

_CONTROL = EventType.EVENT_TYPE_CONTROL


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A request that was sent."""

    user_id: str
    partition: int
    job: str
    state_fields: int


def send_erase(settings: Settings, users: Sequence[str]) -> list[Sent]:
    """Send one control record a user into its partition.

    Sessions are found in the archive, as far as it is written: those of the last 8 days that carry the user, and those
    that became the user's by a login, which are erased like users.

    Raises
    ------
    UnavailableError
        Kafka or Redis is away: what was sent is done, send the rest again. Or the namespace is being repartitioned.
    """
    client = connect(settings, retries=3)
    token, generation, n = namespace_token(client, settings.namespace), *live_generation(settings, client)
    if (note := read_note(client, settings.namespace)) is not None:
        raise UnavailableError(f"nobody can be erased now: {note.reason}")
    producer = Producer(settings.kafka.bootstrap, linger_ms=0)
    sent = []
    # A session that logged in lies where its id says, and remembers the user.
    asked = dict.fromkeys(users)
    asked.update(dict.fromkeys(_logged_in(settings, generation, users)))
    for user_id in asked:
        partition, job = partition_of(user_id.encode(), n), secrets.token_hex(8)
        key = f"{settings.namespace}:{{{settings.namespace}.{generation}.{partition}}}:u:"
        with translated("looking at a user's state"):
            n_fields = int(client.hlen(f"{key}{user_id}"))
        sessions = _sessions(settings, generation, partition, user_id)
        body = control(Erase(user_id=user_id, sessions=sessions, job=job))
        value = Event(type=_CONTROL, control=body).SerializeToString()
        topic = settings.topic("events", generation)
        producer.produce(topic, key=None, value=value, partition=partition, headers=((INTERNAL_HEADER, token),))
        sent.append(Sent(user_id=user_id, partition=partition, job=job, state_fields=n_fields))
    if producer.flush(30.0):
        raise UnavailableError("Kafka did not take all requests within 30 s; send them again")
    return sent


def _logged_in(settings: Settings, generation: int, users: Sequence[str]) -> list[str]:
    """Sessions that became these users'."""
    texts = [user.encode() for user in users]
    return [
        event.session_id
        for g in _lives(generation)
        for partition in partitions_of(settings, "events", g)
        for record in read_part(part_dir(settings, "events", g, partition), "events", partition)
        if any(text in record.value for text in texts) and (event := _event(record)) is not None
        and event.type == EventType.EVENT_TYPE_IDENTIFY and event.user_id in users
    ]  # fmt: skip


def _lives(generation: int) -> tuple[int, ...]:
    """Where the archive holds what came before: the live generation and those before it, in one."""
    return (generation - 1, generation) if generation > 1 else (generation,)


def _event(record: Record) -> Event | None:
    try:
        return decode_event(record.value, record.headers)
    except ContractError:
        return None  # it was a dead letter


def _sessions(settings: Settings, generation: int, partition: int, user_id: str) -> tuple[str, ...]:
    since_ms = time.time() * 1000 - 8 * 86_400_000 if settings.clock == "wall" else 0
    found: dict[str, None] = {}
    own = OwnRecords([user_id])
    for g in _lives(generation):
        for record in read_part(part_dir(settings, "events", g, partition), "events", partition):
            if record.append_ts_ms >= since_ms and (event := own.event(record)) is not None and event.session_id:
                found[event.session_id] = None
    return tuple(found)


def await_folded(settings: Settings, sent: Sequence[Sent], timeout_s: float = 60.0) -> dict[str, int]:
    """Wait until the folds have applied the requests; return the offset of each, by job.

    Raises
    ------
    UnavailableError
        Not within `timeout_s`: is a worker up?
    """
    client = connect(settings, retries=3)
    generation, _ = live_generation(settings, client)
    deadline_s = time.monotonic() + timeout_s
    offsets: dict[str, int] = {}
    while True:
        for each in sent:
            if each.job not in offsets:
                key = f"{settings.namespace}:{{{settings.namespace}.{generation}.{each.partition}}}:u:{ERASED_KEY}"
                with translated("looking for a request"):
                    jobs = ErasedKeys(client.hgetall(key)).jobs()
                if each.job in jobs:
                    offsets[each.job] = jobs[each.job]
        if len(offsets) == len(sent):
            return offsets
        if time.monotonic() > deadline_s:
            late = [each.user_id for each in sent if each.job not in offsets]
            raise UnavailableError(f"not folded within {timeout_s:g} s: {', '.join(late)}; is a worker up?")
        time.sleep(0.1)


def await_files(settings: Settings, timeout_s: float = 120.0) -> None:
    """Wait until archive, label rows and vectors have taken everything that the topics hold now: call it after
    `await_folded`.

    Raises
    ------
    UnavailableError
        Not within `timeout_s`; the message says what is behind.
    """
    client = connect(settings, retries=3)
    generation, n = live_generation(settings, client)
    asking = OffsetClient(settings.kafka.bootstrap)
    wanted: list[tuple[str, Callable[[], int], int]] = []

    def position(reader: str, topic: str, partition: int) -> int:
        with translated("reading a position"):
            return int(client.hget(f"{settings.namespace}:position:{reader}:{partition}", topic) or 0)

    def archived(short: str, generation: int, partition: int) -> int:
        return last_offset(part_dir(settings, short, generation, partition)) + 1

    # Of events all partitions: a stray record lies in another one, too.
    for tp, end in end_offsets(
        settings.kafka.bootstrap, [Tp(settings.topic("events", generation), p) for p in range(n)]
    ).items():
        wanted.append(("the archive of events", partial(archived, "events", generation, tp.partition), end))
    others = (("decisions", ""), ("examples", "examples"), ("user-changes", "vectors"))
    counts = partition_counts(settings.kafka.bootstrap, [settings.topic(short) for short, _ in others])
    for short, reader in others:
        tps = [Tp(settings.topic(short), p) for p in range(counts.get(settings.topic(short), 0))]
        begins, ends = asking.begins(tps), end_offsets(settings.kafka.bootstrap, tps)
        for tp in tps:
            if ends[tp] == begins[tp]:
                continue
            if reader:
                ask = partial(position, reader, tp.topic, tp.partition)
            else:
                ask = partial(archived, short, 0, tp.partition)
            wanted.append((f"what reads {short}", ask, ends[tp]))
    deadline_s = time.monotonic() + timeout_s
    while behind := [(what, ask(), goal) for what, ask, goal in wanted if ask() < goal]:
        if time.monotonic() > deadline_s:
            what, stands, goal = behind[0]
            raise UnavailableError(
                f"{what} stands at {stands}, not at {goal}, after {timeout_s:g} s; is a worker up? "
                "Run `liverank erase --rewrite` later"
            )
        time.sleep(0.2)
