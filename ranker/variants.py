"""Which variant (artwork, title) of each placed item is shown: Thompson sampling over Beta arms, by item, device
and surface.

The slate is drawn first; then one variant of each item that has several, by the same seed, with its own exact
propensity (`bandits.variants`). An arm is a variant of an item: its prior is the item's own click rate over all its
variants; on a device that is known, the prior is what the variant earns elsewhere, and on a surface there what it earns
on the device on other surfaces. Nothing else of the slate depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from bandits import BanditsError, Greedy, Policy, generator, parse, specification
from bandits.beta import BetaPosterior
from bandits.variants import draw_variants
from liverank.v1 import decision_pb2

BASE_RATE: Final = 0.05
STRENGTH: Final = 10.0
"""Shown slots that the item's own rate is worth as the prior of its variants."""
CONTEXT_STRENGTH: Final = 20.0
"""Most shown slots that a variant's rate elsewhere is worth as its prior on one device, or on a surface there."""
_STREAM: Final = 0x5EED_7A21

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The variant of one slot.

    Attributes
    ----------
    variant_id, propensity
        What is shown, and P(it | the items of the slate).
    names, alpha, beta
        All variants of the item, and the belief about the click rate of each, shape ``(n,)``.
    """

    variant_id: str
    propensity: float
    names: tuple[str, ...]
    alpha: Floats
    beta: Floats


@dataclass(frozen=True, kw_only=True)
class Variants:
    """Variants of a slate.

    Attributes
    ----------
    policy
        Who chose; empty = there was nothing to choose.
    by_slot
        Slot (from 0) -> its variant; slots whose item has none are left out.
    """

    policy: str
    by_slot: dict[int, Variant]


NO_VARIANTS: Final = Variants(policy="", by_slot={})


def belief(counts: Floats) -> tuple[Floats, Floats]:
    """Beta parameters of the click rates of one item's variants.

    Parameters
    ----------
    counts
        Shown and clicked, for everybody, on the device, and there on the surface, shape ``(n, 3, 2)``; where one of
        these is not known, as before it.

    Returns
    -------
    alpha, beta
        Shape ``(n,)`` each.
    """
    shown = np.maximum(counts[:, :, 0], 0.0)
    clicked = np.clip(counts[:, :, 1], 0.0, shown)
    rate = (clicked[:, 0].sum() + BASE_RATE * STRENGTH) / (shown[:, 0].sum() + STRENGTH)
    alpha, beta = np.full(len(counts), STRENGTH * rate), np.full(len(counts), STRENGTH * (1.0 - rate))
    for wide in (0, 1):
        # What was counted in the narrower context is in both; elsewhere is what its prior may learn from.
        clicks = np.maximum(clicked[:, wide] - clicked[:, wide + 1], 0.0)
        alpha = alpha + clicks
        beta = beta + np.maximum(shown[:, wide] - shown[:, wide + 1] - clicks, 0.0)
        kept = np.minimum(1.0, CONTEXT_STRENGTH / (alpha + beta))
        alpha, beta = alpha * kept, beta * kept
    return alpha + clicked[:, 2], beta + shown[:, 2] - clicked[:, 2]


class Counted(Protocol):
    """What is read of the catalogue: `ranker.inputs.ItemsView` has it."""

    variants: dict[int, tuple[str, ...]]

    def variant_counts(self, row: int, device: str, surface: str) -> Floats:
        """See `ItemsView.variant_counts`."""
        ...


def choose(
    table: Counted,
    rows: Sequence[int],
    device: str,
    surface: str,
    *,
    policy: Policy | None,
    floor: float,
    seed: int,
) -> Variants:
    """One variant of each placed item that has several; 0.2 ms for ten items with four, nothing without.

    Parameters
    ----------
    table, rows
        The slate, by slot.
    device, surface
        Of the request; empty = unknown.
    policy
        Who chooses, on click rates; None = the best one everywhere.
    floor
        See `bandits.Problem`.
    seed
        Of the request.
    """
    slots = [slot for slot, row in enumerate(rows) if row in table.variants]
    if not slots:
        return NO_VARIANTS
    names = [table.variants[rows[slot]] for slot in slots]
    beliefs = [belief(table.variant_counts(rows[slot], device, surface)) for slot in slots]
    policy = policy or Greedy()
    chosen, propensity = _draw(policy, beliefs, floor, seed)
    by_slot = {
        slot: Variant(variant_id=names[at][chosen[at]], propensity=propensity[at], names=names[at], alpha=a, beta=b)
        for at, (slot, (a, b)) in enumerate(zip(slots, beliefs, strict=True))
    }
    return Variants(policy=specification(policy), by_slot=by_slot)


def choose_again(decision: decision_pb2.Decision) -> dict[int, tuple[str, float]]:
    """The choice of a logged decision made again, bit by bit: slot (from 0) -> variant and its propensity."""
    slots = [(at, slot) for at, slot in enumerate(decision.slots) if slot.variants]
    if not slots:
        return {}
    beliefs = [
        (np.array([one.alpha for one in slot.variants]), np.array([one.beta for one in slot.variants]))
        for _, slot in slots
    ]
    chosen, propensity = _draw(parse(decision.variant_policy), beliefs, decision.floor, decision.seed)
    return {
        at: (slot.variants[chosen[number]].variant_id, propensity[number]) for number, (at, slot) in enumerate(slots)
    }


def faults(decision: decision_pb2.Decision) -> list[str]:
    """What of a logged choice among variants is not what its seed draws; empty = nothing."""
    try:
        again = choose_again(decision)
    except BanditsError as error:
        return [f"variants cannot be chosen again: {error}"]
    found = []
    for at, slot in enumerate(decision.slots):
        variant, propensity = again.get(at, ("", 0.0))
        if (slot.variant_id, slot.variant_propensity) != (variant, propensity):
            found.append(
                f"slot {at + 1} shows variant {slot.variant_id!r} with propensity {slot.variant_propensity}, the seed "
                f"draws {variant!r} with {propensity}"
            )
    return found


def _draw(
    policy: Policy, beliefs: Sequence[tuple[Floats, Floats]], floor: float, seed: int
) -> tuple[list[int], list[float]]:
    """Place of the chosen variant among those of each item, and its propensity."""
    sizes = [len(alpha) for alpha, _ in beliefs]
    items = np.repeat(np.arange(len(beliefs)), sizes)
    posterior = BetaPosterior(np.concatenate([a for a, _ in beliefs]), np.concatenate([b for _, b in beliefs]))
    n, rng = len(items), generator(seed ^ _STREAM)
    floor = 0.0 if isinstance(policy, Greedy) else floor  # greed explores nothing
    slate = draw_variants(policy, items, np.zeros(n), np.zeros((n, 0)), posterior, rng, floor=floor)
    first = np.cumsum([0, *sizes[:-1]])
    return [row - int(start) for row, start in zip(slate.order, first, strict=True)], slate.propensity.tolist()
