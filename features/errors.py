"""Errors of `features`.

FeaturesError
├── ProgramError (ConfigError)       feature definitions are wrong, or the program is missing
│   └── DefinitionError              the same at `feast apply`: one line, no traceback (features/generate.py)
├── OwnedViewError (ConfigError)     a foreign write to a view that a fold owns
├── RowFormatError (CorruptError)    stored bytes are not what this build writes
├── DriftError (ConfigError)         too little to compare
├── PointInTimeError (ConfigError)   rows as they were cannot be had for what was asked
├── SpaceError (ConfigError)         vectors of another space or length
├── StateConfigError (ConfigError)   a parameter of the state lies outside its range
└── StateFormatError (CorruptError)  a page of state is not what this build writes
"""

from __future__ import annotations

from liverank.errors import ConfigError, CorruptError, LiverankError

__all__ = [
    "DriftError",
    "FeaturesError",
    "OwnedViewError",
    "PointInTimeError",
    "ProgramError",
    "RowFormatError",
    "SpaceError",
    "StateConfigError",
    "StateFormatError",
]


class FeaturesError(LiverankError):
    """Root of the errors of `features`."""


class ProgramError(FeaturesError, ConfigError):
    """Feature definitions are wrong, or a program is missing or of another format."""


class OwnedViewError(FeaturesError, ConfigError):
    """Somebody but its fold wants to write a view that a fold owns."""


class RowFormatError(FeaturesError, CorruptError):
    """Stored bytes are not what this build writes."""


class DriftError(FeaturesError, ConfigError):
    """Drift or skew cannot be told from what is there."""


class PointInTimeError(FeaturesError, ConfigError):
    """Rows as they were cannot be had for what was asked."""


class SpaceError(FeaturesError, ConfigError):
    """Vectors of another space or length."""


class StateConfigError(FeaturesError, ConfigError):
    """A parameter of the state lies outside its range."""


class StateFormatError(FeaturesError, CorruptError):
    """A page of state is not what this build writes."""
