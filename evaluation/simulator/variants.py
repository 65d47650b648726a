"""Item variants: the same item under several artworks; who likes which depends on the person and the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.simulator.population import DEVICES, User
from evaluation.simulator.world import World

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

STYLES = ("portrait", "landscape", "typographic", "abstract")


@dataclass(frozen=True)
class Variants:
    """How artwork moves the click probabilities of a world; item n has one variant per style.

    A variant adds to the log-odds of a click what its style is worth on the device, to the person, and for the item.
    None of it is worth anything on average, so that no style is best for all.

    Attributes
    ----------
    world : World
        Items, people, choices.
    by_device : float array, shape (len(DEVICES), len(STYLES))
        Hidden.
    by_user : float array, shape (n_users, len(STYLES))
        Hidden.
    by_item : float array, shape (n_items, len(STYLES))
        Hidden.
    """

    world: World
    by_device: Floats
    by_user: Floats
    by_item: Floats

    @classmethod
    def build(cls, world: World, *, personal: float = 0.6, common: float = 0.2) -> Variants:
        """Variants of a world.

        Parameters
        ----------
        personal : float
            Standard deviation, in log-odds, of what device and person make of a style; 0 gives the null world.
        common : float
            Of what the item makes of it.
        """
        rng = np.random.default_rng([world.params.seed, 20])
        shape = len(STYLES)
        return cls(
            world,
            by_device=personal * rng.normal(size=(len(DEVICES), shape)),
            by_user=personal * rng.normal(size=(len(world.population.users), shape)),
            by_item=common * rng.normal(size=(len(world.catalogue.items), shape)),
        )

    def click_probability(self, user: User, row: int, at_ms: int) -> Floats:
        """P(click | looked at) of an item under each style, shape (len(STYLES),)."""
        p = float(self.world.utility.click_probability(user, np.array([row]), at_ms)[0])
        number = int(user.user_id.removeprefix("user-"))
        shift = self.by_device[user.device] + self.by_user[number] + self.by_item[row]
        odds = p / (1.0 - p) * np.exp(shift)
        result: Floats = odds / (1.0 + odds)
        return result
