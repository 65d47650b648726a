"""Registered features that no model reads, for explain: an operator sees a new feature before a model uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ranker.columns import INDEX
from ranker.inputs import ItemsView, Rows, UserView

__all__ = ["NOTHING", "Registered", "registered"]


class Registered(NamedTuple):
    """Values of features by item.

    Attributes
    ----------
    names
        ``view:feature`` of the registry.
    values
        float64, shape ``(n_items, n_names)``.
    """

    names: Sequence[str]
    values: NDArray[np.float64]


NOTHING = Registered((), np.zeros((0, 0)))


def registered(user: UserView, table: ItemsView, rows: Rows, as_of_ms: int) -> Registered:
    """Windows of user, item and user x first category of the item that are no columns of the models.

    Costs nothing where every window is a column; else the windows that `ranker.columns.build` has computed already.
    """
    parts: list[tuple[list[str], NDArray[np.float64]]] = []
    own = _others("user_windows", user.window_names)
    if own:
        values = np.asarray(user.windows(as_of_ms), dtype=np.float64)[[at for at, _ in own]]
        parts.append(([name for _, name in own], np.tile(values, (len(rows), 1))))
    of_items = _others("item_windows", table.window_names)
    if of_items:
        counters = np.asarray(table.windows(rows, as_of_ms), dtype=np.float64)
        parts.append(([name for _, name in of_items], counters[:, [at for at, _ in of_items]]))
    of_kinds = _others("user_category_windows", user.category_window_names)
    if of_kinds:
        index, per_category = user.category_windows(as_of_ms)
        found = np.zeros((len(rows), len(of_kinds)))
        columns = [at for at, _ in of_kinds]
        for at, code in enumerate(table.categories[rows, 0].tolist()):
            place = index.get(table.category_names[code]) if code > 0 else None
            if place is not None:
                found[at] = per_category[place, columns]
        parts.append(([name for _, name in of_kinds], found))
    if not parts:
        return NOTHING
    return Registered([name for names, _ in parts for name in names], np.concatenate([v for _, v in parts], axis=1))


def _others(view: str, names: Sequence[str]) -> list[tuple[int, str]]:
    """Place and full name of the features that are no column."""
    full = [f"{view}:{name}" for name in names]
    return [(at, name) for at, name in enumerate(full) if name not in INDEX]
