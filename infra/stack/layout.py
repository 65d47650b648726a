"""Where the stack keeps its files: everything that changes lies under one home."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from liverank.settings import Settings

CHECKOUT = Path(__file__).resolve().parents[2]
SOCKET_PATH_LIMIT = 100
"""Bytes; the kernel allows 107 for the path of a unix socket."""


@dataclass(frozen=True)
class Layout:
    """Paths of one stack.

    Parameters
    ----------
    home : Path
        Absolute folder of the stack.
    cache : Path
        Absolute folder of downloads, shared by all stacks of a checkout.
    """

    home: Path
    cache: Path

    @classmethod
    def of(cls, settings: Settings) -> Layout:
        """Layout of these settings: a relative home lies in the working directory, a relative cache in the checkout."""
        return cls(home=settings.home.expanduser().absolute(), cache=CHECKOUT / settings.stack.cache.expanduser())

    @property
    def run(self) -> Path:
        """Generated configuration, pid, lock and ports."""
        return self.home / "run"

    @property
    def logs(self) -> Path:
        """One rotated file per process."""
        return self.home / "logs"

    @property
    def kafka(self) -> Path:
        """Kafka's log segments and metadata."""
        return self.home / "kafka"

    @property
    def redis(self) -> Path:
        """Redis' append-only file."""
        return self.home / "redis"

    @property
    def endpoints(self) -> Path:
        """The endpoints file that every process reads."""
        return self.home / "endpoints.json"

    @property
    def socket(self) -> Path:
        """Control socket of the supervisor; in the temporary folder where the home's path is too long for a socket."""
        path = self.run / "supervisor.sock"
        if len(bytes(path)) <= SOCKET_PATH_LIMIT:
            return path
        digest = hashlib.sha256(bytes(self.home)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"liverank-{digest}.sock"

    def create(self) -> None:
        """Make the folders; safe to repeat."""
        for path in (self.home, self.run, self.logs, self.kafka, self.redis):
            path.mkdir(parents=True, exist_ok=True)
