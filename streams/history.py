"""Import of history: recorded events into the archive as generation 0, and into the state that live events go on from.

History never passes through Kafka. Events are put in the order of their event time, which stands for append time;
numbers are (0, row, 0), and versions of rows lie below every live one. Only while generation 1 has no record; an
import that was interrupted is simply run again.
"""

from __future__ import annotations

import heapq
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from features.archive import part_dir, partitions_of, read_part, write_part
from features.examples import examples_dir, write_examples
from features.generation import read_note
from features.redis import Redis, connect, namespace_token, translated
from liverank.contract import event_key, validate_event, validate_item
from liverank.errors import ConfigError, ContractError, LiverankError, UnavailableError
from liverank.kafka import Producer, Record, Tp, end_offsets, partition_counts
from liverank.partition import partition as partition_of
from liverank.settings import Settings
from liverank.v1.event_pb2 import DeadLetter, Event
from liverank.v1.item_pb2 import ItemChange
from liverank.v1.stream_pb2 import Example
from streams.catalogue import CatalogueReader, History
from streams.items import ItemFold
from streams.outbox import Output
from streams.program import pinned_program
from streams.publisher import KafkaSink
from streams.replayer import Replayer
from streams.users import UserFold

__all__ = ["ImportReport", "import_history", "imported_parts", "maintenance", "merged", "recompute_vectors"]

#: Imported label rows lie beside those of the topic's partitions.
_EXAMPLES_PARTITION: Final = -1
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
    """Takes the user fold's outputs while history is replayed: label rows to files, dead letters to Kafka."""

    def __init__(self, settings: Settings, sink: KafkaSink | None) -> None:
        self._folder = examples_dir(settings)
        self._sink = sink
        self._examples: list[Example] = []
        self.n_examples = 0
        self.dead: Counter[str] = Counter()

    def __call__(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            if output.topic == "examples":
                self._examples.append(Example.FromString(output.value))
            elif output.topic == "dead-letter":
                self.dead[DeadLetter.FromString(output.value).reason] += 1
                if self._sink is not None:
                    self._sink.send([output])
        if len(self._examples) >= 50_000:
            self.flush()

    def flush(self) -> None:
        """Write the label rows that wait."""
        if self._examples:
            first = self.n_examples
            self.n_examples += len(self._examples)
            write_examples(self._folder, _EXAMPLES_PARTITION, first, self.n_examples - 1, self._examples)
            self._examples = []


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
    settings: Settings, events: Iterable[Event], n_partitions: int, outputs: _Outputs
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
            outputs([Output("dead-letter", -1, None, letter.SerializeToString())])
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


def merged(parts: Sequence[Iterable[Record]]) -> Iterator[Record]:
    """Yield records of all partitions by append time, each partition in its own order."""
    yield from heapq.merge(*parts, key=lambda record: (record.append_ts_ms, record.partition, record.offset))


def import_history(
    settings: Settings,
    events: Iterable[Event],
    *,
    items: Iterable[ItemChange] = (),
    on_progress: Callable[[str, int, int], None] | None = None,
) -> ImportReport:
    """Import recorded events; the namespace's topics and feature program must exist, and no worker may have run.

    About 4,000 events/s in one process. All events are in memory at once, about 300 bytes each.

    Parameters
    ----------
    events : iterable of Event
        In any order. Those that break the contract become dead letters.
    items : iterable of ItemChange
        Sent to the catalogue first. An event older than its item's first version sees that version.
    on_progress : callable, optional
        Called with (step, done, total).

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
        sink = KafkaSink(settings.kafka.bootstrap, compression=settings.kafka.compression, topic_of=settings.topic)
        outputs = _Outputs(settings, sink)
        shutil.rmtree(examples_dir(settings) / str(_EXAMPLES_PARTITION), ignore_errors=True)
        tell("read", 0, 0)
        parts = _sorted_records(settings, events, n_partitions, outputs)
        under_way = _under_way(settings)
        under_way.parent.mkdir(parents=True, exist_ok=True)
        under_way.touch()
        total = sum(map(len, parts))
        for partition, records in enumerate(parts):
            folder = part_dir(settings, "events", 0, partition)
            shutil.rmtree(folder, ignore_errors=True)
            for start in range(0, len(records), _FILE_RECORDS):
                write_part(folder, records[start : start + _FILE_RECORDS])
        reader = CatalogueReader(settings.kafka.bootstrap, settings.topic("items"), n_partitions)
        reader.start()
        try:
            if not reader.wait(reader.ends(), 120.0):
                raise UnavailableError("the catalogue could not be read within 120 s; run the import again")
            replayer = Replayer(
                settings,
                client,
                users=UserFold(settings, program, token=namespace_token(client, settings.namespace)),
                items=ItemFold(settings, program),
                n_partitions=n_partitions,
                generation=0,
                store_generation=1,
                catalogue=History(reader.table),
                outputs=outputs,
            )
            replayer.wipe(rows=True)
            for n, record in enumerate(merged(parts), start=1):
                replayer.feed(record)
                if n % 1000 == 0:
                    tell("fold", n, total)
            newest_ms = max((records[-1].append_ts_ms for records in parts if records), default=0)
            replayer.tick(newest_ms)
            tell("fold", total, total)
            outputs.flush()
            if not sink.confirmed(60.0):
                raise UnavailableError("dead letters were not taken by the broker within 60 s; run the import again")
            tell("rows", 0, 0)
            replayer.write_rows()
            tell("vectors", 0, 0)
            recompute_vectors(client, settings)
            # Last: before the positions are there no worker takes the state, so that a killed import is run again.
            tell("finish", 0, 0)
            replayer.finish(live=False)
            under_way.unlink()
        finally:
            reader.stop()
    users = len({record.key for records in parts for record in records})
    return ImportReport(
        events=total, items=n_items, users=users, examples=outputs.n_examples, dead_letters=outputs.dead
    )


def recompute_vectors(client: Redis, settings: Settings) -> None:
    """Compute the near-line vectors of the users that no message announces, if there is a vector space yet."""
    from features.llm.job import recompute_users

    with translated("reading the active vector space"):
        if client.get(f"{settings.namespace}:space"):
            recompute_users(client, settings)


def _under_way(settings: Settings) -> Path:
    """File that is there from an import's first write to its last."""
    return part_dir(settings, "events", 0, 0).parent / "import-under-way"


def imported_parts(settings: Settings) -> list[Iterator[Record]]:
    """Return the imported records of each partition, as the archive holds them.

    Raises
    ------
    ConfigError
        An import was interrupted: what the archive holds is not all of it.
    """
    if _under_way(settings).exists():
        raise ConfigError("an import was interrupted before its end: run the same `liverank import` again")
    topic = settings.topic("events", 0)
    return [
        read_part(part_dir(settings, "events", 0, partition), topic, partition)
        for partition in partitions_of(settings, "events", 0)
    ]
