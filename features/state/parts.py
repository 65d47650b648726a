"""The parts of the state, in machine code where it is compiled, else in Python; the bytes are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from features import native
from features.state import dedup, exposures, history, lead, neighbours, pairs, seen, session, surfaces, trend
from features.state.params import StateParams

if TYPE_CHECKING:
    from features.state.exposures import Exposures

__all__ = [
    "Dedup",
    "History",
    "Lead",
    "Neighbours",
    "Pairs",
    "Part",
    "Seen",
    "Sessions",
    "SurfaceCounts",
    "Trend",
    "collect",
    "make_exposures",
]

_core = native.core

Dedup: type[dedup.Dedup] = dedup.Dedup if _core is None else _core.Dedup
History: type[history.History] = history.History if _core is None else _core.History
Lead: type[lead.Lead] = lead.Lead if _core is None else _core.Lead
Neighbours: type[neighbours.Neighbours] = neighbours.Neighbours if _core is None else _core.Neighbours
Pairs: type[pairs.Pairs] = pairs.Pairs if _core is None else _core.Pairs
Seen: type[seen.Seen] = seen.Seen if _core is None else _core.Seen
Sessions: type[session.Sessions] = session.Sessions if _core is None else _core.Sessions
SurfaceCounts: type[surfaces.SurfaceCounts] = surfaces.SurfaceCounts if _core is None else _core.SurfaceCounts
Trend: type[trend.Trend] = trend.Trend if _core is None else _core.Trend


class Part(Protocol):
    """A part of a state."""

    def dirty(self) -> dict[bytes, bytes]:
        """Fields changed since the last call."""
        ...


def _collect(each: Iterable[Part]) -> dict[bytes, bytes]:
    changed: dict[bytes, bytes] = {}
    for part in each:
        changed |= part.dirty()
    return changed


collect: Callable[[Sequence[Part]], dict[bytes, bytes]] = _collect if _core is None else _core.collect
"""`collect(parts)`: what changed in all of them."""


def make_exposures(fields: Mapping[bytes, bytes], params: StateParams) -> Exposures:
    """Exposures and outcomes of a user."""
    if _core is None:
        return exposures.Exposures(fields, params)
    made: Exposures = _core.Exposures(
        fields, params.attribution_window_ms, params.late_outcome_ms, params.max_exposures
    )
    return made
