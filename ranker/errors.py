"""Errors of the ranker.

RankerConfigError      (ConfigError)            rules, routing tables, experiments or weights break their own rules
RequestError           (ContractError)          a request breaks the contract; its reason is a code of docs/api.md
RequestConflictError   (RequestError)           the request id was used for another request
NotReadyError          (UnavailableError)       the ranker has not loaded what it needs yet; retry
TrackUnavailableError  (UnavailableError)       the broker did not acknowledge in time; retry with the same key
DecisionNotFoundError  (NotFoundError)          no decision with this request id in the log
ItemNotFoundError      (NotFoundError)          an item that the catalogue does not know
NotReproducibleError   (NotFoundError)          the log does not hold what the draw of a decision depends on
RequestTimeoutError    (DeadlineExceededError)  the deadline passed before a reply could be made
"""

from __future__ import annotations

from liverank.errors import ConfigError, ContractError, DeadlineExceededError, NotFoundError, UnavailableError


class RankerConfigError(ConfigError):
    """Rules, routing tables, experiments or weights break their own rules."""


class RequestError(ContractError):
    """A request breaks the contract; nothing was done."""


class RequestConflictError(RequestError):
    """The request id was used before, for another request."""


class NotReadyError(UnavailableError):
    """What the call needs is not loaded yet."""


class TrackUnavailableError(UnavailableError):
    """The broker did not acknowledge in time; a repeat with the same idempotency key is harmless."""


class DecisionNotFoundError(NotFoundError):
    """No decision with this request id lies in the log."""


class NotReproducibleError(NotFoundError):
    """The log does not hold what the draw of a decision depends on."""


class RequestTimeoutError(DeadlineExceededError):
    """The deadline passed before a reply could be made."""


class ItemNotFoundError(NotFoundError):
    """The catalogue does not know an item."""
