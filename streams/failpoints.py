"""Places where a test kills the process: ``LIVERANK_FAILPOINT=name`` or ``name:n`` (the n-th time it is passed).

Names: ``before_fence``, ``between_calls`` (after the first call of a poll was fenced, before the second),
``between_fence_and_publish``, ``after_publish`` (before the trim) and ``in_record`` (between the calls of one
record). A name may be narrowed to one fold: ``users.before_fence``. Costs one attribute check where none is set.
"""

from __future__ import annotations

import os
import signal

from liverank.errors import ConfigError

__all__ = ["NAMES", "Failpoints"]

NAMES = ("before_fence", "between_calls", "between_fence_and_publish", "after_publish", "in_record")


class Failpoints:
    """The failpoint of this process, if any.

    Parameters
    ----------
    spec : str
        Value of ``LIVERANK_FAILPOINT``; empty = none.
    fold : str
        Name of the fold that asks.
    """

    def __init__(self, spec: str, fold: str) -> None:
        name, _, count = spec.partition(":")
        owner, dot, short = name.rpartition(".")
        if spec and short not in NAMES:
            raise ConfigError(f"LIVERANK_FAILPOINT={spec!r}: allowed are {', '.join(NAMES)}, optionally `users.NAME:n`")
        self.name = short if spec and (not dot or owner == fold) else ""
        self._left = int(count or 1)

    @classmethod
    def of_environment(cls, fold: str) -> Failpoints:
        """Return what the environment asks for."""
        return cls(os.environ.get("LIVERANK_FAILPOINT", ""), fold)

    def hit(self, name: str) -> None:
        """Kill this process (SIGKILL, nothing is flushed) if `name` is armed and its count is reached."""
        if name != self.name:
            return
        self._left -= 1
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
