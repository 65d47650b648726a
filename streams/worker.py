"""A stream worker: `python -m streams.worker --id 0`.

One process holds both folds, the archive, the catalogue table and the Faust agents. SIGTERM ends it cleanly; a fold
that dies makes it not ready and ends it with status 1, so that its supervisor starts it anew.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from mode import Service

from features.generation import active_generation
from features.redis import connect, namespace_token, translated
from liverank import log, metrics
from liverank.errors import LiverankError, UnavailableError
from liverank.kafka import partition_counts
from liverank.settings import Settings, resolve
from streams.activation import Steward
from streams.agents import AgentServices
from streams.agents.policy_learner import PolicyLearner
from streams.app import AgentHost, build_app
from streams.archive import Archiver, archive_holds
from streams.catalogue import CatalogueReader
from streams.engine import FoldEngine, FoldSetup
from streams.errors import WorkerConfigError
from streams.items import ItemFold
from streams.program import pinned_program
from streams.seal import Seals
from streams.services import ThreadService
from streams.users import UserFold
from streams.watch import GenerationWatch

__all__ = ["Worker", "main"]

_log = log.get(__name__)

#: A worker that does not stop is ended after so long, s: below the supervisor's 30 s. What it had not published is in
#: the outbox, for the next owner.
_LEAVE_S = 27.0
#: How long a thread keeps the interpreter while another waits for it, s. A fold that got its answer from Redis waits
#: for that with what it publishes; Python's own 5 ms would be felt in every event's way.
_SWITCH_S = 0.001


class Worker(Service):
    """Hosts and supervises everything of one stream worker.

    Parameters
    ----------
    settings : Settings
        Resolved.
    worker_id : int
        Stable over restarts; makes the static member ids.
    """

    def __init__(self, settings: Settings, worker_id: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.settings = settings
        self.member = f"worker-{worker_id}"
        client = connect(settings, retries=3)
        with translated("asking whether the namespace is free"):
            if busy := client.get(f"{settings.namespace}:maintenance"):
                raise UnavailableError(
                    f"namespace {settings.namespace} is busy with `{busy.decode()}`; waiting for its end"
                )
        self.generation = active_generation(client, settings)
        topic = settings.topic("events", self.generation)
        n_partitions = partition_counts(settings.kafka.bootstrap, [topic]).get(topic)
        if n_partitions is None:
            raise WorkerConfigError(f"topic {topic} does not exist: run `liverank up` to create the namespace first")
        program = pinned_program(client, settings.namespace)
        token = namespace_token(client, settings.namespace)
        items_topic = settings.topic("items")
        n_items = partition_counts(settings.kafka.bootstrap, [items_topic]).get(items_topic, n_partitions)
        self.catalogue = CatalogueReader(settings.kafka.bootstrap, items_topic, n_items)
        seals = Seals(client, settings, self.generation)
        users = FoldSetup(
            fold=UserFold(settings, program, token=token),
            topic=topic,
            n_partitions=n_partitions,
            generation=self.generation,
            member=self.member,
            ticks=settings.clock == "wall",
            token=token,
            archive_holds=lambda name, partition: archive_holds(settings, name, partition),
            seals=seals,
        )
        items = FoldSetup(
            fold=ItemFold(settings, program, token=token),
            topic=settings.topic("item-effects", self.generation),
            n_partitions=n_partitions,
            generation=self.generation,
            member=self.member,
            numbered_input=True,
        )
        self.engines = [FoldEngine(users, settings, self.catalogue), FoldEngine(items, settings)]
        self.archiver = Archiver(settings, self.generation, member=self.member, seals=seals)
        self.watch = GenerationWatch(client, settings, self.generation)
        self.steward = Steward(
            client, settings, program, generation=self.generation, n_partitions=n_partitions, token=token
        )
        self.learner = PolicyLearner(settings, self.generation, member=self.member)
        self.folds: list[ThreadService] = []
        self.agents: AgentHost | None = None

    def on_init_dependencies(self) -> Iterable[Service]:
        """Folds first: agents need seconds to join their group."""
        self.folds = [ThreadService(f"fold-{e.setup.fold.name}", e.run, e.stop) for e in self.engines]
        services = AgentServices(
            settings=self.settings, generation=self.generation, name_of=self.catalogue.table.name_of
        )
        self.agents = AgentHost(lambda: build_app(self.settings, self.member, services))
        return [
            *self.folds,
            ThreadService("archive", self.archiver.run, self.archiver.stop),
            ThreadService("steward", self.steward.run, self.steward.stop),
            ThreadService("policy-learner", self.learner.run, self.learner.stop),
            ThreadService("generation", self.watch.run, self.watch.stop),
            self.agents,
        ]

    async def on_first_start(self) -> None:
        """Begin to read the catalogue: the folds wait for it."""
        self.catalogue.start()

    async def on_shutdown(self) -> None:
        """End the catalogue's thread last."""
        await asyncio.to_thread(self.catalogue.stop)

    def not_ready(self) -> str:
        """Return what this worker waits for; empty = it folds."""
        for engine, fold in zip(self.engines, self.folds, strict=False):
            if not fold.alive:
                return f"fold {engine.setup.fold.name} does not run"
            if not engine.ready.is_set():
                return f"fold {engine.setup.fold.name} waits for its partitions"
        return "" if self.folds else "starting"


