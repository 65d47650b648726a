"""Errors of bandits.

BanditsError (root; never raised itself)
├── InvalidStatisticsError  an update, a merge or a draw has a wrong shape or is not finite; nothing was changed
├── UnknownPolicyError      a policy specification names no registered policy or parameter
├── InvalidPolicyError      a hyper-parameter is outside its range
└── CorruptStatisticsError  bytes of statistics or of a snapshot cannot be read
"""

from __future__ import annotations

from liverank.errors import ConfigError, ContractError, CorruptError, LiverankError


class BanditsError(LiverankError):
    """Root of the errors of this package."""


class InvalidStatisticsError(BanditsError, ContractError):
    """Input of an update, a merge or a draw breaks its contract; state is untouched."""

    def __init__(self, detail: str) -> None:
        ContractError.__init__(self, "malformed", detail)


class UnknownPolicyError(BanditsError, ConfigError):
    """No such policy or parameter."""


class InvalidPolicyError(BanditsError, ConfigError, ValueError):
    """A hyper-parameter is outside its range."""


class CorruptStatisticsError(BanditsError, CorruptError):
    """Bytes are cut, altered or of an unknown version."""
