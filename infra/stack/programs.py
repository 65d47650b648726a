"""A process of the stack, as the supervisor is told about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Program:
    """One supervised process.

    Parameters
    ----------
    name : str
        Name of the process and of its log file.
    command : tuple of str
        Arguments; the first is the executable's absolute path.
    order : int
        Programs stop one after the other, the highest first.
    environment : mapping
        Variables added to those of the supervisor.
    stop_wait_s : int
        Seconds between SIGTERM and SIGKILL.
    restart : bool
        Whether the supervisor starts it again when it ends on its own.
    """

    name: str
    command: tuple[str, ...]
    directory: Path
    order: int
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_wait_s: int = 30
    restart: bool = True
