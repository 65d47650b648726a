"""What is replayed, and before which events the system is asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from liverank.contract import POSITIVE
from liverank.errors import ConfigError
from liverank.v1.event_pb2 import Event, EventType

TRUTHS: Final = POSITIVE | {int(EventType.EVENT_TYPE_RATING)}
"""Types of events that a list should have held the item of."""

REPEATS_FROM: Final = 0.05
"""Share of repeats in the history from which own items stay in the lists."""

STATES: Final = (("cold", 0), ("warming", 6), ("mature", 51), ("warm", 100))
"""User state by the number of events before: the least of each."""


@dataclass(frozen=True, kw_only=True)
class ReplayPlan:
    """How a replay goes.

    Parameters
    ----------
    imported : float
        Share of the events, by time, that is history; in (0, 1).
    n_sampled : int
        Events before which a slate is asked for; at least 1.
    k : int
        Length of the lists, 1 to 200.
    half_life_ms : float
        Of the decayed popularity.
    tick_ms : int
        Simulated time between two ticks of every partition.
    seed : int
        Of the sample.
    repeats : bool
        Whether users take items again (`repeat_share` of the history): own items then stay in every list, ours and the
        baselines'; otherwise they are left out of every list.
    """

    imported: float = 0.8
    n_sampled: int = 2_000
    k: int = 10
    half_life_ms: float = 86_400_000.0
    tick_ms: int = 60_000
    seed: int = 1
    repeats: bool = False

    def __post_init__(self) -> None:
        checks = {
            "0 < imported < 1": 0 < self.imported < 1,
            "n_sampled >= 1": self.n_sampled >= 1,
            "1 <= k <= 200": 1 <= self.k <= 200,
            "half_life_ms > 0": self.half_life_ms > 0,
            "1 <= tick_ms <= 60000": 1 <= self.tick_ms <= 60_000,
        }
        broken = [rule for rule, holds in checks.items() if not holds]
        if broken:
            raise ConfigError(f"replay plan breaks: {'; '.join(broken)}")


@dataclass(frozen=True)
class Sampled:
    """One event before which everyone was asked.

    Attributes
    ----------
    state : str
        User state by the number of events before it.
    hits : tuple of bool
        Whether the item was in the list of: liverank, all-time popularity, decayed popularity.
    rungs : tuple of str
        Degrade rungs of the reply; empty in a sound run.
    """

    event_id: str
    user_id: str
    state: str
    hits: tuple[bool, bool, bool]
    rungs: tuple[str, ...]


def user_state(n_events: int) -> str:
    """User state of a user with so many events.

    Examples
    --------
    >>> [user_state(n) for n in (0, 5, 6, 50, 51, 99, 100)]
    ['cold', 'cold', 'warming', 'warming', 'mature', 'mature', 'warm']
    """
    return next(name for name, least in reversed(STATES) if n_events >= least)


def repeat_share(events: Iterable[Event]) -> float:
    """Share of the choices that are on an item which their user had chosen before; 0 without choices.

    Examples
    --------
    >>> repeat_share([])
    0.0
    """
    had: set[tuple[str, str]] = set()
    n = again = 0
    for event in events:
        if event.type in TRUTHS:
            pair = (event.user_id or event.session_id, event.item_id)
            n += 1
            again += pair in had
            had.add(pair)
    return again / n if n else 0.0


def sample(events: Sequence[Event], known: frozenset[str], plan: ReplayPlan) -> frozenset[int]:
    """Indices of the events before which slates are asked for: a seeded draw from those on known items.

    Where there are fewer than the plan wants, all of them.

    Raises
    ------
    ConfigError
        There is none.
    """
    able = [n for n, event in enumerate(events) if event.type in TRUTHS and event.item_id in known]
    if not able:
        raise ConfigError(
            f"the replayed part ({len(events)} events) holds no click, like, save, rating or purchase of a known item; "
            "lower --imported, or give the catalogue with --items"
        )
    rng = np.random.default_rng(plan.seed)
    size = min(plan.n_sampled, len(able))
    return frozenset(int(able[n]) for n in rng.choice(len(able), size=size, replace=False))
