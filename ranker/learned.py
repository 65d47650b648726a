"""What policies beyond the shared linear ones act on, as every replica sums it: per category, and in logits.

Read in the background like `ranker.posterior`, at most every two seconds: these statistics are larger.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from bandits.arms import ArmPartials
from bandits.items import WithItems
from bandits.learned import AnyPrior, AnySums, LearnedSnapshot
from bandits.logistic import LogisticPartial
from bandits.policy import ITEMS, LOGISTIC
from bandits.posterior import Learned
from bandits.snapshot import snapshot_id
from bandits.stored import read_items, read_stored
from features.redis import translated
from ranker.models.store import START_ARMS_FILE, START_ITEMS_FILE, START_LOGISTIC_FILE
from ranker.phi import DIM, SCHEMA
from ranker.posterior import partial_key

if TYPE_CHECKING:
    from features.redis import Redis

READ_EVERY_S: Final = 2.0
"""A reward is in the posterior at most this and half a second (the fold's publishing) after it was folded."""


@dataclass(frozen=True, kw_only=True)
class LearnedBelief:
    """What one learner believes of the residuals of one base model.

    Attributes
    ----------
    snapshot
        The summed statistics.
    snapshot_id, snapshot_bytes
        Cited and logged by decisions.
    """

    snapshot: LearnedSnapshot
    snapshot_id: str
    snapshot_bytes: bytes
    _made: dict[tuple[bool, tuple[float, ...]], Learned] = field(default_factory=dict, compare=False, repr=False)

    @property
    def n_shown(self) -> int:
        """Shown slots in the statistics."""
        return self.snapshot.n_shown

    @property
    def newest_ms(self) -> int:
        """Time of the newest exposure in the statistics; 0 = none."""
        return self.snapshot.newest_ms

    def under(self, head_weights: Sequence[float], *, silent: bool = False) -> Learned:
        """What is believed under some head weights; 30 to 50 us an arm the first time, then kept.

        `silent`: the same uncertainty, nothing learned.
        """
        key = silent, tuple(float(weight) for weight in head_weights)
        found = self._made.get(key)
        if found is None:
            if len(self._made) >= 8:
                self._made.clear()
            found = self._made[key] = self.snapshot.posterior(key[1], silent=silent)
        return found


def learned_belief(
    model_id: str, learner: str, sums: AnySums, *, generation: int, prior: AnyPrior, head_weights: Sequence[float]
) -> LearnedBelief:
    """A belief from summed statistics, its posterior made."""
    snapshot = LearnedSnapshot(
        base_model=model_id, schema=SCHEMA, generation=generation, learner=learner, prior=prior, sums=sums
    )
    data = snapshot.to_bytes()
    belief = LearnedBelief(snapshot=snapshot, snapshot_id=snapshot_id(data), snapshot_bytes=data)
    belief.under(head_weights)
    return belief


@dataclass(frozen=True)
class Read:
    """One partition's statistics."""

    version: bytes
    arms: ArmPartials | None
    logistic: LogisticPartial | None
    items: WithItems | None

    @classmethod
    def of(cls, fields: Mapping[bytes, bytes]) -> Read:
        """From stored fields."""
        return cls(fields.get(b"v", b""), *read_stored(fields), read_items(fields))


class LearnedReader:
    """Reads and sums the partitions' statistics of one model; one thread.

    Parameters
    ----------
    redis
        Where partials lie.
    namespace
        Key prefix.
    n_partitions
        Partitions of `events`.
    every_s
        Shortest time between two looks.
    clock_s
        Monotonic clock.
    """

    def __init__(
        self,
        redis: Redis,
        namespace: str,
        n_partitions: int,
        *,
        every_s: float = READ_EVERY_S,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis: Any = redis
        self._namespace, self._n = namespace, n_partitions
        self._every_s, self._clock_s = every_s, clock_s
        self._read: dict[int, Read] = {}
        self._of: tuple[object, ...] = ()
        self._next_s = float("-inf")

    def follow(self, generation: int, n_partitions: int) -> None:
        """Read so many partitions from now on."""
        self._n = n_partitions

    def read(
        self,
        model_id: str,
        generation: int,
        head_weights: Sequence[float],
        priors: Mapping[str, AnyPrior],
        before: Mapping[str, LearnedBelief],
        *,
        start: Callable[[str], bytes | None] = lambda name: None,
    ) -> Mapping[str, LearnedBelief]:
        """The beliefs now; `before` itself where nothing changed, or it is too early to look again.

        Parameters
        ----------
        model_id, generation, head_weights
            What to read, and under which weights to make it ready.
        priors
            Prior by learner: who is wanted.
        before
            What the last call returned for this model.
        start
            Reads a starting file of the model by its name; None = it has none.

        Raises
        ------
        UnavailableError
            Redis is away.
        CorruptStatisticsError
            Statistics cannot be read.
        """
        asked = (model_id, generation, tuple(sorted(priors)))
        if asked == self._of and before.keys() == priors.keys() and self._clock_s() < self._next_s:
            return before
        if asked[:2] != self._of[:2]:
            self._read = {}
        keys = [partial_key(self._namespace, generation, model_id, p) for p in range(self._n)]
        with translated("reading the bandit's statistics"):
            pipe = self._redis.pipeline(transaction=False)
            for key in keys:
                pipe.hget(key, "v")
            versions = dict(enumerate(pipe.execute()))
            moved = [p for p, one in versions.items() if one and (p not in self._read or self._read[p].version != one)]
            pipe = self._redis.pipeline(transaction=False)
            for p in moved:
                pipe.hgetall(keys[p])
            rows = dict(zip(moved, pipe.execute(), strict=True)) if moved else {}
        self._next_s = self._clock_s() + self._every_s
        if asked == self._of and before.keys() == priors.keys() and not moved:
            return before
        for p, fields in rows.items():
            self._read[p] = Read.of(fields)
        self._of = asked
        n_heads, found = len(head_weights), {}
        for learner, prior in priors.items():
            sums = summed(learner, n_heads, [self._read[p] for p in sorted(self._read)], start)
            found[learner] = learned_belief(
                model_id, learner, sums, generation=generation, prior=prior, head_weights=head_weights
            )
        return found


def summed(
    learner: str, n_heads: int, read: Sequence[Read], start: Callable[[str], bytes | None]
) -> ArmPartials | LogisticPartial | WithItems:
    """The sums of a learner: what a model starts from, and what was counted since."""
    if learner == LOGISTIC:
        return _logistic(n_heads, read, start)
    if learner == ITEMS:
        return _items(n_heads, read, start)
    data = start(START_ARMS_FILE)
    total = ArmPartials.from_bytes(data) if data else ArmPartials(DIM, n_heads)
    for one in read:
        if one.arms is not None:
            total.merge(one.arms)
    return total


def _logistic(n_heads: int, read: Sequence[Read], start: Callable[[str], bytes | None]) -> LogisticPartial:
    data = start(START_LOGISTIC_FILE)
    total = LogisticPartial.from_bytes(data) if data else LogisticPartial(DIM, n_heads)
    for one in read:
        if one.logistic is not None:
            total.merge(one.logistic)
    return total


def _items(n_heads: int, read: Sequence[Read], start: Callable[[str], bytes | None]) -> WithItems:
    data = start(START_ITEMS_FILE)
    total = WithItems.from_bytes(data) if data else WithItems.none(DIM, n_heads)
    for one in read:
        if one.items is not None:
            total.merge(one.items)
    return total
