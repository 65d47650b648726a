"""The model of Vowpal Wabbit's policy, as the learner last published it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from features.policy_models import PolicyModels
from ranker.feeds import Feed
from ranker.phi import SCHEMA
from ranker.serving import Rulebook

if TYPE_CHECKING:
    from bandits.vw import VowpalModel

NAME: Final = "vowpal"


@dataclass(frozen=True, kw_only=True)
class VowpalBelief:
    """A model to serve, and what decisions cite.

    Attributes
    ----------
    model
        Used by one thread at a time: the one that answers requests.
    snapshot_id, snapshot_bytes
        Of `bandits.vw_snapshot.VowpalSnapshot`.
    newest_ms
        Time of the newest exposure in it.
    n_learned
        Slots that it learned from.
    """

    model: VowpalModel
    snapshot_id: str
    snapshot_bytes: bytes
    newest_ms: int
    n_learned: int


class VowpalFeed(Feed):
    """Follows the learner every half second while some policy says ``vowpal``; VW is not even imported otherwise.

    Parameters
    ----------
    models
        Where snapshots lie.
    rules
        Rules of this instant.
    """

    def __init__(self, models: PolicyModels, rules: Callable[[], Rulebook]) -> None:
        super().__init__("vowpal", 0.5)
        self._models, self._rules = models, rules
        self._version: bytes | None = None
        self._belief: VowpalBelief | None = None
        self._old: list[VowpalModel] = []
        self.loaded.set()

    def current(self) -> VowpalBelief | None:
        """The newest model; None where nothing was learned yet (for this feature schema)."""
        return self._belief

    def step(self) -> None:
        """Load a newer model aside, then swap."""
        if not self._rules().uses(NAME):
            return
        version = self._models.version(NAME)
        if version is None or version == self._version:
            return
        found = self._models.read(NAME)
        if found is None:
            return
        from bandits.vw_snapshot import VowpalSnapshot

        self._version = found[0]
        snapshot = VowpalSnapshot.from_bytes(found[1])
        if snapshot.schema != SCHEMA:
            return
        if self._belief is not None:
            self._old.append(self._belief.model)
        self._belief = VowpalBelief(
            model=snapshot.load(),
            snapshot_id=snapshot.id,
            snapshot_bytes=found[1],
            newest_ms=snapshot.newest_ms,
            n_learned=snapshot.n_learned,
        )
        # No request holds a model that was swapped away two swaps (a second) ago.
        while len(self._old) > 2:
            self._old.pop(0).close()
