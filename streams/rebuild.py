"""Rebuild: the archive folded into an empty Redis by the live functions.

Afterwards workers go on with the live log after the last archived offset. Outputs that the log's readers have seen
before carry the same numbers again, so nobody counts them twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from features.archive import part_dir, partitions_of, rewriting
from features.generation import active_generation
from features.redis import connect
from liverank.errors import ConfigError
from liverank.kafka import Tp, end_offsets, partition_counts
from liverank.settings import Settings
from streams.history import maintenance, recompute_vectors, require_whole_import
from streams.past import newest_imported_ms, read_catalogue
from streams.program import pin_published
from streams.restore import Restore
from streams.restore_helpers import Helpers, n_processes
from streams.restore_parts import Stage
from streams.restore_tools import Job

__all__ = ["RebuildReport", "rebuild"]


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


def rebuild(
    settings: Settings, *, on_progress: Callable[[str, int], None] | None = None, processes: int = 0
) -> RebuildReport:
    """Delete the fold state of the live generation and build it from the archive. No worker may run.

    Interrupted, it goes on with the partitions that were not done.

    Parameters
    ----------
    on_progress : callable, optional
        See `streams.restore.Restore`.
    processes : int
        0: as many as there are cores, or one for a short archive.

    Raises
    ------
    ConfigError
        The archive is empty, or the namespace is busy.
    CorruptError
        The archive misses records.
    UnavailableError
        Redis or Kafka is away; run it again.
    """
    client = connect(settings, retries=3)
    generation = active_generation(client, settings)
    topic = settings.topic("events", generation)
    require_whole_import(settings)
    # What a repartition left of the generations before lies beside the live one.
    held = [g for g in sorted({0, generation - 1, generation}) if g >= 0 and partitions_of(settings, "events", g)]
    if not held:
        raise ConfigError(
            f"the archive under {settings.home / 'archive' / settings.namespace} holds no events: nothing to rebuild"
        )
    if rewriting(settings).exists():
        raise ConfigError("files are half rewritten after an erase: run `liverank erase --rewrite` to its end first")
    n_partitions = partition_counts(settings.kafka.bootstrap, [topic]).get(topic, settings.stack.partitions)
    stages = {
        g: Stage(
            generation=g,
            folder=part_dir(settings, "events", g, 0).parent,
            topic=settings.topic("events", g),
            tick_ms=newest_imported_ms(settings) if g == 0 else 0,
        )
        for g in sorted({*held, generation})
    }
    n_records = sum(stage.n_records(n_partitions) for stage in stages.values())
    with (
        maintenance(client, settings, "rebuild"),
        Helpers(n_processes(n_records, n_partitions, processes)) as helpers,
    ):
        # Every view of the registry counts from the first record, so nothing is left to be backfilled.
        program = pin_published(client, settings.namespace, anew=True)
        effects = [Tp(settings.topic("item-effects", generation), p) for p in range(n_partitions)]
        ends = end_offsets(settings.kafka.bootstrap, effects)
        table, n_items = read_catalogue(settings, n_partitions)
        job = Job(
            settings=settings, program=program, n_partitions=n_partitions, store_generation=generation,
            stages=tuple(stages.values()), rows=True,
        )  # fmt: skip
        restore = Restore(job, table, on_progress=on_progress, helpers=helpers)
        restore.run([ends[tp] for tp in effects])
        recompute_vectors(client, settings)
        restore.finish(live=True)
    counts = Counter[int]()
    for done in restore.users:
        counts.update(dict(zip(stages, done.records, strict=True)))
    return RebuildReport(
        imported=counts[0],
        before=counts[generation - 1] if generation > 1 else 0,
        live=counts[generation],
        items=n_items,
    )
