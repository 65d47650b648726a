"""Free ports on the loopback, kept from start to start.

Ports are taken below the range from which the kernel serves outgoing connections. A client that retries a port inside
that range while its server is away can be given the very same port as its source, connect to itself and keep the
server from coming back.
"""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterable
from pathlib import Path

from infra.errors import StackError
from infra.stack.files import write_atomic

LOOPBACK = "127.0.0.1"
FIRST, LAST = 20_000, 32_000
TRIES = 200


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def choose(taken: Iterable[int] = (), rng: random.Random | None = None) -> int:
    """A free port that is not in `taken`, drawn by `rng` (default: the system's randomness).

    Raises
    ------
    StackError
        No free port was found in `TRIES` draws.
    """
    used = set(taken)
    rng = rng or random.SystemRandom()
    for _ in range(TRIES):
        port = rng.randrange(FIRST, LAST)
        if port not in used and is_free(port):
            return port
    raise StackError(f"no free port between {FIRST} and {LAST} in {TRIES} draws; end processes that listen there.")


class Ports:
    """Ports by name, remembered in a file so that a restarted stack keeps its addresses.

    Parameters
    ----------
    path : Path
        JSON file of name -> port.
    rng : random.Random
        Source of the draws.
    """

    def __init__(self, path: Path, rng: random.Random) -> None:
        self._path = path
        self._rng = rng
        self._ports: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}

    def of(self, name: str) -> int:
        """The port of `name`; chosen at the first call."""
        if name not in self._ports:
            self.renew(name)
        return self._ports[name]

    def renew(self, name: str) -> int:
        """Choose another port for `name`: its old one is taken by somebody else."""
        self._ports[name] = choose(self._ports.values(), self._rng)
        write_atomic(self._path, json.dumps(self._ports, indent=1, sort_keys=True) + "\n")
        return self._ports[name]

    def free(self, name: str) -> int:
        """The port of `name`, renewed if somebody else listens on it. Call only while the owner is down."""
        return self.of(name) if is_free(self.of(name)) else self.renew(name)
