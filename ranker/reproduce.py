"""Makes a logged draw again, bit by bit, from the decision and the snapshot that it cites.

Needs the fully logged share (`candidates`) and the build of numpy that drew; of other decisions the shown slots can be
checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bandits import (
    BanditsError,
    Explorable,
    Greedy,
    Policy,
    Problem,
    Reserved,
    Slate,
    Uniform,
    draw_slate,
    generator,
    parse,
)
from bandits.learned import read_snapshot
from bandits.policy import REWARD, SHARED, learner
from bandits.posterior import Learned
from bandits.slates import slot_pmf
from liverank.v1 import decision_pb2
from ranker.errors import NotReproducibleError
from ranker.quotas import SlateQuota
from ranker.rules import SlateRules

_TOLERANCE: Final = 1e-9


@dataclass(frozen=True, kw_only=True)
class Redrawn:
    """A decision's problem, and the slate that its policy draws from it.

    Attributes
    ----------
    policy, problem
        As they acted.
    order
        The logged slate, as places in the candidates.
    rules
        Hard rules alone.
    slate
        Drawn anew from the logged seed.
    """

    policy: Policy
    problem: Problem
    order: tuple[int, ...]
    rules: SlateRules
    slate: Slate


def posterior_of(decision: decision_pb2.Decision, snapshot: bytes) -> Learned:
    """What a decision acted upon, not yet bound to its candidates.

    Raises
    ------
    NotReproducibleError
        The snapshot is not that of the decision's model, or cannot be read.
    """
    try:
        found = read_snapshot(snapshot)
        if found.base_model != decision.base_model or found.schema != decision.schema:
            raise NotReproducibleError(
                f"decision {decision.request_id} is of model {decision.base_model}, its snapshot of {found.base_model}"
            )
        return found.posterior(list(decision.head_weights))
    except BanditsError as error:
        raise NotReproducibleError(f"snapshot {decision.snapshot} cannot be used: {error}") from error


def _learned(decision: decision_pb2.Decision, snapshot: bytes) -> Learned:
    """As `posterior_of`, or the model of a policy that learns the reward itself."""
    if decision.policy.partition("(")[0] != "vowpal":
        return posterior_of(decision, snapshot)
    from bandits.vw_snapshot import VowpalSnapshot

    try:
        return VowpalSnapshot.from_bytes(snapshot).load()
    except BanditsError as error:
        raise NotReproducibleError(f"snapshot {decision.snapshot} cannot be used: {error}") from error


def redraw(decision: decision_pb2.Decision, snapshot: bytes, *, with_policy: Policy | None = None) -> Redrawn:
    """Make the draw of a fully logged decision again; 1 ms.

    Parameters
    ----------
    decision
        With `candidates`.
    snapshot
        Bytes named by `decision.snapshot`.
    with_policy
        Another policy on the same problem; None = the logged one.

    Raises
    ------
    NotReproducibleError
        It was not drawn, its candidates were not logged, its parts do not fit together, or `with_policy` acts on
        another kind of posterior than the snapshot holds.
    """
    if not decision.drawn or not decision.candidates:
        raise NotReproducibleError(
            f"decision {decision.request_id} was "
            + ("not drawn" if not decision.drawn else "not sampled: its candidates are not in the log")
        )
    candidates = decision.candidates
    n = len(candidates)
    places = {one.item_id: at for at, one in enumerate(candidates)}
    try:
        order = tuple(places[slot.item_id] for slot in decision.slots)
    except KeyError as error:
        raise NotReproducibleError(f"{error} was shown by {decision.request_id} but was no candidate") from error
    acted = parse(decision.policy)
    if with_policy is not None and not _same_kind(acted, with_policy):
        raise NotReproducibleError(
            f"{with_policy.name} acts on the {learner(with_policy)} posterior, the snapshot of {decision.request_id} "
            f"holds the {learner(acted)} one"
        )
    posterior = _learned(decision, snapshot).bind(
        [one.category_name for one in candidates],
        _p_first([list(one.p_first) for one in candidates]),
        [one.item_id for one in candidates],
    )
    rules = SlateRules.capped(
        np.array([one.creator for one in candidates], dtype=np.int32),
        np.array([one.category for one in candidates], dtype=np.int32),
        _near(decision.near, n),
        decision.k,
        (decision.creator_cap, decision.category_cap),
        np.array([not one.unavailable for one in candidates], dtype=np.bool_),
        [_quota(one, n) for one in decision.quotas],
    )
    value = np.array([one.value for one in candidates])
    phi = np.array([list(one.phi) for one in candidates], dtype=np.float32).astype(np.float64)
    allowed = np.array([not one.not_explorable for one in candidates], dtype=np.bool_)
    feasible = rules if allowed.all() else Explorable(rules, allowed, value + posterior.mean(phi))
    problem = Problem(
        value=value,
        phi=phi,
        posterior=posterior,
        k=decision.k,
        feasible=feasible,
        floor=decision.floor,
        cap=decision.cap,
        n_greedy_slots=decision.greedy_slots,
        arms=rules.categories.astype(np.int64),
        item_looks=_looks([one.item_looks if one.HasField("item_looks") else None for one in candidates]),
        kind_looks=_looks([one.kind_looks if one.HasField("kind_looks") else None for one in candidates]),
    )
    policy: Policy = with_policy or acted
    if decision.reserved_share > 0:
        reserved = np.array([one.reserved for one in candidates], dtype=np.bool_)
        policy = Reserved(policy=policy, reserved=reserved, share=decision.reserved_share)
    slate = draw_slate(policy, problem, generator(decision.seed))
    return Redrawn(policy=policy, problem=problem, order=order, rules=rules, slate=slate)


def differences(decision: decision_pb2.Decision, redrawn: Redrawn) -> list[str]:
    """What the log says otherwise than the draw made again; empty = equal, bit by bit."""
    slate, ids = redrawn.slate, [one.item_id for one in decision.candidates]
    shown = [slot.item_id for slot in decision.slots]
    again = [ids[place] for place in slate.order]
    if shown != again:
        at = next((slot for slot, pair in enumerate(zip(shown, again, strict=False)) if pair[0] != pair[1]), -1)
        where = f"slot {at + 1}: {shown[at]} shown, {again[at]} drawn" if at >= 0 else f"{len(shown)} and {len(again)}"
        return [f"another slate ({where})"]
    found = []
    for at, slot in enumerate(decision.slots):
        for name, logged, drawn in (
            ("propensity", slot.propensity, float(slate.propensity[at])),
            ("effective floor", slot.effective_floor, float(slate.effective_floor[at])),
            ("score", slot.score, float(slate.score[slate.order[at]])),
            ("pinned", slot.pinned, bool(slate.pinned[at])),
            ("explored", slot.explored, bool(slate.explored[at])),
            ("feasible items", slot.n_feasible, int(slate.n_feasible[at])),
        ):
            if logged != drawn:
                found.append(f"slot {at + 1}: {name} {logged!r} logged, {drawn!r} drawn")
    return found


def _same_kind(acted: Policy, other: Policy) -> bool:
    """Whether a policy can be judged on what another one acted upon: greed and chance can on anything."""
    mine, theirs = learner(acted), learner(other)
    return mine == theirs or isinstance(other, Greedy | Uniform) or (mine, theirs) == (REWARD, SHARED)


def _looks(logged: Sequence[float | None]) -> NDArray[np.float64] | None:
    """Logged looks; None where an older log has none."""
    known = [looks for looks in logged if looks is not None]
    return np.array(known) if len(known) == len(logged) else None


def _p_first(rows: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Logged probabilities as they were acted upon."""
    return np.array(rows, dtype=np.float32).astype(np.float64).reshape(len(rows), -1)


