"""What the worker gives its agents."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from liverank import log
from liverank.settings import Settings

_log = log.get(__name__)


def exit_now(agent: str, error: BaseException) -> None:
    """End the process with status 1, offsets unmoved: its supervisor starts it again from the last finished batch."""
    _log.error("agent died", agent=agent, error=repr(error), exc_info=error)
    os._exit(1)


@dataclass(frozen=True, kw_only=True)
class AgentServices:
    """What the worker gives its agents.

    Parameters
    ----------
    settings : Settings
        Resolved.
    generation : int
        Live generation.
    name_of : callable
        Item hash (`features.hashing.item_hash`) -> item id, None = not in the worker's catalogue (yet).
    fatal : callable
        (agent, error): a bug; the worker must become not ready and exit non-zero. Never returns in production.
    """

    settings: Settings
    generation: int
    name_of: Callable[[int], str | None]
    fatal: Callable[[str, BaseException], None] = exit_now
