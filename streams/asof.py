"""Rows as they were: what a reader would have read of users, sessions and items strictly before given instants.

The live folds run over archive and log in memory, in the order in which records were appended; an instant sees what was
appended before it, and nothing else. Imported history counts as appended when it happened. Views that were declared
later hold what they would have held had they been there from the first record, as after their backfill.

Runs in a process of its own (`python -m streams.asof JOB.json`): who asks is Feast (`features/point_in_time.py`).
"""

from __future__ import annotations

import argparse
import heapq
import json
import sys
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple

from features.archive import last_offset, part_dir, partitions_of
from features.generation import active_generation
from features.program import FeatureProgram
from features.redis import connect, namespace_token
from features.state.item import ItemState
from features.state.params import state_params
from features.wire import pack_bytes
from liverank import log
from liverank.contract import read_item
from liverank.errors import ConfigError, ContractError, LiverankError
from liverank.kafka import Record, Tp, end_offsets, partition_counts
from liverank.partition import partition as partition_of
from liverank.settings import Settings, resolve
from liverank.v1.stream_pb2 import ItemEffect
from streams.agents.catalogue import CATALOGUE, catalogue_row
from streams.catalogue import Catalogue, History
from streams.fold import Parsed
from streams.partition_fold import PartitionFold
from streams.past import (
    MemoryStore,
    catalogue_records,
    catalogue_table,
    feed,
    imported_records,
    live_records,
    memory_part,
    newest_imported_ms,
    tick_at,
)
from streams.program import published_program
from streams.rows import session_key, state_key
from streams.users import UserFold

__all__ = ["AsOfJob", "CatalogueRows", "Moment", "Past", "rows_at", "run_job"]

_log = log.get(__name__)

_TAKE_EVERY: Final = 10_000
_WRITE_ROWS: Final = 5_000

Fields = Mapping[bytes, bytes]


class Moment(NamedTuple):
    """One row that is asked for.

    Attributes
    ----------
    row : int
        The asker's number.
    entity : str
        ``user``, ``session`` or ``item``.
    key : str
        Its id.
    ts_ms : int
        What was appended strictly before this instant counts, ms since the UTC epoch.
    """

    row: int
    entity: str
    key: str
    ts_ms: int


