"""Decisions, snapshots and rewards of a namespace: from the archive, then from the topic's end."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from features.archive import part_dir, read_part
from features.examples import examples_dir, read_examples
from liverank.kafka import LogReader as TopicReader
from liverank.kafka import OffsetClient, Record, Tp, partition_counts
from liverank.settings import Settings
from liverank.v1 import decision_pb2

DAY_MS: Final = 86_400_000
LIVE_MODES: Final = (decision_pb2.MODE_SERVE, decision_pb2.MODE_PREFETCH)


@dataclass(frozen=True)
class Outcome:
    """What a shown slot earned, once its window was closed.

    Attributes
    ----------
    reward
        In clicks.
    clicked, dismissed
        Whether it was.
    """

    reward: float
    clicked: bool
    dismissed: bool


class Thinned:
    """A sample of decisions of bounded size: all of them, or, of more, an even share by hash of the request id.

    What weights and rewards need is kept of each; features and candidates are not.

    Parameters
    ----------
    most
        Largest number that is kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._below = 1 << 32
        self._kept: list[tuple[int, decision_pb2.Decision]] = []
        self.n_seen = 0

    @property
    def share(self) -> float:
        """Of the decisions that were offered."""
        return self._below / (1 << 32)

    @property
    def decisions(self) -> list[decision_pb2.Decision]:
        """What was kept, in the order it was offered."""
        return [made for _, made in self._kept]

    def offer(self, made: decision_pb2.Decision) -> None:
        """Keep a decision, if its hash is among the share."""
        self.n_seen += 1
        digest = int.from_bytes(hashlib.blake2b(made.request_id.encode(), digest_size=4).digest(), "big")
        if digest >= self._below:
            return
        self._kept.append((digest, _slim(made)))
        while len(self._kept) > self._most:
            self._below //= 2
            self._kept = [one for one in self._kept if one[0] < self._below]


def _slim(made: decision_pb2.Decision) -> decision_pb2.Decision:
    slim = decision_pb2.Decision(
        request_id=made.request_id,
        decided_ts_ms=made.decided_ts_ms,
        surface=made.surface,
        arm=made.arm,
        policy=made.policy,
        base_model=made.base_model,
        snapshot=made.snapshot,
        cap=made.cap,
    )
    for slot in made.slots:
        slim.slots.add(
            item_id=slot.item_id,
            variant_id=slot.variant_id,
            propensity=slot.propensity,
            pinned=slot.pinned,
            explored=slot.explored,
            score=slot.score,
            greedy_score=slot.greedy_score,
            posterior_mean=slot.posterior_mean,
            posterior_sd=slot.posterior_sd,
            effective_floor=slot.effective_floor,
            n_feasible=slot.n_feasible,
        )
    return slim


class LogReader:
    """Reads what a namespace logged.

    Parameters
    ----------
    settings
        Resolved.
    now_ms
        Days are counted back from here; None = now.
    """

    def __init__(self, settings: Settings, *, now_ms: int | None = None) -> None:
        self._settings = settings
        self.now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms

    def since_ms(self, days: float) -> int:
        """Begin of a span of days that ends now; 0 days = everything."""
        return 0 if days <= 0 else self.now_ms - int(days * DAY_MS)

    def decisions(self, days: float, *, drawn: bool = True) -> Iterator[decision_pb2.Decision]:
        """Decisions that were shown to somebody, partition by partition, in order.

        Parameters
        ----------
        days
            The last so many; 0 = all.
        drawn
            Only those that a policy drew.
        """
        since_ms = self.since_ms(days)
        for record in self._records("decisions", since_ms):
            try:
                made = decision_pb2.Decision.FromString(record.value)
            except DecodeError:
                continue  # the archive keeps what anybody wrote to the topic
            if made.mode in LIVE_MODES and made.decided_ts_ms >= since_ms and (made.drawn or not drawn):
                yield made

    def snapshots(self, wanted: Collection[str]) -> Mapping[str, bytes]:
        """Bytes of the snapshots of these ids; those that the log does not hold are left out."""
        left = {one.encode() for one in wanted if one}
        found: dict[str, bytes] = {}
        if left:
            for record in self._records("policy-snapshots", 0):
                if record.key in left and record.key is not None:
                    found[record.key.decode()] = record.value
                    left.discard(record.key)
                    if not left:
                        break
        return found

    def outcomes(self, days: float) -> Mapping[tuple[str, int], Outcome]:
        """Outcome by (request id, position from 1) of every slot whose window is closed."""
        table = read_examples(examples_dir(self._settings), since_ms=self.since_ms(days))
        columns = table.select(["request_id", "position", "reward", "outcome_click", "outcome_dismiss"]).to_pydict()
        return {
            (request, int(position)): Outcome(float(reward or 0.0), bool(click), bool(dismiss))
            for request, position, reward, click, dismiss in zip(*columns.values(), strict=True)
        }

    def _records(self, topic: str, since_ms: int) -> Iterator[Record]:
        name, bootstrap = self._settings.topic(topic), self._settings.kafka.bootstrap
        n = partition_counts(bootstrap, [name]).get(name, 0)
        tps = [Tp(name, partition) for partition in range(n)]
        offsets = OffsetClient(bootstrap)
        begins, ends = offsets.begins(tps), offsets.ends(tps)
        starts = offsets.at(tps, since_ms) if since_ms else dict.fromkeys(tps, 0)
        for tp in tps:
            start = starts[tp]
            if start < 0:
                continue  # nothing since then
            folder = part_dir(self._settings, topic, 0, tp.partition)
            following = start
            for record in read_part(folder, name, tp.partition, start=start):
                yield record
                following = record.offset + 1
            yield from self._tail(tp, max(following, begins[tp]), ends[tp])

    def _tail(self, tp: Tp, start: int, end: int) -> Iterator[Record]:
        """What the archive does not hold yet."""
        if start >= end:
            return
        reader = TopicReader(self._settings.kafka.bootstrap, {tp: start}, name="exploration")
        try:
            following, idle = start, 0
            while following < end and idle < 50:
                records = reader.poll_batch(2_000, 0.2)
                idle = 0 if records else idle + 1
                for record in records:
                    if record.offset < end:
                        yield record
                    following = record.offset + 1
        finally:
            reader.close()
