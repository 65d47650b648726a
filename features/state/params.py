"""Parameters of the user's and the item's state. They are part of the fold: change them only with a rebuild."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Final

from features.errors import StateConfigError
from liverank.contract import LONG_DWELL_S, MID_RATING, SHORT_DWELL_S
from liverank.settings import Settings
from liverank.v1.event_pb2 import EventType

__all__ = ["EXPECTED_CLICKS", "MINUTE_MS", "RewardWeights", "SignalWeights", "StateParams", "state_params"]

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
MAX_WEIGHT: Final = 127 / 16
EXPECTED_CLICKS: Final = tuple(1.0 / math.log2(1.0 + slot) for slot in range(1, 201))
"""Clicks expected of a slot relative to the first, by position from 1."""
_DWELL: Final = int(EventType.EVENT_TYPE_DWELL)
_RATING: Final = int(EventType.EVENT_TYPE_RATING)
_SURVEY: Final = int(EventType.EVENT_TYPE_SURVEY)


@dataclass(frozen=True, kw_only=True)
class SignalWeights:
    """Weight of each signal in the user's history (and so in the user vectors), in clicks; stored in sixteenths.

    The six negative signals are `skip`, `dismiss`, `thumbs_down`, `not_interested`, `short_dwell` and `abandon`.
    `rating` weighs a rating at the end of the scale, `survey` an answer at an end; both are linear about the middle.
    A weight of 0 keeps the signal out of the history; counters count it all the same.
    """

    click: float = 1.0
    dwell: float = 1.0
    like: float = 2.0
    save: float = 2.0
    purchase: float = 5.0
    rating: float = 2.0
    survey: float = 1.0
    skip: float = -0.5
    dismiss: float = -2.0
    thumbs_down: float = -2.0
    not_interested: float = -3.0
    short_dwell: float = -0.5
    abandon: float = -0.25

    def __post_init__(self) -> None:
        for each in fields(self):
            weight = getattr(self, each.name)
            if not (math.isfinite(weight) and abs(weight) <= MAX_WEIGHT):
                raise StateConfigError(f"weight of {each.name} lies in [-{MAX_WEIGHT}, {MAX_WEIGHT}], got {weight}")

    @cached_property
    def table(self) -> dict[int, float]:
        """Weights of the types that do not depend on a value, by `EventType`."""
        return {
            int(EventType.EVENT_TYPE_CLICK): self.click,
            int(EventType.EVENT_TYPE_LIKE): self.like,
            int(EventType.EVENT_TYPE_SAVE): self.save,
            int(EventType.EVENT_TYPE_PURCHASE): self.purchase,
            int(EventType.EVENT_TYPE_SKIP): self.skip,
            int(EventType.EVENT_TYPE_DISMISS): self.dismiss,
            int(EventType.EVENT_TYPE_THUMBS_DOWN): self.thumbs_down,
            int(EventType.EVENT_TYPE_NOT_INTERESTED): self.not_interested,
            int(EventType.EVENT_TYPE_ABANDON): self.abandon,
        }

    def of(self, kind: int, value: float) -> float:
        """Weight of one event; 0 where it says nothing about the item.

        Parameters
        ----------
        kind : int
            `EventType`.
        value : float
            Value of the event: seconds of a dwell, a rating on 0 to 10, a survey answer on 0 to 1.
        """
        weight = self.table.get(kind)
        if weight is not None:
            return weight
        if kind == _DWELL:
            return self.dwell if value >= LONG_DWELL_S else self.short_dwell if value < SHORT_DWELL_S else 0.0
        if kind == _RATING:
            return self.rating * max(-1.0, min(1.0, (value - MID_RATING) / MID_RATING))
        if kind == _SURVEY:
            return self.survey * max(-1.0, min(1.0, (value - 0.5) * 2.0))
        return 0.0


@dataclass(frozen=True, kw_only=True)
class RewardWeights:
    """Value of each outcome of a shown slot, in clicks (architecture, section 7)."""

    click: float = 1.0
    dwell: float = 1.0
    like: float = 2.0
    purchase: float = 5.0
    dismiss: float = -2.0

    @cached_property
    def in_order(self) -> tuple[float, ...]:
        """All of them, in the order of `features.state.exposure.LABEL_NAMES`."""
        return self.click, self.dwell, self.like, self.purchase, self.dismiss


@dataclass(frozen=True, kw_only=True)
class StateParams:
    """Parameters of the pure state.

    Parameters
    ----------
    session_timeout_ms : int
        Events of a user less than this apart belong to one session.
    attribution_window_ms : int
        How long after an exposure an outcome counts for it (event time).
    late_outcome_ms : int
        How long after the window an exposure is still there for a late outcome's correction row.
    max_exposures : int
        Exposures kept per user; one more closes the oldest early (counted).
    pair_partners : int
        Good news of a user is paired with this many before it and after it.
    pair_gap_half_life_ms : int
        The weight of a pair halves for every such span between its two events.
    composition_grain_ms : int
        An entry's leaving of the 7, 30 or 180 day window is noticed at the next whole multiple of this.
    signals, rewards
        Weights of signals and outcomes.
    """

    session_timeout_ms: int = 30 * MINUTE_MS
    attribution_window_ms: int = 30 * MINUTE_MS
    late_outcome_ms: int = 60 * MINUTE_MS
    max_exposures: int = 32
    pair_partners: int = 5
    pair_gap_half_life_ms: int = 7 * DAY_MS
    composition_grain_ms: int = MINUTE_MS
    signals: SignalWeights = field(default_factory=SignalWeights)
    rewards: RewardWeights = field(default_factory=RewardWeights)

    def __post_init__(self) -> None:
        for name in ("session_timeout_ms", "attribution_window_ms", "pair_gap_half_life_ms", "composition_grain_ms"):
            if getattr(self, name) < 1:
                raise StateConfigError(f"{name} is 1 or more, got {getattr(self, name)}")
        if self.late_outcome_ms < 0:
            raise StateConfigError(f"late_outcome_ms is 0 or more, got {self.late_outcome_ms}")
        if not 1 <= self.max_exposures <= 128:
            raise StateConfigError(f"max_exposures lies in [1, 128], got {self.max_exposures}")
        if not 0 <= self.pair_partners <= 32:
            raise StateConfigError(f"pair_partners lies in [0, 32], got {self.pair_partners}")


def state_params(settings: Settings) -> StateParams:
    """Parameters of the state as the settings say.

    Raises
    ------
    StateConfigError
        A signal's weight or name is wrong.
    """
    streams = settings.streams
    known = {each.name for each in fields(SignalWeights)}
    if unknown := sorted(set(streams.signal_weights) - known):
        raise StateConfigError(f"streams.signal_weights names {unknown}; allowed are {sorted(known)}")
    return StateParams(
        session_timeout_ms=streams.session_timeout_s * 1000,
        attribution_window_ms=streams.attribution_window_s * 1000,
        late_outcome_ms=streams.late_outcome_s * 1000,
        signals=SignalWeights(**streams.signal_weights),
    )
