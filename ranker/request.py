"""A Rank request, checked: what is allowed is said once, here, and every refusal names it."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from bandits import parse
from bandits.errors import BanditsError
from liverank.errors import ContractError
from liverank.ids import uuid7, uuid7_ms
from liverank.v1 import decision_pb2, event_pb2
from liverank.v1 import personalization_pb2 as pb
from ranker.errors import RequestError

MAX_K = 200
MAX_IDS = 2_000
MAX_ID_BYTES = 128
MAX_CONDITIONS = 32
MAX_VALUES = 1_000
REQUEST_ID_WINDOW_MS = 5 * 60 * 1000

_FIELDS_TEXT = ("category", "creator")
_FIELDS_NUMBER = ("price", "published_ts_ms")


@dataclass(frozen=True, kw_only=True)
class RankQuery:
    """A Rank request that passed every check.

    Attributes
    ----------
    request_id
        UUIDv7 of the caller or of the server.
    callers_id
        Whether the caller gave it (only then can a retry come).
    subject
        User id, or anonymous id where there is none.
    anonymous
        Whether the subject is an anonymous id.
    k
        Slots asked for.
    surface
        Never empty.
    context
        As given.
    mode
        SERVE, PREFETCH or SHADOW.
    candidates
        The caller's own; empty = retrieve.
    exclude
        Ids never to return.
    filter
        As given, checked.
    personal
        False where consent was denied: no user features, nothing stored.
    debug, explain
        What the caller wants besides.
    shadow
        Options; the default message where mode is not SHADOW.
    without
        Layers that are switched off.
    request_hash
        SHA-256 of the request without its id.
    """

    request_id: str
    callers_id: bool
    subject: str
    anonymous: bool
    k: int
    surface: str
    context: event_pb2.Context
    mode: decision_pb2.Mode
    candidates: Sequence[pb.Candidate]
    exclude: frozenset[str]
    filter: pb.Filter
    personal: bool
    debug: bool
    explain: bool
    shadow: pb.ShadowOptions
    without: frozenset[int] = field(default=frozenset())
    request_hash: bytes = b""


def parse_rank(
    request: pb.RankRequest,
    *,
    now_ms: int,
    rng: random.Random,
    surfaces: Sequence[str] = (),
    any_time: bool = False,
) -> RankQuery:
    """Check a request.

    Parameters
    ----------
    request
        As received; not changed.
    now_ms
        The server's clock.
    rng
        Source of a request id where the caller gave none.
    surfaces
        Allowed surfaces; empty = any.
    any_time
        Take request ids of any time (replay of recorded time). Always so for SHADOW.

    Raises
    ------
    RequestError
        With a reason code: ``bad_request_id, missing_id, bad_value, too_large, unknown_surface, bad_filter,
        not_finite, not_allowed, unknown_policy``.
    """
    shadow = request.mode == decision_pb2.MODE_SHADOW
    _check_subject(request)
    if not 1 <= request.k <= MAX_K:
        raise RequestError("bad_value", f"k must be 1 to {MAX_K}, got {request.k}")
    if request.mode not in decision_pb2.Mode.values():
        raise RequestError("bad_value", f"mode must be SERVE, PREFETCH or SHADOW, got {request.mode}")
    surface = request.surface or "default"
    if len(surface.encode()) > 64:
        raise RequestError("too_large", "surface has at most 64 bytes")
    if surfaces and surface not in surfaces:
        raise RequestError("unknown_surface", f"surface must be one of {sorted(surfaces)}, got {surface!r}")
    _check_context(request.context)
    _check_candidates(request)
    check_filter(request.filter)
    _check_shadow(request, shadow)
    return RankQuery(
        request_id=_request_id(request, now_ms, rng, any_time or shadow),
        callers_id=bool(request.request_id),
        subject=request.user_id or request.anonymous_id,
        anonymous=not request.user_id,
        k=request.k,
        surface=surface,
        context=request.context,
        mode=request.mode or decision_pb2.MODE_SERVE,
        candidates=request.candidates,
        exclude=frozenset(request.exclude_item_ids),
        filter=request.filter,
        personal=request.consent != pb.CONSENT_DENIED,
        debug=request.debug,
        explain=request.explain,
        shadow=request.shadow,
        without=frozenset(request.shadow.without),
        request_hash=request_hash(request),
    )


def request_hash(request: pb.RankRequest) -> bytes:
    """SHA-256 of a request without its id: two requests are the same if this is."""
    copy = pb.RankRequest()
    copy.CopyFrom(request)
    copy.request_id = ""
    return hashlib.sha256(copy.SerializeToString(deterministic=True)).digest()


def _request_id(request: pb.RankRequest, now_ms: int, rng: random.Random, any_time: bool) -> str:
    if not request.request_id:
        return uuid7(now_ms, rng)
    try:
        made_ms = uuid7_ms(request.request_id)
    except ContractError as error:
        raise RequestError(error.reason, error.detail) from error
    if not any_time and abs(made_ms - now_ms) > REQUEST_ID_WINDOW_MS:
        raise RequestError(
            "bad_request_id",
            f"a request id is at most 5 min from the server's clock, got one {(now_ms - made_ms) / 1000:.0f} s old; "
            "make a new one",
        )
    return request.request_id.lower()


def _check_subject(request: pb.RankRequest) -> None:
    if not request.user_id and not request.anonymous_id:
        raise RequestError("missing_id", "one of user_id and anonymous_id is required, both are empty")
    for name in ("user_id", "anonymous_id"):
        if len(getattr(request, name).encode()) > MAX_ID_BYTES:
            raise RequestError("too_large", f"{name} has at most {MAX_ID_BYTES} bytes")


def _check_context(context: event_pb2.Context) -> None:
    if len(context.device.encode()) > 32 or len(context.region.encode()) > 32 or len(context.query.encode()) > 512:
        raise RequestError("too_large", "device and region have at most 32 bytes, query 512")
    if abs(context.utc_offset_minutes) > 840:
        raise RequestError("bad_value", f"utc_offset_minutes is -840 to 840, got {context.utc_offset_minutes}")
    if len(context.attributes) > 16:
        raise RequestError("too_large", f"context has at most 16 attributes, got {len(context.attributes)}")


def _check_candidates(request: pb.RankRequest) -> None:
    if len(request.candidates) > MAX_IDS or len(request.exclude_item_ids) > MAX_IDS:
        raise RequestError("too_large", f"at most {MAX_IDS} candidates and {MAX_IDS} exclude_item_ids")
    for candidate in request.candidates:
        if not candidate.item_id or len(candidate.item_id.encode()) > MAX_ID_BYTES:
            raise RequestError("missing_id", f"every candidate has an item_id of 1 to {MAX_ID_BYTES} bytes")
        if not all(math.isfinite(score) for score in candidate.scores.values()):
            raise RequestError("not_finite", f"scores of candidate {candidate.item_id!r} must be finite")


def check_filter(wanted: pb.Filter) -> None:
    """Refuse a filter that no item could be tested against.

    Raises
    ------
    RequestError
        ``bad_filter`` or ``too_large``.
    """
    if len(wanted.conditions) > MAX_CONDITIONS:
        raise RequestError("too_large", f"a filter has at most {MAX_CONDITIONS} conditions")
    by_values = (pb.Condition.OPERATOR_IN, pb.Condition.OPERATOR_NOT_IN)
    by_number = (pb.Condition.OPERATOR_AT_MOST, pb.Condition.OPERATOR_AT_LEAST)
    for condition in wanted.conditions:
        is_attribute = condition.field.startswith("attributes.") and len(condition.field) > len("attributes.")
        if condition.field not in (*_FIELDS_TEXT, *_FIELDS_NUMBER) and not is_attribute:
            raise RequestError(
                "bad_filter",
                f"field must be one of {', '.join((*_FIELDS_TEXT, *_FIELDS_NUMBER))} or attributes.<name>, "
                f"got {condition.field!r}",
            )
        if condition.operator in by_values:
            if condition.field in _FIELDS_NUMBER:
                raise RequestError("bad_filter", f"{condition.field} takes AT_MOST or AT_LEAST, not IN or NOT_IN")
            if not 1 <= len(condition.values) <= MAX_VALUES:
                raise RequestError("bad_filter", f"IN and NOT_IN need 1 to {MAX_VALUES} values")
        elif condition.operator in by_number:
            if condition.field in _FIELDS_TEXT:
                raise RequestError("bad_filter", f"{condition.field} takes IN or NOT_IN, not AT_MOST or AT_LEAST")
            if not math.isfinite(condition.number):
                raise RequestError("not_finite", f"number of the condition on {condition.field} must be finite")
        else:
            raise RequestError("bad_filter", f"operator of the condition on {condition.field} is not set")


def _check_shadow(request: pb.RankRequest, shadow: bool) -> None:
    if request.HasField("shadow") and not shadow:
        raise RequestError("not_allowed", "field shadow needs mode SHADOW")
    if not shadow:
        return
    if request.shadow.as_of_ms < 0:
        raise RequestError("bad_value", f"as_of_ms is ms since the UTC epoch (0 = now), got {request.shadow.as_of_ms}")
    if pb.LAYER_UNSPECIFIED in request.shadow.without:
        raise RequestError("bad_value", "without names layers; LAYER_UNSPECIFIED is none")
    if request.shadow.policy:
        try:
            parse(request.shadow.policy)
        except BanditsError as error:
            raise RequestError("unknown_policy", str(error)) from error
