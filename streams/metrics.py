"""What a stream worker tells Prometheus."""

from __future__ import annotations

import time
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

__all__ = ["PROGRAM_INVALID", "PROGRAM_PENDING", "FoldMetrics", "StepClock"]

_FAST: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_RECORDS = Counter("liverank_fold_records", "Records folded", ["fold"])
_CALLS = Counter("liverank_fold_calls", "Fenced calls", ["fold"])
_REFUSED = Counter(
    "liverank_fold_fence_refusals", "Fenced calls refused: another owner, or a rolled back store", ["fold"]
)
_RETRIES = Counter("liverank_fold_retries", "Attempts repeated because Redis or Kafka was away", ["fold"])
_DEAD = Counter("liverank_fold_dead_letters", "Records sent to the dead letters", ["fold", "reason"])
_CPU = Counter("liverank_fold_cpu_seconds", "CPU of the fold's thread by step", ["fold", "step"])
_LAG = Gauge("liverank_fold_lag", "Records of the log that are not folded", ["fold", "partition"])
_OWNED = Gauge("liverank_fold_partitions", "Partitions owned", ["fold"])
_CACHED = Gauge("liverank_fold_cached_states", "States in memory", ["fold"])
_FENCE_S = Histogram("liverank_fold_fence_seconds", "Fence of a poll", ["fold"], buckets=_FAST)
_PUBLISH_S = Histogram("liverank_fold_publish_seconds", "Publish of a poll", ["fold"], buckets=_FAST)
_WAIT_S = Histogram("liverank_fold_catalogue_wait_s", "Wait of a poll for the catalogue", ["fold"], buckets=_FAST)
_FRESH_S = Histogram("liverank_fold_freshness_seconds", "From append to published", ["fold"], buckets=_FAST)

PROGRAM_INVALID = Gauge("liverank_program_invalid", "1 while the published feature program is invalid and ignored")
PROGRAM_PENDING = Gauge("liverank_program_pending_views", "Views of the registry that are not served in full yet")


class FoldMetrics:
    """Metrics of one fold instance: the label `fold` is its name."""

    def __init__(self, fold: str) -> None:
        self._fold = fold
        self.records = _RECORDS.labels(fold)
        self.calls = _CALLS.labels(fold)
        self.refused = _REFUSED.labels(fold)
        self.retries = _RETRIES.labels(fold)
        self.owned = _OWNED.labels(fold)
        self.cached = _CACHED.labels(fold)
        self.fence_s = _FENCE_S.labels(fold)
        self.publish_s = _PUBLISH_S.labels(fold)
        self.catalogue_wait_s = _WAIT_S.labels(fold)
        self.freshness_s = _FRESH_S.labels(fold)

    def dead_letter(self, reason: str) -> None:
        """Count a dead letter."""
        _DEAD.labels(self._fold, reason).inc()

    def lag(self, partition: int, records: int) -> None:
        """Set the lag of a partition."""
        _LAG.labels(self._fold, str(partition)).set(records)

    def forget(self, partition: int) -> None:
        """Note that the partition is no longer owned."""
        _LAG.labels(self._fold, str(partition)).set(0)

    def cpu(self, step: str, seconds: float) -> None:
        """Count CPU of the fold's thread."""
        _CPU.labels(self._fold, step).inc(seconds)


class StepClock:
    """CPU of this thread by step: `mark("fence")` books everything since the mark before. About 0.6 us a mark."""

    def __init__(self) -> None:
        self.ns: dict[str, int] = {}
        self._last = time.thread_time_ns()

    def mark(self, step: str) -> None:
        """Book the CPU since the last mark under `step`."""
        now = time.thread_time_ns()
        self.ns[step] = self.ns.get(step, 0) + now - self._last
        self._last = now

    def take(self) -> dict[str, int]:
        """Return and reset what was booked."""
        taken, self.ns = self.ns, {}
        return taken
