"""Item vectors of the active space, read from Feast's online rows without Feast."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.errors import SpaceError
from features.redis import Redis, translated
from features.wire import entity_key, feature_field, unpack_floats, unpack_string
from liverank.settings import Settings

VIEW: Final = "item_semantic"
_VECTOR, _SPACE = feature_field(VIEW, "vector"), feature_field(VIEW, "space")
_PIPELINE: Final = 1_000


class Space(NamedTuple):
    """Name of a vector space: vectors of different spaces are never compared.

    Parameters
    ----------
    source : str
        Provider and model, e.g. `local/l2_supercat`.
    dim : int
    recipe : str
        Version of the text that was embedded and, with attributes, of their prompt and model.
    """

    source: str
    dim: int
    recipe: str

    def __str__(self) -> str:
        return f"{self.source}/{self.dim}/{self.recipe}"

    @classmethod
    def parse(cls, name: str) -> Space:
        """Read a name.

        Raises
        ------
        SpaceError
            Not of the form source/dim/recipe.
        """
        source, dim, recipe = ([*name.rsplit("/", 2), "", ""])[:3]
        if not source or not recipe or not dim.isdigit():
            raise SpaceError(
                f"a vector space is named <provider>/<model>/<dim>/<recipe>, got {name!r}; run `liverank enrich`"
            )
        return cls(source, int(dim), recipe)


def space_key(namespace: str) -> str:
    """Redis key of the name of the active space."""
    return f"{namespace}:space"


def active_space(client: Redis, settings: Settings) -> Space | None:
    """The active space, or None before the first item was embedded."""
    with translated("reading the active vector space"):
        found = client.get(space_key(settings.namespace))
    return Space.parse(found.decode()) if isinstance(found, bytes) else None


def activate_space(client: Redis, settings: Settings, space: Space, *, only_if_none: bool = False) -> bool:
    """Make a space the active one; everything reads it within seconds. Returns whether it was set."""
    with translated("activating a vector space"):
        return bool(client.set(space_key(settings.namespace), str(space), nx=only_if_none))


def read_vectors(
    client: Redis, settings: Settings, item_ids: Sequence[str], space: Space
) -> dict[str, NDArray[np.float32]]:
    """Vectors of items in a space; items without one there are absent. One round trip per 1,000 items.

    Raises
    ------
    SpaceError
        A row of this space has another length.
    """
    found: dict[str, NDArray[np.float32]] = {}
    for start in range(0, len(item_ids), _PIPELINE):
        part = item_ids[start : start + _PIPELINE]
        with translated("reading item vectors"):
            pipe: Any = client.pipeline(transaction=False)
            for item_id in part:
                pipe.hmget(entity_key(settings.feast_project, ("item_id",), (item_id,)), [_VECTOR, _SPACE])
            replies = pipe.execute()
        for item_id, (vector, name) in zip(part, replies, strict=True):
            if not vector or unpack_string(name) != str(space):
                continue
            values = unpack_floats(vector)
            if values.shape != (space.dim,):
                raise SpaceError(
                    f"item {item_id!r} has {values.size} values in space {space}; run `liverank enrich` again"
                )
            found[item_id] = values
    return found


class ItemVectors:
    """Vectors by item hash, cached; what a near-line agent looks entries up in.

    A missing vector is asked for again after a while, so that a new item counts soon after it was embedded. When the
    active space changes, the cache starts anew. Not thread safe.

    Parameters
    ----------
    client : Redis
    settings : Settings
    name_of : callable
        Item hash -> item id, None = not in the catalogue (yet).
    capacity : int
        When so many vectors are kept, the cache starts anew; 200,000 of 64 dimensions are 51 MB.
    retry_s, refresh_s : float
        How long a miss, and the name of the active space, are believed.
    """

    def __init__(
        self,
        client: Redis,
        settings: Settings,
        name_of: Callable[[int], str | None],
        *,
        capacity: int = 200_000,
        retry_s: float = 2.0,
        refresh_s: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._settings, self._name_of = client, settings, name_of
        self._capacity, self._retry_s, self._refresh_s, self._monotonic = capacity, retry_s, refresh_s, monotonic
        self.space: Space | None = None
        self._checked_s = -np.inf
        self._reset(None)

    def _reset(self, space: Space | None) -> None:
        self.space = space
        self._rows: dict[int, int] = {}
        self._missing: dict[int, float] = {}
        self._matrix = np.zeros((1024, space.dim if space else 0), dtype=np.float32)

    def refresh(self, hashes: Iterable[int] = ()) -> Space | None:
        """Follow the active space and fetch what is not cached; the only method that reads Redis.

        Returns
        -------
        Space or None
            The active space.
        """
        now_s = self._monotonic()
        if now_s - self._checked_s >= self._refresh_s:
            space = active_space(self._client, self._settings)
            self._checked_s = now_s
            if space != self.space:
                self._reset(space)
        if self.space is None:
            return None
        if len(self._rows) >= self._capacity:  # rare: start anew rather than track use
            self._reset(self.space)
        wanted: dict[str, int] = {}
        for value in set(hashes):
            if value in self._rows or self._missing.get(value, -np.inf) > now_s - self._retry_s:
                continue
            self._missing[value] = now_s
            if (item_id := self._name_of(value)) is not None:
                wanted[item_id] = value
        if len(self._missing) > self._capacity:
            self._missing.clear()
        if wanted:
            self._keep(read_vectors(self._client, self._settings, list(wanted), self.space), wanted)
        return self.space

    def _keep(self, found: dict[str, NDArray[np.float32]], hashes: dict[str, int]) -> None:
        for item_id, vector in found.items():
            row = len(self._rows)
            if row == len(self._matrix):
                self._matrix = np.concatenate([self._matrix, np.zeros_like(self._matrix)])
            self._matrix[row] = vector
            self._rows[hashes[item_id]] = row
            self._missing.pop(hashes[item_id], None)

    def lookup(self, hashes: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Cached vectors, shape (n, dim), zero where none, and which were found, shape (n,)."""
        rows = np.fromiter((self._rows.get(value, -1) for value in hashes.tolist()), dtype=np.int64, count=len(hashes))
        found = rows >= 0
        out = self._matrix[np.where(found, rows, 0)]
        out[~found] = 0.0
        return out, found
