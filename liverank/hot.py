"""Hot settings: what operators change while rankers serve, without a restart.

One document per namespace: a switch, a policy per surface and arm, and any setting of `ranker` that is not cold. It
lies over the settings that a process was started with; what it does not name stays as it was.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from liverank.errors import ConfigError
from liverank.settings import RankerSettings

__all__ = ["ANY", "COLD", "HotSettings", "policy_key", "policy_of"]

COLD: Final = frozenset(
    {"grpc", "http", "deadline_ms", "states", "exact_below", "prior_sd", "noise_sd", "arm_sd", "logit_sd"}
)
"""Settings of `ranker` that a process reads once: addresses, and what its stores were built with."""
ANY: Final = "*"
"""Stands for every surface, or every arm."""


class HotSettings(BaseModel):
    """The document.

    Examples
    --------
    >>> hot = HotSettings(ranker={"floor": 0.05})
    >>> hot.over(RankerSettings()).floor, hot.over(RankerSettings()).explore_cap
    (0.05, 0.1)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    exploration: bool = True
    """False = the kill switch: every slot holds the greedy item."""
    policies: dict[str, str] = {}
    """Policy by `surface/arm`, `*` for any; what is not named keeps the policy of its arm."""
    ranker: dict[str, Any] = {}
    """Settings of `ranker` that replace those a process was started with."""

    def over(self, base: RankerSettings) -> RankerSettings:
        """`base` with what this document replaces.

        Raises
        ------
        ConfigError
            A setting that does not exist, is cold, or has a value outside its range.
        """
        for name in self.ranker:
            if name not in RankerSettings.model_fields:
                near = difflib.get_close_matches(name, sorted(set(RankerSettings.model_fields) - COLD), n=1)
                hint = f"; did you mean {near[0]}?" if near else "; docs/settings.md has them all"
                raise ConfigError(f"ranker has no setting {name!r}{hint}")
            if name in COLD:
                raise ConfigError(f"{name} is read once at the start: change liverank.toml and restart the rankers")
        try:
            return RankerSettings.model_validate({**base.model_dump(), **self.ranker})
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}, got {one['input']!r}" for one in error.errors()]
            raise ConfigError(f"hot settings: {'; '.join(faults)}") from error


def policy_key(surface: str, arm: str) -> str:
    """Key of `HotSettings.policies`.

    Raises
    ------
    ConfigError
        A name is empty or holds the separator.
    """
    for name in (surface, arm):
        if not name or "/" in name:
            raise ConfigError(f"surface and arm are names without a slash (`*` = any), got {surface!r} and {arm!r}")
    return f"{surface}/{arm}"


def policy_of(policies: Mapping[str, str], surface: str, arm: str) -> str | None:
    """The policy of a surface and arm: the most exact entry, the surface before the arm; None = no entry.

    Examples
    --------
    >>> policy_of({"home/*": "linucb", "*/thompson": "greedy"}, "home", "thompson")
    'linucb'
    """
    for key in (f"{surface}/{arm}", f"{surface}/{ANY}", f"{ANY}/{arm}", f"{ANY}/{ANY}"):
        if key in policies:
            return policies[key]
    return None
