"""The fold engine: poll -> decode -> pure transition -> fenced write -> publish -> trim.

One thread per fold instance owns its consumer, its states and its Redis connection. This file is the shell around
`streams.partition_fold` (pure) and `streams.commit`, which fences and publishes one poll (`streams.fence`,
`streams.publisher`) while the next is folded. The protocol: docs/specs/fold.md.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from features.redis import Link, connect
from liverank import log
from liverank.errors import ContractError, UnavailableError
from liverank.kafka import BatchConsumer, OffsetClient, Record, Tp
from liverank.settings import Settings
from streams.calls import POLL_LIMITS, Call
from streams.catalogue import CatalogueReader
from streams.collector import quiet
from streams.commit import Committer
from streams.errors import StateLostError
from streams.failpoints import Failpoints
from streams.fence import FencedStore
from streams.fold import Parsed
from streams.metrics import FoldMetrics, StepClock
from streams.partition_fold import PartitionFold
from streams.patience import InsistingReader, Patience, StoppingError
from streams.producers import ProducerWatch
from streams.program import PROGRAM_KEY
from streams.publisher import KafkaSink, Pending, PositionBoard, RowSink
from streams.share import Share
from streams.takeover import FoldSetup, Takeover
from streams.ticks import Ticker

__all__ = ["FoldEngine", "FoldSetup"]

#: How often the partition's own statistics are published, s.
_STATISTICS_S = 0.5
#: A partition that another owner took is asked for again after this, if the group still gives it to this member, s.
_REACQUIRE_S = 3.0
_POLL_S = 0.1


@dataclass(slots=True)
class _Owned:
    """A partition that this engine owns.

    Attributes
    ----------
    trim : bool
        Everything in the stored outbox is published and confirmed, or named in `owed`.
    """

    fold: PartitionFold
    epoch: int
    trim: bool = True
    owed: dict[str, Pending] = field(default_factory=dict)
    owed_since_s: float = 0.0


class FoldEngine:
    """Runs one fold over the partitions that the group gives this worker.

    Exactly-once effects: state, due actions, offset and outbox move in one fenced write; what is published is
    idempotent. Redis or Kafka away: the engine waits for ever and stays in the group. A poison record becomes a dead
    letter. A bug ends `run` with the error.

    Parameters
    ----------
    catalogue : CatalogueReader, optional
        Started by the caller; None where the fold asks for no items.
    """

    def __init__(self, setup: FoldSetup, settings: Settings, catalogue: CatalogueReader | None = None) -> None:
        self.setup = setup
        self.settings = settings
        self.metrics = FoldMetrics(setup.fold.name)
        self.steps = StepClock()
        self.ready = threading.Event()
        self.n_records = 0
        self._fold = setup.fold
        self._catalogue = catalogue
        self._producers = None if setup.numbered_input else ProducerWatch()
        self._stop = threading.Event()
        self._log = log.get(__name__).bind(fold=setup.fold.name)
        self._owned: dict[int, _Owned] = {}
        self._assigned: set[int] = set()
        self._acquire_at_s: dict[int, float] = {}
        self._ended: set[int] = set()
        self._least_epoch: dict[int, int] = {}
        self._in_cycle = False
        self._oldest_ms = 0
        self._last_n = 0
        self._rate = 0.0
        self._rate_s = time.monotonic()

    # -- life

    def stop(self) -> None:
        """Ask `run` to finish its poll and return. From any thread."""
        self._stop.set()

    def run(self) -> None:
        """Fold until `stop`; the thread's whole life.

        Raises
        ------
        StateLostError
            A partition has a past but no state.
        KafkaLogError
            The stored offset lies outside the log.
        FoldBugError
            A rule was broken.
        """
        setup, settings = self.setup, self.settings
        quiet()
        self._link = Link()
        client = connect(settings, link=self._link)
        self._store = FencedStore(
            client, namespace=settings.namespace, generation=setup.generation, kind=setup.fold.kind
        )
        self._rows = RowSink(client, settings.feast_project, setup.fold)
        board = PositionBoard(client, settings.namespace, f"fold.{setup.fold.name}")
        self._sink = KafkaSink(
            settings.kafka.bootstrap, compression=settings.kafka.compression, topic_of=self._topic_of
        )
        self._takeover = Takeover(setup, self._store, self._rows, self._sink, OffsetClient(settings.kafka.bootstrap))
        self._ticker = Ticker(setup.token) if setup.ticks else None
        self._consumer = BatchConsumer(
            settings.kafka.bootstrap,
            group=settings.group(f"fold.{setup.fold.name}", setup.generation),
            instance_id=setup.member,
            session_timeout_ms=settings.streams.group_session_timeout_ms,
            fetch_bytes=settings.streams.fetch_bytes,
        )
        self._patience = Patience(self._consumer, self._stop, self.metrics)
        self._committer = Committer(
            self._store, self._rows, self._sink, board, link=self._link, patience=self._patience,
            failpoints=Failpoints.of_environment(setup.fold.name), metrics=self.metrics, topic=setup.topic,
            steps=self.steps,
        )  # fmt: skip
        try:
            self._consumer.subscribe(
                [setup.topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            while not self._stop.is_set():
                self._once()
        except StoppingError:
            self._log.warning("stopped while a store was away; the next owner goes on")
        finally:
            self._release()
            self._committer.close()
            self._consumer.close()
            self._sink.close()
            client.close()

    def _topic_of(self, name: str) -> str:
        per_generation = name in ("events", "item-effects")
        return self.settings.topic(name, self.setup.generation if per_generation else None)

    def _once(self) -> None:
        if self._acquire_at_s:
            self._acquire_due()
        if self._ticker is not None and self._owned and self._sink.queue_fill < 0.01:
            self._sink.send(self._ticker.outputs(time.monotonic(), self._owned))
        records = self._patience.take_early()
        if not records:
            records = self._consumer.poll_batch(self.settings.streams.poll_records, _POLL_S, linger_s=self._linger_s())
        self.steps.mark("poll")
        now_s = time.monotonic()
        elapsed_s = max(1e-6, now_s - self._rate_s)
        keep = 0.5 ** (elapsed_s / 0.5)
        self._rate = keep * self._rate + (1 - keep) * len(records) / elapsed_s
        self._rate_s, self._last_n = now_s, len(records)
        if records:
            self._in_cycle = True
            self._oldest_ms = records[0].append_ts_ms
            try:
                self._cycle(records)
            finally:
                self._in_cycle = False
        else:
            self._land()
            self._publish_owed(now_s)

    def _linger_s(self) -> float:
        """Wait for company only where much is coming: a poll costs the same for one record as for twenty."""
        small = self._last_n < 10 and self._rate < 200
        full = self._last_n >= self.settings.streams.poll_records
        # Effects of one item come again and again: the more of them share a poll, the fewer rows are written.
        patience = 3.0 if self.setup.numbered_input else 1.0
        return 0.0 if small or full else patience * self.settings.streams.linger_ms / 1000

    # -- group

    def _on_assign(self, tps: list[Tp]) -> None:
        self._assigned = {tp.partition for tp in tps}
        self._acquire_at_s = dict.fromkeys(self._assigned, 0.0)
        if not tps:
            self.ready.set()

    def _on_revoke(self, tps: list[Tp]) -> None:
        if not self._in_cycle:
            self._release()
        self._forget({tp.partition for tp in tps})

    def _on_lost(self, tps: list[Tp]) -> None:
        self._log.warning("partitions lost to the group", partitions=[tp.partition for tp in tps])
        self._forget({tp.partition for tp in tps})

    def _forget(self, partitions: set[int]) -> None:
        """Drop everything in memory of these partitions."""
        for partition in partitions:
            if self._owned.pop(partition, None) is not None:
                self.metrics.forget(partition)
            self._assigned.discard(partition)
            self._ended.discard(partition)
            self._acquire_at_s.pop(partition, None)
        self._patience.forget(partitions)
        self.metrics.owned.set(len(self._owned))

    def _release(self) -> None:
        """Publish and trim what is left; leave it to the next owner where a store is away."""
        try:
            self._land()
            self._publish_owed(float("inf"))
            calls = []
            for partition, owned in self._owned.items():
                position = owned.fold.position
                if owned.trim and not self._link.lost:
                    calls.append(Call(partition, position, position, owned.fold.clock_ms, trim=True))
            self._store.fence({p: owned.epoch for p, owned in self._owned.items()}, calls)
        except UnavailableError as error:
            self._log.warning("left with an outbox that the next owner drains", error=str(error))
        self._owned.clear()

    # -- acquiring

    def _acquire_due(self) -> None:
        """Take over the partitions that the group gave, then read them from the store's offsets."""
        now_s = time.monotonic()
        wanted = [p for p, at_s in self._acquire_at_s.items() if at_s <= now_s]
        if not wanted:
            return
        self._land()
        if not self._owned:
            self._link.lost = False
        for partition in wanted:
            owned = self._patience.insist(partial(self._acquire, partition), "taking a partition over")
            if partition in self._acquire_at_s:
                del self._acquire_at_s[partition]
                self._owned[partition] = owned
        topic = self.setup.topic
        self._consumer.assign({Tp(topic, p): o.fold.position.offset + 1 for p, o in self._owned.items()})
        self._patience.assigned_anew()
        self.metrics.owned.set(len(self._owned))
        self.ready.set()

    def _acquire(self, partition: int) -> _Owned:
        setup = self.setup
        meta = self._takeover.acquire(partition, least_epoch=self._least_epoch.get(partition, 0))
        self._least_epoch[partition] = meta.epoch
        if setup.seals is not None and setup.seals.at_end(Tp(setup.topic, partition), meta.position.offset):
            self._ended.add(partition)
        fold = PartitionFold(
            setup.fold.for_partition(self._store.load(partition, [PROGRAM_KEY])[0]),
            partition=partition,
            n_partitions=setup.n_partitions,
            generation=setup.generation,
            position=meta.position,
            clock_ms=meta.clock_ms,
            sources=meta.sources,
            reader=InsistingReader(self._store, self._patience, before=self._land),
            items=self._catalogue.table if self._catalogue else None,
            clock=self.settings.clock,
            numbered_input=setup.numbered_input,
            spill=self._write,
            poll_limits=POLL_LIMITS,
            cache_states=max(1, self.settings.streams.cache_states // max(1, len(self._assigned))),
        )
        self._takeover.drain(partition, meta)
        self._patience.until(lambda: self._sink.confirmed(0.2))
        self._log.info("partition taken over", partition=partition, epoch=meta.epoch, offset=meta.position.offset)
        return _Owned(fold=fold, epoch=meta.epoch)

    # -- one poll

    def _cycle(self, records: Sequence[Record]) -> None:
        """Fold the records of one poll."""
        batch = self._sort(records)
        if not batch:
            self.steps.mark("decode")
            return
        for partition, share in batch.items():
            share.look(self._owned[partition].fold, self._parsed)
            if self._producers is not None:
                self._producers.note(share.watched(self._parsed))
        self.steps.mark("decode")
        self._await_catalogue()
        self._prefetch(batch)
        self.steps.mark("load")
        for partition, share in batch.items():
            if (owned := self._owned.get(partition)) is not None:
                share.feed(owned.fold, self._parsed)
        self.steps.mark("apply")
        for owned in self._owned.values():
            owned.fold.close()
        self.steps.mark("encode")
        self._commit()
        n = sum(len(share.records) for share in batch.values())
        self.n_records += n
        self.metrics.records.inc(n)
        cached = 0
        for partition, owned in self._owned.items():
            owned.fold.shrink()
            cached += owned.fold.n_cached
            if (end := self._consumer.cached_end(Tp(self.setup.topic, partition))) is not None:
                self.metrics.lag(partition, max(0, end - 1 - owned.fold.position.offset))
        self.metrics.cached.set(cached)
        self.steps.mark("rest")

    def _sort(self, records: Sequence[Record]) -> dict[int, Share]:
        """Records of owned partitions that are not folded yet, by partition."""
        batch: dict[int, Share] = {}
        following = {p: o.fold.position.offset + 1 for p, o in self._owned.items() if p not in self._ended}
        seals = self.setup.seals
        for record in records:
            partition = record.partition
            expected = following.get(partition)
            if expected is None or record.offset < expected:
                continue
            if record.offset > expected:
                raise StateLostError(
                    f"{record.topic} [{partition}] jumps from offset {expected - 1} to {record.offset}: "
                    "records are missing; run `liverank rebuild`"
                )
            following[partition] = record.offset + 1
            share = batch.get(partition)
            if share is None:
                share = batch[partition] = Share()
            share.records.append(record)
            if not record.headers or seals is None:
                continue
            what = share.parsed[len(share.records) - 1] = self._parsed(record)
            may_end = isinstance(what, Parsed) and what.tick
            if may_end and self._patience.insist(partial(seals.ends, record), "asking for a repartition"):
                self._ended.add(partition)
                del following[partition]
                self._log.info("partition has ended: its generation is sealed", partition=partition)
        return {partition: share for partition, share in batch.items() if partition in self._owned}

    def _parsed(self, record: Record) -> Parsed | ContractError:
        try:
            return self._fold.parse(record)
        except ContractError as error:
            self.metrics.dead_letter(error.reason)
            return error

    def _await_catalogue(self) -> None:
        """Go on only when the catalogue has everything that was appended before now."""
        catalogue = self._catalogue
        if catalogue is None:
            return
        started_s = time.monotonic()
        ends = self._patience.insist(catalogue.ends, "asking for the catalogue's end")
        if catalogue.behind(ends):
            self._patience.until(lambda: catalogue.wait(ends, 0.05))
        self.metrics.catalogue_wait_s.observe(time.monotonic() - started_s)

    def _prefetch(self, batch: Mapping[int, Share]) -> None:
        """Read the missing states of all records in one round trip."""
        keys = [
            (partition, key)
            for partition, share in batch.items()
            if (owned := self._owned.get(partition)) is not None
            for key in share.missing(owned.fold)
        ]
        if not keys:
            return
        self._land()
        stored = self._patience.insist(lambda: self._store.load_many(keys), "reading states")
        for (partition, key), fields in zip(keys, stored, strict=True):
            if (owned := self._owned.get(partition)) is not None:
                owned.fold.adopt(key, fields)

    def _commit(self) -> None:
        """Send all closed calls on their way, once those of the poll before are written."""
        self._land()
        # Here nothing is on its way: anywhere else it would have to be waited for.
        self._publish_owed(time.monotonic())
        calls: list[Call] = []
        for owned in self._owned.values():
            closed, owned.fold.calls = owned.fold.calls, []
            if closed:
                closed[0].trim, closed[0].owed = owned.trim, tuple(owned.owed)
                owned.trim = False
                calls += closed
        if not calls:
            return
        for call in calls:
            call.seal()
        self.steps.mark("encode")
        self._committer.start(calls, {p: owned.epoch for p, owned in self._owned.items()}, self._oldest_ms)

    def _write(self) -> None:
        """Write all closed calls."""
        self._commit()
        self._land()

    def _land(self) -> None:
        """Wait for what is on its way: drop partitions that another owner has moved, and note that the outbox of the
        others may go with the next call. The engine itself uses Redis only afterwards.
        """
        landed = self._committer.land()
        if landed is None:
            return
        for partition, error in landed.refused.items():
            self.metrics.refused.inc()
            self._log.warning("fence refused", partition=partition, reason=str(error))
            self._dispossess(partition)
        if self.settings.clock == "wall":
            self.metrics.freshness_s.observe(max(0.0, time.time() - landed.oldest_ms / 1000))
        now_s = time.monotonic()
        for (partition, key), change in landed.statistics.items():
            if (owned := self._owned.get(partition)) is None:
                continue
            earlier = owned.owed.get(key)
            if earlier is not None:
                change.fields = {**earlier.fields, **change.fields}
            elif not owned.owed:
                owned.owed_since_s = now_s
            owned.owed[key] = change
        for call in landed.calls:
            if (owned := self._owned.get(call.partition)) is not None:
                owned.trim = True

    def _dispossess(self, partition: int) -> None:
        """The store moved without this owner: another owner, or a store rolled back. Ask for it again if the group
        still gives it.
        """
        owned = self._owned.pop(partition, None)
        self.metrics.forget(partition)
        if owned is None or partition not in self._assigned:
            return
        meta = self._patience.insist(lambda: self._store.meta(partition), "reading a partition's position")
        if meta is None:
            self._takeover.require_new(partition)
        taken = meta is not None and meta.epoch > owned.epoch
        self._acquire_at_s[partition] = time.monotonic() + (_REACQUIRE_S if taken else 0.0)

    def _publish_owed(self, now_s: float) -> None:
        """Publish the statistics of partitions that have waited long enough."""
        due = [p for p, owned in self._owned.items() if owned.owed and now_s - owned.owed_since_s >= _STATISTICS_S]
        if due:
            self._land()
        for partition in due:
            if (owned := self._owned.get(partition)) is not None:
                pending = {(partition, key): change for key, change in owned.owed.items()}
                visible = self._rows.build(pending)
                if now_s == float("inf"):
                    self._rows.write(visible)
                else:
                    self._patience.insist(partial(self._rows.write, visible), "writing statistics")
                owned.owed = {}
