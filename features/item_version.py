"""One version of a catalogue item, as the folds see it."""

from __future__ import annotations

from typing import NamedTuple


class CatalogueItem(NamedTuple):
    """What a fold may know about an item at an event's append time.

    Attributes
    ----------
    item_id : str
    version : int
        Offset of the catalogue record that holds this version.
    append_ts_ms : int
        When the broker appended it (ms since the UTC epoch); 0 for imported items that give none.
    categories : tuple[str, ...]
        Main category first; may be empty.
    creator : str
    price : float
        0 = none.
    available : bool
    published_ts_ms : int
        0 = unknown.
    """

    item_id: str
    version: int
    append_ts_ms: int
    categories: tuple[str, ...]
    creator: str
    price: float
    available: bool
    published_ts_ms: int

    @property
    def category(self) -> str:
        """The main category, or an empty string."""
        return self.categories[0] if self.categories else ""