def when_stores_answer(build: Callable[[], Worker], patience_s: float = 600.0) -> Worker:
    """Build the worker; wait while Redis or Kafka is away.

    Raises
    ------
    UnavailableError
        A store was away for `patience_s`.
    """
    deadline_s = time.monotonic() + patience_s
    while True:
        try:
            return build()
        except UnavailableError as error:
            if time.monotonic() >= deadline_s:
                raise
            _log.warning("waiting for a store", error=str(error))
            time.sleep(1.0)


async def serve(settings: Settings, worker_id: int) -> int:
    """Run a worker until SIGTERM or SIGINT (0) or until a part of it dies (1)."""
    worker: Worker | None = None
    server = metrics.serve(lambda: worker.not_ready() if worker is not None else "waiting for Kafka and Redis")
    worker = await asyncio.to_thread(when_stores_answer, lambda: Worker(settings, worker_id))
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    starting = asyncio.ensure_future(worker.start())
    crashed = asyncio.ensure_future(worker._crashed.wait())
    stopping = asyncio.ensure_future(asked.wait())
    waiting: set[asyncio.Future[Any]] = {starting, crashed, stopping}
    status = 1
    try:
        while not (crashed.done() or stopping.done()):
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if starting in done and (error := starting.exception()) is not None:
                raise error
        if crashed.done():
            _log.error("worker ends: a part of it died", reason=repr(worker.crash_reason))
        else:
            _log.info("worker stops")
            status = 0
        return status
    finally:
        for future in waiting:
            future.cancel()
        leaving = asyncio.ensure_future(worker.stop())
        await asyncio.wait({leaving}, timeout=_LEAVE_S)
        if not leaving.done():
            _log.error("a part of the worker did not stop in time: its partitions are taken over", seconds=_LEAVE_S)
            os._exit(status)
        await leaving
        if server is not None:
            server.close()
        if worker.agents is not None and worker.agents.stuck:
            os._exit(status)  # threads that never end would keep the process


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m streams.worker", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--id", type=int, default=0, help="number of this worker, stable over restarts")
    options = parser.parse_args(arguments)
    settings = resolve(Settings())
    sys.setswitchinterval(_SWITCH_S)
    log.configure(f"{settings.namespace}-worker-{options.id}")
    try:
        return asyncio.run(serve(settings, options.id))
    except LiverankError as error:
        _log.error("worker cannot run", kind=type(error).__name__, error=str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
