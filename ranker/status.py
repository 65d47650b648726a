"""One table: which error is which gRPC status and which HTTP status."""

from __future__ import annotations

from typing import Final

import grpc

from liverank.errors import (
    ConfigError,
    ContractError,
    CorruptError,
    DeadlineExceededError,
    LiverankError,
    NotFoundError,
    StaleError,
    UnavailableError,
)
from ranker.errors import RequestConflictError

# The first kind that an error is an instance of decides, so special cases come first.
TABLE: Final[tuple[tuple[type[LiverankError], grpc.StatusCode, int], ...]] = (
    (RequestConflictError, grpc.StatusCode.ALREADY_EXISTS, 409),
    (ContractError, grpc.StatusCode.INVALID_ARGUMENT, 400),
    (NotFoundError, grpc.StatusCode.NOT_FOUND, 404),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE, 503),
    (DeadlineExceededError, grpc.StatusCode.DEADLINE_EXCEEDED, 504),
    (StaleError, grpc.StatusCode.ABORTED, 409),
    (CorruptError, grpc.StatusCode.DATA_LOSS, 500),
    (ConfigError, grpc.StatusCode.FAILED_PRECONDITION, 500),
)


def status_of(error: LiverankError) -> tuple[grpc.StatusCode, int]:
    """gRPC and HTTP status of an error; INTERNAL and 500 for one without a kind."""
    for kind, code, http in TABLE:
        if isinstance(error, kind):
            return code, http
    return grpc.StatusCode.INTERNAL, 500


def reason_of(error: LiverankError) -> str:
    """Reason code: that of the contract where there is one, else the name of the error."""
    return error.reason if isinstance(error, ContractError) else type(error).__name__
