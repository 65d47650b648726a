"""Routing by what is known of a user: a table of states, each with its own sources and breadth.

A user's count is the number of their history entries (at most 128 are kept, so 100 and more is one state). Near a
boundary the state that a user had stays (hysteresis), so that a retraction does not flip them back and forth.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ranker.errors import RankerConfigError


@dataclass(frozen=True, kw_only=True)
class UserState:
    """One row of the table.

    Attributes
    ----------
    name
        Name in replies and logs.
    at_least
        Entries from which a user is in it.
    quotas
        Candidates by source.
    n_candidates
        Candidates that are scored, in all.
    shortlist
        Candidates that the policy acts on (at least; never fewer than 2 k).
    llm
        Whether an LLM may rerank for such users (nothing does yet).
    """

    name: str
    at_least: int
    quotas: Mapping[str, int]
    n_candidates: int = 1000
    shortlist: int = 50
    llm: bool = False


def _quotas(
    vector: int, co: int, semantic: int, trending: int, fresh: int, popular: int, demand: int, again: int
) -> Mapping[str, int]:
    return MappingProxyType(
        {
            "vector": vector,
            "co_occurrence": co,
            "semantic": semantic,
            "trending": trending,
            "fresh": fresh,
            "demand": demand,
            "again": again,
            "popular": popular,
        }
    )


DEFAULT_STATES: Final = (
    UserState(name="cold", at_least=0, quotas=_quotas(100, 150, 50, 100, 100, 200, 300, 10), llm=True),
    UserState(name="warming", at_least=6, quotas=_quotas(200, 250, 100, 60, 40, 100, 250, 60)),
    UserState(name="mature", at_least=51, quotas=_quotas(250, 250, 100, 50, 30, 70, 200, 100)),
    UserState(name="warm", at_least=100, quotas=_quotas(250, 250, 100, 50, 30, 70, 200, 128)),
)


class Router:
    """Finds the state of a user; thread-safe; remembers the states of the last `memory` users for hysteresis.

    Parameters
    ----------
    states
        Rising by `at_least`, the first at 0.
    margin
        A user leaves a state downwards only when their count is below ``at_least x (1 - margin)``.
    memory
        Users remembered.

    Raises
    ------
    RankerConfigError
        States not rising, not beginning at 0, or with one name twice.
    """

    def __init__(
        self, states: tuple[UserState, ...] = DEFAULT_STATES, *, margin: float = 0.1, memory: int = 50_000
    ) -> None:
        edges = [state.at_least for state in states]
        if not states or edges[0] != 0 or edges != sorted(set(edges)):
            raise RankerConfigError(f"user states must begin at 0 and rise, got {edges}")
        if len({state.name for state in states}) != len(states):
            raise RankerConfigError("user states must have different names")
        if not 0 <= margin < 1:
            raise RankerConfigError(f"margin must lie in [0, 1), got {margin}")
        self.states = states
        self._margin, self._memory = margin, memory
        self._last: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def route(self, user_id: str, n_events: int) -> UserState:
        """State of a user who has so many history entries."""
        with self._lock:
            last = self._last.pop(user_id, None)
            at = self.place(n_events, last)
            self._last[user_id] = at
            if len(self._last) > self._memory:
                self._last.popitem(last=False)
        return self.states[at]

    def place(self, n_events: int, last: int | None = None) -> int:
        """Index of the state of a count, given the index of the state before."""
        at = max(i for i, state in enumerate(self.states) if state.at_least <= max(n_events, 0))
        while last is not None and at < last:
            if n_events < self.states[at + 1].at_least * (1 - self._margin):
                break
            at += 1
        return at
