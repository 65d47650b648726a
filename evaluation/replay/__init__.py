"""Prequential replay of recorded data: before an event is told, the system says what it would have shown."""

from __future__ import annotations

from evaluation.replay.baselines import Popularity
from evaluation.replay.plan import ReplayPlan, Sampled, sample, user_state
from evaluation.replay.replayer import Replayer
from evaluation.replay.report import ReplayReport, judge

__all__ = ["Popularity", "ReplayPlan", "ReplayReport", "Replayer", "Sampled", "judge", "sample", "user_state"]
