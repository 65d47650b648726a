"""Drawing a slate so that the logged propensity *is* the policy.

Slots are filled one after another without replacement. In each drawn slot, with F the feasible set, g the greedy
candidate of F (highest value plus posterior mean), pi the policy's law over F and eps the floor:

    q  = (1 - eps) pi + eps / |F|                    the floor: every feasible candidate can come
    p  = c q + (1 - c) [g],  c = min(1, cap / (1 - q(g)))   the cap: at most `cap` on candidates other than g

The slot is drawn from p, p of the drawn candidate is logged, and nothing reorders, drops or replaces it afterwards.
The first `n_greedy_slots` hold g and are logged as pinned with propensity 1.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, compress
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
from numpy.random import PCG64, Generator
from numpy.typing import NDArray

from bandits.errors import InvalidStatisticsError
from bandits.feasible import Feasible
from bandits.laws import Law, ShrinkingLaw, mix_uniform
from bandits.posterior import RewardPosterior

if TYPE_CHECKING:
    from bandits.policy import Policy

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]
Ints: TypeAlias = NDArray[np.int64]

DEFAULT_FLOOR = 0.02
DEFAULT_CAP = 0.10


def generator(seed: int) -> Generator:
    """The generator of a logged seed (PCG64), 0 <= seed < 2**64."""
    return Generator(PCG64(seed))


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One request as the policies see it.

    Attributes
    ----------
    value : ndarray of float64, shape (n,)
        Value of each candidate at slot 1 without the posterior, soft rules applied, in clicks.
    phi : ndarray of float64, shape (n, dim)
        Bandit features, as they will be logged.
    posterior : RewardPosterior
        Belief about the residual value.
    k : int
        Slots to fill.
    feasible : Feasible
        Hard rules; None = none.
    floor : float, default 0.02
        Share of a drawn slot's probability that is spread uniformly over its feasible set, in [0, 1].
    cap : float, default 0.10
        Largest probability of a drawn slot on candidates other than the greedy one, in [0, 1]; 1 = no cap.
    n_greedy_slots : int, default 0
        Slots at the top that greed fills.
    arms : ndarray of int64, shape (n,), optional
        Row or category of each candidate, for policies that choose in two levels or doubt kinds.
    item_looks, kind_looks : ndarray of float64, shape (n,), optional
        How often anyone looked at this candidate, and this user at items of its arm; at least 0, infinity = nothing to
        doubt. For policies that doubt items and kinds by themselves.

    Raises
    ------
    InvalidStatisticsError
        Wrong shapes, values that are not finite, or a setting outside its range.
    """

    value: Floats
    phi: Floats
    posterior: RewardPosterior
    k: int
    feasible: Feasible | None = None
    floor: float = DEFAULT_FLOOR
    cap: float = DEFAULT_CAP
    n_greedy_slots: int = 0
    arms: Ints | None = None
    item_looks: Floats | None = None
    kind_looks: Floats | None = None

    def __post_init__(self) -> None:
        value = np.asarray(self.value, dtype=np.float64)
        phi = np.asarray(self.phi, dtype=np.float64)
        if value.ndim != 1 or phi.ndim != 2 or phi.shape[0] != value.shape[0]:
            raise InvalidStatisticsError(f"value (n,) and phi (n, dim) wanted, got {value.shape} and {phi.shape}")
        # A sum of squares is finite only if all its terms are.
        if not math.isfinite(np.vdot(value, value) + np.vdot(phi, phi)):
            raise InvalidStatisticsError("value and phi must be finite; check the heads and the feature row")
        if not (0.0 <= self.floor <= 1.0 and 0.0 <= self.cap <= 1.0 and self.k >= 0 and self.n_greedy_slots >= 0):
            raise InvalidStatisticsError(
                "floor and cap in [0, 1], k and n_greedy_slots >= 0 wanted, "
                f"got {self.floor}, {self.cap}, {self.k}, {self.n_greedy_slots}"
            )
        for name in ("arms", "item_looks", "kind_looks"):
            given = getattr(self, name)
            if given is not None and given.shape != value.shape:
                raise InvalidStatisticsError(f"{name} of shape {value.shape} wanted, got {given.shape}")
            if name != "arms" and given is not None and not bool((given >= 0).all()):
                raise InvalidStatisticsError(f"{name} must be at least 0, got {given.min()}")
        if value is not self.value:
            object.__setattr__(self, "value", value)
        if phi is not self.phi:
            object.__setattr__(self, "phi", phi)

    @property
    def n(self) -> int:
        """Number of candidates."""
        return int(self.value.shape[0])


