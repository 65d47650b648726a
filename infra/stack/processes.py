"""Workers and rankers of a namespace: what runs, on which addresses, and whether it is ready."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.errors import StackError
from infra.stack import health, services
from infra.stack.ports import LOOPBACK, Ports
from infra.stack.programs import Program
from infra.stack.supervisor import Supervisor
from liverank.settings import NamespaceEndpoints, Settings

ROLES = ("worker", "ranker", "ui")
WORKER_ORDER, RANKER_ORDER, UI_ORDER = 100, 200, 300
STOP_WAIT_S = 30
METRICS_VARIABLE = "LIVERANK_METRICS_PORT"
BELONGS_TO_PROCESS = (METRICS_VARIABLE, "LIVERANK_STACK_HOME")


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process of ours.

    Parameters
    ----------
    program : Program
        What runs.
    metrics : str
        Address of its `/metrics` and `/ready`; empty where it has none.
    grpc : str
        Address that must answer the gRPC health check; empty where there is none.
    page : str
        URL that it serves to people.
    """

    program: Program
    metrics: str = ""
    grpc: str = ""
    page: str = ""

    def probe(self) -> str:
        """The fault, or an empty string where it is ready."""
        fault = health.ready(self.metrics) if self.metrics else ""
        return fault or (health.grpc(self.grpc) if self.grpc else "")


def workers(settings: Settings, ports: Ports, alive: Collection[str]) -> tuple[Process, ...]:
    """`settings.stack.workers` stream workers.

    Parameters
    ----------
    alive : collection of str
        Names of the programs that run: they keep their ports, others get free ones.
    """
    return tuple(
        _process(settings, ports, alive, role="worker", module="streams.worker", number=number, order=WORKER_ORDER)
        for number in range(settings.stack.workers)
    )


def rankers(settings: Settings, ports: Ports, alive: Collection[str]) -> tuple[Process, ...]:
    """`settings.stack.rankers` rankers, all on one gRPC and one HTTP port: the kernel spreads the connections."""
    name = settings.namespace
    one_is_up = any(_role(program) == f"{name}-ranker" for program in alive)
    grpc = f"{LOOPBACK}:{_port(ports, f'{name}-grpc', is_ours=one_is_up)}"
    http = f"{LOOPBACK}:{_port(ports, f'{name}-http', is_ours=one_is_up)}"
    own = settings.model_copy(update={"ranker": settings.ranker.model_copy(update={"grpc": grpc, "http": http})})
    return tuple(
        _process(own, ports, alive, role="ranker", module="ranker.server", number=number, order=RANKER_ORDER, grpc=grpc)
        for number in range(settings.stack.rankers)
    )


def feast_ui(settings: Settings, ports: Ports, alive: Collection[str]) -> tuple[Process, ...]:
    """Feast's own web page over the registry, where the settings want it."""
    if not settings.stack.feast_ui:
        return ()
    yaml = Path(settings.feast.yaml)
    name = f"{settings.namespace}-ui-0"
    port = _port(ports, name, is_ours=name in alive)
    command = (str(Path(sys.executable).with_name("feast")), "-f", str(yaml), "ui", "--host", LOOPBACK, "-p", str(port))
    program = Program(name=name, command=command, directory=yaml.parent, order=UI_ORDER)
    return (Process(program=program, page=f"http://{LOOPBACK}:{port}"),)


def start(processes: Sequence[Process], supervisor: Supervisor) -> None:
    """Start those that are not alive; one whose settings have changed is restarted. Does not wait."""
    supervisor.add([process.program for process in processes])
    for process in processes:
        supervisor.start_program(process.program.name)


def wait(process: Process, supervisor: Supervisor, *, timeout_s: float) -> None:
    """Return when it is ready.

    Raises
    ------
    StackError
        It is not in time; the message ends with its log's last lines.
    """
    name = process.program.name
    fault = health.wait(process.probe, timeout_s=timeout_s, alive=services.watch(supervisor, name))
    if fault:
        raise StackError(f"{name} is not ready: {fault}\n{services.tail(supervisor, name)}")


def addresses(
    settings: Settings, processes: Sequence[Process], *, old: NamespaceEndpoints, generation: int
) -> NamespaceEndpoints:
    """What the endpoints file says about the namespace; roles that were left alone keep their lines."""
    served = [process for process in processes if process.grpc]
    own = served[0].program.environment if served else {}
    started = {_role(process.program.name) for process in processes}
    kept = {name: address for name, address in old.metrics.items() if _role(name) not in started}
    return NamespaceEndpoints(
        grpc=own.get("LIVERANK_RANKER__GRPC", settings.ranker.grpc or old.grpc),
        http=own.get("LIVERANK_RANKER__HTTP", settings.ranker.http or old.http),
        feast_yaml=settings.feast.yaml,
        metrics={**kept, **{process.program.name: process.metrics for process in processes if process.metrics}},
        generation=generation,
    )


def _process(
    settings: Settings,
    ports: Ports,
    alive: Collection[str],
    *,
    role: str,
    module: str,
    number: int,
    order: int,
    grpc: str = "",
) -> Process:
    name = f"{settings.namespace}-{role}-{number}"
    port = _port(ports, name, is_ours=name in alive)
    program = Program(
        name=name,
        command=(sys.executable, "-m", module, "--id", str(number)),
        directory=Path.cwd(),
        order=order + number,
        environment={**_extra(), **_own(settings), METRICS_VARIABLE: str(port)},
        stop_wait_s=STOP_WAIT_S,
    )
    return Process(program=program, metrics=f"{LOOPBACK}:{port}", grpc=grpc)


def _port(ports: Ports, name: str, *, is_ours: bool) -> int:
    """The port of `name`; another one if its owner is down and somebody else listens there."""
    return ports.of(name) if is_ours else ports.free(name)


def _role(program: str) -> str:
    return program.rpartition("-")[0]


def _own(settings: Settings) -> dict[str, str]:
    """The settings as variables, without those that concern only the stack: another number of workers restarts none."""
    prefix, kept = "LIVERANK_STACK__", "LIVERANK_STACK__PARTITIONS"
    return {
        name: value for name, value in settings.environment().items() if name == kept or not name.startswith(prefix)
    }


def _extra() -> dict[str, str]:
    """Variables of ours that are no settings (log level, failpoints), passed on as they are."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith("LIVERANK_") and "__" not in name and name not in BELONGS_TO_PROCESS
    }
