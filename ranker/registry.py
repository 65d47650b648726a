"""Follows the feature program that the workers serve: one swap for users and items, never a half-filled view."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from features.errors import ProgramError
from features.item_load import load_from_feast
from features.item_table import ItemTable
from features.program import FeatureProgram
from features.provider import program_key
from features.redis import translated
from features.user_row import Reading, UserRowReader
from liverank.log import get
from liverank.settings import Settings
from ranker import metrics
from ranker.catalogue import Catalogue
from ranker.feeds import Feed

if TYPE_CHECKING:
    from features.redis import Redis

_log = get(__name__)
_CHUNK: Final = 100


class RegistryFeed(Feed):
    """Looks every 2 s at the program that is served in full (docs/specs/control.md).

    A view that is new, or whose tiles changed, is read only once the workers have backfilled it everywhere; until then
    the program before is served, from the same tiles. An invalid program is ignored, with an alarm and a metric.

    Parameters
    ----------
    reader
        Of users.
    reading
        How to read users by a program through the registry as it is now; None where it does not hold the program.
    items_loaded
        Whether the catalogue was read to its end once.
    """

    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        catalogue: Catalogue,
        table: ItemTable,
        reader: UserRowReader,
        reading: Callable[[FeatureProgram], Reading | None],
        items_loaded: Callable[[], bool],
    ) -> None:
        super().__init__("registry", 2.0)
        self._settings, self._redis = settings, redis
        self._catalogue, self._table = catalogue, table
        self._reader, self._reading = reader, reading
        self._items_loaded = items_loaded
        self._refused = b""
        self.loaded.set()  # the reader has read the registry once when it was made

    def step(self) -> None:
        """Swap if another program is served."""
        if not self._items_loaded():
            return
        namespace = self._settings.namespace
        with translated("reading the served feature program"):
            # Before any worker has run nothing is served yet: then the registry's program, which counts from now.
            found = self._redis.get(f"{namespace}:program:served") or self._redis.get(program_key(namespace))
        text = bytes(found) if found else b""
        if not text or text == self._refused:
            return
        try:
            program = FeatureProgram.from_json(text)
            if program.hash != self._reader.schema.program.hash:
                self._swap(program)
        except ProgramError:
            self._refused = text
            metrics.PROGRAM_INVALID.set(1)
            raise
        metrics.PROGRAM_INVALID.set(0)

    def _swap(self, program: FeatureProgram) -> None:
        reading = self._reading(program)
        if reading is None:
            return  # the registry is a step ahead: the program that follows it is not served yet
        with self._catalogue.lock:
            changed = self._table.prepare(program)
        if changed:
            ids = list(self._table.ids)
            for start in range(0, len(ids), _CHUNK):
                with self._catalogue.lock:
                    load_from_feast(
                        self._table, self._redis, self._settings.feast_project, ids[start : start + _CHUNK], bare=True
                    )
        with self._catalogue.lock:
            self._table.adopt()
            self._reader.swap(reading)
        _log.info("feature program taken up", program=program.hash, views=len(program.views))