@dataclass(frozen=True)
class Slate:
    """A drawn slate, or what `recompute` says of one.

    Attributes
    ----------
    order : tuple of int
        Candidates by slot; shorter than k where the hard rules leave nothing to place.
    propensity : ndarray of float64, shape (len(order),)
        P(this candidate | the slots before it).
    pinned : ndarray of bool
        Placed by greed without a draw (propensity 1).
    explored : ndarray of bool
        Not the candidate that greed would have put there.
    effective_floor : ndarray of float64
        No feasible candidate of the slot had a smaller probability than this; 0 in a pinned slot.
    floor_share : ndarray of float64
        The same as a share: `effective_floor` times the size of the feasible set; the floor asked for where the cap
        did not bind.
    n_feasible : ndarray of int64
        Size of the slot's feasible set.
    score : ndarray of float64, shape (n,)
        What greed ranks by: value plus posterior mean, of all candidates.
    """

    order: tuple[int, ...]
    propensity: Floats
    pinned: Bools
    explored: Bools
    effective_floor: Floats
    floor_share: Floats
    n_feasible: Ints
    score: Floats


def draw_slate(policy: Policy, problem: Problem, rng: Generator) -> Slate:
    """Fill up to k slots; a function of (policy, problem, generator state), bit by bit on one build of numpy.

    Parameters
    ----------
    policy : Policy
        Who decides.
    problem : Problem
        The request. Not changed.
    rng : Generator
        `generator(seed)` of the logged seed.

    Returns
    -------
    Slate
        With the propensities to log.
    """
    score = problem.value + problem.posterior.mean(problem.phi)
    law = policy.law(problem, score, rng)
    return fill_slate(problem, score, law, rng.random(problem.k).tolist(), None)


def recompute(policy: Policy, problem: Problem, rng: Generator, order: Sequence[int]) -> Slate:
    """Propensities of a given order, from the seed that drew it.

    Parameters
    ----------
    policy, problem, rng
        As in `draw_slate`.
    order : sequence of int
        Candidates by slot.

    Returns
    -------
    Slate
        Equal to the one that `draw_slate` returned if `order` is its order; propensity 0 where the law cannot place
        the candidate (not feasible, or a pinned slot that greed fills otherwise).

    Raises
    ------
    InvalidStatisticsError
        An index outside the candidates or twice in the order.
    """
    placed = [int(index) for index in order]
    if len(set(placed)) != len(placed) or any(not 0 <= index < problem.n for index in placed):
        raise InvalidStatisticsError(f"an order of different candidates in 0..{problem.n - 1} wanted, got {placed}")
    score = problem.value + problem.posterior.mean(problem.phi)
    law = policy.law(problem, score, rng)
    return fill_slate(problem, score, law, [0.0] * len(placed), placed)


def slot_pmf(law: Law, score: Floats, feasible: Bools, *, floor: float, cap: float) -> Floats:
    """Probabilities of one drawn slot, written out: the definition that `draw_slate` follows.

    Parameters
    ----------
    law : Law
        The policy's law.
    score : ndarray of float64, shape (n,)
        Value plus posterior mean.
    feasible : ndarray of bool, shape (n,)
        Feasible set of the slot, placed candidates taken out; at least one.
    floor, cap : float
        As in `Problem`.

    Returns
    -------
    ndarray of float64, shape (n,)
        Sums to 1 within rounding; 0 outside the feasible set.
    """
    mixed = mix_uniform(law.weights(feasible), feasible, floor)
    greedy = int(np.where(feasible, score, -np.inf).argmax())
    elsewhere = 1.0 - mixed[greedy]
    if elsewhere > cap:
        mixed *= cap / elsewhere
        mixed[greedy] = 1.0 - cap
    return mixed


