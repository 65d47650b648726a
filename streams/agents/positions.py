"""How far an agent has come, in Redis, and what to do when Redis was rolled back.

Faust's offsets lie in Kafka, what an agent writes lies in Redis. A Redis that comes back older than it was (a power cut
under `appendfsync everysec`, a failover to a lagging replica) has lost rows whose records Kafka will never hand out
again. The position is written into the same Redis after the rows, so it is lost with them: wherever it lies below what
was handled, the records in between are read once more. Handling twice is harmless.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from faust.exceptions import ConsumerNotStarted
from prometheus_client import Counter

from features.redis import Redis, connect, translated
from liverank import log
from liverank.errors import UnavailableError
from liverank.kafka import KafkaUnavailableError, LogReader, OffsetClient, Record, Tp
from liverank.settings import Settings
from streams.agents.batches import Handler, Pace, drive
from streams.agents.services import AgentServices
from streams.publisher import PositionBoard

if TYPE_CHECKING:
    import faust

__all__ = ["Positioned", "host"]

_log = log.get(__name__)

_AGAIN = Counter("liverank_agent_rolled_back_records", "Records handled again: Redis was rolled back", ["agent"])

#: An idle agent looks so often whether Redis was rolled back, s.
_LOOK_S: Final = 5.0
_CHUNK: Final = 1_000
_PATIENCE_S: Final = 30.0


class Positioned:
    """A handler that says how far it has come once a batch is done: `<ns>:position:<name>:<partition>`.

    Parameters
    ----------
    group : str
        Consumer group of the agents; its offsets say what was handled by the worker before.
    """

    def __init__(self, handler: Handler, client: Redis, settings: Settings, *, group: str = "") -> None:
        self._handler = handler
        self._client = client
        self._settings = settings
        self._group = group
        self._prefix = f"{settings.namespace}:position:{handler.name}:"
        self._board = PositionBoard(client, settings.namespace, handler.name)
        self._lock = threading.Lock()
        self._offsets: OffsetClient | None = None
        self.name = handler.name

    def handle(self, records: Sequence[Record]) -> None:
        """What was lost before these records, then these, then the next offsets; all again if Redis goes away."""
        first: dict[Tp, int] = {}
        for record in records:
            first.setdefault(Tp(record.topic, record.partition), record.offset)
        with self._lock:
            self._mend(first)
            self._do(records)

    def look(self, tps: Iterable[Tp]) -> None:
        """Handle again what Redis lost of these partitions, though nothing new comes.

        Raises
        ------
        UnavailableError
            Redis or Kafka is away: look again later.
        """
        offsets = self._asking()
        with self._lock:
            self._mend(offsets.committed(self._group, tps))

    def _do(self, records: Sequence[Record]) -> None:
        self._handler.handle(records)
        ends: dict[str, dict[int, int]] = {}
        for record in records:
            partitions = ends.setdefault(record.topic, {})
            partitions[record.partition] = max(partitions.get(record.partition, 0), record.offset + 1)
        for topic, offsets in ends.items():
            self._board.write(topic, offsets)

    def _mend(self, handled: dict[Tp, int]) -> None:
        """Handle again whatever lies between the stored positions and these."""
        with translated("reading positions"):
            pipe: Any = self._client.pipeline(transaction=False)
            for tp in handled:
                pipe.hget(f"{self._prefix}{tp.partition}", tp.topic)
            stored = pipe.execute()
        for (tp, until), text in zip(handled.items(), stored, strict=True):
            # No position at all: none was written yet, or the only one was lost.
            start = 0 if text is None else int(text)
            if start < until:
                self._again(tp, start, until)

    def _again(self, tp: Tp, start: int, until: int) -> None:
        following = max(start, self._asking().begins([tp])[tp])
        if following < until:
            _log.warning(
                "Redis was rolled back: handling again", agent=self.name, topic=tp.topic, partition=tp.partition,
                start=following, until=until,
            )  # fmt: skip
        reader = LogReader(self._settings.kafka.bootstrap, {tp: following}, name=f"again.{self.name}")
        deadline_s = time.monotonic() + _PATIENCE_S
        try:
            while following < until:
                found = reader.poll_batch(_CHUNK, 0.5)
                if not found and time.monotonic() > deadline_s:
                    raise KafkaUnavailableError(f"{tp.topic} [{tp.partition}] gives nothing at {following}")
                records = [record for record in found if record.offset < until]
                if records:
                    self._do(records)
                    _AGAIN.labels(self.name).inc(len(records))
                    deadline_s = time.monotonic() + _PATIENCE_S
                if found:
                    following = found[-1].offset + 1
        finally:
            reader.close()
        self._board.write(tp.topic, {tp.partition: until})

    def _asking(self) -> OffsetClient:
        if self._offsets is None:
            self._offsets = OffsetClient(self._settings.kafka.bootstrap)
        return self._offsets


def host(app: faust.App, services: AgentServices, short: str, handler: Handler, pace: Pace) -> None:
    """Let a handler be an agent of the worker's app, over the topic `short`.

    Parameters
    ----------
    app : faust.App
    services : AgentServices
    short : str
        Topic without namespace.
    handler : Handler
    pace : Pace
    """
    settings = services.settings
    positioned = Positioned(handler, connect(settings), settings, group=str(app.conf.id))
    name = settings.topic(short)
    topic = app.topic(name, key_type=bytes, value_type=bytes, value_serializer="raw")

    async def agent(stream: Any) -> None:
        await drive(stream, positioned, services, pace)

    async def look() -> None:
        try:
            mine = [Tp(tp.topic, tp.partition) for tp in app.consumer.assignment() if tp.topic == name]
            await asyncio.to_thread(positioned.look, mine)
        except (UnavailableError, ConsumerNotStarted) as error:
            _log.debug("cannot look at the positions now", agent=handler.name, error=str(error))

    app.agent(topic, name=f"liverank.{handler.name}", concurrency=1)(agent)
    app.timer(interval=_LOOK_S)(look)
