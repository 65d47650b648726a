"""What each line of the proof says, as pure functions of readings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LAYERS = ("posterior", "features", "vectors", "model")
KEEPS = 0.30
ENDS_BELOW = 0.10
N_ERRORS = 3.0


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Everything the proof looks at, at one moment, for one user and one kind of items.

    Attributes
    ----------
    features : float array
        All windows of the user and of user x kind at the fixed `as_of_ms`, read through Feast.
    net : float
        Good news minus bad news about the kind in the last day, out of `features`.
    vectors : float array, shape (3, dim)
        The user's vectors of 1 week, 1 month, 6 months.
    leaning : float array, shape (3,)
        Their cosine to the vector of the item that is acted upon; 0 for a zero vector.
    posterior_mean : float
        For the bandit features of the slot that is acted upon.
    shares : float array, shape (n_seeds,)
        Sum of the logged propensities of the kind's slots over k, by seed.
    slates : tuple
        Item ids by seed.
    parts : mapping of str to float
        Layer -> how much the kind's items score above the others with only this layer on.
    model : str
        Hash of the model that answered.
    """

    features: Floats
    net: float
    vectors: Floats
    leaning: Floats
    posterior_mean: float
    shares: Floats
    slates: tuple[tuple[str, ...], ...]
    parts: Mapping[str, float]
    model: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the proof.

    Attributes
    ----------
    name : str
        `control`, `a` to `f`, with the action where it is not the dismissal.
    claim : str
        In words.
    holds : bool
        Whether it is true.
    figures : dict of str to float
        What was measured.
    delay_s : float or None
        From the action's acknowledgement to its effect.
    """

    name: str
    claim: str
    holds: bool
    figures: Mapping[str, float] = field(default_factory=dict)
    delay_s: float | None = None


def control(first: Reading, second: Reading) -> Line:
    """Nothing moves while nothing happens: both readings are equal, bit for bit."""
    figures = {
        "features": _largest(first.features, second.features),
        "vectors": _largest(first.vectors, second.vectors),
        "posterior": abs(first.posterior_mean - second.posterior_mean),
        "shares": _largest(first.shares, second.shares),
        "slates": float(sum(a != b for a, b in zip(first.slates, second.slates, strict=True))),
        "parts": max(abs(first.parts[layer] - second.parts[layer]) for layer in LAYERS),
    }
    same = not any(figures.values()) and first.model == second.model
    return Line(name="control", claim="15 s without an event: equal twice", holds=same, figures=figures)


def features(name: str, before: Reading, after: Reading, sign: int, delay_s: float | None, limit_s: float) -> Line:
    """(a): the user's features about the kind move in the action's direction, soon."""
    moved = after.net - before.net
    changed = not np.array_equal(before.features, after.features)
    return Line(
        name=name,
        claim=f"features through Feast {_word(sign)} within {limit_s:g} s",
        holds=changed and moved * sign > 0 and _in_time(delay_s, limit_s),
        figures={"before": before.net, "after": after.net},
        delay_s=delay_s,
    )


def vectors(name: str, before: Reading, after: Reading, sign: int, delay_s: float | None, limit_s: float) -> Line:
    """(b): all three vectors change, each towards or away from the item, within their clock."""
    moved = after.leaning - before.leaning
    return Line(
        name=name,
        claim=f"all three vectors {'towards' if sign > 0 else 'away from'} the item within {limit_s:g} s",
        holds=bool((moved * sign > 0).all()) and _in_time(delay_s, limit_s),
        figures={f"cosine_{w}": float(m) for w, m in zip(("1w", "1m", "6m"), moved, strict=True)},
        delay_s=delay_s,
    )


def posterior(name: str, before: Reading, after: Reading, sign: int, delay_s: float | None, limit_s: float) -> Line:
    """(c): the posterior mean for that request's features moves."""
    moved = after.posterior_mean - before.posterior_mean
    return Line(
        name=name,
        claim=f"posterior mean for that slot {_word(sign)}",
        holds=moved * sign > 0 and _in_time(delay_s, limit_s),
        figures={"before": before.posterior_mean, "after": after.posterior_mean},
        delay_s=delay_s,
    )


def share(name: str, before: Floats, after: Floats, sign: int, delay_s: float | None) -> Line:
    """(d): the kind's expected share, mean over users, moves by more than 3 standard errors; a fall keeps 30 %.

    Parameters
    ----------
    name : str
    before, after : float array, shape (n_users, n_seeds)
        `Reading.shares` of the same users over the same seeds.
    sign : int
        -1 for a fall, 1 for a rise.
    delay_s : float or None
        When the first user's slate changed.

    Returns
    -------
    Line
        Its standard error is over seeds, of the users' mean: seeds are what is drawn anew in every request.
    """
    difference = (after - before).mean(axis=0)
    moved = float(difference.mean())
    error = float(difference.std(ddof=1) / np.sqrt(len(difference)))
    kept = float(after.mean() / before.mean()) if before.mean() > 0 else float("nan")
    holds = moved * sign > N_ERRORS * error and moved != 0.0
    claim = f"expected share of the kind {_word(sign)} by more than {N_ERRORS:g} standard errors"
    if sign < 0:
        holds = holds and kept >= KEEPS
        claim += f", keeps at least {KEEPS:.0%}"
    return Line(
        name=name,
        claim=claim,
        holds=holds,
        figures={
            "users": float(len(before)),
            "before": float(before.mean()),
            "after": float(after.mean()),
            "standard_error": error,
            "kept": kept,
        },
        delay_s=delay_s,
    )


def several(name: str, before: Reading, after: Reading, n: int) -> Line:
    """(d), goes on: so many dismissals in a row leave little."""
    kept = float(after.shares.mean() / before.shares.mean()) if before.shares.mean() > 0 else float("nan")
    return Line(
        name=name,
        claim=f"{n} dismissals in a row leave less than {ENDS_BELOW:.0%} of the share",
        holds=kept < ENDS_BELOW,
        figures={"before": float(before.shares.mean()), "after": float(after.shares.mean()), "kept": kept},
    )


def model(name: str, *readings: Reading) -> Line:
    """(e): one and the same model all the time."""
    names = {reading.model for reading in readings}
    return Line(
        name=name,
        claim=f"the model's hash is the same ({next(iter(sorted(names)))[:12]})",
        holds=len(names) == 1 and bool(readings[0].model),
        figures={"hashes": float(len(names))},
    )


def parts(name: str, before: Reading, after: Reading, sign: int) -> Line:
    """(f): each fast layer moves the kind on its own, the others switched off; the model alone does not move."""
    moved = {layer: after.parts[layer] - before.parts[layer] for layer in LAYERS}
    fast = all(moved[layer] * sign > 0 for layer in LAYERS[:3])
    return Line(
        name=name,
        claim="posterior, features and vectors each move the kind's score alone; the model alone does not",
        holds=fast and moved["model"] == 0.0,
        figures=moved,
    )


def _largest(a: Floats, b: Floats) -> float:
    if a.shape != b.shape:
        return float("inf")
    return float(np.abs(a - b).max(initial=0.0))


def _in_time(delay_s: float | None, limit_s: float) -> bool:
    return delay_s is not None and delay_s <= limit_s


def _word(sign: int) -> str:
    return "rise" if sign > 0 else "fall"
