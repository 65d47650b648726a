"""Beta-Bernoulli arms: counts of shown and clicked, for item variants and as a prior for retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bandits.errors import InvalidPolicyError, InvalidStatisticsError
from bandits.propose import BetaProposer

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


MAX_BETA_ARMS = 1_000_000
"""Most arms of one table; 24 bytes and a name each."""

_SHOWN, _CLICKED = 0, 1


@dataclass(frozen=True, kw_only=True)
class BetaPrior:
    """Where a new arm starts.

    Attributes
    ----------
    mean : float, default 0.05
        Expected click rate: the surface's base rate, or a content model's guess per arm (see `BetaArms.expect`).
    strength : float, default 10.0
        Shown slots that the guess is worth. Measured on click logs, 10 to 40 is best; the base rate and the strength
        matter more than the content.
    """

    mean: float = 0.05
    strength: float = 10.0

    def __post_init__(self) -> None:
        if not (0 < self.mean < 1 and 0 < self.strength < np.inf):
            raise InvalidPolicyError(f"mean in (0, 1) and strength > 0 wanted, got {self.mean} and {self.strength}")


def informed_means(
    shown: Floats, clicked: Floats, groups: Ints, *, base: float = 0.05, base_strength: float = 100.0
) -> Floats:
    """Prior means of arms from their own kind: what the other arms of a kind earn, drawn to what all arms earn.

    Empirical Bayes in two steps: the rate of all arms together, worth `base_strength` shown slots of `base` at first;
    then each group's rate, worth as many slots of the former. 0.2 ms for 10,000 arms.

    Parameters
    ----------
    shown, clicked : ndarray of float64, shape (n,)
        Counts, clicked <= shown.
    groups : ndarray of int, shape (n,)
        Kind of each arm, from 0.
    base, base_strength : float
        Rate where nothing is known yet, and shown slots that a guess from above is worth.

    Returns
    -------
    ndarray of float64, shape (n,)
        Within [0.001, 0.95].
    """
    everywhere = (clicked.sum() + base * base_strength) / (shown.sum() + base_strength)
    rate = (np.bincount(groups, clicked) + everywhere * base_strength) / (np.bincount(groups, shown) + base_strength)
    means: Floats = np.clip(rate, 0.001, 0.95)[groups]
    return means


def of_surface(
    everywhere: Floats, here: Floats, prior_mean: Floats, strength: float, *, pooled_strength: float = 20.0
) -> BetaPosterior:
    """Click rates of arms on one surface: its own counts, after a prior of what the arms earn on the others.

    Where a surface has few counts of an arm, the arm is believed to earn what it earns elsewhere, times what all arms
    together earn more or less on this surface (5 clicks draw that ratio to 1). Elsewhere is worth at most
    `pooled_strength` shown slots, so that the surface's own counts win in the end. With one surface there is no
    elsewhere, and this is `BetaPosterior.of_counts`, bit by bit.

    Parameters
    ----------
    everywhere, here : ndarray of float64, shape (n, 2)
        Shown and clicked over all surfaces, this one included, and on this one.
    prior_mean : ndarray of float64, shape (n,)
        Prior mean of each arm, over all surfaces.
    strength, pooled_strength : float
        Shown slots that `prior_mean` is worth, and those that it and elsewhere are worth together, at most; the latter
        is at least the former.
    """
    shown = np.maximum(everywhere[:, 0], 0.0)
    clicked = np.clip(everywhere[:, 1], 0.0, shown)  # clicks that came by no exposure say nothing of a slot
    other_shown = shown - np.clip(here[:, 0], 0.0, shown)
    other_shown[other_shown <= 1e-9 * shown] = 0.0  # rounding
    if not other_shown.any():
        return BetaPosterior.of_counts(shown, clicked, prior_mean, strength)
    here_shown = shown - other_shown
    here_clicked = np.clip(here[:, 1], 0.0, np.minimum(clicked, here_shown))
    other_clicked = np.minimum(clicked - here_clicked, other_shown)
    total = strength + other_shown
    rate = (strength * prior_mean + other_clicked) / total
    lift = (here_clicked.sum() + 5.0) / ((here_shown * rate).sum() + 5.0)
    worth = np.minimum(total, pooled_strength)
    alpha = worth * np.clip(rate * lift, 0.001, 0.95)
    return BetaPosterior(alpha + here_clicked, worth - alpha + here_shown - here_clicked)


class BetaArms:
    """Shown and clicked counts of the arms of one surface.

    Additive: deltas of any order and origin give the same counts. Not thread safe.

    Parameters
    ----------
    prior : BetaPrior
        Start of every arm.

    Examples
    --------
    >>> arms = BetaArms(BetaPrior(mean=0.5, strength=2.0))
    >>> arms.shown("poster-a", 4); arms.clicked("poster-a", 3)
    >>> arms.of(["poster-a", "poster-b"]).mean(np.zeros((2, 0))).round(3).tolist()
    [0.667, 0.5]
    """

    __slots__ = ("_counts", "_names", "_order", "_prior_mean", "_proposer", "prior")

    def __init__(self, prior: BetaPrior) -> None:
        self.prior = prior
        self._names: dict[str, int] = {}
        self._order: list[str] = []
        self._counts: Floats = np.zeros((2, 16))
        self._prior_mean: Floats = np.full(16, prior.mean)
        self._proposer: tuple[int, BetaProposer] | None = None

    def __len__(self) -> int:
        return len(self._names)

    def shown(self, arm: str, n: float = 1.0) -> None:
        """Count shown slots; a negative count takes them back."""
        self._add(_SHOWN, arm, n)

    def clicked(self, arm: str, n: float = 1.0) -> None:
        """Count clicks; a negative count takes them back."""
        self._add(_CLICKED, arm, n)

    def expect(self, arm: str, mean: float) -> None:
        """Give an arm its own prior mean, e.g. from content.

        Raises
        ------
        InvalidStatisticsError
            Not in (0, 1).
        """
        if not 0 < mean < 1:
            raise InvalidStatisticsError(f"a prior mean in (0, 1) wanted for arm {arm!r}, got {mean}")
        row = self._row(arm)
        self._prior_mean[row] = mean
        self._proposer = None

    def merge(self, other: BetaArms) -> None:
        """Add another replica's counts; its prior means are not taken over."""
        for arm, row in other._names.items():
            self.shown(arm, float(other._counts[_SHOWN, row]))
            self.clicked(arm, float(other._counts[_CLICKED, row]))

    def decay(self, factor: float) -> None:
        """Multiply all counts, so that arms fall back toward their prior; 4 us for 10,000 arms."""
        if not 0 <= factor <= 1:
            raise InvalidStatisticsError(f"a factor in [0, 1] wanted, got {factor}; nothing was changed")
        self._counts *= factor
        self._proposer = None

    def counts(self, arm: str) -> tuple[float, float]:
        """(shown, clicked) of an arm; zeros where it is not known."""
        row = self._names.get(arm)
        return (0.0, 0.0) if row is None else (float(self._counts[_SHOWN, row]), float(self._counts[_CLICKED, row]))

    def of(self, arms: Sequence[str]) -> BetaPosterior:
        """The posterior of some arms, in their order; unknown arms have the prior."""
        rows = np.array([self._names.get(arm, -1) for arm in arms], dtype=np.int64)
        known = rows >= 0
        mean = np.where(known, self._prior_mean[rows], self.prior.mean)
        shown, clicked = np.where(known, self._counts[:, rows], 0.0)
        return BetaPosterior.of_counts(shown, clicked, mean, self.prior.strength)

    def propose(self, m: int, rng: Generator) -> list[str]:
        """The m arms that rank first in one joint draw: a Thompson-sampled retrieval source.

        The candidate set is random, but the slate's propensities are given the candidate set, so they stay exact.
        About 110 us for 100 of 10,000 arms; the first call after counts changed takes 3 ms more.
        """
        if not self._names or m < 1:
            return []
        if self._proposer is None or self._proposer[0] != m:
            self._proposer = m, self.proposer(m)
        return self._proposer[1].draw(rng)

    def proposer(self, m: int) -> BetaProposer:
        """The same for as long as the counts stand: immutable, to be shared between threads."""
        posterior = self.of(self._order)
        return BetaProposer(self._order, posterior.alpha, posterior.beta, m)

    def _add(self, kind: int, arm: str, n: float) -> None:
        if not np.isfinite(n):
            raise InvalidStatisticsError(f"a finite count wanted for arm {arm!r}, got {n}; nothing was added")
        row = self._row(arm)  # may replace the array
        self._counts[kind, row] += n
        self._proposer = None

    def _row(self, arm: str) -> int:
        row = self._names.get(arm)
        if row is None:
            if len(self._names) >= MAX_BETA_ARMS:
                raise InvalidStatisticsError(f"at most {MAX_BETA_ARMS} arms, {arm!r} is one more; nothing was added")
            row = self._names[arm] = len(self._names)
            self._order.append(arm)
            if row >= self._prior_mean.shape[0]:
                self._counts = np.concatenate([self._counts, np.zeros((2, row))], axis=1)
                self._prior_mean = np.concatenate([self._prior_mean, np.full(row, self.prior.mean)])
        return row


