"""`EventProducer`: events and catalogue changes straight to Kafka, the way the folds want them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol

from liverank.calls import SYSTEM_RNG, now_ms
from liverank.contract import PRODUCER_HEADER, event_key, validate_event, validate_item
from liverank.errors import ConfigError, LiverankError, UnavailableError
from liverank.ids import uuid7
from liverank.settings import Endpoints, Settings, resolve
from liverank.v1.event_pb2 import Event, EventType
from liverank.v1.item_pb2 import ItemChange

#: How often the endpoints file is looked at for another generation, s.
_LOOK_S: Final = 1.0

OnDelivery = Callable[[Exception | None, int, int], None]


class Transport(Protocol):
    """What the producer needs of Kafka; `liverank.kafka.Producer` has it."""

    def produce(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes,
        headers: Sequence[tuple[str, bytes]] | None = None,
        timestamp_ms: int | None = None,
        on_delivery: OnDelivery | None = None,
    ) -> None:
        """Queue one record."""

    def poll(self, timeout_s: float = 0.0) -> int:
        """Serve delivery callbacks."""

    def flush(self, timeout_s: float) -> int:
        """Wait for delivery; return how many records still wait."""


@dataclass(frozen=True)
class Undelivered:
    """An event or a change that the broker did not take.

    Attributes
    ----------
    message : Event or ItemChange
        As it was given.
    error : Exception
        Why.
    """

    message: Event | ItemChange
    error: Exception


class EventProducer:
    """Publishes to Kafka: idempotent, keyed by user, partitioned by `murmur2_random`, bounded buffer. Thread safe.

    Guarantees: what the broker acknowledged is there once and in the order of the calls, per user. What it did not take
    is kept in `undelivered` (newest 10,000), handed to `on_error`, and makes `flush` and `close` raise; nothing is
    dropped in silence.

    Parameters
    ----------
    settings : Settings, optional
        Where Kafka is and which namespace; read from file, environment and the local stack where not given.
    on_error : callable, optional
        Called with each `Undelivered`, from a call of `send`, `flush` or `close`.
    linger_ms : float
        How long a batch waits for company.
    name : str
        Who sends, e.g. ``checkout``: names this producer in workers' metrics and warnings (a wrong clock, a wrong
        partitioner, refused events). Costs about 30 bytes a record.
    transport : Transport, optional
        For tests.

    Raises
    ------
    ConfigError
        No broker address.

    Examples
    --------
    >>> with EventProducer() as producer:                                            # doctest: +SKIP
    ...     producer.send(new_event("click", user_id="u1", item_id="i1"))
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        on_error: Callable[[Undelivered], None] | None = None,
        linger_ms: float = 5.0,
        name: str = "",
        transport: Transport | None = None,
    ) -> None:
        if len(name.encode()) > 64:
            raise ConfigError(f"a producer's name has at most 64 bytes, got {len(name.encode())}: {name!r}")
        self._headers = [(PRODUCER_HEADER, name.encode())] if name else None
        found = resolve(settings or Settings())
        if transport is None and not found.kafka.bootstrap:
            raise ConfigError(
                f"no Kafka address: none is set and {found.home}/endpoints.json has none; "
                "run `liverank up` or set LIVERANK_KAFKA__BOOTSTRAP"
            )
        self._settings = found
        self._looked_s = float("-inf")
        self.events_topic = found.topic("events", 1)
        self._follow()
        self.items_topic = found.topic("items")
        self._data_clock = found.clock == "data"
        self._on_error = on_error
        self._lock = threading.Lock()
        self._failed: deque[Undelivered] = deque(maxlen=10_000)
        self._unseen = 0
        self.n_delivered = 0
        self.n_failed = 0
        self._transport = transport or _kafka(found, linger_ms)

    def _follow(self) -> None:
        """Send to the generation that the endpoints file names; looked up at most once a second."""
        now_s = time.monotonic()
        if now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        endpoints = Endpoints.read(self._settings.home)
        if endpoints is not None:
            generation = endpoints.of(self._settings.namespace).generation
            self.events_topic = self._settings.topic("events", generation)

    def send(self, event: Event) -> None:
        """Validate an event and queue it. An event without id or time gets them, as a changed copy.

        Raises
        ------
        ContractError
            The event breaks the contract; nothing was queued.
        UnavailableError
            The buffer stayed full: the broker takes nothing.
        """
        if not event.event_id or not event.event_ts_ms:
            copy = Event()
            copy.CopyFrom(event)
            copy.event_ts_ms = event.event_ts_ms or now_ms()
            copy.event_id = event.event_id or uuid7(copy.event_ts_ms, SYSTEM_RNG)
            event = copy
        moment_ms = event.event_ts_ms if self._data_clock else now_ms()
        validate_event(event, now_ms=moment_ms, exposures=False)
        self._follow()
        self._transport.produce(
            self.events_topic,
            key=event_key(event),
            value=event.SerializeToString(),
            headers=self._headers,
            timestamp_ms=event.event_ts_ms if self._data_clock else None,
            on_delivery=self._delivery(event),
        )
        self._transport.poll(0.0)

    def identify(self, session_id: str, user_id: str) -> None:
        """Say that the user of a session, anonymous until now, logged in; what the session did becomes the user's.

        Call it once after the login and send the user's later events with `user_id`. Saying it again is harmless.

        Raises
        ------
        ContractError
            An id is missing or too long, or they are the same; nothing was queued.
        UnavailableError
            The buffer stayed full: the broker takes nothing.
        """
        self.send(Event(type=EventType.EVENT_TYPE_IDENTIFY, user_id=user_id, session_id=session_id))

    def send_item(self, change: ItemChange) -> None:
        """Validate a catalogue change and queue it."""
        validate_item(change)
        self._transport.produce(
            self.items_topic,
            key=change.item_id.encode(),
            value=change.SerializeToString(),
            on_delivery=self._delivery(change),
        )
        self._transport.poll(0.0)

    def send_all(self, events: Iterable[Event]) -> int:
        """Send events in order; returns how many."""
        count = 0
        for event in events:
            self.send(event)
            count += 1
        return count

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until the broker has everything.

        Raises
        ------
        UnavailableError
            Records still wait after `timeout_s`, or some were refused since the last flush (see `undelivered`).
        """
        waiting = self._transport.flush(timeout_s)
        if waiting:
            raise UnavailableError(f"{waiting} records still wait after {timeout_s:g} s; is Kafka up?")
        with self._lock:
            failed, self._unseen = self._unseen, 0
            last = self._failed[-1].error if self._failed else None
        if failed:
            raise UnavailableError(f"{failed} records were not delivered, the last because: {last}; see `undelivered`")

    @property
    def undelivered(self) -> list[Undelivered]:
        """What the broker did not take (the newest 10,000), oldest first."""
        with self._lock:
            return list(self._failed)

    def close(self, timeout_s: float = 30.0) -> None:
        """Flush; see there."""
        self.flush(timeout_s)

    def __enter__(self) -> EventProducer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except LiverankError:
            if kind is None:
                raise

    def _delivery(self, message: Event | ItemChange) -> OnDelivery:
        def done(error: Exception | None, partition: int, offset: int) -> None:
            if error is None:
                with self._lock:
                    self.n_delivered += 1
                return
            refused = Undelivered(message, error)
            with self._lock:
                self.n_failed += 1
                self._unseen += 1
                self._failed.append(refused)
            if self._on_error is not None:
                self._on_error(refused)

        return done


def _kafka(settings: Settings, linger_ms: float) -> Transport:
    from liverank.kafka import Producer

    return Producer(settings.kafka.bootstrap, linger_ms=linger_ms, compression=settings.kafka.compression)
