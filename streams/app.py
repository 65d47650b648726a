"""The Faust app of a worker: it hosts the agents; folds and archive run beside it as mode services."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import faust
from aiokafka.errors import KafkaError
from mode import Service

from liverank import log
from liverank.settings import Settings
from streams.agents import AgentServices, register_all
from streams.agents.fetching import LazyConsumer

__all__ = ["AgentHost", "build_app"]

_log = log.get(__name__)

#: A Faust app that does not stop is left after so long, s.
_STOP_S: Final = 15.0
_PAUSE_S: Final = 1.0


def build_app(settings: Settings, member: str, services: AgentServices) -> faust.App:
    """Return the app with all agents registered.

    Its settings are what was measured (docs/operations/workers.md): a static member id makes a restart 2 s instead of
    59 s, offsets are hints because agents are idempotent, and nothing is declared: `liverank up` creates the topics
    with their policies.

    Parameters
    ----------
    member : str
        Static member id, stable over restarts.
    """
    app = faust.App(
        f"liverank.{settings.namespace}.agents",
        broker=[f"kafka://{address}" for address in settings.kafka.bootstrap.split(",")],
        store="memory://",
        datadir=str((settings.home / settings.namespace / "faust" / member).absolute()),
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        topic_partitions=settings.stack.partitions,
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=member,
        broker_session_timeout=20,
        broker_heartbeat_interval=3,
        broker_rebalance_timeout=20,
        broker_commit_interval=1.0,
        stream_buffer_maxsize=4096,
        # Codecs of aiokafka: an lz4 producer would crash a worker without cramjam.
        producer_compression_type=None,
        logging_config=None,
    )
    app.transport.Consumer = LazyConsumer  # type: ignore[misc]  # Faust asks the instance
    register_all(app, services)
    Path(str(app.conf.datadir)).mkdir(parents=True, exist_ok=True)
    return app


class AgentHost(Service):
    """Starts the Faust app and, where Kafka is away at that moment, waits and starts another one.

    Faust gives up when it cannot reach a broker at its start, and would end the worker, whose folds wait for ever; and
    an app that is stopped while it starts may never end. A crash of the app is a crash of this service.

    Parameters
    ----------
    build : callable
        Makes a fresh app.

    Attributes
    ----------
    stuck : bool
        The app did not stop in time: threads of it may still run, so the process must not wait for them.
    """

    def __init__(self, build: Callable[[], Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stuck = False
        self._build = build
        self._app: Any = None

    async def on_start(self) -> None:
        """Return when the app runs."""
        while not self.should_stop:
            app = self._app = self._build()
            try:
                await app.start()
                if app.crashed:  # a thread of it, just now
                    raise app.crash_reason
            except KafkaError as error:
                _log.warning("the agents wait for Kafka; is the broker up (`liverank status`)?", error=str(error))
                await self._end()
                await self.sleep(_PAUSE_S)
            else:
                # Not before: what crashes while the app starts would end the worker through its parents.
                app.beacon.reattach(self.beacon)
                return

    async def on_stop(self) -> None:
        """Stop the app, or leave it: what it handled is acknowledged, the rest is handled again."""
        await self._end()

    async def _end(self) -> None:
        app, self._app = self._app, None
        if app is None:
            return
        # `wait_for` would cancel, and wait for what ignores that.
        stopping = asyncio.ensure_future(app.stop())
        await asyncio.wait({stopping}, timeout=_STOP_S)
        if not stopping.done():
            self.stuck = True
            _log.error("the agents did not stop in time", seconds=_STOP_S)
            return
        try:
            await stopping
        except KafkaError as error:
            _log.warning("the agents stopped while Kafka was away", error=str(error))
