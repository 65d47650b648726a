"""What a check of the doctor says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "fault"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One check's result.

    Parameters
    ----------
    check : str
        What was looked at.
    level : Level
        `warning`: works, but look at it; `fault`: something must be done, the exit code is 1.
    found : str
        What was found.
    todo : str
        What to do; empty only where all is well.
    """

    check: str
    level: Level
    found: str
    todo: str = ""

    def __post_init__(self) -> None:
        if self.level != "ok" and not self.todo:
            raise ValueError(f"finding {self.check!r} names no remedy")


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check=check, level="ok", found=found)


def warning(check: str, found: str, todo: str) -> Finding:
    """Works, but look at it."""
    return Finding(check=check, level="warning", found=found, todo=todo)


def fault(check: str, found: str, todo: str) -> Finding:
    """Something must be done."""
    return Finding(check=check, level="fault", found=found, todo=todo)
