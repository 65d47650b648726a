"""The short way to a view's past: where it depends on events alone, not on what the fold derives from them.

Sums of a type's own column, and anything of `dwell_s` and `rating`, do not move when a slot is taken as seen or a
session is found abandoned: those rows hold 0 or null there. So duplicates and tiles are all that must be folded; the
bytes are those of the whole fold (`tests/unit/test_activation.py` compares them).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from features.hashing import id_hash
from features.program import FeatureProgram, ViewProgram
from features.state import parts
from features.state.dedup import HORIZON_MS, Dedup, Verdict
from features.state.views import ViewTiles
from liverank.errors import ContractError
from liverank.kafka import Record
from liverank.partition import partition as partition_of
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType
from streams.control import Adopt, Erase, Erased
from streams.erasure import ErasedKeys
from streams.identity import adopted
from streams.reading import ItemVersions
from streams.rows import state_key
from streams.users import UserFold

__all__ = ["DirectPast", "is_direct"]

_EXPOSURE: Final = int(EventType.EVENT_TYPE_EXPOSURE)
_IDENTIFY: Final = int(EventType.EVENT_TYPE_IDENTIFY)
_SUMS: Final = frozenset(
    ("click", "like", "save", "purchase", "skip", "dismiss", "thumbs_down", "not_interested", "positive", "short_dwell",
     "value")
)  # fmt: skip
"""0 in derived rows: a sum over them does not see those."""
_NULLS: Final = frozenset(("dwell_s", "rating"))
"""Null in derived rows: no function sees those."""


def is_direct(views: Iterable[ViewProgram]) -> bool:
    """Whether the past of all these views can be counted in the short way."""
    return all(
        view.entity in ("user", "user_category")
        and view.transformation is None
        and all(each.column in _NULLS or (each.function == "sum" and each.column in _SUMS) for each in view.aggregates)
        for view in views
    )


class DirectPast:
    """Duplicates and tiles of the users of one partition. About 20 us an event."""

    def __init__(
        self, settings: Settings, fold: UserFold, program: FeatureProgram, *, partition: int, n_partitions: int
    ) -> None:
        self._fold, self._program = fold, program
        self._partition, self._n = partition, n_partitions
        self._wall = settings.clock == "wall"
        self._by_category = bool(program.of_entity("user_category"))
        self._users: dict[str, tuple[Dedup, ViewTiles]] = {}
        self._newest_ms: dict[str, int] = {}
        self._erased = ErasedKeys({})
        self._identified: dict[str, int] = {}
        self._own: dict[bytes, bool] = {}
        self._clock_ms = 0

    def tick(self, ts_ms: int) -> None:
        """Move the clock."""
        self._clock_ms = max(self._clock_ms, ts_ms)

    def feed(self, record: Record, catalogue: ItemVersions) -> None:
        """Count one record, in the order of offsets."""
        try:
            parsed = self._fold.parse(record)
        except ContractError:
            self._advance(record, tick=False)
            return
        self._advance(record, tick=parsed.tick)
        event = parsed.body
        if isinstance(event, Erase | Erased):
            self._erase(event, record.offset)
            return
        if isinstance(event, Adopt):
            if not self._is_identified(event.user_id):
                for one, append_ts_ms in adopted(event.events, event.user_id):
                    self._count(state_key(event.user_id), one, append_ts_ms, catalogue)
            return
        if not isinstance(event, Event) or not self._is_own(parsed.route):
            return
        key = parsed.keys[0]
        if event.type == _IDENTIFY:  # its events come as `Adopt`, where the user lies
            self._users.pop(key, None)
            self._identified[event.session_id] = self._clock_ms
        elif event.user_id or not self._is_identified(event.session_id):
            self._count(key, event, record.append_ts_ms, catalogue)

    def _is_identified(self, session_id: str) -> bool:
        since_ms = self._identified.get(session_id)
        return since_ms is not None and self._clock_ms < since_ms + HORIZON_MS

    def _count(self, key: str, event: Event, append_ts_ms: int, catalogue: ItemVersions) -> None:
        """Count one event of a user."""
        if self._erased and self._erased.holds_back(key, event.event_ts_ms):
            return
        found = self._users.get(key)
        if found is None:
            found = self._users[key] = (parts.Dedup({}), ViewTiles(self._program, ("user", "user_category"), {}))
        dedup, views = found
        hashed, ts_ms = id_hash(event.event_id), event.event_ts_ms
        if dedup.judge(hashed, ts_ms, self._clock_ms) is not Verdict.NEW:
            return
        dedup.add(hashed, ts_ms, self._clock_ms)
        self._newest_ms[key] = max(ts_ms, self._newest_ms.get(key, 0))
        if event.type == _EXPOSURE:
            return
        category = ""
        if self._by_category and event.item_id:
            item = catalogue.at(event.item_id, append_ts_ms)
            category = item.category if item is not None else ""
        views.add(event, category)

    def _erase(self, command: Erase | Erased, offset: int) -> None:
        """Forget a user, as the fold does (`streams.erasure`)."""
        if self._erased.knows(command.job):
            return
        if isinstance(command, Erase):
            key = state_key(command.user_id)
            self._users.pop(key, None)
            self._identified.pop(command.user_id, None)
            keys: tuple[int, ...] = (id_hash(key),)
            at_ms = max(self._clock_ms, self._newest_ms.pop(key, 0))
        else:
            keys, at_ms = command.keys, command.at_ms
        self._erased.add(keys, at_ms, offset, command.job, self._clock_ms)

    def pages(self) -> list[tuple[str, dict[bytes, bytes]]]:
        """Pages by state key."""
        found = ((key, views.dirty()) for key, (_, views) in self._users.items())
        return [(key, kept) for key, pages in found if (kept := {name: page for name, page in pages.items() if page})]

    def _advance(self, record: Record, *, tick: bool) -> None:
        if (self._wall or tick) and record.append_ts_ms > self._clock_ms:
            self._clock_ms = record.append_ts_ms

    def _is_own(self, route: bytes | None) -> bool:
        if route is None:
            return True
        own = self._own.get(route)
        if own is None:
            own = self._own[route] = partition_of(route, self._n) == self._partition
        return own
