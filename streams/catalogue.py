"""The catalogue's versions: what an item was when an event was appended.

Every worker reads all partitions of `items` without a group. A version is the offset of its record; an event asks for
the newest version appended at or before its own append time.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

from features.hashing import id_hash
from features.item_version import CatalogueItem
from liverank.contract import read_item
from liverank.errors import ContractError, UnavailableError
from liverank.kafka import BatchConsumer, OffsetClient, Record, Tp
from liverank.topics import RETENTION_MS

__all__ = ["Catalogue", "CatalogueReader", "History", "item_of"]


def item_of(record: Record) -> tuple[str, CatalogueItem | None]:
    """Return (item_id, version) of a catalogue record; the version of a removal or tombstone is None.

    Raises
    ------
    ContractError
        The record breaks the contract.
    """
    change = read_item(record.value, record.headers, key=record.key)
    if not change.HasField("upsert"):
        return change.item_id, None
    item = change.upsert
    return change.item_id, CatalogueItem(
        change.item_id,
        record.offset,
        record.append_ts_ms,
        tuple(item.categories),
        item.creator,
        item.price,
        item.available,
        item.published_ts_ms,
    )


class Catalogue:
    """Versions of all items by append time. One writer, many readers (assignment of whole lists is atomic).

    Memory: one tuple per version; versions replaced more than the life of the log before the newest record are dropped.
    """

    def __init__(self) -> None:
        self._versions: dict[str, tuple[tuple[int, ...], tuple[CatalogueItem | None, ...]]] = {}
        self._names: dict[int, str] = {}
        self._newest_ms = 0

    def __len__(self) -> int:
        return len(self._versions)

    def put(self, item_id: str, append_ts_ms: int, item: CatalogueItem | None, *, keep_all: bool = False) -> None:
        """Add a version; versions of one item come in the order of their offsets.

        Parameters
        ----------
        keep_all : bool
            Keep versions that no event in the log can ask for any more (a rebuild asks for them).
        """
        self._newest_ms = max(self._newest_ms, append_ts_ms)
        times, items = self._versions.get(item_id, ((), ()))
        if not times:
            self._names[id_hash(item_id)] = item_id
        if times and append_ts_ms < times[-1]:
            append_ts_ms = times[-1]
        times, items = (*times, append_ts_ms), (*items, item)
        needed = bisect_right(times, self._newest_ms - RETENTION_MS) - 1
        if needed > 0 and not keep_all:
            times, items = times[needed:], items[needed:]
        self._versions[item_id] = (times, items)

    def put_record(self, record: Record, *, keep_all: bool = False) -> None:
        """Add the version that a record holds.

        Raises
        ------
        ContractError
            The record breaks the contract; the table is unchanged.
        """
        item_id, item = item_of(record)
        if item_id:
            self.put(item_id, record.append_ts_ms, item, keep_all=keep_all)

    def digest(self) -> bytes:
        """Hash of what imported history sees: every item's first version."""
        found = sha256()
        for item_id in sorted(self._versions):
            item = self.first(item_id)
            found.update(repr((item_id, item and item._replace(version=0, append_ts_ms=0))).encode())
        return found.digest()

    def name_of(self, item_hash: int) -> str | None:
        """Return the item id of a hash (`features.hashing.item_hash`); None = never in the catalogue."""
        return self._names.get(item_hash)

    @property
    def versions(self) -> Mapping[str, tuple[Sequence[int], Sequence[CatalogueItem | None]]]:
        """Append times and versions of every item, kept up; a dict."""
        return self._versions

    def first(self, item_id: str) -> CatalogueItem | None:
        """Return the oldest version that is kept; None = unknown."""
        _, items = self._versions.get(item_id, ((), ()))
        return next((item for item in items if item is not None), None)

    def at(self, item_id: str, append_ts_ms: int) -> CatalogueItem | None:
        """Return the newest version appended at or before `append_ts_ms`; None = unknown or removed."""
        found = self._versions.get(item_id)
        if found is None:
            return None
        times, items = found
        if times[-1] <= append_ts_ms:
            return items[-1]
        index = bisect_right(times, append_ts_ms)
        return items[index - 1] if index else None


class History:
    """The catalogue for imported events, which are older than its topic: an item's first version counts from always."""

    def __init__(self, table: Catalogue) -> None:
        self._table = table

    @property
    def versions(self) -> Mapping[str, tuple[Sequence[int], Sequence[CatalogueItem | None]]]:
        """See `Catalogue.versions`."""
        return self._table.versions

    def at(self, item_id: str, append_ts_ms: int) -> CatalogueItem | None:
        """Return the version at `append_ts_ms`, or the first one; None = unknown or removed."""
        return self._table.at(item_id, append_ts_ms) or self._table.first(item_id)


class CatalogueReader:
    """Keeps a `Catalogue` up with the topic `items`, in a thread of its own.

    Parameters
    ----------
    topic : str
        Full name of the topic.
    on_bad : callable, optional
        Called with (record, error) for records that break the contract (they are skipped; the catalogue agent writes
        the dead letter).
    """

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        n_partitions: int,
        *,
        on_bad: Callable[[Record, ContractError], None] | None = None,
    ) -> None:
        self.table = Catalogue()
        self._bootstrap = bootstrap
        self._tps = [Tp(topic, p) for p in range(n_partitions)]
        self._next = dict.fromkeys(self._tps, 0)
        self._on_bad = on_bad
        self._offsets = OffsetClient(bootstrap)
        self._moved = threading.Condition()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="catalogue", daemon=True)

    def start(self) -> None:
        """Start reading from the beginning of the topic."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading and wait for the thread."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(10.0)

    def ends(self) -> Mapping[Tp, int]:
        """Return the topic's end offsets now.

        Raises
        ------
        KafkaUnavailableError
            The broker did not answer.
        """
        return self._offsets.ends(self._tps)

    def behind(self, ends: Mapping[Tp, int]) -> bool:
        """Whether the table has not reached these end offsets."""
        return any(self._next[tp] < end for tp, end in ends.items())

    def wait(self, ends: Mapping[Tp, int], timeout_s: float) -> bool:
        """Wait until the table has reached these end offsets; return whether it has.

        Raises
        ------
        UnavailableError
            The reading thread is dead.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._moved:
            while self.behind(ends):
                if self._error is not None:
                    raise UnavailableError(f"the catalogue reader died: {self._error}; restart the worker")
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    return False
                self._moved.wait(left_s)
        return True

    def _run(self) -> None:
        try:
            self._read()
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for the catalogue
            with self._moved:
                self._error = error
                self._moved.notify_all()

    def _read(self) -> None:
        consumer = BatchConsumer(
            self._bootstrap,
            group="liverank.catalogue",
            # Compaction may have removed the offset that a fetch asks for: then the next one is the right one.
            options={"auto.offset.reset": "earliest"},
        )
        consumer.assign(dict.fromkeys(self._tps, 0))  # `BEGINNING` takes librdkafka half a second
        try:
            while not self._stop.is_set():
                records = consumer.poll_batch(5000, 0.2)
                if not records:
                    continue
                for record in records:
                    try:
                        self.table.put_record(record)
                    except ContractError as error:
                        if self._on_bad is not None:
                            self._on_bad(record, error)
                with self._moved:
                    for record in records:
                        self._next[Tp(record.topic, record.partition)] = record.offset + 1
                    self._moved.notify_all()
        finally:
            consumer.close()
