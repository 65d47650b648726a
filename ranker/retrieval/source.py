"""A source proposes candidates; everything that a source may read is in the `Query`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ranker.affinity import Affinities
from ranker.inputs import Floats, ItemsView, Rows, UserView

if TYPE_CHECKING:
    from ranker.retrieval.co_occurrence import Met

NO_ROWS: Rows = np.empty(0, dtype=np.int32)
NO_SCORES: Floats = np.empty(0, dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Query:
    """One request, as sources see it.

    Attributes
    ----------
    user
        The user at the request.
    affinity
        What their history says.
    table
        The catalogue.
    as_of_ms
        Instant for which values are read.
    allowed
        Which rows may be proposed, shape ``(len(table),)``; a source need not honour it, it is applied to the union.
    seed
        Of the request: what a source draws is a function of it.
    surface
        Of the request; empty = none.
    """

    user: UserView
    affinity: Affinities
    table: ItemsView
    as_of_ms: int
    allowed: NDArray[np.bool_]
    seed: int = 0
    surface: str = ""

    @cached_property
    def met(self) -> Met:
        """Every item that met the user's newest liked ones: `ranker.retrieval.co_occurrence`."""
        from ranker.retrieval.co_occurrence import co_occurrence

        return co_occurrence(self.affinity, self.table)


@dataclass(frozen=True)
class Proposal:
    """Candidates of one source, best first, each row once.

    Attributes
    ----------
    rows
        Rows of the table, shape ``(n,)``.
    scores
        The source's own scores, falling; scales of sources do not compare.
    """

    rows: Rows
    scores: Floats

    def __len__(self) -> int:
        return len(self.rows)


NOTHING = Proposal(NO_ROWS, NO_SCORES)


class Source(Protocol):
    """Proposes candidates. Thread-safe for reading; cheap (about 0.3 ms); raises `LiverankError` where it cannot."""

    @property
    def name(self) -> str:
        """Name in replies and logs, e.g. ``trending``."""
        ...

    def propose(self, query: Query, quota: int) -> Proposal:
        """About `quota` allowed candidates, if the source has as many; what it lacks the last source fills."""
        ...


def best(rows: Rows, scores: Floats, quota: int) -> Proposal:
    """The `quota` best of scored rows, best first, equal scores by row; rows must be unique."""
    if len(rows) > quota:
        keep = np.argpartition(-scores, quota - 1)[:quota]
        rows, scores = rows[keep], scores[keep]
    order = np.lexsort((rows, -scores))
    return Proposal(rows[order].astype(np.int32), scores[order].astype(np.float32))
