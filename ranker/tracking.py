"""Events of apps: checked, keyed, produced, and answered only when the broker has them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from liverank.contract import event_id_of, event_key, validate_event
from liverank.errors import ContractError, UnavailableError
from liverank.settings import Settings
from liverank.v1 import event_pb2
from liverank.v1 import personalization_pb2 as pb
from ranker.errors import RequestError, TrackUnavailableError
from ranker.replies import ReplyStore

MAX_EVENTS = 1_000
MAX_KEY_BYTES = 64
MAX_VALUE_BYTES = 256 * 1024


class AckingProducer(Protocol):
    """What tracking needs of `liverank.kafka.Producer`."""

    def produce(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes,
        timestamp_ms: int | None = None,
        on_delivery: Callable[[Exception | None, int, int], None] | None = None,
        block_s: float = 10.0,
    ) -> None:
        """Hand a record over; `on_delivery` comes from another thread's `poll`."""
        ...


@dataclass(frozen=True)
class _Accepted:
    key: bytes
    value: bytes
    event_ts_ms: int


class Acks:
    """Counts deliveries of one call. Thread-safe."""

    def __init__(self, n: int) -> None:
        self._left, self._lock, self._done = n, threading.Lock(), threading.Event()
        self.error: Exception | None = None
        if n == 0:
            self._done.set()

    def delivered(self, error: Exception | None, _partition: int, _offset: int) -> None:
        """One record was delivered or failed."""
        with self._lock:
            self._left -= 1
            self.error = self.error or error
            if self._left <= 0:
                self._done.set()

    def wait(self, timeout_s: float) -> bool:
        """Whether all came in time."""
        return self._done.wait(timeout_s)


class Tracker:
    """Takes batches of events. Thread-safe; needs somebody who polls the producer.

    Guarantees: an accepted event is acknowledged by all in-sync replicas; a repeat of a call with the same idempotency
    key is harmless (same event ids, dropped by the fold). A call that fails may have produced some of its events:
    repeat it whole.

    Parameters
    ----------
    producer
        Idempotent.
    replies
        Where exposures of PREFETCH wait.
    settings, generation
        Names of topics.
    clock_ms
        Now.
    """

    def __init__(
        self,
        producer: AckingProducer,
        replies: ReplyStore,
        settings: Settings,
        generation: int,
        clock_ms: Callable[[], int],
    ) -> None:
        self._producer, self._replies, self._clock_ms = producer, replies, clock_ms
        self._settings = settings
        self.sealed = ""
        self._events = settings.topic("events", generation)
        self._dead = settings.topic("dead-letter")
        self._data_clock = settings.clock == "data"

    def follow(self, generation: int, n_partitions: int) -> None:
        """Send to another generation."""
        self._events = self._settings.topic("events", generation)

    def track(self, request: pb.TrackRequest, *, timeout_s: float = 10.0) -> pb.TrackReply:
        """Take a batch.

        Parameters
        ----------
        request
            1 to 1,000 events.
        timeout_s
            How long to wait for the broker.

        Raises
        ------
        RequestError
            No events, too many, or a key that is too long.
        TrackUnavailableError
            The broker did not acknowledge all in time, or the namespace is being repartitioned.
        """
        if self.sealed:
            raise TrackUnavailableError(f"{self.sealed}; repeat the call with the same idempotency_key")
        if not 1 <= len(request.events) <= MAX_EVENTS:
            raise RequestError("bad_value", f"a call has 1 to {MAX_EVENTS} events, got {len(request.events)}")
        if len(request.idempotency_key.encode()) > MAX_KEY_BYTES:
            raise RequestError("too_large", f"idempotency_key has at most {MAX_KEY_BYTES} bytes")
        now_ms = self._clock_ms()
        reply = pb.TrackReply()
        accepted: list[_Accepted] = []
        shown: list[str] = []
        for at, event in enumerate(request.events):
            if not event.event_id and request.idempotency_key:
                event.event_id = event_id_of(request.idempotency_key, at)
            try:
                validate_event(event, now_ms=now_ms, internal=False, exposures=False)
                accepted.append(_Accepted(event_key(event), event.SerializeToString(), event.event_ts_ms))
            except ContractError as error:
                reply.rejected.add(index=at, reason=error.reason, detail=error.detail)
                self._bury(event, error, now_ms)
                continue
            if event.type == event_pb2.EVENT_TYPE_IMPRESSION and event.request_id:
                shown.append(event.request_id)
        exposures = self._waiting(shown)
        acks = Acks(len(accepted) + len(exposures))
        try:
            for exposure in exposures.values():
                self._put(exposure, acks)
            for record in accepted:
                self._put(record, acks)
        except UnavailableError as error:
            raise TrackUnavailableError(f"{error}; repeat the call with the same idempotency_key") from error
        if not acks.wait(timeout_s) or acks.error is not None:
            cause = str(acks.error) if acks.error is not None else f"no acknowledgement within {timeout_s:g} s"
            raise TrackUnavailableError(f"{cause}; repeat the call with the same idempotency_key")
        for request_id in exposures:
            self._replies.settled(request_id)
        reply.accepted = len(accepted)
        return reply

    def _put(self, record: _Accepted, acks: Acks) -> None:
        self._producer.produce(
            self._events,
            key=record.key,
            value=record.value,
            timestamp_ms=record.event_ts_ms if self._data_clock else None,
            on_delivery=acks.delivered,
            block_s=1.0,
        )

    def _waiting(self, request_ids: list[str]) -> dict[str, _Accepted]:
        """Exposures of PREFETCH that these impressions show; without Redis they cannot be found and become orphans."""
        if not request_ids or self._replies.breaker.open:
            return {}
        try:
            found = self._replies.waiting_exposures(request_ids)
        except UnavailableError:
            self._replies.breaker.failed()
            return {}
        waiting = {}
        for request_id, value in found.items():
            exposure = event_pb2.Event.FromString(value)
            waiting[request_id] = _Accepted(event_key(exposure), value, exposure.event_ts_ms)
        return waiting

    def _bury(self, event: event_pb2.Event, error: ContractError, now_ms: int) -> None:
        """A refused event goes to the dead letters too; the caller is told anyway, so nobody waits for it."""
        value = event.SerializeToString()[:MAX_VALUE_BYTES]
        key = (event.user_id or event.session_id).encode()
        letter = event_pb2.DeadLetter(
            reason=error.reason,
            detail=error.detail,
            topic=self._events,
            partition=-1,
            offset=-1,
            key=key,
            value=value,
            append_ts_ms=now_ms,
        )
        try:
            self._producer.produce(self._dead, key=key or None, value=letter.SerializeToString(), block_s=0.0)
        except UnavailableError:
            return  # the reply names the rejection; the topic is a second copy
