"""Import of history: recorded events into the archive as generation 0, and into the state that live events go on from.

History never passes through Kafka. Events are put in the order of their event time, which stands for append time;
numbers are (0, row, 0), and versions of rows lie below every live one. Only while generation 1 has no record; an
import that was interrupted is simply run again.
"""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from features.archive import part_dir, write_part
from features.examples import examples_dir, write_examples
from features.generation import read_note
from features.redis import Redis, connect, translated
from liverank.contract import event_key, validate_event, validate_item
from liverank.errors import ConfigError, ContractError, LiverankError, UnavailableError
from liverank.kafka import Producer, Record, Tp, end_offsets, partition_counts
from liverank.partition import partition as partition_of
from liverank.settings import Settings
from liverank.v1.event_pb2 import DeadLetter, Event
from liverank.v1.item_pb2 import ItemChange
from liverank.v1.stream_pb2 import Example
from streams.outbox import Output
from streams.past import read_catalogue
from streams.program import pinned_program
from streams.publisher import KafkaSink
from streams.restore import Restore
from streams.restore_helpers import Helpers, n_processes
from streams.restore_parts import Stage
from streams.restore_tools import Job

__all__ = ["ImportReport", "import_history", "maintenance", "recompute_vectors", "require_whole_import"]

#: A process that was killed gives the namespace back after so long, s.
_MAINTENANCE_S: Final = 30
_FILE_RECORDS: Final = 100_000


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What an import did."""

    events: int
    items: int
    users: int
    examples: int
    dead_letters: Counter[str] = field(default_factory=Counter)


@contextmanager
def maintenance(client: Redis, settings: Settings, what: str) -> Iterator[None]:
    """Keep workers from folding while state is written without them.

    Raises
    ------
    ConfigError
        Something of the kind is under way.
    """
    key = f"{settings.namespace}:maintenance"
    if what != "repartition" and (note := read_note(client, settings.namespace)) is not None:
        raise ConfigError(f"namespace {settings.namespace} is being repartitioned: {note.reason}")
    with translated("asking for the namespace"):
        if not client.set(key, what, nx=True, ex=_MAINTENANCE_S):
            busy = (client.get(key) or b"").decode()
            raise ConfigError(f"namespace {settings.namespace} is busy with `{busy}`; try again when it is done")
    done = threading.Event()

    def keep() -> None:
        while not done.wait(_MAINTENANCE_S / 3):
            with suppress(LiverankError), translated("keeping the namespace"):
                client.expire(key, _MAINTENANCE_S)

    keeper = threading.Thread(target=keep, name="maintenance", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()
        with translated("giving the namespace back"):
            client.delete(key)


class _Outputs:
    """Takes the user fold's outputs while history is folded: label rows to files, dead letters to Kafka."""

    def __init__(self, settings: Settings) -> None:
        self._folder = examples_dir(settings)
        self._letters = _Letters(settings)
        self._examples: list[Example] = []
        self._place, self._n_examples = -1, 0

    def begin(self, partition: int) -> None:
        """See `streams.restore_tools.Outputs`."""
        # Imported label rows lie beside those of the topic's partitions.
        self._place, self._n_examples, self._examples = -1 - partition, 0, []
        shutil.rmtree(self._folder / str(self._place), ignore_errors=True)

    def take(self, outputs: Sequence[Output]) -> None:
        """See `streams.restore_tools.Outputs`."""
        for output in outputs:
            if output.topic == "examples":
                self._examples.append(Example.FromString(output.value))
            elif output.topic == "dead-letter":
                self._letters.send(output)
        if len(self._examples) >= 50_000:
            self._flush()

    def end(self) -> Counter[str]:
        """See `streams.restore_tools.Outputs`: label rows as `examples`, dead letters by reason."""
        self._flush()
        return self._letters.confirmed() + Counter({"examples": self._n_examples})

    def _flush(self) -> None:
        if self._examples:
            first = self._n_examples
            self._n_examples += len(self._examples)
            write_examples(self._folder, self._place, first, self._n_examples - 1, self._examples)
            self._examples = []


class _Letters:
    """Sends dead letters to Kafka and counts them by reason."""

    def __init__(self, settings: Settings) -> None:
        self._sink = KafkaSink(
            settings.kafka.bootstrap, compression=settings.kafka.compression, topic_of=settings.topic
        )
        self._counts: Counter[str] = Counter()

    def send(self, output: Output) -> None:
        """Send one."""
        self._counts[DeadLetter.FromString(output.value).reason] += 1
        self._sink.send([output])

    def confirmed(self) -> Counter[str]:
        """Wait for the broker; return how many were sent since the last call.

        Raises
        ------
        UnavailableError
            The broker does not take them.
        """
        if not self._sink.confirmed(60.0):
            raise UnavailableError("dead letters were not taken by the broker within 60 s; run the import again")
        counts, self._counts = self._counts, Counter()
        return counts


def _require_unused(settings: Settings, n_partitions: int) -> None:
    topic = settings.topic("events", 1)
    ends = end_offsets(settings.kafka.bootstrap, [Tp(topic, p) for p in range(n_partitions)])
    used = sum(ends.values())
    if used:
        raise ConfigError(
            f"{topic} holds {used} records: history can be imported only before the first live one "
            "(a worker's ticks count). Import before workers start, or into another namespace (LIVERANK_NAMESPACE)"
        )


