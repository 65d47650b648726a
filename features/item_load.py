"""Load the item table from Feast's rows, and check that it equals what Feast serves.

Rows come by pipelined HMGET in Feast's wire format, and enter the columns 500 at a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from features.item_table import ItemTable
from features.redis import Redis, parse_version, translated
from features.wire import (
    entity_key,
    feature_field,
    timestamp_field,
    unpack_bytes,
    unpack_double,
    unpack_floats,
    unpack_int64,
    unpack_string,
    unpack_strings,
    unpack_timestamp_ms,
    version_field,
)

if TYPE_CHECKING:
    from feast import FeatureStore

__all__ = ["Difference", "item_ids", "load_from_feast", "parity"]

_CHUNK: Final = 500
_PATIENCE: Final = 50
_SEMANTIC: Final = ("item_semantic:vector", "item_semantic:space")
_CATALOGUE: Final = ("available", "price", "creator", "categories", "published_ts_ms", "version")


class Difference(NamedTuple):
    """One value that differs between the table and Feast."""

    item_id: str
    feature: str
    table: float
    feast: float


def item_ids(client: Redis, project: str) -> Iterator[str]:
    """Items that have any row, by SCAN: for start only."""
    head = entity_key("", ("item_id",), ("",))[:-4]
    tail = project.encode()
    pattern = b"".join(b"\\" + bytes((byte,)) if byte in b"*?[]\\^-" else bytes((byte,)) for byte in head) + b"*"
    with translated("listing items"):
        for key in client.scan_iter(match=pattern, count=1000):
            size = int.from_bytes(key[len(head) : len(head) + 4], "little")
            start = len(head) + 4
            if key[start + size :] == tail:
                yield key[start : start + size].decode()


def load_from_feast(
    table: ItemTable,
    client: Redis,
    project: str,
    ids: Sequence[str] | None = None,
    *,
    catalogue: bool = True,
    bare: bool = False,
) -> int:
    """Read items' rows into the table.

    Parameters
    ----------
    table : ItemTable
        With its program set.
    client : Redis
    project : str
        Feast project.
    ids : sequence of str, optional
        Items to read; None = all that have a row.
    catalogue : bool
        Take catalogue fields too (regions and attributes are in the topic `items` only).
    bare : bool
        Take the folds' pages only, neither catalogue fields nor vectors; where the change feed was ahead of a row,
        read it again until it is as new.

    Returns
    -------
    int
        Items read. About 15 us an item.

    Raises
    ------
    RedisUnavailableError
        Redis is away; what was read stays.
    """
    ids = sorted(item_ids(client, project)) if ids is None else ids
    for start in range(0, len(ids), _CHUNK):
        some = ids[start : start + _CHUNK]
        for _ in range(_PATIENCE):
            if _load(table, client, project, some, catalogue=catalogue, bare=bare) or not bare:
                break
            time.sleep(0.01)  # the change feed is a moment ahead of the rows
    return len(ids)


def _load(table: ItemTable, client: Redis, project: str, ids: Sequence[str], *, catalogue: bool, bare: bool) -> bool:
    """Read some items; False where the table already has a newer version of one."""
    pages = table.page_fields
    views = sorted({field.partition(":")[0] for field in pages})
    names = tuple(pages)
    if not bare:
        names += (*_SEMANTIC, *(f"item_catalogue:{feature}" for feature in _CATALOGUE))
    fields = [feature_field(*name.split(":", 1)) for name in names]
    fields += [timestamp_field(view) for view in views] + [version_field(view) for view in views]
    with translated("loading items"):
        pipe = client.pipeline(transaction=False)
        for item_id in ids:
            pipe.hmget(entity_key(project, ("item_id",), (item_id,)), fields)
        replies = pipe.execute()
    vectors: dict[tuple[str, int], tuple[list[str], list[np.ndarray[tuple[int], np.dtype[np.float32]]]]] = {}
    stated: list[str] = []
    newest: list[tuple[int, int, int, int]] = []
    times_ms: list[int] = []
    columns: dict[str, list[bytes]] = {field: [] for field in pages}
    for item_id, reply in zip(ids, replies, strict=True):
        values = dict(zip(names, reply, strict=False))
        stamps = reply[len(names) : len(names) + len(views)]
        versions = [parse_version(text) for text in reply[len(names) + len(views) :] if text]
        if versions:
            stated.append(item_id)
            newest.append((*max(versions), 0))
            times_ms.append(max(unpack_timestamp_ms(stamp) for stamp in stamps))
            for field in pages:
                columns[field].append(unpack_bytes(values[field]))
        if bare:
            continue
        if catalogue and values["item_catalogue:version"]:
            _set_catalogue(table, item_id, values)
        vector = unpack_floats(values["item_semantic:vector"])
        if vector.size:
            space = unpack_string(values["item_semantic:space"])
            known, matrix = vectors.setdefault((space, vector.size), ([], []))
            known.append(item_id)
            matrix.append(vector)
    taken = table.set_many_pages(stated, columns, newest, times_ms)
    for (space, _), (known, matrix) in vectors.items():
        if space and space == (table.space or space):
            table.set_vectors(known, np.stack(matrix), space)
    return taken == len(stated)


def _set_catalogue(table: ItemTable, item_id: str, values: dict[str, bytes | None]) -> None:
    def of(feature: str) -> bytes | None:
        return values[f"item_catalogue:{feature}"]

    table.set_catalogue(
        item_id,
        version=unpack_int64(of("version")),
        available=bool(unpack_int64(of("available"))),
        price=unpack_double(of("price")),
        creator=unpack_string(of("creator")),
        categories=unpack_strings(of("categories")),
        published_ms=unpack_int64(of("published_ts_ms")),
    )


def parity(table: ItemTable, store: FeatureStore, ids: Sequence[str], as_of_ms: int) -> list[Difference]:
    """Compare the table's windows with what Feast's on-demand view gives for the same items and instant.

    Returns
    -------
    list of Difference
        Values that differ by more than 1e-6 relative; empty = equal.
    """
    rows = np.array([table.rows[item_id] for item_id in ids], dtype=np.int32)
    own = table.windows(rows, as_of_ms)
    answer = store.get_online_features(
        [f"item_windows:{name}" for name in table.window_names],
        [{"item_id": item_id, "as_of_ms": as_of_ms} for item_id in ids],
    ).to_dict()
    found = []
    for column, name in enumerate(table.window_names):
        for at, item_id in enumerate(ids):
            left, right = float(own[at, column]), float(answer[name][at])
            if not np.isclose(left, right, rtol=1e-6, atol=1e-6, equal_nan=True):
                found.append(Difference(item_id, name, left, right))
    return found
