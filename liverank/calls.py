"""What the sync and the async client share: requests, retry rules, translation of gRPC errors. No network here."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import grpc

from liverank.errors import (
    ConfigError,
    ContractError,
    DeadlineExceededError,
    LiverankError,
    NotFoundError,
    UnavailableError,
)
from liverank.ids import event_id_of, uuid7
from liverank.v1 import personalization_pb2 as pb
from liverank.v1.decision_pb2 import MODE_SERVE, Mode
from liverank.v1.event_pb2 import Attribute, Context, Event, EventType

Value = str | float | bool

_REASON = re.compile(r"^(?P<reason>[a-z][a-z_]{2,40}): (?P<detail>.*)$", re.DOTALL)
_RETRYABLE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED})


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How often a call is tried, and how long it waits in between. The call's deadline covers all tries.

    Parameters
    ----------
    attempts : int
        Tries in all, 1 to 10.
    base_s, most_s : float
        The n-th wait is uniform in [0, min(most_s, base_s * 2**n)] (full jitter).
    """

    attempts: int = 3
    base_s: float = 0.05
    most_s: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.attempts <= 10:
            raise ConfigError(f"attempts lies in 1 to 10, got {self.attempts}")
        if not 0 < self.base_s <= self.most_s:
            raise ConfigError(f"0 < base_s <= most_s is required, got {self.base_s} and {self.most_s}")

    def wait_s(self, error: grpc.RpcError, attempt: int, left_s: float, rng: random.Random) -> float | None:
        """Seconds to wait before the next try; None where the error is final or the time does not suffice."""
        if attempt + 1 >= self.attempts or status_of(error) not in _RETRYABLE:
            return None
        wait_s = rng.uniform(0.0, min(self.most_s, self.base_s * 2.0**attempt))
        return wait_s if wait_s < left_s else None


def status_of(error: grpc.RpcError) -> grpc.StatusCode:
    """Status of a failed call."""
    code = getattr(error, "code", None)
    return code() if callable(code) else grpc.StatusCode.UNKNOWN


def translate(error: grpc.RpcError, method: str, address: str) -> LiverankError:
    """The error of `liverank.errors` that a failed call means."""
    status = status_of(error)
    details = getattr(error, "details", None)
    text = (details() if callable(details) else "") or status.name
    match = _REASON.match(text)
    reason, detail = (match["reason"], match["detail"]) if match else ("", text)
    if status is grpc.StatusCode.INVALID_ARGUMENT:
        return ContractError(reason or "invalid_argument", detail)
    if status is grpc.StatusCode.ALREADY_EXISTS:
        return ContractError(reason or "already_exists", detail)
    if status in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}:
        return ContractError(reason or "not_allowed", detail)
    if status is grpc.StatusCode.NOT_FOUND:
        return NotFoundError(text)
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceededError(f"{method} at {address} took longer than its deadline; raise deadline_s or retry")
    if status in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED}:
        return UnavailableError(f"{method} at {address}: {text}; is the ranker up (`liverank status`)?")
    if status is grpc.StatusCode.FAILED_PRECONDITION:
        return ConfigError(text)
    return LiverankError(f"{method} at {address} failed: {status.name}: {text}")


def rank_request(
    user_id: str,
    *,
    rng: random.Random,
    k: int = 10,
    anonymous_id: str = "",
    surface: str = "",
    context: Context | None = None,
    mode: Mode = MODE_SERVE,
    candidates: Iterable[str | pb.Candidate] = (),
    exclude_item_ids: Iterable[str] = (),
    filter: pb.Filter | None = None,
    consent: pb.Consent = pb.CONSENT_UNSPECIFIED,
    debug: bool = False,
    explain: bool = False,
    shadow: pb.ShadowOptions | None = None,
    request_id: str = "",
) -> pb.RankRequest:
    """A Rank request. Its request_id is made here, so that a retry of the call is the same request."""
    return pb.RankRequest(
        request_id=request_id or uuid7(now_ms(), rng),
        user_id=user_id,
        anonymous_id=anonymous_id,
        k=k,
        surface=surface,
        context=context,
        mode=mode,
        candidates=[pb.Candidate(item_id=c) if isinstance(c, str) else c for c in candidates],
        exclude_item_ids=list(exclude_item_ids),
        filter=filter,
        consent=consent,
        debug=debug,
        explain=explain,
        shadow=shadow,
    )


def track_request(events: Sequence[Event], *, rng: random.Random, idempotency_key: str = "") -> pb.TrackRequest:
    """A Track request whose events all have ids, so that a retry of the call repeats nothing."""
    key = idempotency_key or uuid7(now_ms(), rng)
    request = pb.TrackRequest(events=events, idempotency_key=key)
    for index, event in enumerate(request.events):
        if not event.event_id:
            event.event_id = event_id_of(key, index)
    return request


def new_event(
    type: str,
    *,
    user_id: str = "",
    item_id: str = "",
    session_id: str = "",
    value: float = 0.0,
    request_id: str = "",
    position: int = 0,
    surface: str = "",
    event_ts_ms: int | None = None,
    event_id: str = "",
    context: Context | None = None,
    attributes: Mapping[str, Value] | None = None,
    rng: random.Random | None = None,
) -> Event:
    """An event with an id and a time.

    Parameters
    ----------
    type : str
        Short or full name: `click` or `EVENT_TYPE_CLICK`.
    event_ts_ms : int, optional
        When it happened, ms since the UTC epoch; now, if not given.
    event_id : str
        Unique text; a UUIDv7, if not given.

    Raises
    ------
    ContractError
        `unknown_type`.

    Examples
    --------
    >>> new_event("click", user_id="u1", item_id="i1", position=2).position
    2
    """
    moment_ms = now_ms() if event_ts_ms is None else event_ts_ms
    return Event(
        event_id=event_id or uuid7(max(moment_ms, 0), rng or SYSTEM_RNG),
        type=cast(EventType, event_type(type)),
        user_id=user_id,
        session_id=session_id,
        item_id=item_id,
        event_ts_ms=moment_ms,
        value=value,
        request_id=request_id,
        position=position,
        surface=surface,
        context=context,
        attributes={name: attribute(v) for name, v in (attributes or {}).items()},
    )


def event_type(name: str) -> int:
    """The type of a short (`click`) or full (`EVENT_TYPE_CLICK`) name."""
    full = name if name.startswith("EVENT_TYPE_") else f"EVENT_TYPE_{name.upper()}"
    try:
        return int(EventType.Value(full))
    except ValueError as error:
        known = ", ".join(n.removeprefix("EVENT_TYPE_").lower() for n, v in EventType.items() if 0 < v < 50)
        raise ContractError("unknown_type", f"type is one of {known}, got {name[:64]!r}") from error


def attribute(value: Value) -> Attribute:
    """An attribute of a Python value."""
    if isinstance(value, bool):
        return Attribute(flag=value)
    return Attribute(text=value) if isinstance(value, str) else Attribute(number=value)


def now_ms() -> int:
    """This machine's clock, ms since the UTC epoch."""
    return time.time_ns() // 1_000_000


SYSTEM_RNG = random.SystemRandom()
