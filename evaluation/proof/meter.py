"""Reads what the proof looks at: features through Feast, vectors, posterior, slates over seeds, layers one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import ProofError
from evaluation.proof.lines import LAYERS, Reading
from features.user_row import UserRow, UserRowReader
from liverank.client import Client
from liverank.errors import NotFoundError
from liverank.v1 import personalization_pb2 as pb
from liverank.v1.decision_pb2 import MODE_SERVE, MODE_SHADOW, Decision
from ranker.posterior import Belief

SEEDS: Final = range(1, 65)
K: Final = 10
LONG: Final = 50
"""Length of a slate that must hold some items of a kind, where a short one has too few."""
POLICY: Final = "thompson"
_LAYER: Final = {
    "posterior": pb.LAYER_POSTERIOR,
    "features": pb.LAYER_USER_FEATURES,
    "vectors": pb.LAYER_USER_VECTORS,
    "model": pb.LAYER_MODEL,
}
TRIES: Final = 20
RETRY_S: Final = 0.5
_POLL_S: Final = 0.01


@dataclass(frozen=True)
class Kinds:
    """The catalogue by kind (first category).

    Attributes
    ----------
    of_item : mapping of str to str
        Item id -> kind.
    vector : mapping of str to float array, shape (dim,)
        Item id -> unit vector.
    """

    of_item: Mapping[str, str]
    vector: Mapping[str, NDArray[np.float64]]

    def items(self, kind: str) -> list[str]:
        """Items of a kind, in order of id."""
        return sorted(item for item, its in self.of_item.items() if its == kind)


@dataclass(frozen=True)
class Probe:
    """Whom and what one experiment is about.

    Attributes
    ----------
    shown : tuple of str
        Items of the kind that the user was just shown.
    slots : tuple of int
        Where they stood, from 0.
    request_id : str
        Of the slate that showed them.
    phi : float array, shape (n_shown, dim)
        Logged bandit features of those slots.
    as_of_ms : int
        Fixed instant of all readings.
    near_slate : tuple of str
        Items whose scores are compared, layer by layer: what stood in or near the slate before the action.
    """

    user_id: str
    kind: str
    shown: tuple[str, ...]
    slots: tuple[int, ...]
    request_id: str
    phi: NDArray[np.float64]
    as_of_ms: int
    near_slate: tuple[str, ...] = ()


class Meter:
    """Takes readings. Everything it asks the ranker is SHADOW but the one slate of `show`.

    Parameters
    ----------
    client : Client
    users : UserRowReader
        Feast's online store.
    belief : callable
        Model id -> the bandit's statistics as they are in Redis now.
    kinds : Kinds
    """

    def __init__(
        self, client: Client, users: UserRowReader, belief: Callable[[str], Belief], kinds: Kinds, *, surface: str
    ) -> None:
        self._client, self._users, self._belief, self._kinds, self._surface = client, users, belief, kinds, surface

    def show(self, user_id: str, kind: str, n: int, as_of_ms: int) -> Probe:
        """Show a user n items of a kind (its first category): a real slate with a real exposure.

        The filter looks at every category of an item, so a longer slate is asked for and its own items are taken.

        Raises
        ------
        ProofError
            The ranker gives fewer items, or none was drawn.
        """
        condition = pb.Condition(field="category", operator=pb.Condition.OPERATOR_IN, values=[kind])
        for k in (K + n, LONG):
            reply = self._client.rank(
                user_id,
                k=k,
                surface=self._surface,
                mode=MODE_SERVE,
                filter=pb.Filter(conditions=[condition]),
                debug=True,
            )
            slots = tuple(slot for slot, item in enumerate(reply.items) if self.kind(item.item_id) == kind)[:n]
            if len(slots) == n:
                break
        shown = tuple(reply.items[slot].item_id for slot in slots)
        if len(shown) < n or reply.policy == "none":
            raise ProofError(
                f"a slate of {n} items of kind {kind!r} for {user_id} has {len(shown)} items, policy {reply.policy}, "
                f"rungs {list(reply.rungs)}; is the catalogue imported and the ranker healthy?"
            )
        decision = self._decision(reply.request_id)
        phi = np.array([list(decision.slots[slot].phi) for slot in slots], dtype=np.float64)
        return Probe(user_id, kind, shown, slots, reply.request_id, phi, as_of_ms)

    def _decision(self, request_id: str, timeout_s: float = 10.0) -> Decision:
        """The logged decision: replies do not wait for their logs, so it may take a moment."""
        end_s = time.monotonic() + timeout_s
        while True:
            try:
                return self._client.explain(request_id, deadline_s=30.0).decision
            except NotFoundError:
                if time.monotonic() > end_s:
                    raise
            time.sleep(0.1)

    def kind(self, item_id: str) -> str:
        """Kind of an item; empty where it has none."""
        return self._kinds.of_item.get(item_id, "")

    def items(self, kind: str) -> list[str]:
        """Items of a kind."""
        return self._kinds.items(kind)

    def row(self, user_id: str) -> UserRow:
        """The user's features through Feast."""
        return self._users.read(user_id)

    def features(self, probe: Probe, row: UserRow) -> NDArray[np.float64]:
        """Windows of the user and of user x kind at the probe's instant."""
        index, values = row.category_windows(probe.as_of_ms)
        own = values[index[probe.kind]] if probe.kind in index else np.zeros(len(row.category_window_names))
        return np.concatenate([row.windows(probe.as_of_ms), own])

    def net(self, probe: Probe, row: UserRow) -> float:
        """Good minus bad news about the kind in the last day."""
        index, values = row.category_windows(probe.as_of_ms)
        if probe.kind not in index:
            return 0.0
        names = list(row.category_window_names)
        good, bad = names.index("positives_1d"), names.index("negatives_1d")
        return float(values[index[probe.kind], good] - values[index[probe.kind], bad])

    def posterior_mean(self, probe: Probe, model: str, slot: int = 0) -> float:
        """Posterior mean for the logged features of a slot, from the statistics in Redis."""
        return float(self._belief(model).posterior.mean(probe.phi[slot : slot + 1])[0])

    def read(self, probe: Probe, *, slot: int = 0) -> Reading:
        """One whole reading; 70 requests."""
        row = self.row(probe.user_id)
        shares, slates, model = self.shares(probe, SEEDS)
        vectors = np.asarray(row.vectors, dtype=np.float64)
        return Reading(
            features=self.features(probe, row),
            net=self.net(probe, row),
            vectors=vectors,
            leaning=self._leaning(vectors, probe.shown[slot]),
            posterior_mean=self.posterior_mean(probe, model, slot),
            shares=shares,
            slates=slates,
            parts={layer: self.part(probe, layer) for layer in LAYERS},
            model=model,
        )

    def shares(
        self, probe: Probe, seeds: Sequence[int]
    ) -> tuple[NDArray[np.float64], tuple[tuple[str, ...], ...], str]:
        """Expected share of the kind by seed (sum of logged propensities over k), the slates, and the model.

        What was just shown is left out: the share is about the kind, not about the item that was acted upon.
        """
        out, slates, model = [], [], ""
        for seed in seeds:
            options = pb.ShadowOptions(as_of_ms=probe.as_of_ms, seed=seed, policy=POLICY)
            reply = self._ask(probe, K, options, exclude_item_ids=probe.shown)
            mine = [i.propensity for i in reply.items if self.kind(i.item_id) == probe.kind]
            out.append(sum(mine) / K)
            slates.append(tuple(item.item_id for item in reply.items))
            model = reply.model
        return np.array(out), tuple(slates), model

    def near_slate(self, probe: Probe) -> tuple[str, ...]:
        """Items of a long greedy slate: what may move up or down."""
        options = pb.ShadowOptions(as_of_ms=probe.as_of_ms, seed=1, greedy=True)
        reply = self._ask(probe, LONG, options, exclude_item_ids=probe.shown)
        return tuple(item.item_id for item in reply.items)

    def part(self, probe: Probe, layer: str) -> float:
        """How much the kind's items near the slate score above the others there, with only one layer on."""
        candidates = [item for item in probe.near_slate if item not in probe.shown]
        options = pb.ShadowOptions(
            as_of_ms=probe.as_of_ms,
            seed=1,
            greedy=True,
            without=[number for name, number in _LAYER.items() if name != layer],
        )
        reply = self._ask(probe, len(candidates), options, candidates=candidates)
        mine = [i.score for i in reply.items if self.kind(i.item_id) == probe.kind]
        others = [i.score for i in reply.items if self.kind(i.item_id) != probe.kind]
        return float(np.mean(mine) - np.mean(others))

    def _ask(self, probe: Probe, k: int, options: pb.ShadowOptions, **how: Sequence[str]) -> pb.RankReply:
        """A SHADOW reply in full service; one of a lower rung answers another question and is asked again."""
        for _ in range(TRIES):
            reply = self._client.rank(
                probe.user_id, k=k, surface=self._surface, mode=MODE_SHADOW, shadow=options, deadline_s=5.0, **how
            )
            if not reply.rungs:
                return reply
            time.sleep(RETRY_S)
        raise ProofError(
            f"the ranker answers with the rungs {list(reply.rungs)} ({TRIES} times in {TRIES * RETRY_S:g} s): readings "
            "would not be of the full service; see `liverank doctor` and the ranker's log, then try again"
        )

    def wait(self, changed: Callable[[], bool], since_s: float, timeout_s: float) -> float | None:
        """Seconds from `since_s` until something has changed; None where it never did."""
        while True:
            if changed():
                return time.monotonic() - since_s
            if time.monotonic() - since_s > timeout_s:
                return None
            time.sleep(_POLL_S)

    def _leaning(self, vectors: NDArray[np.float64], item_id: str) -> NDArray[np.float64]:
        item = self._kinds.vector.get(item_id)
        if item is None or vectors.shape[1] != len(item):
            return np.zeros(len(vectors))
        lengths = np.linalg.norm(vectors, axis=1)
        cosine: NDArray[np.float64] = vectors @ item / np.where(lengths > 0, lengths, 1.0)
        return cosine