@dataclass(frozen=True, kw_only=True)
class AsOfJob:
    """Files of one question: `moments` (Parquet, columns of `Moment`), `out` (Parquet: row, field, value).

    Attributes
    ----------
    fields : tuple of str
        ``view:feature`` of what is asked for.
    """

    moments: str
    out: str
    fields: tuple[str, ...]

    def to_json(self) -> str:
        """JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> AsOfJob:
        """Inverse of `to_json`."""
        body = json.loads(text)
        return cls(moments=body["moments"], out=body["out"], fields=tuple(body["fields"]))


class Past:
    """States of all users, and of some items, as of the records that were fed.

    Parameters
    ----------
    program : FeatureProgram
        The views to keep.
    token : bytes
        The namespace's token.
    n_partitions : int
        Of `events`.
    table : Catalogue
        All versions of all items.
    items : collection of str
        Items whose state is kept.
    users : collection of str, optional
        Users whose state is wanted; what others do only moves the clock then, which is five times as fast and takes no
        memory. None: all of them, as items and sessions need.
    """

    def __init__(
        self,
        settings: Settings,
        program: FeatureProgram,
        *,
        token: bytes,
        n_partitions: int,
        table: Catalogue,
        items: Collection[str] = (),
        users: Collection[str] | None = None,
    ) -> None:
        self._keys = None if users is None else {user.encode() for user in users}
        self._settings, self._program, self._n, self._table = settings, program, n_partitions, table
        self._fold = UserFold(settings, program, token=token, follow=False)
        self._signals = state_params(settings).signals
        self._stores = [MemoryStore() for _ in range(n_partitions)]
        self._items: dict[str, tuple[ItemState, dict[bytes, bytes]]] = {
            item_id: (ItemState(item_id, {}, program, self._signals), {}) for item_id in items
        }
        self._fed = 0
        self._parts = [self._part(p, 0, History(table)) for p in range(n_partitions)]

    def _part(self, partition: int, generation: int, catalogue: Catalogue | History) -> PartitionFold:
        return memory_part(
            self._settings, self._fold, self._stores[partition],
            partition=partition, n_partitions=self._n, generation=generation, catalogue=catalogue,
        )  # fmt: skip

    def feed(self, record: Record) -> None:
        """Fold one record."""
        part = self._parts[record.partition]
        if self._keys is None or record.key is None or record.key in self._keys:
            feed(self._fold, part, record)
        elif self._settings.clock == "wall":  # else only ticks move the clock
            part.feed(record, Parsed((), None, tick=True))
        self._fed += 1
        if self._fed % _TAKE_EVERY == 0:
            self._take()

    def live(self, newest_imported_ms: int, generation: int) -> None:
        """Go on from imported history with the live log."""
        if newest_imported_ms:
            for part in self._parts:
                tick_at(part, newest_imported_ms)
        self._take()
        clocks = [part.clock_ms for part in self._parts]
        self._parts = [self._part(p, generation, self._table) for p in range(self._n)]
        for part, clock_ms in zip(self._parts, clocks, strict=True):
            part.resume(clock_ms, {})

    def _take(self) -> None:
        for store, part in zip(self._stores, self._parts, strict=True):
            self._count(store.take(part))

    def _count(self, effects: Iterable[ItemEffect]) -> None:
        for effect in effects:
            if effect.HasField("event"):
                found = self._items.get(effect.event.item_id)
                if found is not None:
                    found[0].observe(effect.event)
            elif effect.HasField("pairs"):
                found = self._items.get(effect.pairs.item_id)
                if found is not None:
                    found[0].meet(effect.pairs)

    def user(self, user_id: str) -> Fields:
        """Stored fields of a user now; empty = never seen."""
        p = partition_of(user_id.encode(), self._n)
        self._count(self._stores[p].take(self._parts[p]))
        return self._stores[p].fields.get(state_key(user_id), {})

    def session(self, session_id: str) -> Fields:
        """Stored fields of a session now; it lies in the partition of its user."""
        self._take()
        key = session_key(session_id)
        return next((store.fields[key] for store in self._stores if key in store.fields), {})

    def item(self, item_id: str) -> Fields:
        """Stored fields of a kept item now."""
        self._take()
        state, stored = self._items[item_id]
        stored.update(state.dirty())
        return stored


class CatalogueRows:
    """`item_catalogue` rows of some items at any instant."""

    def __init__(self, records: Iterable[Record], items: Collection[str]) -> None:
        self._found: dict[str, tuple[list[int], list[dict[str, bytes]]]] = {}
        for record in records:
            try:
                change = read_item(record.value, record.headers, key=record.key)
            except ContractError:
                continue  # a dead letter was written when it came
            if change.item_id not in items:
                continue
            upsert = change.upsert if change.HasField("upsert") else None
            times, rows = self._found.setdefault(change.item_id, ([], []))
            before = rows[-1] if rows else {}
            times.append(record.append_ts_ms)
            values = catalogue_row(change.item_id, record, upsert).values
            rows.append({**before, **{f"{CATALOGUE}:{name}": value for name, value in values.items()}})

    def at(self, item_id: str, ts_ms: int, *, imported: bool) -> Mapping[str, bytes]:
        """Values by ``view:feature`` strictly before `ts_ms`; imported time sees the first version from always on."""
        times, rows = self._found.get(item_id, ([], []))
        at = bisect_left(times, ts_ms)
        if at == 0:
            return rows[0] if rows and imported else {}
        return rows[at - 1]


def rows_at(
    past: Past,
    catalogue: CatalogueRows | None,
    moments: Sequence[Moment],
    fields: Collection[str],
    *,
    imported: Iterable[Record],
    live: Iterable[Record],
    newest_imported_ms: int,
    generation: int,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Iterator[tuple[int, dict[str, bytes]]]:
    """Yield (row, values) of every moment, in the order of time.

    Parameters
    ----------
    catalogue : optional
        None: nothing of the catalogue is asked for.
    fields : collection of str
        ``view:feature``.
    imported, live : iterable of Record
        All partitions together, by append time.

    Returns
    -------
    iterator of (int, dict)
        ``view:feature`` -> serialised `feast.types.Value`; what was empty is absent.
    """
    waiting = sorted(moments, key=lambda moment: moment.ts_ms, reverse=True)
    wanted = {name.encode(): name for name in fields}
    n = 0

    def look(moment: Moment, *, of_import: bool) -> tuple[int, dict[str, bytes]]:
        stored = getattr(past, moment.entity)(moment.key)
        values = {wanted[name]: pack_bytes(page) for name, page in stored.items() if page and name in wanted}
        if moment.entity == "item" and catalogue is not None:
            row = catalogue.at(moment.key, moment.ts_ms, imported=of_import)
            values.update((name, value) for name, value in row.items() if name in fields)
        return moment.row, values

    for records, of_import in ((imported, True), (live, False)):
        for record in records:
            while waiting and waiting[-1].ts_ms <= record.append_ts_ms:
                yield look(waiting.pop(), of_import=of_import)
            if not waiting:
                return
            past.feed(record)
            n += 1
            if n % 1000 == 0:
                on_progress(n)
        if of_import:
            while waiting and waiting[-1].ts_ms <= newest_imported_ms:
                yield look(waiting.pop(), of_import=True)
            past.live(newest_imported_ms, generation)
    while waiting:
        yield look(waiting.pop(), of_import=False)


def _by_time(parts: Iterable[Iterable[Record]]) -> Iterator[Record]:
    return heapq.merge(*parts, key=lambda record: (record.append_ts_ms, record.partition, record.offset))


def run_job(settings: Settings, job: AsOfJob, *, on_progress: Callable[[int, int], None] | None = None) -> int:
    """Answer a job; return the number of rows.

    Everything up to the newest moment is folded once, 5,000 to 20,000 records a second, in 6 KiB a user; where only
    users are asked for, the others cost next to nothing.

    Raises
    ------
    ConfigError
        There is no feature program, or an entity is none of user, session, item.
    CorruptError
        Archive and log miss records.
    UnavailableError
        Kafka or Redis is away.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    moments = [Moment(**row) for row in pq.read_table(job.moments).to_pylist()]
    if strange := {moment.entity for moment in moments} - {"user", "session", "item"}:
        raise ConfigError(f"rows are asked for of user, session or item, got {', '.join(sorted(strange))}")
    client = connect(settings, retries=3)
    program = published_program(client, settings.namespace)
    if program is None:
        raise ConfigError(f"namespace {settings.namespace!r} has no feature program: run `liverank up` first")
    generation = active_generation(client, settings)
    topic = settings.topic("events", generation)
    n = partition_counts(settings.kafka.bootstrap, [topic])[topic]
    ends = end_offsets(settings.kafka.bootstrap, [Tp(topic, p) for p in range(n)])
    items = {moment.key for moment in moments if moment.entity == "item"}
    only_users = all(moment.entity == "user" for moment in moments)
    records = catalogue_records(settings, n)
    past = Past(
        settings, program, token=namespace_token(client, settings.namespace),
        n_partitions=n, table=catalogue_table(records)[0], items=items,
        users={moment.key for moment in moments} if only_users else None,
    )  # fmt: skip
    of_catalogue = any(name.startswith(f"{CATALOGUE}:") for name in job.fields)
    old = partitions_of(settings, "events", 0)
    total = sum(ends.values()) + sum(last_offset(part_dir(settings, "events", 0, p)) + 1 for p in old)
    tell = on_progress or (lambda _done, _total: None)
    found = rows_at(
        past,
        CatalogueRows(records, items) if of_catalogue else None,
        moments,
        frozenset(job.fields),
        imported=_by_time([imported_records(settings, p) for p in old]),
        live=_by_time([live_records(settings, generation, tp.partition, end - 1) for tp, end in ends.items()]),
        newest_imported_ms=newest_imported_ms(settings),
        generation=generation,
        on_progress=lambda done: tell(done, total),
    )
    schema = pa.schema([("row", pa.int64()), ("field", pa.string()), ("value", pa.binary())])
    answered = 0
    with pq.ParquetWriter(job.out, schema, compression="zstd") as writer:
        batch: list[tuple[int, str, bytes]] = []
        for row, values in found:
            answered += 1
            batch += [(row, name, value) for name, value in values.items()]
            if answered % _WRITE_ROWS == 0:
                writer.write_table(_table(batch, schema))
                batch = []
        writer.write_table(_table(batch, schema))
    return answered


def _table(batch: Sequence[tuple[int, str, bytes]], schema: object) -> object:
    import pyarrow as pa

    rows, names, values = zip(*batch, strict=True) if batch else ((), (), ())
    return pa.table({"row": rows, "field": names, "value": values}, schema=schema)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m streams.asof", description="Rows as they were.")
    parser.add_argument("job", type=Path, help="file that holds the job")
    given = parser.parse_args(arguments)
    settings = resolve(Settings())
    log.configure(f"{settings.namespace}-asof")
    try:
        answered = run_job(settings, AsOfJob.from_json(given.job.read_text()))
    except LiverankError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    _log.info("rows as they were", rows=answered)
    return 0


if __name__ == "__main__":
    sys.exit(main())
