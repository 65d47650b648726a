"""The bandit's statistics, as every replica sums them: partials of all partitions of the active generation.

Read in the background; requests see one immutable `Belief` at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bandits import Partial, Posterior, Prior, total
from bandits.snapshot import Snapshot
from features.redis import translated
from ranker.phi import DIM, SCHEMA

if TYPE_CHECKING:
    from features.redis import Redis


@dataclass(frozen=True, kw_only=True)
class Belief:
    """What is believed of the residuals of one base model.

    Attributes
    ----------
    model_id
        The base model.
    posterior
        Acts on requests.
    snapshot_id
        Hash of `snapshot_bytes`; decisions cite it.
    snapshot_bytes
        The summed statistics.
    newest_ms
        Time of the newest exposure in the statistics; 0 = none.
    versions
        Version of each partial, by partition.
    """

    model_id: str
    posterior: Posterior
    snapshot_id: str
    snapshot_bytes: bytes
    newest_ms: int
    versions: Mapping[int, bytes]
    _others: dict[tuple[float, ...], Posterior] = field(default_factory=dict, compare=False, repr=False)

    @property
    def n_shown(self) -> int:
        """Shown slots in the statistics."""
        return self.posterior.n_shown

    def under(self, head_weights: Sequence[float], *, silent: bool = False) -> Posterior:
        """The posterior under some head weights: what learning with them from the start would have given.

        60 us the first time, then kept (for the newest few weights). `silent`: see `without_learning`.
        """
        if silent:
            return self.without_learning(head_weights)
        wanted = tuple(float(weight) for weight in head_weights)
        if wanted == tuple(self.posterior.head_weights.tolist()):
            return self.posterior
        found = self._others.get(wanted)
        if found is None:
            if len(self._others) >= 8:
                self._others.clear()
            found = self._others[wanted] = Snapshot.from_bytes(self.snapshot_bytes).posterior(wanted)
        return found

    def without_learning(self, head_weights: Sequence[float] | None = None) -> Posterior:
        """The same uncertainty, nothing learned: what layer 0 would be without rewards."""
        weights = self.posterior.head_weights.tolist() if head_weights is None else head_weights
        return Snapshot.from_bytes(self.snapshot_bytes).posterior(weights, silent=True)


def partial_key(namespace: str, generation: int, model_id: str, partition: int) -> str:
    """Redis key of one partial."""
    return f"{namespace}:bandit:{generation}:{model_id}:{SCHEMA}:{partition}"


def believe(
    model_id: str,
    partials: Sequence[Partial],
    *,
    generation: int,
    head_weights: Sequence[float],
    prior: Prior,
    versions: Mapping[int, bytes] | None = None,
) -> Belief:
    """A belief from partials; none = the prior alone."""
    summed = total(list(partials)) if partials else Partial(DIM, len(head_weights))
    snapshot = Snapshot(base_model=model_id, schema=SCHEMA, generation=generation, prior=prior, partial=summed)
    return Belief(
        model_id=model_id,
        posterior=snapshot.posterior(head_weights),
        snapshot_id=snapshot.id,
        snapshot_bytes=snapshot.to_bytes(),
        newest_ms=summed.newest_ms,
        versions=dict(versions or {}),
    )


class BeliefReader:
    """Reads the partials of one model; one thread.

    Parameters
    ----------
    redis
        Where partials lie.
    namespace
        Key prefix.
    n_partitions
        Partitions of `events`.
    prior
        Hyper-parameters of the posterior.
    """

    def __init__(self, redis: Redis, namespace: str, n_partitions: int, prior: Prior) -> None:
        self._redis: Any = redis
        self._namespace, self._n, self._prior = namespace, n_partitions, prior

    def follow(self, generation: int, n_partitions: int) -> None:
        """Read so many partitions from now on."""
        self._n = n_partitions

    def read(
        self,
        model_id: str,
        generation: int,
        head_weights: Sequence[float],
        before: Belief | None = None,
        *,
        start: Partial | None = None,
    ) -> Belief:
        """The belief now; `before` itself where no partial has changed. 0.3 ms for 8 partitions without a change.

        Parameters
        ----------
        model_id, generation, head_weights
            What to read, and under which weights.
        before
            The belief of the last call.
        start
            Statistics that the model starts from, added to what was counted; always the same for a model.

        Raises
        ------
        UnavailableError
            Redis is away.
        CorruptStatisticsError
            A partial cannot be read.
        """
        keys = [partial_key(self._namespace, generation, model_id, p) for p in range(self._n)]
        with translated("reading the bandit's statistics"):
            pipe = self._redis.pipeline(transaction=False)
            for key in keys:
                pipe.hget(key, "v")
            found = dict(enumerate(pipe.execute()))
        versions = {p: version for p, version in found.items() if version is not None}
        same_weights = before is not None and list(before.posterior.head_weights) == list(head_weights)
        if before is not None and before.model_id == model_id and before.versions == versions and same_weights:
            return before
        with translated("reading the bandit's statistics"):
            pipe = self._redis.pipeline(transaction=False)
            for p in versions:
                pipe.hmget(keys[p], ["v", "d"])
            rows = pipe.execute()
        partials = [Partial.from_bytes(data) for _, data in rows if data]
        if start is not None:
            partials.append(start)
        read = {p: version for p, (version, _) in zip(versions, rows, strict=True) if version}
        return believe(
            model_id,
            partials,
            generation=generation,
            head_weights=head_weights,
            prior=self._prior,
            versions=read,
        )
