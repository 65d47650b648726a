"""The local stack: up, down, status.

Every step is safe to repeat. A part whose address the settings give is somebody else's and not started.
"""

from __future__ import annotations

import contextlib
import fcntl
import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal, cast

from infra.errors import StackError
from infra.stack import endpoints as endpoints_file
from infra.stack import health, namespace, processes, services
from infra.stack.layout import Layout
from infra.stack.ports import Ports
from infra.stack.progress import Progress, Silent
from infra.stack.supervisor import ProcessState, Supervisor
from liverank.settings import Endpoints, Settings

Part = Literal["kafka", "redis", "namespace", "features", "model", "workers", "rankers"]
PARTS: tuple[Part, ...] = ("kafka", "redis", "namespace", "features", "model", "workers", "rankers")
"""In the order in which they start; each needs those before it."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """What is up.

    Parameters
    ----------
    endpoints : Endpoints or None
        The endpoints file.
    processes : tuple of ProcessState
        What the supervisor runs.
    faults : dict of str to str
        Part -> fault found by asking it in its protocol, empty text where it answers.
    """

    endpoints: Endpoints | None
    processes: tuple[ProcessState, ...]
    faults: dict[str, str]

    @property
    def healthy(self) -> bool:
        """Whether something is up and all of it answers."""
        return self.endpoints is not None and not any(self.faults.values())


class Stack:
    """One stack under one home: one Kafka, one Redis, and the processes of any number of namespaces.

    Parameters
    ----------
    settings : Settings
        As read, not resolved: an address in them means that this part is external.
    progress : Progress, optional
        Told about every step.
    tied : bool
        Whether what is started here ends when this process does, even by SIGKILL (Linux). For tests.
    """

    def __init__(self, settings: Settings, progress: Progress | None = None, *, tied: bool = False) -> None:
        self.layout = Layout.of(settings)
        self._settings = settings.model_copy(update={"home": self.layout.home})
        self._progress = progress or Silent()
        self._supervisor = Supervisor(self.layout, log_max_mb=settings.stack.log_max_mb, tied=tied)

    def up(self, only: Collection[Part] = PARTS) -> Endpoints:
        """Start what is not up yet and wait until all of it is healthy.

        Parameters
        ----------
        only : collection of Part
            Leave the other parts alone.

        Returns
        -------
        Endpoints
            As written to the endpoints file.

        Raises
        ------
        StackError
            A part did not start. What did start stays up; `down` ends it.
        """
        self.layout.create()
        with self._lock():
            ports = Ports(self.layout.run / "ports.json", random.Random())
            found = self._services(only, ports)
            endpoints_file.publish(self.layout, found)
            found = self._namespace(only, ports, found)
            endpoints_file.publish(self.layout, found)
            return found

    def down(self) -> None:
        """Stop everything of this home, the last started first; keeps the data. No-op where nothing is up."""
        if not self.layout.run.exists():
            return
        with self._lock(), self._progress.step("stop") as step:
            n_processes = self._supervisor.stop()
            endpoints_file.withdraw(self.layout)
            step.note(f"{n_processes} processes ended" if n_processes else "nothing was up")

    def stop_namespace(self) -> None:
        """Stop the processes of this namespace only and take it out of the endpoints file; keeps its data."""
        name = self._settings.namespace
        with self._lock(), self._progress.step(f"stop {name}"):
            mine = [state.name for state in self._supervisor.states() if _belongs(state.name, name, processes.ROLES)]
            self._supervisor.remove(mine)
            found = Endpoints.read(self.layout.home)
            if found is not None:
                rest = {key: one for key, one in found.namespaces.items() if key != name}
                endpoints_file.publish(self.layout, endpoints_file.with_namespaces(found, rest))

    def set_generation(self, generation: int) -> None:
        """Write the live generation of this namespace into the endpoints file; no-op where none of it is up."""
        if not self.layout.run.exists():
            return
        with self._lock():
            found = Endpoints.read(self.layout.home)
            name = self._settings.namespace
            if found is not None and name in found.namespaces:
                own = found.namespaces[name].model_copy(update={"generation": generation})
                endpoints_file.publish(
                    self.layout, endpoints_file.with_namespaces(found, {**found.namespaces, name: own})
                )

    def status(self) -> Status:
        """Ask every part in its protocol. Changes nothing."""
        found = Endpoints.read(self.layout.home)
        states = self._supervisor.states()
        if found is None:
            return Status(endpoints=None, processes=states, faults={})
        faults = {}
        if found.kafka:
            faults["kafka"] = health.kafka(found.kafka)
        if found.redis:
            faults["redis"] = self._ask_redis(found.redis)
        for name, one in found.namespaces.items():
            faults |= {process: health.ready(address) for process, address in one.metrics.items()}
            if one.grpc:
                faults[f"{name} gRPC"] = health.grpc(one.grpc)
        return Status(endpoints=found, processes=states, faults=faults)

    def _services(self, only: Collection[Part], ports: Ports) -> Endpoints:
        """Kafka and Redis, both at once."""
        old = Endpoints.read(self.layout.home)
        kafka, redis = self._settings.kafka.bootstrap, self._settings.redis.url
        local: list[services.Local] = []
        if "kafka" in only and not kafka:
            with self._progress.step("kafka: files"):
                local.append(services.local_kafka(self._settings, self.layout, ports))
        if "redis" in only and not redis:
            local.append(services.local_redis(self._settings, self.layout, ports))
        if local:
            with self._progress.step("supervisor"):
                services.start(local, self._supervisor, ports)
        found = {"kafka": old.kafka if old else "", "redis": old.redis if old else ""}
        for service in local:
            with self._progress.step(service.name) as step:
                timeout_s = self._settings.stack.start_timeout_s
                found[service.name] = services.wait(service, self._supervisor, ports, timeout_s=timeout_s)
                step.note(found[service.name])
        if kafka:
            found["kafka"] = self._external("kafka", services.check_external("Kafka", kafka, health.kafka))
        if redis:
            found["redis"] = self._external("redis", services.check_external("Redis", redis, self._ask_redis))
        new = old or Endpoints(kafka="", redis="", namespace=self._settings.namespace)
        return new.model_copy(update=found)

    def _external(self, name: str, address: str) -> str:
        with self._progress.step(f"{name} (external)") as step:
            step.note(endpoints_file.without_password(address))
        return address

    def _namespace(self, only: Collection[Part], ports: Ports, found: Endpoints) -> Endpoints:
        """Everything that belongs to the namespace of the settings."""
        settings = _with_addresses(self._settings, found)
        generation = found.of(settings.namespace).generation
        if "namespace" in only:
            with self._progress.step(f"namespace {settings.namespace}") as step:
                generation = namespace.create(settings)
                step.note(f"generation {generation}, {namespace.partitions(settings, generation)} partitions")
        if "features" in only:
            with self._progress.step("features") as step:
                yaml = namespace.apply_features(settings.model_copy(update={"feast": self._settings.feast}))
                settings = settings.model_copy(update={"feast": settings.feast.model_copy(update={"yaml": yaml})})
                step.note(yaml)
        if "model" in only:
            with self._progress.step("base model") as step:
                step.note(namespace.base_model(settings))
        started = self._processes(only, ports, settings)
        if not set(only) - {"kafka", "redis"}:
            return found
        old = found.of(settings.namespace)
        own = processes.addresses(settings, started, old=old, generation=generation)
        return endpoints_file.with_namespaces(found, {**found.namespaces, settings.namespace: own})

    def _processes(self, only: Collection[Part], ports: Ports, settings: Settings) -> list[processes.Process]:
        """Workers and rankers, all at once; those beyond the numbers of the settings are stopped."""
        started: list[processes.Process] = []
        alive = [state.name for state in self._supervisor.states() if state.pid]
        if "workers" in only:
            started += processes.workers(settings, ports, alive)
        if "rankers" in only and self._settings.ranker.grpc:
            services.check_external("the ranker", self._settings.ranker.grpc, health.grpc)
        elif "rankers" in only:
            started += processes.rankers(settings, ports, alive)
            started += processes.feast_ui(settings, ports, alive)
        kept = {process.program.name for process in started}
        roles = tuple(role for role in processes.ROLES if f"{role}s" in only)
        surplus = [one.name for one in self._supervisor.states() if _belongs(one.name, settings.namespace, roles)]
        self._supervisor.remove([name for name in surplus if name not in kept])
        if started:
            processes.start(started, self._supervisor)
        for process in started:
            with self._progress.step(process.program.name) as step:
                processes.wait(process, self._supervisor, timeout_s=settings.stack.start_timeout_s)
                step.note(process.grpc or process.page)
        return started

    def _ask_redis(self, url: str) -> str:
        return health.redis(url, services.password_of(self._settings))

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """One `up` or `down` at a time per home."""
        with (self.layout.run / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def parse_parts(text: str) -> tuple[Part, ...]:
    """Parts named in a comma-separated list.

    Raises
    ------
    StackError
        A name is unknown.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = sorted(set(names) - set(PARTS))
    if unknown or not names:
        raise StackError(f"unknown parts {', '.join(unknown) or '(none given)'}; there are {', '.join(PARTS)}.")
    return tuple(cast(Part, name) for name in names)


def _with_addresses(settings: Settings, found: Endpoints) -> Settings:
    """The settings with what a process needs of the stack.

    Not the ranker's own addresses of an earlier `up`: what a process is given must be the same in every `up`, or the
    second one would restart it.
    """
    yaml = settings.feast.yaml or found.of(settings.namespace).feast_yaml
    return settings.model_copy(
        update={
            "kafka": settings.kafka.model_copy(update={"bootstrap": found.kafka}),
            "redis": settings.redis.model_copy(update={"url": found.redis}),
            "feast": settings.feast.model_copy(update={"yaml": yaml}),
        }
    )


def _belongs(process: str, namespace_name: str, roles: Collection[str]) -> bool:
    """Whether a process is one of the namespace's: `<namespace>-<role>-<number>`."""
    name, _, number = process.rpartition("-")
    return number.isdecimal() and any(name == f"{namespace_name}-{role}" for role in roles)
