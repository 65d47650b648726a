"""Errors of the stream workers.

LiverankError
├── StaleError
│   ├── FenceError          another owner moved this partition: drop everything in memory
│   └── GenerationOverError another generation is live: the worker ends and is started anew
├── CorruptError
│   ├── OutboxError         the outbox's bytes cannot be read
│   ├── StateLostError      a partition has no state though its log or archive has a past: `liverank rebuild`
│   └── FoldBugError        a fold or the engine broke its own rule; the worker stops
└── ConfigError
    └── WorkerConfigError   the worker's settings contradict each other or the namespace
"""

from __future__ import annotations

from liverank.errors import ConfigError, CorruptError, StaleError

__all__ = ["FenceError", "FoldBugError", "GenerationOverError", "OutboxError", "StateLostError", "WorkerConfigError"]


class FenceError(StaleError):
    """A fenced write was refused: the stored (epoch, position) is not the one this owner left.

    Attributes
    ----------
    partition : int
    """

    def __init__(self, partition: int, detail: str) -> None:
        super().__init__(f"partition {partition}: {detail}")
        self.partition = partition


class GenerationOverError(StaleError):
    """The generation that this worker folds is not the live one any more."""


class OutboxError(CorruptError):
    """The outbox's bytes cannot be read."""


class StateLostError(CorruptError):
    """There is no state where there must be one; starting from nothing would lose the past."""


class WorkerConfigError(ConfigError):
    """The worker's settings contradict each other or the namespace."""


class FoldBugError(CorruptError):
    """A fold or the engine broke its own rule. Nothing was written; the worker must stop."""
