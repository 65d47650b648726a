"""Metrics of a ranker, in the default Prometheus registry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client import Counter, Gauge, Histogram, Summary

_MS: Final = (1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 75, 100, 200, 500, 1000)

RANK_MS: Final = Histogram("liverank_rank_ms", "Time of a Rank in the process, ms, without waiting.", buckets=_MS)
STAGE_MS: Final = Summary("liverank_rank_stage_ms", "Time of the stages of a Rank, ms.", ("stage",))
QUEUE_MS: Final = Histogram("liverank_rank_queue_ms", "Time that a Rank waited for its turn, ms.", buckets=_MS)
RANKS: Final = Counter("liverank_ranks_total", "Rank replies by policy.", ("policy",))
RUNGS: Final = Counter("liverank_rungs_total", "Degrade rungs taken by Rank replies.", ("rung",))
ERRORS: Final = Counter("liverank_request_errors_total", "Requests that ended in an error.", ("method", "reason"))
TRACKED: Final = Counter("liverank_tracked_events_total", "Events of Track calls.", ("outcome",))
LOG_LOST: Final = Counter("liverank_replies_lost_total", "Replies whose records the local queue did not take.")
DELIVERY_FAILED: Final = Counter(
    "liverank_delivery_failures_total", "Records that the broker did not take.", ("error",)
)
RECALL: Final = Gauge("liverank_ann_recall", "Recall@100 of the vector index in the last probe.")
INDEX_EXACT: Final = Gauge("liverank_ann_exact", "1 while vectors are searched exactly because recall was too low.")
ITEMS: Final = Gauge("liverank_items", "Items in the table.")
VECTORS: Final = Gauge("liverank_item_vectors", "Items with a vector.")
POSTERIOR_READ_S: Final = Gauge("liverank_posterior_read_timestamp", "When the bandit's statistics were last read.")
POSTERIOR_HASH: Final = Gauge(
    "liverank_posterior_hash", "First 52 bits of the hash of the bandit's statistics: equal on all replicas that agree."
)
LEARNED_SHOWN: Final = Gauge(
    "liverank_learned_shown", "Shown slots in the sums of a learner beyond the shared one.", ["learner"]
)
LEARNED_HASH: Final = Gauge(
    "liverank_learned_hash", "Beginning of the snapshot's id of a learner beyond the shared one.", ["learner"]
)
POSTERIOR_SHOWN: Final = Gauge("liverank_posterior_shown", "Shown slots in the bandit's statistics.")
HOT_VERSION: Final = Gauge("liverank_hot_settings_version", "Version of the hot settings that is applied; 0 = none.")
HOT_REFUSED: Final = Gauge("liverank_hot_settings_refused", "1 while the newest hot settings are invalid.")
EXPLORATION_ON: Final = Gauge("liverank_exploration_on", "0 while the kill switch holds.")
BUDGET_SPENT: Final = Counter(
    "liverank_new_item_exposures_total", "Explored exposures that new items' budgets paid for."
)
BUDGET_OVERSPENT: Final = Counter(
    "liverank_new_item_overspent_total", "Explored exposures of new items without a lease; always 0."
)
STALENESS_S: Final = Gauge(
    "liverank_feature_staleness_seconds", "How far the oldest partition of the user fold is behind the wall clock."
)
PROGRAM_INVALID: Final = Gauge(
    "liverank_ranker_program_invalid", "1 while the served feature program cannot be taken up; the one before is read."
)
FEED_RECORDS: Final = Counter("liverank_feed_records_total", "Catalogue records taken.", ("feed",))
EVENT_AGE_MS: Final = Histogram(
    "liverank_newest_event_age_ms",
    "Age of the newest event in the features of a Rank, ms.",
    buckets=(10, 50, 100, 250, 500, 1000, 5000, 30_000, 300_000, 3_600_000, 86_400_000),
)


def count_reply(policy: str, rungs: Iterable[str], stage_ms: Mapping[str, float], age_ms: int) -> None:
    """Count one reply; `age_ms` is that of the newest event, -1 = none. About 10 us."""
    RANKS.labels(policy).inc()
    for rung in rungs:
        RUNGS.labels(rung).inc()
    total_ms = 0.0
    for stage, ms in stage_ms.items():
        STAGE_MS.labels(stage).observe(ms)
        total_ms += ms
    RANK_MS.observe(total_ms)
    if age_ms >= 0:
        EVENT_AGE_MS.observe(age_ms)
