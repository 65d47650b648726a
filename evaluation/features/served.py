"""Feature rows as they were served: from the decisions in the archive and those that only the log has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from features.archive import last_offset, part_dir, read_part
from liverank.kafka import LogReader, Record, Tp, end_offsets, partition_counts
from liverank.settings import Settings
from liverank.v1.decision_pb2 import MODE_SHADOW, Decision

__all__ = ["columns", "served_decisions"]


def served_decisions(settings: Settings, *, since_ms: int = 0, until_ms: int = 1 << 62) -> list[Decision]:
    """Decisions with feature rows that were made in [since_ms, until_ms), by time; shadow ones are left out.

    Raises
    ------
    UnavailableError
        Kafka is away.
    """
    found = []
    for record in _records(settings):
        try:
            made = Decision.FromString(record.value)
        except DecodeError:
            continue
        if (
            since_ms <= made.decided_ts_ms < until_ms
            and made.mode != MODE_SHADOW
            and made.slots
            and made.feature_names
            and made.slots[0].features
        ):
            found.append(made)
    return sorted(found, key=lambda made: (made.decided_ts_ms, made.request_id))


def _records(settings: Settings) -> Iterator[Record]:
    topic = settings.topic("decisions")
    n = partition_counts(settings.kafka.bootstrap, [topic]).get(topic, 0)
    following = {}
    for partition in range(n):
        folder = part_dir(settings, "decisions", 0, partition)
        following[Tp(topic, partition)] = last_offset(folder) + 1
        yield from read_part(folder, topic, partition)
    ends = end_offsets(settings.kafka.bootstrap, list(following))
    left = {tp: end for tp, end in ends.items() if end > following[tp]}
    if not left:
        return
    reader = LogReader(settings.kafka.bootstrap, {tp: following[tp] for tp in left}, name="served")
    try:
        while left:
            for record in reader.poll_batch(2000, 1.0):
                yield record
                tp = Tp(record.topic, record.partition)
                if record.offset + 1 >= ends[tp]:
                    left.pop(tp, None)
    finally:
        reader.close()


def columns(decisions: Iterable[Decision]) -> Mapping[str, NDArray[np.float64]]:
    """Values by feature, one slot a decision (by hash of its id): slots of one reply are not independent."""
    rows: dict[str, list[float]] = defaultdict(list)
    for made in decisions:
        slot = made.slots[sum(made.request_id.encode()) % len(made.slots)]
        for name, value in zip(made.feature_names, slot.features, strict=False):
            rows[name].append(value)
    return {name: np.array(values, dtype=np.float64) for name, values in rows.items()}
