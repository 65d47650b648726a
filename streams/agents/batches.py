"""How an agent takes batches from Faust without losing one.

Faust acknowledges a batch in a `finally`, so that an exception or a cancellation in the body loses it (docs of the
faults: faust-streaming 189, 527). Here the body never raises, only a batch that was handled is acknowledged, and the
handler runs in a thread, so that heartbeats go on: in one of its own, since allocators keep for each thread what
writing a Parquet file once took.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol

from prometheus_client import Counter, Gauge, Histogram

from liverank import log
from liverank.errors import LiverankError
from liverank.kafka import Record
from streams.agents.services import AgentServices

_log = log.get(__name__)

_RECORDS = Counter("liverank_agent_records", "Records handled", ["agent"])
_RETRIES = Counter("liverank_agent_retries", "Batches repeated because a store was away", ["agent"])
_AGE_S = Gauge("liverank_agent_age_seconds", "Age of the oldest record of the last batch when it was done", ["agent"])
_BATCH_S = Histogram("liverank_agent_batch_seconds", "Handling of a batch", ["agent"])

_MAX_PAUSE_S: Final = 2.0


class Handler(Protocol):
    """The work of an agent, without Faust: pure Python over batches of records, called from one thread at a time."""

    @property
    def name(self) -> str:
        """Names metrics and positions."""
        ...

    def handle(self, records: Sequence[Record]) -> None:
        """Do everything that these records ask for; doing it twice is harmless. A bad record is a dead letter.

        Raises
        ------
        liverank.errors.LiverankError
            With `retryable`: the whole batch is handled again. Any other error ends the worker.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How batches are cut: at `records`, or `within_s` after the last batch."""

    records: int
    within_s: float


def record_of(event: Any) -> Record:
    """A Faust event as our record."""
    message = event.message
    headers = message.headers or ()
    pairs = headers.items() if hasattr(headers, "items") else headers
    return Record(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        key=message.key,
        value=message.value if message.value is not None else b"",
        headers=tuple((str(key), bytes(value)) for key, value in pairs),
        append_ts_ms=int(message.timestamp * 1000),
    )


async def attempt(
    handler: Handler,
    records: Sequence[Record],
    services: AgentServices,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    thread: Executor | None = None,
) -> bool:
    """Handle one batch, again and again while a store is away; a bug goes to `services.fatal`, then False.

    `thread` is where the handler runs; None = one of the loop's.
    """
    pause_s = 0.05
    start_s = time.monotonic()
    while True:
        try:
            await asyncio.get_running_loop().run_in_executor(thread, handler.handle, records)
        except LiverankError as error:
            if not error.retryable:
                services.fatal(handler.name, error)
                return False
            _RETRIES.labels(handler.name).inc()
            _log.warning("agent waits", agent=handler.name, error=str(error), pause_s=pause_s)
            await sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)
        except Exception as error:  # noqa: BLE001 - whatever it is, the batch must not be acknowledged
            services.fatal(handler.name, error)
            return False
        else:
            _RECORDS.labels(handler.name).inc(len(records))
            _BATCH_S.labels(handler.name).observe(time.monotonic() - start_s)
            _AGE_S.labels(handler.name).set(time.time() - min(record.append_ts_ms for record in records) / 1000)
            return True


async def drive(stream: Any, handler: Handler, services: AgentServices, pace: Pace) -> None:
    """Body of a Faust agent: batches for ever.

    Parameters
    ----------
    stream : faust.Stream
        Of raw bytes.
    handler : Handler
    services : AgentServices
    pace : Pace
    """
    handled = False
    acknowledge = stream.ack

    async def ack(event: Any) -> bool:
        return bool(await acknowledge(event)) if handled else False

    stream.ack = ack
    thread = ThreadPoolExecutor(1, thread_name_prefix=f"agent {handler.name}")
    try:
        async for events in stream.take_events(pace.records, within=pace.within_s):
            handled = False
            handled = await attempt(handler, [record_of(event) for event in events], services, thread=thread)
    finally:
        thread.shutdown(wait=False)
