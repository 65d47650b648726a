"""Errors of training.

TrainingError
├── TooLittleDataError (ConfigError)   not enough rows or outcomes to learn anything
├── JoinError (CorruptError)           label rows lack their decisions
└── LeakageError (CorruptError)        a row read something that was not known yet
"""

from __future__ import annotations

from liverank.errors import ConfigError, CorruptError, LiverankError


class TrainingError(LiverankError):
    """Root of the errors of training."""


class TooLittleDataError(TrainingError, ConfigError):
    """Not enough rows or outcomes to learn anything."""


class JoinError(TrainingError, CorruptError):
    """Label rows lack their decisions."""


class LeakageError(TrainingError, CorruptError):
    """A row read something that was not known yet."""
