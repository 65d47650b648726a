"""What a user does with a slate: events in time order, all six negative signals among them.

Abandonment is the sixth: a session without a click simply ends, and the fold notices by its timeout.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from evaluation.simulator.parameters import WorldParams
from evaluation.simulator.population import DEVICES, User
from evaluation.simulator.utility import Utility, examination
from liverank.calls import event_type
from liverank.contract import uuid7
from liverank.v1.event_pb2 import Context, Event

SATIATED: Final = 0.1
"""What is left of the click probability of an item that the user has opened before."""

LIKE, SAVE, PURCHASE = 0.30, 0.12, 0.06
"""P(.. | clicked and satisfied); satisfaction is the click probability's own scale."""

COMPLAIN_ALWAYS, COMPLAIN_MISFIT = 0.006, 0.02
"""P(complaint | looked at, not clicked) of what fits perfectly, and what is added for what does not fit at all."""

EXPLICIT_NEGATIVES: Final = (("dismiss", 0.5), ("not_interested", 0.2), ("thumbs_down", 0.3))
"""How those who complain do it, with their shares."""


class _Add(Protocol):
    def __call__(self, kind: str, slot: int, value: float = 0.0) -> None:
        """Append an event of this kind on this slot, at the clock."""


@dataclass(frozen=True)
class Reaction:
    """What a slate led to.

    Attributes
    ----------
    events : tuple of Event
        In time order; all after the exposure.
    clicked : tuple of int
        Positions that were clicked, from 1.
    end_ms : int
        When the user was done with it.
    """

    events: tuple[Event, ...]
    clicked: tuple[int, ...]
    end_ms: int


@dataclass
class Behaviour:
    """Draws reactions. `pace` shrinks the time between events (1 = lifelike; live traffic uses less)."""

    params: WorldParams
    utility: Utility
    pace: float = 1.0
    looked: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.looked = examination(self.params)

        self._opened: dict[str, set[int]] = {}

    def opened(self, user: User) -> set[int]:
        """Rows of what the user has clicked so far."""
        return self._opened.setdefault(user.user_id, set())

    def click_probability(self, user: User, rows: NDArray[np.int64], at_ms: int) -> NDArray[np.float64]:
        """P(click | looked at) of a user with this past, shape (len(rows),)."""
        p_click = self.utility.click_probability(user, rows, at_ms)
        opened = self._opened.get(user.user_id)
        if opened and self.params.effects.satiation:
            p_click = np.where([int(row) in opened for row in rows], SATIATED * p_click, p_click)
        return p_click

    def context(self, user: User) -> Context:
        """The context that the user's app sends."""
        return Context(device=DEVICES[user.device], utc_offset_minutes=user.utc_offset_minutes)

    def react(
        self,
        user: User,
        item_ids: list[str],
        *,
        request_id: str,
        session_id: str,
        surface: str,
        at_ms: int,
        rng: np.random.Generator,
        ids: random.Random,
    ) -> Reaction:
        """What the user does with these items, shown at `at_ms`.

        Parameters
        ----------
        item_ids : list of str
            The slate in order, at most `params.slate`.
        rng, ids : generators
            Of the choices and of the event ids.
        """
        if not item_ids:
            return Reaction((), (), at_ms)
        rows = np.array([self.utility.catalogue.row(i) for i in item_ids])
        p_click = self.click_probability(user, rows, at_ms)
        examined = rng.random(len(rows)) < self.looked[: len(rows)]
        clicks = examined & (rng.random(len(rows)) < p_click)
        events: list[Event] = []
        clicked: list[int] = []
        clock = float(at_ms)
        context = self.context(user)

        def add(kind: str, slot: int, value: float = 0.0) -> None:
            events.append(
                Event(
                    event_id=uuid7(int(clock), ids),
                    type=event_type(kind),  # type: ignore[arg-type]
                    user_id=user.user_id,
                    session_id=session_id,
                    item_id=item_ids[slot],
                    event_ts_ms=int(clock),
                    value=value,
                    request_id=request_id,
                    position=slot + 1,
                    surface=surface,
                    context=context,
                )
            )

        for slot in np.flatnonzero(examined).tolist():
            clock += self._wait(rng, 700.0)
            add("impression", slot)
            clock += self._wait(rng, 900.0)
            if not clicks[slot]:
                self._refusal(slot, float(p_click[slot]), rng, add)
                continue
            clicked.append(slot + 1)
            self.opened(user).add(int(rows[slot]))
            add("click", slot)
            dwell_s = self._dwell_s(float(p_click[slot]), rng)
            clock += self.pace * dwell_s * 1000.0 + 1.0
            add("dwell", slot, round(dwell_s, 3))
            if dwell_s < 20.0:
                continue
            for kind, chance in (("like", LIKE), ("save", SAVE), ("purchase", PURCHASE)):
                if rng.random() < chance * (0.5 + float(p_click[slot])):
                    clock += self._wait(rng, 400.0)
                    price = self.utility.catalogue.items[rows[slot]].price
                    add(kind, slot, price if kind == "purchase" else 0.0)
        return Reaction(tuple(events), tuple(clicked), int(clock) + 1)

    def _wait(self, rng: np.random.Generator, median_ms: float) -> float:
        return self.pace * median_ms * float(np.exp(rng.normal(0.0, 0.5))) + 1.0

    def _dwell_s(self, p_click: float, rng: np.random.Generator) -> float:
        # What was clicked against the odds disappoints: a short dwell.
        median_s = 8.0 + 90.0 * p_click if self.params.effects.negatives else 45.0
        return float(np.clip(median_s * np.exp(rng.normal(0.0, 0.9)), 0.5, 3600.0))

    def _refusal(self, slot: int, p_click: float, rng: np.random.Generator, add: _Add) -> None:
        if not self.params.effects.negatives:
            return
        # Complaints come more often from what has no chance, but moods play a part: one is a hint, several a verdict.
        draw = rng.random()
        complain = COMPLAIN_ALWAYS + COMPLAIN_MISFIT * (1.0 - p_click) ** 3
        if draw < complain:
            shares = [share for _, share in EXPLICIT_NEGATIVES]
            add(EXPLICIT_NEGATIVES[int(rng.choice(len(shares), p=shares))][0], slot)
        elif draw < complain + 0.08:
            add("skip", slot)
