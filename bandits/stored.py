"""Names of the fields in which a partition's sums beside the shared ones are stored: folds write, rankers read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bandits.arms import ArmPartials
from bandits.items import ItemSum, ItemSums, WithItems
from bandits.logistic import LogisticPartial
from bandits.partials import Partial

ARM: Final = b"a:"
"""Prefix; the arm's name follows. The value is a `Partial`; empty = no longer kept."""
ITEM: Final = b"i:"
"""Prefix; the item's id follows. The value is an `ItemSum`; empty = no longer kept."""
ITEMS_SHARED: Final = b"i"
"""A `Partial` over `bandits.items.item_features` of the slots whose items have sums."""
LOGISTIC: Final = b"l"
"""A `LogisticPartial`."""


def read_stored(fields: Mapping[bytes, bytes]) -> tuple[ArmPartials | None, LogisticPartial | None]:
    """Sums per arm and logistic sums among stored fields; None = there are none.

    Raises
    ------
    CorruptStatisticsError
        A field cannot be read.
    """
    arms: ArmPartials | None = None
    for name in sorted(name for name, data in fields.items() if data and name.startswith(ARM)):
        one = Partial.from_bytes(fields[name])
        if arms is None:
            arms = ArmPartials(one.dim, one.n_heads, one.half_life_ms)
        arms.put(name.removeprefix(ARM).decode(), one)
    logistic = fields.get(LOGISTIC)
    return arms, LogisticPartial.from_bytes(logistic) if logistic else None


def read_items(fields: Mapping[bytes, bytes]) -> WithItems | None:
    """Sums per item among stored fields; None = there are none.

    Raises
    ------
    CorruptStatisticsError
        A field cannot be read.
    """
    stored = fields.get(ITEMS_SHARED)
    if not stored:
        return None
    shared = Partial.from_bytes(stored)
    items = ItemSums(shared.dim, shared.n_heads)
    for name in sorted(name for name, data in fields.items() if data and name.startswith(ITEM)):
        items.put(name.removeprefix(ITEM).decode(), ItemSum.from_bytes(fields[name]))
    items.take_changes()
    return WithItems(shared=shared, items=items)