def slot_faults(decision: decision_pb2.Decision, learned: Learned | None) -> list[str]:
    """What is wrong with the shown slots of any drawn decision, its candidates logged or not.

    Pinned slots have propensity 1, drawn ones at least the effective floor and at most 1, explored ones at most the
    cap; posterior mean and sd are those of the snapshot (within 1e-9; None = not checked).
    """
    found = []
    slack = 1e-12
    for at, slot in enumerate(decision.slots, 1):
        if slot.pinned and slot.propensity != 1.0:
            found.append(f"slot {at}: pinned with propensity {slot.propensity!r}")
        elif not slot.effective_floor - slack <= slot.propensity <= 1.0 or slot.propensity <= 0:
            found.append(f"slot {at}: propensity {slot.propensity!r} outside [{slot.effective_floor!r}, 1]")
        elif slot.explored and slot.propensity > decision.cap + slack:
            found.append(f"slot {at}: explored with propensity {slot.propensity!r}, the cap is {decision.cap!r}")
    if learned is not None and len(decision.slots):
        slots = decision.slots
        posterior = learned.bind(
            [slot.category_name for slot in slots],
            _p_first([list(one.p_first) for one in slots]),
            [slot.item_id for slot in slots],
        )
        phi = np.array([list(slot.phi) for slot in decision.slots], dtype=np.float32).astype(np.float64)
        for name, logged, again in (
            ("mean", [slot.posterior_mean for slot in decision.slots], posterior.mean(phi)),
            ("sd", [slot.posterior_sd for slot in decision.slots], posterior.sd(phi)),
        ):
            off = np.abs(np.array(logged) - again)
            if (off > _TOLERANCE).any():
                found.append(f"slot {int(off.argmax()) + 1}: posterior {name} is {off.max():.2g} off its snapshot")
    return found


def slot_laws(redrawn: Redrawn, seed: int) -> list[NDArray[np.float64]]:
    """Probabilities of all candidates in each drawn slot, given the logged slots before it; None of the pinned ones.

    Parameters
    ----------
    redrawn
        With the logged or another policy.
    seed
        Of the policy's own randomness: the logged one gives the law that acted.
    """
    problem, score = redrawn.problem, redrawn.slate.score
    law = redrawn.policy.law(problem, score, generator(seed))
    feasible = problem.feasible
    assert feasible is not None
    laws = []
    for slot in range(min(problem.n_greedy_slots, len(redrawn.order)), len(redrawn.order)):
        prefix = redrawn.order[:slot]
        mask = feasible.mask(prefix).copy()
        mask[list(prefix)] = False
        laws.append(slot_pmf(law, score, mask, floor=problem.floor, cap=problem.cap))
    return laws


def _quota(logged: decision_pb2.DecisionQuota, n: int) -> SlateQuota:
    members = np.zeros(n, dtype=np.bool_)
    members[list(logged.members)] = True
    return SlateQuota(name=logged.name, members=members, least=logged.least, most=logged.most)


def _near(pairs: Sequence[int], n: int) -> NDArray[np.bool_] | None:
    if not pairs:
        return None
    near = np.zeros((n, n), dtype=np.bool_)
    at = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    near[at[:, 0], at[:, 1]] = near[at[:, 1], at[:, 0]] = True
    return near
