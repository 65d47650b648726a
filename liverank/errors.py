"""Errors of liverank.

LiverankError
├── ConfigError            settings, definitions or files are wrong; nothing was done
├── ContractError          input breaks the contract; carries a reason code
├── UnavailableError       a dependency is away; retryable
├── DeadlineExceededError  time ran out; retryable
├── CorruptError           stored or received bytes cannot be read; goes to the dead letters
├── StaleError             a fence refused: another owner writes this partition now
└── NotFoundError          the thing asked for does not exist

Every package subclasses these in its own `errors.py`. A message says what happened, what is allowed, what came, and
what to do.
"""

from __future__ import annotations


class LiverankError(Exception):
    """Root of all errors that liverank raises on purpose."""

    retryable = False


class ConfigError(LiverankError):
    """Settings, feature definitions or files are wrong."""


class ContractError(LiverankError, ValueError):
    """Input breaks the contract.

    Parameters
    ----------
    reason : str
        Code of docs/specs/dead-letters.md, e.g. ``malformed``.
    detail : str
        What is allowed, what came, what to do.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class UnavailableError(LiverankError):
    """A dependency (Kafka, Redis, a provider) is away."""

    retryable = True


class DeadlineExceededError(LiverankError):
    """Time ran out."""

    retryable = True


class CorruptError(LiverankError):
    """Bytes cannot be read."""


class StaleError(LiverankError):
    """A fence refused: this process no longer owns the partition."""


class NotFoundError(LiverankError, LookupError):
    """The thing asked for does not exist."""