class BetaPosterior:
    """Independent Beta posteriors of candidates' click rates; a `RewardPosterior` that looks at no features.

    The value of the problem is then 0 (or a bonus in clicks), since the rate is all the value there is.

    Parameters
    ----------
    alpha, beta : ndarray of float64, shape (n,)
        Parameters, positive.
    """

    __slots__ = ("alpha", "beta")

    def __init__(self, alpha: Floats, beta: Floats) -> None:
        if alpha.shape != beta.shape or not (alpha.min(initial=1.0) > 0 and beta.min(initial=1.0) > 0):
            raise InvalidStatisticsError(
                "positive alpha and beta of one shape wanted; are more clicks counted than slots?"
            )
        self.alpha = alpha
        self.beta = beta

    @classmethod
    def of_counts(cls, shown: Floats, clicked: Floats, prior_mean: Floats, strength: float) -> BetaPosterior:
        """Posterior of Beta(strength * mean, strength * (1 - mean)) after the counts.

        Clicks may run ahead of slots for an instant (a click that arrives first); the difference is then taken as 0.
        """
        misses = np.maximum(shown - clicked, 0.0)
        return cls(strength * prior_mean + np.maximum(clicked, 0.0), strength * (1.0 - prior_mean) + misses)

    def mean(self, phi: Floats) -> Floats:
        """Posterior means, shape (n,); `phi` is not looked at."""
        return self.alpha / (self.alpha + self.beta)

    def sd(self, phi: Floats) -> Floats:
        """Posterior standard deviations, shape (n,)."""
        total = self.alpha + self.beta
        sd: Floats = np.sqrt(self.alpha * self.beta / (total**2 * (total + 1.0)))
        return sd

    def draws(self, phi: Floats, n_draws: int, rng: Generator) -> Floats:
        """Joint draws, shape (n_draws, n)."""
        return rng.beta(self.alpha, self.beta, size=(n_draws, self.alpha.shape[0]))
