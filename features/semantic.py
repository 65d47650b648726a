"""The batch view `item_semantic`: a Parquet file of item vectors and attributes, and its way into Feast."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from features.deployment import namespace_folder
from features.item_vectors import Space
from liverank.settings import Settings

if TYPE_CHECKING:
    from features.llm.enrich import Enriched

VIEW: Final = "item_semantic"
_GROUP: Final = 10_000


def parquet_path(settings: Settings) -> Path:
    """Source file of the view."""
    return namespace_folder(settings) / f"{VIEW}.parquet"


def write_parquet(path: Path, rows: Iterable[Enriched], space: Space, *, now_ms: int) -> int:
    """Write the view's source file; it replaces the old one when it is whole.

    Parameters
    ----------
    rows : iterable of Enriched
        One per item.
    space : Space
        Of all vectors.
    now_ms : int
        Event time of the rows: later runs win.

    Returns
    -------
    int
        Rows written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("item_id", pa.string()),
            ("event_timestamp", pa.timestamp("us", tz="UTC")),
            ("created", pa.timestamp("us", tz="UTC")),
            ("vector", pa.list_(pa.float32())),
            ("space", pa.string()),
            ("attributes", pa.string()),
        ]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    now, n, source = datetime.fromtimestamp(now_ms / 1000, UTC), 0, iter(rows)
    try:
        with pq.ParquetWriter(staging, schema) as writer:
            while group := list(islice(source, _GROUP)):
                columns = {
                    "item_id": [row.item_id for row in group],
                    "event_timestamp": [now] * len(group),
                    "created": [now] * len(group),
                    "vector": [row.vector for row in group],
                    "space": [str(space)] * len(group),
                    "attributes": [
                        json.dumps(dict(row.attributes), sort_keys=True) if row.attributes else "" for row in group
                    ],
                }
                writer.write_table(pa.table(columns, schema=schema))
                n += len(group)
        staging.rename(path)
    finally:
        staging.unlink(missing_ok=True)
    return n
