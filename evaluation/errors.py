"""Errors of evaluation.

LiverankError
├── LagError         (UnavailableError)  the pipeline did not catch up in time
├── PolicyHeldError  (ConfigError)       the log does not speak for a policy that was to go out
└── ProofError       (ConfigError)       the proof or the replay cannot be made here
"""

from __future__ import annotations

from liverank.errors import ConfigError, UnavailableError


class LagError(UnavailableError):
    """A reader is still behind when the time is over."""


class PolicyHeldError(ConfigError):
    """The gate holds a policy; nothing was changed."""


class ProofError(ConfigError):
    """What a proof or a replay needs is not there."""
