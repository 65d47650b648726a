"""All users and items in memory, folded from a log in order of time: what serving would have read at each moment."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.item_table import ItemTable
from features.item_version import CatalogueItem
from features.program import FeatureProgram
from features.state.emitter import NullEmitter
from features.state.item import ItemState
from features.state.params import StateParams
from features.state.user import UserState
from features.user_row import UserRow, UserSchema
from features.vectors import user_vectors
from liverank.errors import ContractError
from liverank.v1.event_pb2 import Event, EventType
from liverank.v1.item_pb2 import Item, ItemChange
from liverank.v1.stream_pb2 import Example, ItemEvent, ItemPairs

CATALOGUE_VERSION: Final = 0


class Memory:
    """States of a log's users and items, by the same pure functions as the stream workers.

    The clock is event time: due actions happen when an event passes them, item effects at once. About 0.2 ms an event.
    The catalogue is the newest one throughout.

    Parameters
    ----------
    program : FeatureProgram
    params : StateParams
    items : mapping of item id to Item
    vectors : mapping of item id to float32, shape (d,)
    space : str
        Of the vectors; empty = none.
    on_example : callable
        Given each label row when its window closes, corrections included.
    """

    def __init__(
        self,
        *,
        program: FeatureProgram,
        params: StateParams,
        items: Mapping[str, Item],
        vectors: Mapping[str, NDArray[np.float32]],
        space: str,
        on_example: Callable[[Example], None] = lambda _: None,
    ) -> None:
        self.table = ItemTable(program, capacity=max(1024, len(items)))
        for item_id, item in items.items():
            self.table.apply_change(ItemChange(item_id=item_id, upsert=item), CATALOGUE_VERSION)
        if vectors:
            self.table.set_vectors(list(vectors), np.stack(list(vectors.values())), space)
        self.counts: Counter[str] = Counter()
        self.clock_ms = 0
        self._program, self._params = program, params
        self._schema = UserSchema(program)
        self._versions = {item_id: _version(item_id, item) for item_id, item in items.items()}
        self._users: dict[str, UserState] = {}
        self._fields: dict[str, dict[bytes, bytes]] = {}
        self._items: dict[str, ItemState] = {}
        self._changed: set[str] = set()
        self._row_version = 0
        self._due: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []
        self._outlet = _Outlet(self, on_example)

    # -- the fold

    def observe(self, event: Event) -> None:
        """Fold one event; events come in order of time. A refused one is counted. Logins move nothing here: sessions of
        before are somebody else's past.
        """
        self.advance(event.event_ts_ms)
        if event.type == EventType.EVENT_TYPE_IDENTIFY:
            return
        user_id = event.user_id or event.session_id
        state = self._user(user_id)
        try:
            new = state.observe(event, append_ts_ms=event.event_ts_ms, clock_ms=self.clock_ms, emit=self._outlet)
        except ContractError as error:
            self.counts[error.reason] += 1
            return
        self.counts["events"] += new
        self._schedule(user_id, state)

    def advance(self, clock_ms: int) -> None:
        """Move the clock: everything due by then is done, in order."""
        while self._heap and self._heap[0][0] <= clock_ms:
            due_ms, user_id = heapq.heappop(self._heap)
            if self._due.get(user_id) != due_ms:
                continue
            state = self._users[user_id]
            state.on_due(due_ms, self._outlet)
            self._schedule(user_id, state)
        self.clock_ms = max(self.clock_ms, clock_ms)

    def close(self) -> None:
        """Close the windows that the last events left open."""
        self.advance(self.clock_ms + self._params.attribution_window_ms + 1)

    def _schedule(self, user_id: str, state: UserState) -> None:
        due_ms = state.due_ms()
        if due_ms is None:
            self._due.pop(user_id, None)
        elif self._due.get(user_id) != due_ms:
            self._due[user_id] = due_ms
            heapq.heappush(self._heap, (due_ms, user_id))

    def _user(self, user_id: str) -> UserState:
        state = self._users.get(user_id)
        if state is None:
            state = self._users[user_id] = UserState(user_id, {}, self._program, self._params)
            self._fields[user_id] = {}
        return state

    def version(self, item_id: str) -> CatalogueItem | None:
        """The item as folds see it."""
        return self._versions.get(item_id)

    def item_changed(self, item_id: str) -> ItemState:
        """State of an item that is about to change."""
        state = self._items.get(item_id)
        if state is None:
            state = self._items[item_id] = ItemState(item_id, {}, self._program, self._params.signals)
        self._changed.add(item_id)
        return state

    # -- what serving reads

    def user(self, user_id: str, as_of_ms: int) -> UserRow:
        """The user's row now, with vectors for `as_of_ms`; later events do not change it. About 0.3 ms."""
        state, fields = self._user(user_id), self._fields[user_id]
        fields.update(state.dirty())
        row = self._row(user_id, dict(fields))
        if self.table.space:
            row.vectors, row.space = user_vectors(row.signals, self._lookup, as_of_ms), self.table.space
        return row

    def _row(self, user_id: str, fields: Mapping[bytes, bytes]) -> UserRow:
        return UserRow.from_fields(self._schema, fields, user_id=user_id, category_of_hash=self.table.category_of_hash)

    def _lookup(self, hashes: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        table = self.table
        rows = table.rows_of_hashes(hashes)
        found = rows >= 0
        found[found] = table.has_vector[rows[found]]
        vectors = np.zeros((len(hashes), table.vectors.shape[1]), dtype=np.float32)
        vectors[found] = table.vectors[rows[found]]
        return vectors, found

    def refresh(self) -> ItemTable:
        """The item table with everything folded so far; only items that changed since the last call are set."""
        for item_id in sorted(self._changed):
            state = self._items[item_id]
            pages = [(name.decode(), data) for name, data in state.dirty().items() if not name.startswith(b"_")]
            self._row_version += 1
            self.table.set_pages(item_id, pages, (0, self._row_version, 0, 0), state.newest_event_ts_ms)
        self._changed.clear()
        return self.table


class _Outlet(NullEmitter):
    """What users emit, applied to items at once."""

    def __init__(self, memory: Memory, on_example: Callable[[Example], None]) -> None:
        self._memory, self._on_example = memory, on_example

    def item(self, item_id: str, append_ts_ms: int) -> CatalogueItem | None:
        return self._memory.version(item_id)

    def example(self, row: bytes) -> None:
        self._on_example(Example.FromString(row))

    def item_event(
        self,
        item_id: str,
        kind: int,
        event_ts_ms: int,
        *,
        value: float = 0.0,
        sign: float = 1.0,
        surface: str = "",
        expected: float | None = None,
        position: int = 0,
    ) -> None:
        item = self._memory.version(item_id)
        effect = ItemEvent(
            item_id=item_id,
            type=kind,
            event_ts_ms=event_ts_ms,
            value=value,
            sign=sign,
            surface=surface,
            expected=expected or 0.0,
            position=position,
        )
        self._memory.item_changed(item_id).observe(effect, item.category if item is not None else "")

    def pairs(self, item_id: str, other_hashes: Sequence[int], weights: Sequence[float], event_ts_ms: int) -> None:
        pairs = ItemPairs(item_id=item_id, other_hashes=other_hashes, weights=weights, event_ts_ms=event_ts_ms)
        self._memory.item_changed(item_id).meet(pairs)

    def count(self, name: str) -> None:
        self._memory.counts[name] += 1


def _version(item_id: str, item: Item) -> CatalogueItem:
    return CatalogueItem(
        item_id,
        CATALOGUE_VERSION,
        0,
        tuple(item.categories),
        item.creator,
        item.price,
        item.available,
        item.published_ts_ms,
    )