def fill_slate(
    problem: Problem, score: Floats, law: Law, uniforms: list[float], given: list[int] | None = None
) -> Slate:
    """Place slot by slot under one law: drawn by inversion, or as given. Each drawn slot does what `slot_pmf` says.

    Parameters
    ----------
    problem : Problem
        The request.
    score : ndarray of float64, shape (n,)
        Value plus posterior mean.
    law : Law
        The policy's law for this request.
    uniforms : list of float
        One number in [0, 1) a slot; drawn slots are decided by it.
    given : list of int, optional
        Candidates by slot, as many as `uniforms`; the uniform numbers are then not looked at.
    """
    rules, cap, n_greedy_slots = problem.feasible, problem.cap, problem.n_greedy_slots
    ranking = (-score).argsort(kind="stable").tolist()
    # Rules that only take candidates out say which; others are asked for a mask at every slot.
    blocked = getattr(rules, "blocked", None)
    masked = rules is not None and blocked is None
    feasible: Bools = np.ones(problem.n, dtype=np.bool_) if rules is None else rules.mask([]).copy()
    free, n_feasible = feasible.tolist(), int(np.count_nonzero(feasible))
    shrinking: ShrinkingLaw | None = None if masked or not hasattr(law, "drop") else cast(ShrinkingLaw, law)
    live: list[float] = shrinking.begin(feasible) if shrinking is not None and n_feasible else []
    order: list[int] = []
    propensities: list[float] = []
    explored: list[bool] = []
    floors: list[float] = []
    shares: list[float] = []
    sizes: list[int] = []
    for slot, uniform in enumerate(uniforms):
        if not n_feasible:
            break
        for greedy in ranking:
            if free[greedy]:
                break
        if slot < n_greedy_slots:
            chosen = greedy if given is None else given[slot]
            propensities.append(float(chosen == greedy))
            floors.append(0.0)
            shares.append(0.0)
        else:
            if shrinking is None:
                live = law.weights(feasible).tolist()
            total = sum(live)
            floor = problem.floor if total else 1.0
            scale, each = (1.0 - floor) / (total or 1.0), floor / n_feasible
            elsewhere = 1.0 - (live[greedy] * scale + each)
            if elsewhere <= cap:
                elsewhere, share = max(0.0, elsewhere), 1.0
            else:
                share = cap / elsewhere
            if given is not None:
                chosen = given[slot]
            elif uniform < 1.0 - share:
                chosen = greedy
            else:
                chosen = _invert((uniform - (1.0 - share)) / share, floor, free, live)
            if chosen == greedy:
                propensities.append(1.0 - share * elsewhere)
            elif free[chosen]:
                propensities.append(min(1.0, share * (live[chosen] * scale + each)))
            else:
                propensities.append(0.0)
            floors.append(share * each)
            shares.append(share * floor)
        explored.append(chosen != greedy)
        sizes.append(n_feasible)
        order.append(chosen)
        if masked and slot + 1 < len(uniforms):
            feasible = rules.mask(order).copy()  # type: ignore[union-attr]
            feasible[order] = False
            free = feasible.tolist()
            n_feasible = free.count(True)
        if masked:
            continue
        left = []
        for out in (chosen,) if blocked is None else blocked(order):
            if free[out]:
                free[out] = False
                left.append(out)
        n_feasible -= len(left)
        if shrinking is None:
            feasible[left] = False
        elif slot + 1 < len(uniforms):
            live = shrinking.drop(left)
    pinned: Bools = np.zeros(len(order), dtype=np.bool_)
    pinned[:n_greedy_slots] = True
    return Slate(
        order=tuple(order),
        propensity=np.array(propensities, dtype=np.float64),
        pinned=pinned,
        explored=np.array(explored, dtype=np.bool_),
        effective_floor=np.array(floors, dtype=np.float64),
        floor_share=np.array(shares, dtype=np.float64),
        n_feasible=np.array(sizes, dtype=np.int64),
        score=score,
    )


def _invert(uniform: float, floor: float, free: list[bool], weights: list[float]) -> int:
    """Draw from the mixture of uniform (floor) and the law, with one uniform number in [0, 1)."""
    if uniform < floor:
        places = list(compress(range(len(free)), free))
        return places[min(int(uniform / floor * len(places)), len(places) - 1)]
    running = list(accumulate(weights))
    total = running[-1]
    # Below the total whatever rounding does; bisecting to the right never stops at a weight of 0.
    return bisect_right(running, min((uniform - floor) / (1.0 - floor) * total, math.nextafter(total, 0.0)))
