"""Errors of off-policy evaluation.

OffPolicyError (root; never raised itself)
├── InvalidLogError   a log has wrong shapes, impossible probabilities or lacks a column that an estimator needs
└── NoSupportError    the log cannot tell what the policy would have earned; the estimate is refused
"""

from __future__ import annotations

from liverank.errors import ContractError, LiverankError


class OffPolicyError(LiverankError):
    """Root of the errors of this package."""


class InvalidLogError(OffPolicyError, ContractError):
    """A log that breaks its contract."""

    def __init__(self, detail: str) -> None:
        ContractError.__init__(self, "invalid_log", detail)


class NoSupportError(OffPolicyError, ContractError):
    """Estimates are refused; the message holds the diagnostics that say why."""

    def __init__(self, detail: str) -> None:
        ContractError.__init__(self, "no_support", detail)
