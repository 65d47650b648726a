"""``liverank doctor``: names what is wrong before it bites, and what to do about it."""

from __future__ import annotations

from infra.doctor import machine, packages, running, stores
from infra.doctor.findings import Finding, Level
from liverank.settings import Settings, resolve

__all__ = ["Finding", "Level", "examine"]


def examine(settings: Settings) -> list[Finding]:
    """Run every check; changes nothing.

    Parameters
    ----------
    settings : Settings
        As read, not resolved.
    """
    resolved = resolve(settings)
    return [
        *machine.examine(settings),
        *packages.examine(settings),
        *stores.examine(resolved),
        *running.examine(settings),
    ]
