"""Near-line vectors: from users' histories in Feast's rows to their `user_vectors` rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.item_vectors import ItemVectors
from features.online import OnlineWriter, Row
from features.redis import VERSION_ZERO, Redis, translated
from features.state.history import SIGNAL_FIELDS, decode_signals
from features.vectors import NAMES, user_vectors
from features.wire import (
    entity_key,
    feature_field,
    pack_floats,
    pack_int64,
    pack_string,
    timestamp_field,
    unpack_bytes,
    unpack_int64,
    unpack_timestamp_ms,
    version_field,
)
from liverank.settings import Settings

VIEW: Final = "user_vectors"
JOIN_KEY: Final = "user_id"
_HISTORY: Final = "user_history"
_PAGES: Final = [feature_field(*name.decode().split(":")) for name in SIGNAL_FIELDS]
_STATUS: Final = [
    timestamp_field(_HISTORY), version_field(_HISTORY), version_field(VIEW), feature_field(VIEW, "computed_ms"),
]  # fmt: skip
_BATCH: Final = 500


class Change(NamedTuple):
    """One user's vectors are due.

    Parameters
    ----------
    version : bytes
        Version of the change of the user's state; a row with a newer one is kept.
    as_of_ms : int
        Instant that the vectors are for.
    newest_event_ts_ms : int
        Event time of the row.
    """

    version: bytes
    as_of_ms: int
    newest_event_ts_ms: int


class NearLine:
    """Recomputes and writes users' vectors, whole batches at a time.

    Idempotent: the vectors are a function of the history row, the items' vectors and `as_of_ms`. Two round trips a
    batch (and one per 1,000 items not seen before); about 60 us CPU a user of 128 entries. Not thread safe.

    Parameters
    ----------
    clock_ms : callable, optional
        The time now, where the wall is the clock: vectors are for now, and carry the version of the history that was
        read, so that what a backlog still holds for the user is passed over: one row, for the last state. None: every
        change is computed, as of its own time, as replays need it.
    """

    def __init__(
        self, client: Redis, settings: Settings, items: ItemVectors, clock_ms: Callable[[], int] | None = None
    ) -> None:
        self._client, self._settings, self._items, self._clock_ms = client, settings, items, clock_ms
        self._writer = OnlineWriter(client, settings.feast_project)

    def _keys(self, users: Sequence[str]) -> list[bytes]:
        return [entity_key(self._settings.feast_project, (JOIN_KEY,), (user,)) for user in users]

    def _read(self, users: Sequence[str], fields: list[bytes]) -> list[list[bytes | None]]:
        with translated("reading users' histories"):
            pipe: Any = self._client.pipeline(transaction=False)
            for key in self._keys(users):
                pipe.hmget(key, fields)
            return list(pipe.execute())

    def write(self, changes: Mapping[str, Change]) -> int:
        """Compute and write the vectors of users; returns how many rows were taken.

        A user without any history field was erased meanwhile and gets none.

        Raises
        ------
        RedisUnavailableError
            Repeat the call.
        """
        wanted_of: dict[str, Change] = {}
        histories = []
        for (user, change), found in zip(changes.items(), self._read(list(changes), [*_PAGES, *_STATUS]), strict=True):
            pages, status = found[: len(_PAGES)], found[len(_PAGES) :]
            wanted = self._wanted(change, *status)
            if wanted is not None and any(page is not None for page in pages):
                wanted_of[user] = wanted
                histories.append(decode_signals(*map(unpack_bytes, pages)))
        return self._written(wanted_of, histories)

    def _wanted(
        self, change: Change, stamp: bytes | None, state: bytes | None, have: bytes | None, computed: bytes | None
    ) -> Change | None:
        """What to compute for a change; None = the stored vectors know of it."""
        if self._clock_ms is None:
            return change
        if have is not None and have >= change.version and unpack_int64(computed) >= change.as_of_ms:
            return None
        newest_ms = max(change.newest_event_ts_ms, unpack_timestamp_ms(stamp) if stamp else 0)
        as_of_ms = max(change.as_of_ms, newest_ms, self._clock_ms())
        # Of what was read, never of the change alone: a row that Redis lost comes after the change that told of it.
        return Change(max(have or VERSION_ZERO, state or VERSION_ZERO), as_of_ms, newest_ms)

    def _written(self, changes: Mapping[str, Change], histories: Sequence[NDArray[np.void]]) -> int:
        wanted = np.unique(np.concatenate([np.empty(0, np.int64), *(entries["item_hash"] for entries in histories)]))
        space = self._items.refresh(wanted.tolist())
        name = pack_string(str(space) if space else "")
        rows = []
        for (user, change), entries in zip(changes.items(), histories, strict=True):
            vectors = user_vectors(entries, self._items.lookup, change.as_of_ms)
            values = {feature: pack_floats(vector) for feature, vector in zip(NAMES, vectors, strict=True)}
            values |= {"space": name, "computed_ms": pack_int64(change.as_of_ms)}
            rows.append(Row(VIEW, JOIN_KEY, user, values, change.newest_event_ts_ms, change.version))
        return sum(self._writer.write(rows))

    def recompute(self, users: Sequence[str], as_of_ms: int | None = None) -> int:
        """Vectors anew, for rows that no change announces: after an import, a rebuild or a change of the space.

        Parameters
        ----------
        users : sequence of str
            Those without a history row are left out.
        as_of_ms : int, optional
            None: the event time of each user's newest event.

        Returns
        -------
        int
            Rows written; a user whose row has a newer version meanwhile keeps it.
        """
        written = 0
        for start in range(0, len(users), _BATCH):
            part = users[start : start + _BATCH]
            changes = {}
            for user, (stamp, state, have, _) in zip(part, self._read(part, _STATUS), strict=True):
                if stamp is None:
                    continue
                newest = unpack_timestamp_ms(stamp)
                version = max(state or VERSION_ZERO, have or VERSION_ZERO)
                changes[user] = Change(version, newest if as_of_ms is None else as_of_ms, newest)
            written += self.write(changes)
        return written


def users_of(client: Redis, settings: Settings, generation: int) -> Iterator[str]:
    """Ids of all users that have state, in no order; repeats are possible. About 10 us a key."""
    namespace = settings.namespace
    with translated("listing users"):
        for key in client.scan_iter(match=f"{namespace}:{{{namespace}.{generation}.*}}:u:*", count=1_000):
            user = key.split(b":u:", 1)[1].decode()
            if not user.startswith("#"):
                yield user
