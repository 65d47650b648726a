"""Users: latent taste that drifts, habits, devices. A taste is a function of the seed, the user and the time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.simulator.catalogue import DAY_MS, Catalogue
from evaluation.simulator.parameters import WorldParams

N_FAVOURITES = 3
DEVICES = ("phone", "desktop", "tv")
HORIZON_DAYS = 400.0


@dataclass(frozen=True)
class User:
    """One simulated person.

    Attributes
    ----------
    user_id : str
        As events name it.
    activity : float
        Sessions a day.
    device : int
        Index into `DEVICES`.
    utc_offset_minutes : int
        Where they live.
    change_ms : int array, shape (n_changes,)
        When a favourite kind changes, ms since the UTC epoch.
    favourites : int array, shape (n_changes + 1, N_FAVOURITES)
        Favourite kinds before the first and after each change.
    weights : float array, shape (N_FAVOURITES,)
        How much each favourite counts.
    own : float array, shape (dim,)
        The part of the taste that no kind explains.
    """

    user_id: str
    activity: float
    device: int
    utc_offset_minutes: int
    change_ms: NDArray[np.int64]
    favourites: NDArray[np.int64]
    weights: NDArray[np.float64]
    own: NDArray[np.float64]

    def favourite_kinds(self, at_ms: int) -> NDArray[np.int64]:
        """The favourite kinds at a time, strongest first; shape (N_FAVOURITES,)."""
        kinds: NDArray[np.int64] = self.favourites[int(np.searchsorted(self.change_ms, at_ms, side="right"))]
        return kinds


@dataclass(frozen=True)
class Population:
    """All users, and what they have in common."""

    users: tuple[User, ...]
    centres: NDArray[np.float64]
    mean_taste: NDArray[np.float64]
    personal: bool

    def taste(self, user: User, at_ms: int) -> NDArray[np.float64]:
        """Taste vector of a user at a time, shape (dim,), of unit length."""
        if not self.personal:
            return self.mean_taste
        return _taste(user, user.favourite_kinds(at_ms), self.centres)

    def user(self, user_id: str) -> User:
        """A user of this world by id."""
        return self.users[int(user_id.removeprefix("user-"))]


def _taste(user: User, kinds: NDArray[np.int64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    vector: NDArray[np.float64] = user.weights @ centres[kinds] + user.own
    return vector / np.linalg.norm(vector)


def build_population(params: WorldParams, catalogue: Catalogue, start_ms: int) -> Population:
    """The users of a world."""
    rng = np.random.default_rng([params.seed, 2])
    n_kinds = len(catalogue.kind_centres)
    # Some kinds have more friends than others: that is what popularity is made of.
    appeal = rng.dirichlet(np.full(n_kinds, 5.0))
    users = []
    sigma = 1.0
    mean_log = np.log(params.sessions_per_user / 60.0) - sigma**2 / 2
    for n in range(params.n_users):
        own_rng = np.random.default_rng([params.seed, 3, n])
        kinds = own_rng.choice(n_kinds, size=N_FAVOURITES, replace=False, p=appeal)
        changes: list[int] = []
        states = [kinds]
        day = 0.0
        while params.effects.drift and (day := day + own_rng.exponential(params.taste_change_days)) < HORIZON_DAYS:
            fresh = states[-1].copy()
            others = np.setdiff1d(np.arange(n_kinds), fresh)
            fresh[own_rng.integers(N_FAVOURITES)] = own_rng.choice(others, p=appeal[others] / appeal[others].sum())
            changes.append(start_ms + int(day * DAY_MS))
            states.append(fresh)
        users.append(
            User(
                user_id=f"user-{n}",
                activity=float(np.exp(own_rng.normal(mean_log, sigma))),
                device=int(own_rng.choice(len(DEVICES), p=(0.6, 0.3, 0.1))),
                utc_offset_minutes=int(own_rng.choice([0, 60, 120, -300, 480])),
                change_ms=np.array(changes, dtype=np.int64),
                favourites=np.array(states),
                weights=np.array([0.7, 0.5, 0.35]),
                own=own_rng.normal(scale=0.25 / np.sqrt(params.dim), size=params.dim),
            )
        )
    centres = catalogue.kind_centres
    mean_taste = np.mean([_taste(u, u.favourites[0], centres) for u in users], axis=0)
    return Population(tuple(users), centres, mean_taste, params.effects.taste)
