"""Rebuild: the archive folded into an empty Redis by the live functions.

Afterwards workers go on with the live log after the last archived offset. Outputs that the log's readers have seen
before carry the same numbers again, so nobody counts them twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from features.archive import part_dir, partitions_of, read_archive, read_part, rewriting
from features.generation import active_generation
from features.redis import connect, namespace_token
from liverank.errors import ConfigError, ContractError, CorruptError
from liverank.kafka import BEGINNING, LogReader, Record, Tp, end_offsets, partition_counts
from liverank.settings import Settings
from streams.catalogue import Catalogue, History
from streams.history import imported_parts, maintenance, merged, recompute_vectors
from streams.items import ItemFold
from streams.outbox import Output
from streams.program import pin_published
from streams.replayer import Replayer
from streams.users import UserFold

__all__ = ["RebuildReport", "catalogue_records", "catalogue_table", "read_catalogue", "rebuild"]


@dataclass(frozen=True, kw_only=True)
class RebuildReport:
    """What a rebuild folded.

    Attributes
    ----------
    imported, before, live : int
        Records of imported history, of the generations before the live one, of the live one.
    items : int
        Versions of items.
    """

    imported: int
    before: int
    live: int
    items: int


def catalogue_records(settings: Settings, n_partitions: int) -> list[Record]:
    """Return the catalogue's records, as archive and topic hold them together, by append time.

    Parameters
    ----------
    n_partitions : int
        Of the topic, where the broker does not say.
    """
    found = {(record.partition, record.offset): record for record in read_archive(settings, "items")}
    topic = settings.topic("items")
    n_partitions = partition_counts(settings.kafka.bootstrap, [topic]).get(topic, n_partitions)
    ends = end_offsets(settings.kafka.bootstrap, [Tp(topic, p) for p in range(n_partitions)])
    left = {tp for tp, end in ends.items() if end > 0}
    reader = LogReader(settings.kafka.bootstrap, dict.fromkeys(ends, BEGINNING), name="rebuild")
    try:
        while left:
            for record in reader.poll_batch(5000, 1.0):
                found[record.partition, record.offset] = record
                tp = Tp(record.topic, record.partition)
                if record.offset + 1 >= ends[tp]:
                    left.discard(tp)
    finally:
        reader.close()
    return sorted(found.values(), key=lambda r: (r.append_ts_ms, r.partition, r.offset))


def catalogue_table(records: Iterable[Record]) -> tuple[Catalogue, int]:
    """Return all versions that `catalogue_records` hold, and how many there are."""
    table, n = Catalogue(), 0
    for record in records:
        with suppress(ContractError):  # a dead letter was written when it came
            table.put_record(record, keep_all=True)
            n += 1
    return table, n


def read_catalogue(settings: Settings, n_partitions: int) -> tuple[Catalogue, int]:
    """Return the catalogue's versions, as archive and topic hold them together, and how many there are."""
    return catalogue_table(catalogue_records(settings, n_partitions))


def _whole(records: Iterator[Record], what: str) -> Iterator[Record]:
    """Pass records on; a missing offset is an error."""
    for following, record in enumerate(records):
        if record.offset != following:
            raise CorruptError(
                f"the archive of {what} misses offsets {following} to {record.offset - 1}: "
                "state cannot be rebuilt from it"
            )
        yield record


def rebuild(settings: Settings, *, on_progress: Callable[[str, int], None] | None = None) -> RebuildReport:
    """Delete the fold state of the live generation and build it from the archive. No worker may run.

    Parameters
    ----------
    on_progress : callable, optional
        Called with (step, records done).

    Raises
    ------
    ConfigError
        The archive is empty, or the namespace is busy.
    CorruptError
        The archive misses records.
    UnavailableError
        Redis or Kafka is away; run it again.
    """
    tell = on_progress or (lambda _step, _done: None)
    client = connect(settings, retries=3)
    generation = active_generation(client, settings)
    topic = settings.topic("events", generation)
    live = partitions_of(settings, "events", generation)
    imported = imported_parts(settings)
    earlier = [
        _whole(read_part(part_dir(settings, "events", generation - 1, p), "events", p), f"generation {generation - 1}")
        for p in (partitions_of(settings, "events", generation - 1) if generation > 1 else [])
    ]
    if not live and not imported and not earlier:
        raise ConfigError(
            f"the archive under {settings.home / 'archive' / settings.namespace} holds no events: nothing to rebuild"
        )
    if rewriting(settings).exists():
        raise ConfigError("files are half rewritten after an erase: run `liverank erase --rewrite` to its end first")
    n_partitions = partition_counts(settings.kafka.bootstrap, [topic]).get(topic, settings.stack.partitions)
    with maintenance(client, settings, "rebuild"):
        # Every view of the registry counts from the first record, so nothing is left to be backfilled.
        program = pin_published(client, settings.namespace, anew=True)
        token = namespace_token(client, settings.namespace)
        effects = [Tp(settings.topic("item-effects", generation), p) for p in range(n_partitions)]
        ends = end_offsets(settings.kafka.bootstrap, effects)
        table, n_items = read_catalogue(settings, n_partitions)

        def discard(_outputs: Sequence[Output]) -> None:
            """Label rows, dead letters and changes are there already."""

        def replayer(number: int) -> Replayer:
            return Replayer(
                settings,
                client,
                users=UserFold(settings, program, token=token, follow=False),
                items=ItemFold(settings, program),
                n_partitions=n_partitions,
                generation=number,
                store_generation=generation,
                catalogue=History(table) if number == 0 else table,
                outputs=discard,
            )

        first = replayer(0)
        first.wipe()
        newest_ms = 0
        for record in merged([_whole(part, "imported events") for part in imported]):
            first.feed(record)
            newest_ms = max(newest_ms, record.append_ts_ms)
            if first.n_records % 1000 == 0:
                tell("imported", first.n_records)
        if first.n_records:
            first.tick(newest_ms)
            first.finish(live=False)
        n_before = first.n_records
        if earlier:
            between = replayer(generation - 1)
            if n_before:
                between.go_on_from_store()
            for record in merged(earlier):
                between.feed(record)
                if between.n_records % 1000 == 0:
                    tell("before", between.n_records)
            between.finish(live=False)
            n_before += between.n_records
        second = replayer(generation)
        if n_before:
            second.go_on_from_store()
        parts = [
            _whole(read_part(part_dir(settings, "events", generation, p), topic, p), f"{topic} [{p}]") for p in live
        ]
        for record in merged(parts):
            second.feed(record)
            if second.n_records % 1000 == 0:
                tell("live", second.n_records)
        tell("rows", 0)
        second.write_rows([ends[tp] for tp in effects])
        second.finish(live=True)
        tell("vectors", 0)
        recompute_vectors(client, settings)
    before = n_before - first.n_records
    return RebuildReport(imported=first.n_records, before=before, live=second.n_records, items=n_items)
