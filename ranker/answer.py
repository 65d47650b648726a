"""What a request came to, before it is said and logged."""

from __future__ import annotations

from dataclasses import dataclass

from ranker.decisions import Shown, Trace
from ranker.explore import Drawn
from ranker.gather import Gathered
from ranker.models import Model
from ranker.scoring import Scored


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A slate with everything that its reply and its log say.

    Attributes
    ----------
    trace, shown
        What is logged.
    policy_name
        For the reply; "none" where nothing was drawn.
    gathered, scored, drawn, model
        Of the full path; None on the lowest rungs.
    snapshot
        Id and bytes of the statistics acted upon.
    posterior_newest_ms
        Newest exposure in them; 0 = none.
    """

    trace: Trace
    shown: Shown
    policy_name: str
    gathered: Gathered | None
    scored: Scored | None
    drawn: Drawn | None
    model: Model | None
    snapshot: tuple[str, bytes] | None
    posterior_newest_ms: int
