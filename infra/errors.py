"""Errors of the local stack.

InfraError
├── StackError             a part of the stack could not be started or stopped
├── ChecksumError          a downloaded file is not the pinned one
└── MissingDownloadError   a file is neither in the cache nor reachable
"""

from __future__ import annotations

from liverank.errors import ConfigError, CorruptError, LiverankError, UnavailableError


class InfraError(LiverankError):
    """Root of the errors of `infra`."""


class StackError(InfraError, ConfigError):
    """A part of the stack could not be started or stopped; the message names its log file."""


class ChecksumError(InfraError, CorruptError):
    """A downloaded file differs from the one whose checksum is pinned in the project."""


class MissingDownloadError(InfraError, UnavailableError):
    """A file is not in the cache and could not be fetched."""
