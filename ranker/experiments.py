"""Which arm a unit is in: a hash of salt and unit, so that every replica and every later reader agrees.

An arm decides how the posterior is acted upon; the statistics are shared by all arms of a model and schema.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bandits import BanditsError, parse
from ranker.errors import RankerConfigError

_BUCKETS: Final = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One treatment.

    Attributes
    ----------
    name
        Name in logs.
    policy
        Specification of a policy, e.g. ``thompson`` or ``linucb(alpha=2)``.
    share
        Share of units, in [0, 1].
    """

    name: str
    policy: str
    share: float

    def __post_init__(self) -> None:
        try:
            parse(self.policy)
        except BanditsError as error:
            raise RankerConfigError(f"policy of arm {self.name!r}: {error}") from error
        if not 0 <= self.share <= 1:
            raise RankerConfigError(f"share of arm {self.name!r} must lie in [0, 1], got {self.share}")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Arms whose shares sum to 1.

    Attributes
    ----------
    salt
        Another salt makes another, independent assignment.
    arms
        In order; a unit's arm changes only if shares before it change.
    """

    salt: str
    arms: tuple[Arm, ...]

    def __post_init__(self) -> None:
        total = sum(arm.share for arm in self.arms)
        if not self.arms or abs(total - 1) > 1e-9:
            raise RankerConfigError(f"shares of experiment {self.salt!r} must sum to 1, got {total}")
        if len({arm.name for arm in self.arms}) != len(self.arms):
            raise RankerConfigError(f"arms of experiment {self.salt!r} must have different names")

    def assign(self, unit: str) -> Arm:
        """The arm of a unit (a user id, or an anonymous id)."""
        return self.arms[assign(self.salt, unit, [arm.share for arm in self.arms])]


def experiment(salt: str, shares: Mapping[str, float]) -> Experiment:
    """Arms named by their policies, with their shares.

    Raises
    ------
    RankerConfigError
        Shares that do not sum to 1, or an unknown policy.
    """
    return Experiment(salt=salt, arms=tuple(Arm(name=name, policy=name, share=one) for name, one in shares.items()))


def assign(salt: str, unit: str, shares: Sequence[float]) -> int:
    """Index of the share that a unit falls into; exact to a millionth.

    Examples
    --------
    >>> assign("salt", "user-1", [0.0, 1.0])
    1
    """
    digest = hashlib.blake2b(f"{salt}\x00{unit}".encode(), digest_size=8).digest()
    bucket = int.from_bytes(digest, "big") % _BUCKETS
    edge = 0.0
    for at, share in enumerate(shares):
        edge += share
        if bucket < round(edge * _BUCKETS):
            return at
    return max(at for at, share in enumerate(shares) if share > 0)


DEFAULT: Final = Experiment(
    salt="policy-1",
    arms=(
        Arm(name="thompson", policy="thompson", share=0.8),
        Arm(name="linucb", policy="linucb", share=0.1),
        Arm(name="epsilon", policy="epsilon_greedy", share=0.1),
    ),
)
