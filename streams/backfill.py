"""Backfill: what new views would hold had they been counted from the first event to their activation.

The live folds run over the archive (and the log's end that is not archived yet) in memory, with the new views alone, up
to and including the record of the activation; the tiles are staged as immutable files, one a partition, which a control
record merges into live state. Byte-equal to live consumption, because it is the same code over the same records.

Runs in a process of its own (`python -m streams.backfill JOB.json`) so that live folding keeps its core. A job that was
interrupted goes on with the first partition that was not done; one that is done is not repeated.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from features.archive import last_offset, part_dir, partitions_of, rewriting
from features.program import FeatureProgram
from features.redis import connect, namespace_token, translated
from features.state.item import count_effect
from features.state.views import ViewTiles
from liverank import log
from liverank.errors import CorruptError, LiverankError, UnavailableError
from liverank.kafka import Record
from liverank.partition import partition as partition_of
from liverank.settings import Settings, resolve
from liverank.v1.stream_pb2 import ItemEffect
from streams.catalogue import Catalogue, History
from streams.control import staged
from streams.direct import DirectPast, is_direct
from streams.partition_fold import PartitionFold
from streams.past import (
    MemoryStore,
    feed,
    imported_records,
    live_records,
    memory_part,
    newest_imported_ms,
    read_catalogue,
    tick_at,
)
from streams.reading import ItemVersions
from streams.rows import plain_key, state_key
from streams.staging import Job, Manifest, Pages, Part, Staged, manifest_of, write, write_json
from streams.users import UserFold

__all__ = ["run_backfill", "stage"]

_log = log.get(__name__)

_WRITE_EVERY: Final = 10_000


class _Items:
    """Tiles of items, as sums of effects."""

    def __init__(self, program: FeatureProgram) -> None:
        self._program = program
        self._tiles: dict[str, ViewTiles] = {}

    def take(self, effects: Iterable[ItemEffect]) -> None:
        """Count effects."""
        for effect in effects:
            if effect.HasField("event"):
                event = effect.event
                found = self._tiles.get(event.item_id)
                if found is None:
                    found = self._tiles[event.item_id] = ViewTiles(self._program, ("item",), {})
                count_effect(found, event)

    def merge(self, rows: Iterable[tuple[str, Pages]]) -> None:
        """Add pages that were counted apart, by state key."""
        for key, pages in rows:
            item_id = plain_key(key)
            if item_id not in self._tiles:
                self._tiles[item_id] = ViewTiles(self._program, ("item",), {})
            self._tiles[item_id].merge(pages)

    def pages(self) -> list[tuple[str, Pages]]:
        """Pages by state key; those of no content are left out."""
        found = ((state_key(item_id), tiles.dirty()) for item_id, tiles in self._tiles.items())
        kept = ((key, {name: page for name, page in pages.items() if page}) for key, pages in found)
        return [(key, pages) for key, pages in kept if pages]


def run_backfill(settings: Settings, job: Job, *, on_progress: Callable[[int, int], None] | None = None) -> Manifest:
    """Count and stage; does nothing where the job is done already. Parameters and errors as `stage`.

    Raises
    ------
    UnavailableError
        Kafka or Redis is away; run it again.
    """
    if (done := manifest_of(settings, job)) is not None:
        return done
    table, _ = read_catalogue(settings, len(job.offsets))
    token = namespace_token(connect(settings, retries=3), settings.namespace)
    return stage(settings, job, table, token, on_progress=on_progress)


def stage(
    settings: Settings,
    job: Job,
    table: Catalogue,
    token: bytes,
    *,
    on_progress: Callable[[int, int], None] | None = None,
    short: bool = True,
) -> Manifest:
    """Count the job's views over archive and log, and write one file a partition.

    About as fast as the user fold of `liverank rebuild` (6,000 events per CPU second over sparse users), 60,000 where
    `streams.direct` serves. In memory: the users of one partition at a time (about 6 KiB each) and the tiles of all
    items. Goes on with the first partition that an interrupted run had not finished.

    Parameters
    ----------
    table : Catalogue
        All versions of all items.
    token : bytes
        The namespace's token.
    on_progress : callable, optional
        Called with (records done, records in all).
    short : bool
        Take the short way where the views allow it; the files are the same.

    Raises
    ------
    CorruptError
        The archive misses records.
    UnavailableError
        Kafka is away; run it again.
    OSError
        The disk refuses.
    """
    if rewriting(settings).exists():
        raise UnavailableError("files are half rewritten after an erase: run `liverank erase --rewrite` to its end")
    started_s = time.monotonic()
    tell = on_progress or (lambda _done, _total: None)
    program = FeatureProgram(project=job.project, views=tuple(view for _, view in job.views))
    total = sum(offset + 1 for offset in job.offsets.values())
    total += sum(last_offset(part_dir(settings, "events", 0, p)) + 1 for p in partitions_of(settings, "events", 0))
    newest_ms = newest_imported_ms(settings)
    fold = UserFold(settings, program, token=token, follow=False)
    parts: dict[int, Part] = {}
    for partition in sorted(job.offsets):
        n = sum(part.events for part in parts.values())
        part = Part.done(settings, job, partition)
        if part is None:

            def tell_more(more: int, n: int = n) -> None:
                tell(n + more, total)

            part = _stage_part(settings, job, program, fold, partition, table, newest_ms, tell_more, short)
            part.note(settings, job, partition)
        parts[partition] = part
        tell(n + part.events, total)
    of_items: dict[int, Staged] = {}
    if any(part.items for part in parts.values()):
        items = _Items(program)
        for part in parts.values():
            if part.items is not None:
                items.merge(staged(settings.home / part.items.path, part.items.sha256))
        by_target: dict[int, list[tuple[str, Pages]]] = {partition: [] for partition in job.offsets}
        for key, pages in items.pages():
            by_target[partition_of(plain_key(key).encode(), len(job.offsets))].append((key, pages))
        of_items = {partition: write(settings, job, f"i-{partition}", rows) for partition, rows in by_target.items()}
    of_users = {partition: part.users for partition, part in parts.items() if part.users is not None}
    body = {
        "events": sum(part.events for part in parts.values()),
        "seconds": time.monotonic() - started_s,
        "files": {
            kind: {str(partition): asdict(each) for partition, each in files.items()}
            for kind, files in (("u", of_users), ("i", of_items))
        },
    }
    target = settings.home / job.folder(settings) / "manifest.json"
    write_json(target, body)
    for partition, part in parts.items():
        Part.path(settings, job, partition).unlink(missing_ok=True)
        if part.items is not None:
            (settings.home / part.items.path).unlink(missing_ok=True)
    done = manifest_of(settings, job)
    if done is None:
        raise CorruptError(f"{target} cannot be read back")
    return done


def _stage_part(
    settings: Settings,
    job: Job,
    program: FeatureProgram,
    fold: UserFold,
    partition: int,
    table: Catalogue,
    newest_ms: int,
    tell: Callable[[int], None],
    short: bool,
) -> Part:
    """Count the past of one partition and write its files."""
    n = 0
    if short and is_direct(program.views):
        direct = DirectPast(settings, fold, program, partition=partition, n_partitions=len(job.offsets))
        for n_more in _direct(settings, job, direct, partition, table, newest_ms):
            n += n_more
            tell(n)
        return Part(events=n, users=write(settings, job, f"u-{partition}", direct.pages()), items=None)
    fields = {field for view in program.views if view.entity != "item" for field in view.page_fields}
    items = _Items(program) if program.of_entity("item") else None
    store = MemoryStore()
    for n_more, effects in _past(settings, job, fold, store, partition, table, newest_ms):
        n += n_more
        if items is not None:
            items.take(effects)
        tell(n)
    own = ((key, _only(stored, fields)) for key, stored in store.fields.items() if key[:1] != "#")
    rows = [(key, pages) for key, pages in own if pages]
    return Part(
        events=n,
        users=write(settings, job, f"u-{partition}", rows) if fields else None,
        items=write(settings, job, f"i-of-{partition}", items.pages()) if items is not None else None,
    )


def _direct(
    settings: Settings, job: Job, direct: DirectPast, partition: int, table: Catalogue, newest_ms: int
) -> Iterator[int]:
    """The same as `_past` in the short way; yields numbers of records now and then."""
    n = 0
    history = History(table)
    for record in imported_records(settings, partition) if newest_ms else ():
        direct.feed(record, history)
        n += 1
    direct.tick(newest_ms)
    for record in live_records(settings, job.generation, partition, job.offsets[partition]):
        direct.feed(record, table)
        n += 1
        if n >= _WRITE_EVERY:
            yield n
            n = 0
    yield n


def _past(
    settings: Settings,
    job: Job,
    fold: UserFold,
    store: MemoryStore,
    partition: int,
    table: Catalogue,
    newest_ms: int,
) -> Iterator[tuple[int, list[ItemEffect]]]:
    """Fold a partition's past up to the job's offset; yields (records, effects on items) now and then."""

    def part(generation: int, catalogue: ItemVersions) -> PartitionFold:
        n = len(job.offsets)
        return memory_part(
            settings, fold, store, partition=partition, n_partitions=n, generation=generation, catalogue=catalogue
        )

    def run(part: PartitionFold, records: Iterable[Record]) -> Iterator[tuple[int, list[ItemEffect]]]:
        n = 0
        for record in records:
            feed(fold, part, record)
            n += 1
            if n == _WRITE_EVERY:
                yield n, store.take(part)
                n = 0
        yield n, store.take(part)

    first = part(0, History(table))
    if newest_ms:
        yield from run(first, imported_records(settings, partition))
        tick_at(first, newest_ms)
        yield 0, store.take(first)
    second = part(job.generation, table)
    second.resume(first.clock_ms, {})
    yield from run(second, live_records(settings, job.generation, partition, job.offsets[partition]))


def _only(stored: Mapping[bytes, bytes], fields: set[bytes]) -> Pages:
    return {name: page for name, page in stored.items() if name in fields}


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m streams.backfill", description="Backfill views from the archive.")
    parser.add_argument("job", type=Path, help="file that holds the job")
    given = parser.parse_args(arguments)
    settings = resolve(Settings())
    log.configure(f"{settings.namespace}-backfill")
    try:
        job = Job.from_json(given.job.read_text())
        client: Any = connect(settings, retries=3)
        key = f"{settings.namespace}:backfill:{job.job_id}"
        told_s = 0.0

        def progress(done: int, total: int) -> None:
            nonlocal told_s
            if time.monotonic() - told_s > 0.5 or done >= total:
                told_s = time.monotonic()
                with translated("telling the backfill's progress"):
                    client.hset(key, mapping={"done": done, "total": total})
                    client.expire(key, 86_400)

        manifest = run_backfill(settings, job, on_progress=progress)
    except (OSError, ValueError, KeyError) as error:
        _log.error("the job cannot be read", error=str(error))
        return 1
    except LiverankError as error:
        _log.error("backfill failed", kind=type(error).__name__, error=str(error))
        return 1
    _log.info("backfilled", events=manifest.events, seconds=round(manifest.seconds, 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
