"""How far the pipeline has come: positions that every reader publishes, against the ends of the logs.

Readers write `<ns>:position:<reader>:<partition>`, a hash topic -> next offset, after their outputs are confirmed. So
whoever waits stage by stage knows that everything produced before has gone through.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from evaluation.errors import LagError
from features.redis import Redis, translated
from liverank.kafka import OffsetClient, Tp, partition_counts
from liverank.settings import Settings
from streams.fence import FencedStore
from streams.outbox import decode_outbox

STAGES: Final = (
    ("events", "fold.users"),
    ("item-effects", "fold.items"),
    ("user-changes", "vectors"),
    ("item-rows", "ranker"),
    ("items", "ranker"),
)
"""Topic and who reads it, in the order in which a record's effects travel. `ranker` = every ranker that reports."""

PER_GENERATION: Final = ("events", "item-effects")


@dataclass(frozen=True)
class Lag:
    """One reader of one topic.

    Attributes
    ----------
    records : int
        Still to read, over all partitions.
    """

    topic: str
    reader: str
    records: int


class Progress:
    """Asks Kafka for ends and Redis for positions. Not thread safe.

    Parameters
    ----------
    settings : Settings
        Resolved.
    client : Redis
    generation : int
        Active generation.
    stages : sequence of (topic, reader), optional
        Leave out what does not run.
    """

    def __init__(
        self,
        settings: Settings,
        client: Redis,
        *,
        generation: int = 1,
        stages: tuple[tuple[str, str], ...] = STAGES,
    ) -> None:
        self._settings, self._client, self._generation, self._stages = settings, client, generation, stages
        self._offsets = OffsetClient(settings.kafka.bootstrap)
        self._readers: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def topic(self, name: str) -> str:
        """Full name of a topic."""
        return self._settings.topic(name, self._generation if name in PER_GENERATION else None)

    def _partitions(self, topic: str) -> int:
        """Partitions of a topic: those of the settings, unless the namespace was repartitioned."""
        if self._generation == 1:
            return self._settings.stack.partitions
        if topic not in self._counts:
            counts = partition_counts(self._settings.kafka.bootstrap, [topic])
            self._counts[topic] = counts.get(topic, self._settings.stack.partitions)
        return self._counts[topic]

    def ends(self, name: str) -> dict[int, int]:
        """Next offset of each partition of a topic."""
        topic = self.topic(name)
        tps = [Tp(topic, partition) for partition in range(self._partitions(topic))]
        return {tp.partition: end for tp, end in self._offsets.ends(tps).items()}

    def positions(self, name: str, reader: str) -> dict[int, int]:
        """Next offset that a reader will read, by partition; partitions it never reported are absent."""
        topic, prefix = self.topic(name), f"{self._settings.namespace}:position:{reader}:"
        partitions = range(self._partitions(topic))
        with translated("reading positions"):
            pipe: Any = self._client.pipeline(transaction=False)
            for partition in partitions:
                pipe.hget(f"{prefix}{partition}", topic)
            found = pipe.execute()
        return {partition: int(value) for partition, value in zip(partitions, found, strict=True) if value is not None}

    def readers(self, kind: str) -> list[str]:
        """Names of the readers of a kind: itself, or all that have reported and begin with it (rankers)."""
        if kind.startswith("fold.") or kind == "vectors":
            return [kind]
        if kind not in self._readers:
            prefix = f"{self._settings.namespace}:position:"
            with translated("looking for readers"):
                keys = [key.decode() for key in self._client.scan_iter(match=f"{prefix}{kind}*", count=1000)]
            found = sorted({key.removeprefix(prefix).rpartition(":")[0] for key in keys})
            if not found:
                return [kind]
            self._readers[kind] = found
        return self._readers[kind]

    def lags(self) -> list[Lag]:
        """Every reader's lag now. Ticks are records too, so that a live system's lag is seldom 0 for long."""
        out = []
        for name, kind in self._stages:
            ends = self.ends(name)
            for reader in self.readers(kind):
                out.append(Lag(name, reader, _behind(ends, self.positions(name, reader))))
        return out

    def wait(
        self, *, timeout_s: float, pause_s: float = 0.01, clock: Callable[[], float] = time.monotonic
    ) -> dict[str, int]:
        """Wait until everything produced before the call, and everything that came of it, has gone through.

        Returns
        -------
        dict of str to int
            Topic -> the records that were still to be read when it was looked at first.

        Raises
        ------
        LagError
            A reader is still behind after `timeout_s`.
        """
        end_s = clock() + timeout_s
        first: dict[str, int] = {}
        for name, kind in self._stages:
            ends = self.ends(name)
            for reader in self.readers(kind):
                while behind := _behind(ends, self.positions(name, reader)):
                    first.setdefault(name, behind)
                    if clock() > end_s:
                        raise LagError(
                            f"{reader} is still {behind} records behind on {self.topic(name)} after {timeout_s:g} s; "
                            "is it up (`liverank status`)?"
                        )
                    time.sleep(pause_s)
            first.setdefault(name, 0)
        return first

    def outboxes(self) -> dict[str, int]:
        """Fold -> partitions whose outbox holds more than ticks: an idle partition keeps its last one (fold.md 13)."""
        out: dict[str, int] = {}
        for fold, kind in (("users", "u"), ("items", "i")):
            store = FencedStore(
                self._client, namespace=self._settings.namespace, generation=self._generation, kind=kind
            )
            out[fold] = sum(
                any(_more_than_ticks(blob) for blob in store.outbox(partition))
                for partition in range(self._partitions(self.topic("events")))
            )
        return out


def _behind(ends: Mapping[int, int], positions: Mapping[int, int]) -> int:
    return sum(max(0, end - positions.get(partition, 0)) for partition, end in ends.items())


def _more_than_ticks(blob: bytes) -> bool:
    dirty, outputs = decode_outbox(blob)
    return bool(dirty) or any(output.topic != "item-effects" for output in outputs)
