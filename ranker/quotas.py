"""Business rules and fairness floors: a kind of items has at least and at most a share of every slate.

They are masks inside the draw like all hard rules (`ranker.rules`), so propensities stay exact. A ceiling is never
broken. A floor holds back the last slots: while as many slots are left as are owed, only owed items may stand there. It
yields where it cannot be kept: too few candidates of the kind, or none that the other rules allow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from liverank.settings import Quota
from ranker.filters import Filters
from ranker.inputs import ItemsView, Rows


@dataclass(frozen=True, kw_only=True)
class SlateQuota:
    """A quota over one request's candidates.

    Attributes
    ----------
    name
        As in the settings.
    members
        Which candidates it is about, shape ``(n,)``.
    least, most
        Slots.
    """

    name: str
    members: NDArray[np.bool_]
    least: int
    most: int


@dataclass(frozen=True, kw_only=True)
class BoundQuota:
    """A quota of one request, before its candidates are known.

    Attributes
    ----------
    quota
        From the settings.
    members
        Rows of the table -> which of them it is about.
    """

    quota: Quota
    members: Callable[[Rows], NDArray[np.bool_]]

    def over(self, rows: Rows, k: int) -> SlateQuota:
        """The quota over candidates, k slots."""
        return SlateQuota(
            name=self.quota.name,
            members=self.members(rows),
            least=int(np.ceil(self.quota.least * k - 1e-9)),
            most=int(np.floor(self.quota.most * k + 1e-9)),
        )


def bind(
    quotas: Sequence[Quota], surface: str, table: ItemsView, filters: Filters, revision: int
) -> tuple[BoundQuota, ...]:
    """The quotas that hold on a surface, over a catalogue.

    Parameters
    ----------
    quotas
        From the settings.
    surface
        Of the request.
    table, filters, revision
        See `Filters.having`.
    """

    def members_of(quota: Quota) -> Callable[[Rows], NDArray[np.bool_]]:
        return lambda rows: filters.having(table, quota.field, quota.values, rows, revision)

    return tuple(
        BoundQuota(quota=quota, members=members_of(quota))
        for quota in quotas
        if not quota.surfaces or surface in quota.surfaces
    )
