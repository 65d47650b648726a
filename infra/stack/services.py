"""Kafka and Redis of a stack: started here, or somebody else's where the settings give an address."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from infra.errors import StackError
from infra.stack import health, jars, kafka, redis
from infra.stack.layout import Layout
from infra.stack.ports import LOOPBACK, Ports
from infra.stack.programs import Program
from infra.stack.supervisor import FATAL, Supervisor
from liverank.settings import Settings

MAX_STARTS = 3
ATTEMPTS = 2
"""A port that was free when it was chosen can be taken before the service listens; then it gets another one."""


@dataclass(frozen=True, kw_only=True)
class Local:
    """A service that the stack runs.

    Parameters
    ----------
    name : str
        Name of its program.
    address : callable
        Its address now.
    prepare : callable
        Writes its configuration for the ports it has now.
    program : Program
        What runs.
    probe : callable
        Asks it in its protocol; takes the address, returns the fault or an empty string.
    ports : tuple of str
        Names of the ports it listens on.
    """

    name: str
    address: Callable[[], str]
    prepare: Callable[[], None]
    program: Program
    probe: Callable[[str], str]
    ports: tuple[str, ...]


def password_of(settings: Settings) -> str:
    """Redis' password, empty where none is set."""
    return settings.redis.password.get_secret_value() if settings.redis.password else ""


def local_kafka(settings: Settings, layout: Layout, ports: Ports) -> Local:
    """Kafka on this machine; fetches its jars if the cache lacks them."""
    classpath = jars.ensure(layout.cache, maven_url=settings.stack.maven_url)
    return Local(
        name="kafka",
        address=lambda: f"{LOOPBACK}:{ports.of('kafka')}",
        prepare=lambda: kafka.prepare(
            layout, classpath, port=ports.of("kafka"), controller_port=ports.of("kafka-controller")
        ),
        program=kafka.program(layout, classpath, heap_mb=settings.stack.kafka_heap_mb),
        probe=health.kafka,
        ports=("kafka", "kafka-controller"),
    )


def local_redis(settings: Settings, layout: Layout, ports: Ports) -> Local:
    """Redis on this machine."""
    password = password_of(settings)
    return Local(
        name="redis",
        address=lambda: f"redis://{LOOPBACK}:{ports.of('redis')}/0",
        prepare=lambda: redis.prepare(layout, port=ports.of("redis"), password=password),
        program=redis.program(layout),
        probe=lambda url: health.redis(url, password),
        ports=("redis",),
    )


def start(services: Sequence[Local], supervisor: Supervisor, ports: Ports) -> None:
    """Give every service that is down free ports and its configuration, and start it. Does not wait."""
    supervisor.add([service.program for service in services])
    for service in services:
        if supervisor.alive(service.name):
            continue
        for name in service.ports:
            ports.free(name)
        service.prepare()
        supervisor.start_program(service.name)


def wait(service: Local, supervisor: Supervisor, ports: Ports, *, timeout_s: float) -> str:
    """Return the address once the service answers; move it to other ports once if it cannot start.

    Raises
    ------
    StackError
        It does not answer in time; the message ends with its log's last lines.
    """
    fault = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            supervisor.stop_program(service.name)
            for name in service.ports:
                ports.renew(name)
            service.prepare()
            supervisor.start_program(service.name)
        fault = health.wait(
            lambda: service.probe(service.address()),
            timeout_s=timeout_s,
            alive=watch(supervisor, service.name),
        )
        if not fault:
            return service.address()
    raise StackError(f"{service.name} did not start: {fault}\n{tail(supervisor, service.name)}")


def check_external(name: str, address: str, probe: Callable[[str], str]) -> str:
    """Return the address of somebody else's service if it answers.

    Raises
    ------
    StackError
        It does not.
    """
    fault = health.wait(lambda: probe(address), timeout_s=health.PROBE_TIMEOUT_S)
    if fault:
        raise StackError(
            f"{fault}. The address of {name} comes from the settings: correct it, or leave it out to start one here."
        )
    return address


def watch(supervisor: Supervisor, name: str) -> Callable[[], str]:
    """A function that says why a program will not come up, or an empty string; asked again and again while waiting.

    The supervisor gives a program up that ends within a second of its start; one that ends later is started for ever,
    so its starts are counted here.
    """
    pids: set[int] = set()

    def ask() -> str:
        state = supervisor.state(name)
        if state.state == FATAL:
            return "it ended at once, again and again"
        if state.pid:
            pids.add(state.pid)
        return f"it ended {MAX_STARTS} times while it started" if len(pids) > MAX_STARTS else ""

    return ask


def tail(supervisor: Supervisor, name: str, n_lines: int = 8) -> str:
    """The end of a program's log, headed by the file's name."""
    log = supervisor.state(name).log
    lines = log.read_text(errors="replace").splitlines()[-n_lines:] if log.exists() else []
    return "\n".join([f"{log}:", *lines])
