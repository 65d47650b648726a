"""What ranking reads of a user and of the catalogue, as roles.

`features.user_row.UserRow` and `features.item_table.ItemTable` play them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from liverank.v1 import event_pb2

Rows = NDArray[np.int32]
Floats = NDArray[np.float32]


class UserView(Protocol):
    """One user at the instant of a request."""

    @property
    def window_names(self) -> Sequence[str]:
        """Names of the values of `windows`, in order, e.g. ``clicks_1d``."""
        ...

    @property
    def category_window_names(self) -> Sequence[str]:
        """Names of the columns of `category_windows`, in order."""
        ...

    @property
    def history(self) -> NDArray[Any]:
        """Structured ``(item_hash, event_ts_ms, kind, weight, version)``, newest first; negatives weigh < 0."""
        ...

    @property
    def signals(self) -> NDArray[Any]:
        """The history and a sample of what came before it, an entry of which weighs what it stands for."""
        ...

    @property
    def seen(self) -> NDArray[Any]:
        """Structured ``(item_hash, shown, clicked, consumed, dismissed, ...)``, one entry per item."""
        ...

    @property
    def vectors(self) -> Floats:
        """The user's vectors of 1 week, 1 month, 6 months, shape ``(3, d)``; a window without events is a zero row."""
        ...

    @property
    def space(self) -> str:
        """Vector space of `vectors`; empty where there are none."""
        ...

    @property
    def newest_event_ts_ms(self) -> int:
        """Event time of the newest event in the row; 0 = none."""
        ...

    def ages_ms(self, as_of_ms: int) -> Mapping[str, int]:
        """Age of each view's values, by view."""
        ...

    def windows(self, as_of_ms: int) -> NDArray[np.float64]:
        """Counters of the user at `as_of_ms`, shape ``(len(window_names),)``."""
        ...

    def category_windows(self, as_of_ms: int) -> tuple[Mapping[str, int], NDArray[np.float64]]:
        """Category name -> row, and the counters, shape ``(n_categories, len(category_window_names))``."""
        ...


class ItemsView(Protocol):
    """The catalogue in columns; arrays hold at least ``len(self)`` rows."""

    ids: list[str]
    rows: dict[str, int]
    available: NDArray[np.bool_]
    price: NDArray[Any]
    creator: NDArray[np.int32]
    categories: NDArray[np.int32]
    published_ms: NDArray[np.int64]
    vectors: Floats
    has_vector: NDArray[np.bool_]
    regions: NDArray[np.uint64]
    attributes: list[Mapping[str, event_pb2.Attribute] | None]
    variants: dict[int, tuple[str, ...]]
    version: NDArray[np.int64]
    category_names: list[str]
    creator_names: list[str]
    space: str

    @property
    def window_names(self) -> Sequence[str]:
        """Names of the columns of `windows`, in order."""
        ...

    def __len__(self) -> int:
        """Rows in use."""
        ...

    def rows_of_hashes(self, hashes: NDArray[np.int64]) -> Rows:
        """Row of each item hash, -1 where unknown."""
        ...

    def category_code(self, name: str) -> int:
        """Code of a category, -1 where no item has it."""
        ...

    def creator_code(self, name: str) -> int:
        """Code of a creator, -1 where no item has it."""
        ...

    def region_bit(self, name: str) -> int:
        """Bit mask of a region; 0 where no item names it."""
        ...

    def windows(self, rows: Rows, as_of_ms: int) -> Floats:
        """Counters of items at `as_of_ms`, shape ``(n, len(window_names))``."""
        ...

    def trend(self, as_of_ms: int) -> Floats:
        """Trend of every item, shape ``(len(self),)``; more is more."""
        ...

    def popularity(self, as_of_ms: int) -> Floats:
        """Decayed popularity of every item, shape ``(len(self),)``."""
        ...

    def demand(self, rows: Rows, as_of_ms: int) -> Floats:
        """Decayed choices of items, half-lives of 1 h, 1 d, 7 d and 30 d, shape ``(n, 4)``."""
        ...

    def variant_counts(self, row: int, device: str, surface: str) -> NDArray[np.float64]:
        """Shown and clicked of an item's variants, for everybody, on a device, and there on a surface.

        Shape ``(n_variants, 3, 2)``.
        """
        ...

    def examined(self, as_of_ms: int, surface: str = "") -> NDArray[np.float64]:
        """Decayed shown slots and clicks of every item, everywhere or on a surface, shape ``(len(self), 2)``."""
        ...

    def neighbours(self, row: int, as_of_ms: int | None = None) -> tuple[Rows, Floats]:
        """Items that met this one in users' histories, with weights decayed to `as_of_ms`."""
        ...
