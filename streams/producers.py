"""Producers whose clocks are wrong, who write to wrong partitions or break the contract, by name.

A producer names itself in the header `liverank-producer` (`EventProducer(name=...)` sets it); one without is named by
the surface of its events. Nothing here decides anything: it counts, and warns once in a while.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import Counter, Gauge

from liverank import log
from liverank.contract import PRODUCER_HEADER
from liverank.errors import ContractError
from liverank.kafka import Record
from liverank.v1.event_pb2 import Event
from streams.fold import Parsed

__all__ = ["AHEAD_MS", "EVERY", "ProducerWatch"]

_STRAYS = Counter("liverank_producer_strays", "Events that lay in a partition that is not their key's", ["producer"])
_REFUSED = Counter("liverank_producer_refused", "Records that break the contract", ["producer", "reason"])
_AHEAD_S = Gauge(
    "liverank_producer_clock_ahead_seconds", "How far event times lay ahead of the broker's clock, most", ["producer"]
)
_DELAY_S = Gauge(
    "liverank_producer_delay_seconds",
    "Append time less event time, moving mean: a slow clock, or sent late",
    ["producer"],
)

_FORWARDED: Final = "liverank-forwarded"
#: An event this far ahead of the broker is a wrong clock and not a network.
AHEAD_MS: Final = 1_000
_DELAY_MS: Final = 300_000
EVERY: Final = 16
_MOST_NAMES: Final = 100
_WARN_EVERY_S: Final = 600.0
_MANY: Final = "(more than 100 producers)"

_log = log.get(__name__)


class ProducerWatch:
    """Watches the records of one fold. At most 100 names are told apart. About 0.2 us a record. One thread.

    Parameters
    ----------
    clock_s : callable
        Monotonic, for the pace of warnings.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._ahead_ms: dict[str, float] = {}
        self._delay_ms: dict[str, float] = {}
        self._names: set[str] = set()
        self._warned_s: dict[tuple[str, str], float] = {}

    def note(self, parsed: Iterable[tuple[Record, Parsed | ContractError]]) -> None:
        """Look at the records of a poll."""
        for record, what in parsed:
            if record.headers and record.header(_FORWARDED) is not None:
                self._stray(record, what)
                continue
            if isinstance(what, ContractError):
                self._refused(record, what)
                continue
            event = what.body
            if not isinstance(event, Event):
                continue
            ahead_ms = event.event_ts_ms - record.append_ts_ms
            if ahead_ms > AHEAD_MS:
                self._ahead(record, event, ahead_ms)
            elif not record.offset % EVERY:
                self._delay(record, event, -ahead_ms)

    def _stray(self, record: Record, what: Parsed | ContractError) -> None:
        name = self._name(record, what)
        _STRAYS.labels(name).inc()
        self._warn(
            name, "stray", "producer writes to wrong partitions; its events are forwarded, which costs a round: "
            "set partitioner=murmur2_random and key = user_id, else session_id",
        )  # fmt: skip

    def _refused(self, record: Record, error: ContractError) -> None:
        name = self._name(record, error)
        _REFUSED.labels(name, error.reason).inc()
        self._warn(name, error.reason, f"producer's records are refused ({error.reason}): {error.detail}")

    def _ahead(self, record: Record, event: Event, ahead_ms: int) -> None:
        name = self._named(record, event)
        if ahead_ms > self._ahead_ms.get(name, 0.0):
            self._ahead_ms[name] = ahead_ms
            _AHEAD_S.labels(name).set(ahead_ms / 1000)
        self._warn(name, "ahead", f"producer's clock is {ahead_ms / 1000:.1f} s ahead of the broker's: check its NTP")

    def _delay(self, record: Record, event: Event, delay_ms: int) -> None:
        name = self._named(record, event)
        mean_ms = self._delay_ms.get(name, float(delay_ms))
        mean_ms += 0.1 * (delay_ms - mean_ms)
        self._delay_ms[name] = mean_ms
        _DELAY_S.labels(name).set(mean_ms / 1000)
        if mean_ms > _DELAY_MS:
            said = f"producer's events come {mean_ms / 1000:.0f} s after their time: a slow clock, or sent late"
            self._warn(name, "behind", said)

    # -- names

    def _name(self, record: Record, what: Parsed | ContractError) -> str:
        body = what.body if isinstance(what, Parsed) else None
        return self._named(record, body if isinstance(body, Event) else None)

    def _named(self, record: Record, event: Event | None) -> str:
        given = record.header(PRODUCER_HEADER) if record.headers else None
        if given:
            name = given[:64].decode(errors="replace")
        else:
            name = f"surface {event.surface}" if event is not None and event.surface else "unnamed"
        if name in self._names:
            return name
        if len(self._names) >= _MOST_NAMES:
            return _MANY
        self._names.add(name)
        return name

    def _warn(self, name: str, kind: str, text: str) -> None:
        now_s = self._clock_s()
        if now_s - self._warned_s.get((name, kind), -_WARN_EVERY_S) >= _WARN_EVERY_S:
            self._warned_s[name, kind] = now_s
            _log.warning(text, producer=name)
