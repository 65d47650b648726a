"""Prequential replay of recorded data: before an event is told, the system says what it would have shown."""

from __future__ import annotations

from evaluation.replay.baselines import Popularity
from evaluation.replay.plan import REPEATS_FROM, ReplayPlan, Sampled, repeat_share, sample, user_state
from evaluation.replay.replayer import Replayer
from evaluation.replay.report import ReplayReport, judge

__all__ = [
    "REPEATS_FROM",
    "Popularity",
    "ReplayPlan",
    "ReplayReport",
    "Replayer",
    "Sampled",
    "judge",
    "repeat_share",
    "sample",
    "user_state",
]