def produce_items(settings: Settings, items: Iterable[ItemChange]) -> int:
    """Send catalogue changes to the topic `items`; return how many.

    Raises
    ------
    ContractError
        A change breaks the contract; those before it are sent.
    """
    producer = Producer(settings.kafka.bootstrap, linger_ms=20, compression=settings.kafka.compression)
    n = 0
    for change in items:
        validate_item(change)
        producer.produce(
            settings.topic("items"),
            key=change.item_id.encode(),
            value=change.SerializeToString(),
            # Recorded time may lie before today: the catalogue must be older than what is replayed.
            timestamp_ms=1 if settings.clock == "data" else None,
        )
        n += 1
    if left := producer.flush(60.0):
        raise UnavailableError(
            f"{left} of {n} catalogue changes were not taken by the broker within 60 s; run the import again"
        )
    return n


def _sorted_records(
    settings: Settings, events: Iterable[Event], n_partitions: int, letters: _Letters
) -> list[list[Record]]:
    """Valid events as records of their partitions, in the order of event time (ties: as given)."""
    topic = settings.topic("events", 0)
    rows: list[tuple[int, int, bytes, bytes]] = []
    for index, event in enumerate(events):
        try:
            validate_event(event, now_ms=event.event_ts_ms)
            rows.append((event.event_ts_ms, index, event_key(event), event.SerializeToString()))
        except ContractError as error:
            value = event.SerializeToString()
            letter = DeadLetter(reason=error.reason, detail=error.detail, topic=topic, offset=index, value=value)
            letters.send(Output("dead-letter", -1, None, letter.SerializeToString()))
    rows.sort()
    parts: list[list[Record]] = [[] for _ in range(n_partitions)]
    where: dict[bytes, int] = {}
    for ts_ms, _, key, value in rows:
        partition = where.get(key)
        if partition is None:
            partition = where[key] = partition_of(key, n_partitions)
        part = parts[partition]
        part.append(Record(topic, partition, len(part), key, value, (), ts_ms))
    return parts


def import_history(
    settings: Settings,
    events: Iterable[Event],
    *,
    items: Iterable[ItemChange] = (),
    on_progress: Callable[[str, int, int], None] | None = None,
    processes: int = 0,
) -> ImportReport:
    """Import recorded events; the namespace's topics and feature program must exist, and no worker may have run.

    All events are in memory at once, about 300 bytes each. Interrupted, the same import goes on with the partitions
    that were not folded.

    Parameters
    ----------
    events : iterable of Event
        In any order. Those that break the contract become dead letters.
    items : iterable of ItemChange
        Sent to the catalogue first. An event older than its item's first version sees that version.
    on_progress : callable, optional
        Called with (step, done, total).
    processes : int
        0: as many as there are cores, or one for a short history.

    Raises
    ------
    ConfigError
        Generation 1 is in use, or there is no feature program.
    UnavailableError
        Kafka or Redis is away; run the import again.
    """
    tell = on_progress or (lambda _step, _done, _total: None)
    client = connect(settings, retries=3)
    topic = settings.topic("events", 1)
    n_partitions = partition_counts(settings.kafka.bootstrap, [topic]).get(topic)
    if n_partitions is None:
        raise ConfigError(f"topic {topic} does not exist: run `liverank up` to create the namespace first")
    with maintenance(client, settings, "import"):
        _require_unused(settings, n_partitions)
        program = pinned_program(client, settings.namespace)
        n_items = produce_items(settings, items)
        letters = _Letters(settings)
        tell("read", 0, 0)
        parts = _sorted_records(settings, events, n_partitions, letters)
        dead = letters.confirmed()
        total, users = sum(map(len, parts)), len({record.key for records in parts for record in records})
        newest_ms = max((records[-1].append_ts_ms for records in parts if records), default=0)
        under_way = _under_way(settings)
        under_way.parent.mkdir(parents=True, exist_ok=True)
        under_way.touch()
        with Helpers(n_processes(total, n_partitions, processes)) as helpers:
            for partition, records in enumerate(parts):
                folder = part_dir(settings, "events", 0, partition)
                shutil.rmtree(folder, ignore_errors=True)
                for start in range(0, len(records), _FILE_RECORDS):
                    write_part(folder, records[start : start + _FILE_RECORDS])
            del parts
            table, _ = read_catalogue(settings, n_partitions)
            stage = Stage(generation=0, folder=under_way.parent, topic=settings.topic("events", 0), tick_ms=newest_ms)
            job = Job(
                settings=settings, program=program, n_partitions=n_partitions, store_generation=1, stages=(stage,),
                rows=True, anew=True, outputs=_Outputs,
            )  # fmt: skip

            def progress(step: str, done: int) -> None:
                if step == "events":
                    tell("fold", done, total)
                else:
                    tell(step, done, 0)

            restore = Restore(job, table, on_progress=progress, helpers=helpers)
            restore.run()
        tell("vectors", 0, 0)
        recompute_vectors(client, settings)
        # Last: before the positions are there no worker takes the state, so that a killed import is run again.
        tell("finish", 0, 0)
        restore.finish(live=False)
        under_way.unlink()
    for done in restore.users:
        dead.update(done.counted)
    examples = dead.pop("examples", 0)
    return ImportReport(events=total, items=n_items, users=users, examples=examples, dead_letters=dead)


def recompute_vectors(client: Redis, settings: Settings) -> None:
    """Compute the near-line vectors of the users that no message announces, if there is a vector space yet."""
    with translated("reading the active vector space"):
        if client.get(f"{settings.namespace}:space"):
            from features.llm.job import recompute_users  # 0.4 s

            recompute_users(client, settings)


def _under_way(settings: Settings) -> Path:
    """File that is there from an import's first write to its last."""
    return part_dir(settings, "events", 0, 0).parent / "import-under-way"


def require_whole_import(settings: Settings) -> None:
    """Check that imported history is whole, if there is any.

    Raises
    ------
    ConfigError
        An import was interrupted: what the archive holds is not all of it.
    """
    if _under_way(settings).exists():
        raise ConfigError("an import was interrupted before its end: run the same `liverank import` again")
