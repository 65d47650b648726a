"""Errors of training.

TrainingError
├── TooLittleDataError (ConfigError)   not enough rows or outcomes to learn anything
├── NotSetUpError (ConfigError)        the namespace has no feature program
├── NotBetterError (ConfigError)       the model orders held-out rows no better than a coin
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


class NotSetUpError(TrainingError, ConfigError):
    """The namespace has no feature program."""


class NotBetterError(TrainingError, ConfigError):
    """The model orders held-out rows no better than a coin; it is written, not active."""
