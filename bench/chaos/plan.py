"""What is done to the system: a seeded list of faults, and how long a run takes."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Final, Literal

FOLD_POINTS: Final = ("before_fence", "between_calls", "between_fence_and_publish", "after_publish")
FAILPOINTS: Final = (*(f"{fold}.{point}" for fold in ("users", "items") for point in FOLD_POINTS), "users.in_record")
"""Every place where a worker is killed on purpose; items have nothing that is due."""
STOPS: Final = ("users.before_fence", "users.between_fence_and_publish", "items.before_fence")
"""Places where an owner is stopped (SIGSTOP) until others have taken its partitions over."""

BUSIEST: Final = 1_500
"""Events of the busiest user: more than the 576 ids kept, fewer than the bounds of size that the recount does not
know (docs/specs/state.md), so that a run of any length can be compared."""

Kind = Literal["failpoint", "kill", "stop", "leave"]


@dataclass(frozen=True)
class Deed:
    """Something done to one worker.

    Attributes
    ----------
    kind : {"failpoint", "kill", "stop", "leave"}
        Killed at a failpoint; killed at any moment; stopped, robbed and woken; ended politely and started again after
        its session.
    place : str
        Failpoint, for `failpoint` and `stop`; with ``:n``, the n-th time it is passed.
    after_s : float
        For `kill` and `leave`: how long the worker runs before.
    """

    kind: Kind
    place: str = ""
    after_s: float = 0.0

    @property
    def name(self) -> str:
        """What it is counted as."""
        return f"{self.kind} {self.place.partition(':')[0]}".strip()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run.

    Attributes
    ----------
    seed : int
    minutes : float
        Faults go on at least so long, and until all of `deeds` are done.
    workers : int
    partitions : int
    rate : float
        Events a second.
    users : int
    skew : float
        User `int(users * u ** skew)` for a uniform u: the busiest does about `BUSIEST` events in the whole run.
    many : int
        Users whose windows close in one tick of one partition.
    redis_away_s : float
    deeds : tuple of Deed
        In order; workers take them one after the other.
    """

    seed: int
    minutes: float
    workers: int
    partitions: int
    rate: float
    users: int
    skew: float
    many: int
    redis_away_s: float
    deeds: tuple[Deed, ...]

    @classmethod
    def of(cls, seed: int, minutes: float, *, workers: int = 3, rate: float = 0.0) -> Plan:
        """The plan of a seed; a run of 10 minutes and more makes at least 200,000 events and 20 kills."""
        rng = random.Random(seed)
        long, short = minutes >= 8, minutes < 2
        deeds = [Deed("failpoint", f"{place}:{rng.randint(1, 6)}") for place in FAILPOINTS]
        deeds += [Deed("stop", f"{place}:{rng.randint(1, 4)}") for place in (STOPS if long else STOPS[:1] + STOPS[2:])]
        deeds += [Deed("kill", after_s=rng.uniform(0.2, 4.0)) for _ in range(12 if long else 2 if short else 8)]
        deeds += [Deed("leave", after_s=rng.uniform(0.5, 3.0)) for _ in range(6 if long else 3)]
        rng.shuffle(deeds)
        rate = rate or (200_000 / (60 * minutes) * 1.1 if long else 60.0 if short else 100.0)
        # Faults prolong a run; sending goes on.
        total = max(1.5 * rate * 60 * minutes, 4.0 * BUSIEST)
        users = max(300, int(total / 100))
        return cls(
            seed=seed,
            minutes=minutes,
            workers=workers,
            partitions=8 if long else 4,
            rate=rate,
            users=users,
            skew=math.log(users) / math.log(total / BUSIEST),
            many=10_000 if long else 450,
            redis_away_s=60.0 if long else 5.0,
            deeds=tuple(deeds),
        )

    def more(self, number: int) -> Deed:
        """A deed beyond the list, while there is time."""
        rng = random.Random(f"{self.seed}-{number}")
        if rng.random() < 0.5:
            return Deed("failpoint", f"{rng.choice(FAILPOINTS)}:{rng.randint(1, 8)}")
        return Deed("leave" if rng.random() < 0.2 else "kill", after_s=rng.uniform(0.2, 8.0))
