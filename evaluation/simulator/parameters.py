"""Parameters of the simulated world, each range-checked, and its switches."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from liverank.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Effects:
    """What works in the world. A *null world* has one of them off: a bench of that effect must then find nothing.

    Parameters
    ----------
    taste : bool
        Users differ in what they like; off: everyone likes what the mean user likes.
    quality : bool
        Items of one kind differ in a hidden quality.
    context : bool
        Hour and device change what is liked.
    position : bool
        Lower slots are looked at less; off: every slot is looked at.
    drift : bool
        Tastes change with time.
    freshness : bool
        New items are liked more for a while.
    negatives : bool
        Users say what they do not like: the four explicit signals and short dwells.
    satiation : bool
        What a user opened once they seldom open again.
    content : bool
        An item's text tells its kind and theme; off: texts are shuffled over the items.
    """

    taste: bool = True
    quality: bool = True
    context: bool = True
    position: bool = True
    drift: bool = True
    freshness: bool = True
    negatives: bool = True
    satiation: bool = True
    content: bool = True

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """All switches."""
        return tuple(field.name for field in dataclasses.fields(cls))

    def without(self, name: str) -> Effects:
        """The same with one effect off."""
        if name not in self.names():
            raise ConfigError(f"an effect is one of {', '.join(self.names())}; got {name!r}")
        return dataclasses.replace(self, **{name: False})


@dataclass(frozen=True, kw_only=True)
class WorldParams:
    """A world: the same parameters and seed give the same world, history and replies, bit for bit.

    Parameters
    ----------
    seed : int
        Of everything.
    n_items, n_users : int
        Size of the catalogue (at least 20) and of the population.
    dim : int
        Dimension of latent taste, 2 to 64.
    slate : int
        Slots of a slate, 1 to 50.
    oracle_rate, popular_rate : float
        Click rates a slot to which the world is tuned, for the best possible policy and for the best list that is the
        same for all; in (0, 1), the first above the second.
    examined_last : float
        Chance that the last slot of the slate is looked at, in (0, 1].
    taste_change_days : float
        Mean time between two changes of one of a user's favourite kinds.
    fresh_half_life_days : float
        Half-life of the appeal of the new.
    published_share : float
        Share of the items published before the history begins; the rest appear during it.
    sessions_per_user : float
        Mean sessions of a user in 60 days.
    quality_weight : float
        Log-odds of a click that one standard deviation of hidden quality adds, beyond the little that the net makes of
        it and after the world is tuned to its click rates; 0 to 3. At 0 an item is nearly what its kind and theme say;
        from about .5 on there are hits and flops that no content tells apart.
    life_days : float or None
        Days from publication until an item is withdrawn, above 0; items published before the history begins are then
        at most that old. None: items stay, and those from before are 90 days old on average.
    """

    seed: int = 7
    n_items: int = 2_000
    n_users: int = 1_000
    dim: int = 16
    slate: int = 10
    oracle_rate: float = 0.35
    popular_rate: float = 0.11
    examined_last: float = 0.45
    taste_change_days: float = 45.0
    fresh_half_life_days: float = 10.0
    published_share: float = 0.7
    sessions_per_user: float = 2.8
    quality_weight: float = 0.0
    life_days: float | None = None
    effects: Effects = dataclasses.field(default_factory=Effects)

    def __post_init__(self) -> None:
        checks = {
            "n_items >= 20": self.n_items >= 20,
            "n_users >= 1": self.n_users >= 1,
            "2 <= dim <= 64": 2 <= self.dim <= 64,
            "1 <= slate <= 50": 1 <= self.slate <= 50,
            "0 < popular_rate < oracle_rate < 1": 0 < self.popular_rate < self.oracle_rate < 1,
            "0 < examined_last <= 1": 0 < self.examined_last <= 1,
            "taste_change_days > 0": self.taste_change_days > 0,
            "fresh_half_life_days > 0": self.fresh_half_life_days > 0,
            "0 < published_share <= 1": 0 < self.published_share <= 1,
            "sessions_per_user > 0": self.sessions_per_user > 0,
            "0 <= quality_weight <= 3": 0 <= self.quality_weight <= 3,
            "life_days > 0, or none": self.life_days is None or self.life_days > 0,
        }
        broken = [rule for rule, holds in checks.items() if not holds]
        if broken:
            raise ConfigError(f"world parameters break: {'; '.join(broken)}")
