"""The archive service: events, catalogue, decisions and policy snapshots from Kafka to Parquet (layout:
`features.archive`).

A second batch consumer in a group of its own. The files are the position: a partition goes on after the last offset
on disk, so a kill -9 loses nothing and a second writer does no harm.
"""

from __future__ import annotations

import threading
import time

from prometheus_client import Counter

from features.archive import TOPICS, last_offset, part_dir, write_part
from liverank import log
from liverank.errors import UnavailableError
from liverank.kafka import BatchConsumer, OffsetClient, Record, Tp
from liverank.settings import Settings
from streams.seal import Seals, seal_of

__all__ = ["Archiver", "archive_holds"]

_log = log.get(__name__)

#: Least that a fetch brings, unless half a second has passed: an answer a record costs the broker a fifth more CPU.
_FETCH_BYTES = 256 * 1024

_RECORDS = Counter("liverank_archive_records", "Records written to the archive", ["topic"])
_FILES = Counter("liverank_archive_files", "Files written to the archive")
_GAPS = Counter("liverank_archive_gaps", "Times that the log had lost records before they were archived", ["topic"])


def archive_holds(settings: Settings, topic: str, partition: int) -> bool:
    """Whether the archive holds a past of this partition: records of the generation or imported ones."""
    short, _, generation = topic.removeprefix(settings.topic("")).rpartition(".")
    generations = {0, int(generation) - 1, int(generation)}
    return any(last_offset(part_dir(settings, short, g, partition)) >= 0 for g in generations)


class Archiver:
    """Writes files of the archive until it is stopped.

    A partition's file is written when `streams.archive_records` wait or `streams.archive_flush_s` have passed since
    its first one came; what waits is bounded by that. A full disk is waited for. Of a partition that ends with a seal
    nothing is archived after it.
    """

    def __init__(self, settings: Settings, generation: int, *, member: str, seals: Seals | None = None) -> None:
        self._settings, self._generation = settings, generation
        self._seals = seals
        self._ended: set[Tp] = set()
        self._member = member
        self._where = {
            settings.topic(short, generation if has_generation else None): (short, generation if has_generation else 0)
            for short, has_generation in TOPICS.items()
        }
        self._waiting: dict[Tp, list[Record]] = {}
        self._since_s: dict[Tp, float] = {}
        #: The next offset of each partition that is read. A record may come after its partition was given away: in the
        #: poll that brought the news.
        self._following: dict[Tp, int] = {}
        self._stop = threading.Event()
        self._wanted: list[Tp] | None = None

    def stop(self) -> None:
        """Ask `run` to write what waits and return."""
        self._stop.set()

    def run(self) -> None:
        """Archive until `stop`."""
        settings = self._settings
        self._offsets = OffsetClient(settings.kafka.bootstrap)
        self._consumer = BatchConsumer(
            settings.kafka.bootstrap,
            group=settings.group("archive", self._generation),
            instance_id=self._member,
            session_timeout_ms=settings.streams.group_session_timeout_ms,
            options={"fetch.min.bytes": _FETCH_BYTES},
        )
        self._consumer.subscribe(
            list(self._where), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )
        try:
            while not self._stop.is_set():
                self._once()
            self._write(list(self._waiting))
        finally:
            self._consumer.close()

    def _once(self) -> None:
        if self._wanted is not None:
            try:
                self._begin(self._wanted)
                self._wanted = None
            except UnavailableError as error:
                _log.warning("the archive waits for Kafka", error=str(error))
        now_s = time.monotonic()
        for record in self._poll():
            tp = Tp(record.topic, record.partition)
            following = self._following.get(tp)
            if following is None or record.offset < following or tp in self._ended:
                continue
            self._following[tp] = record.offset + 1
            self._since_s.setdefault(tp, now_s)
            self._waiting.setdefault(tp, []).append(record)
            if self._seals is not None and record.headers and seal_of(record) is not None and self._ends(record):
                self._ended.add(tp)
                self._since_s[tp] = float("-inf")
        ripe = [
            tp
            for tp, records in self._waiting.items()
            if len(records) >= self._settings.streams.archive_records
            or now_s - self._since_s[tp] >= self._settings.streams.archive_flush_s
        ]
        self._write(ripe)

    def _ends(self, record: Record) -> bool:
        """Whether the record is its partition's last; waits for Redis."""
        while self._seals is not None and not self._stop.is_set():
            try:
                return self._seals.ends(record)
            except UnavailableError as error:
                _log.warning("the archive waits for Redis", error=str(error))
                self._stop.wait(0.5)
        return False

    def _poll(self) -> list[Record]:
        """Read on, but not while a disk that refuses lets more and more records wait."""
        crowded = sum(map(len, self._waiting.values())) > 4 * self._settings.streams.archive_records
        if not crowded:
            self._consumer.resume_all()
            return self._consumer.poll_batch(2000, 0.25)
        self._consumer.pause_all()
        self._stop.wait(0.25)
        return self._consumer.keep_alive()

    def _begin(self, tps: list[Tp]) -> None:
        """Read each partition from where its files end."""
        begins = self._offsets.begins(tps)
        positions = {}
        self._ended = set()
        for tp in tps:
            short, generation = self._where[tp.topic]
            following = last_offset(part_dir(self._settings, short, generation, tp.partition)) + 1
            if self._seals is not None and short == "events" and self._seals.at_end(tp, following - 1):
                self._ended.add(tp)
            if following < begins[tp] and (following > 0 or short != "items"):
                _GAPS.labels(short).inc()
                _log.error(
                    "the log lost records before they were archived: a rebuild will miss them",
                    topic=tp.topic, partition=tp.partition, first_missing=following, first_there=begins[tp],
                )  # fmt: skip
            positions[tp] = max(following, begins[tp])
        self._consumer.assign(positions)
        self._following = positions

    def _write(self, tps: list[Tp]) -> None:
        for tp in tps:
            records = self._waiting[tp]
            short, generation = self._where[tp.topic]
            try:
                write_part(part_dir(self._settings, short, generation, tp.partition), records)
            except OSError as error:
                _log.error(
                    "the archive cannot be written, waiting", topic=tp.topic, partition=tp.partition, error=str(error)
                )
                self._since_s[tp] = time.monotonic()
                self._stop.wait(0.5)
                continue
            _RECORDS.labels(short).inc(len(records))
            _FILES.inc()
            del self._waiting[tp], self._since_s[tp]

    def _on_assign(self, tps: list[Tp]) -> None:
        self._forget()
        self._wanted = tps

    def _on_revoke(self, _tps: list[Tp]) -> None:
        self._write(list(self._waiting))
        self._forget()

    def _on_lost(self, _tps: list[Tp]) -> None:
        self._forget()

    def _forget(self) -> None:
        self._waiting.clear()
        self._since_s.clear()
        self._following = {}
        self._wanted = None
