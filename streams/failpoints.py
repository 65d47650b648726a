"""Places where a test kills or stops the process: ``LIVERANK_FAILPOINT=[fold.]name[:n][!stop]``.

Names: ``before_fence``, ``between_calls`` (a call of a poll was fenced, the next was not), ``in_record`` (the same
between the calls of one record), ``between_fence_and_publish`` and ``after_publish`` (before the trim). ``n`` = the
n-th time it is passed; ``!stop`` sends SIGSTOP instead of SIGKILL. Costs one comparison where none is set. Of the
command `repartition`: ``before_fold`` and so on by its steps (that one is noted and has not begun), ``in_build`` (a
partition of items is folded), ``in_switch``.
"""

from __future__ import annotations

import os
import signal

from liverank.errors import ConfigError

__all__ = ["NAMES", "Failpoints"]

_STEPS = ("before_fold", "before_build", "in_build", "before_switch", "in_switch", "before_tidy")
NAMES = ("before_fence", "between_calls", "in_record", "between_fence_and_publish", "after_publish", *_STEPS)


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
        place, _, action = spec.partition("!")
        name, _, count = place.partition(":")
        owner, dot, short = name.rpartition(".")
        if spec and (short not in NAMES or action not in ("", "stop") or not (count or "1").isdecimal()):
            raise ConfigError(
                f"LIVERANK_FAILPOINT={spec!r}: allowed is [users.|items.|repartition.]NAME[:n][!stop], "
                f"NAME one of {NAMES}"
            )
        self.name = short if spec and (not dot or owner == fold) else ""
        self._signal = signal.SIGSTOP if action else signal.SIGKILL
        self._left = int(count or 1)

    @classmethod
    def of_environment(cls, fold: str) -> Failpoints:
        """Return what the environment asks for."""
        return cls(os.environ.get("LIVERANK_FAILPOINT", ""), fold)

    def hit(self, name: str) -> None:
        """Kill or stop this process (nothing is flushed) if `name` is armed and its count is reached."""
        if name != self.name:
            return
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), self._signal)
