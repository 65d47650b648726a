"""The topics of a namespace and their broker settings (docs/specs/topics.md)."""

from __future__ import annotations

from typing import Final

from liverank.settings import Settings

__all__ = ["MESSAGE_MAX_BYTES", "RETENTION_MS", "topic_specs"]

_DAY_MS = 24 * 3600 * 1000
#: Life of the log. The compaction lag of `items` is the same: every catalogue version an event can ask for is there.
RETENTION_MS: Final = 7 * _DAY_MS
#: One record is at most this (an event is at most 64 KiB, a fully logged decision about 138 KiB).
MESSAGE_MAX_BYTES: Final = 4 * 1024 * 1024


def topic_specs(
    settings: Settings, generation: int, *, n_folds: int | None = None
) -> dict[str, tuple[int, dict[str, str]]]:
    """Every topic of the namespace: full name -> (partitions, broker settings). The table of docs/specs/topics.md.

    Parameters
    ----------
    n_folds : int, optional
        Partitions of the generation's own topics where they differ from the others': after a repartition.
    """
    n = settings.stack.partitions
    n_folds = n if n_folds is None else n_folds
    data = settings.clock == "data"
    base = {"max.message.bytes": str(MESSAGE_MAX_BYTES), "compression.type": "producer"}
    base["message.timestamp.type"] = "CreateTime" if data else "LogAppendTime"
    if data:
        # The broker refuses records from far outside its own present unless told otherwise.
        base["message.timestamp.before.max.ms"] = str(2**63 - 1)
        base["message.timestamp.after.max.ms"] = str(2**63 - 1)

    def delete(days: int) -> dict[str, str]:
        return {**base, "cleanup.policy": "delete", "retention.ms": "-1" if data else str(days * _DAY_MS)}

    compact = {
        **base,
        "cleanup.policy": "compact",
        "min.compaction.lag.ms": str(2**63 - 1 if data else RETENTION_MS),
        "delete.retention.ms": str(RETENTION_MS),
    }
    return {
        settings.topic("events", generation): (n_folds, delete(7)),
        settings.topic("item-effects", generation): (n_folds, delete(7)),
        settings.topic("items"): (n, compact),
        settings.topic("decisions"): (n, delete(7)),
        settings.topic("item-rows"): (n, delete(1)),
        settings.topic("user-changes"): (n, delete(1)),
        settings.topic("examples"): (n, delete(7)),
        settings.topic("policy-snapshots"): (1, delete(7)),
        settings.topic("dead-letter"): (n, delete(7)),
    }
