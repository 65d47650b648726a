"""Errors of evaluation.

LiverankError
├── LagError      (UnavailableError)  the pipeline did not catch up in time
└── ProofError    (ConfigError)       the proof or the replay cannot be made here
"""

from __future__ import annotations

from liverank.errors import ConfigError, UnavailableError


class LagError(UnavailableError):
    """A reader is still behind when the time is over."""


class ProofError(ConfigError):
    """What a proof or a replay needs is not there."""
