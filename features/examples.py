"""Label rows on disk: Parquet files of `Example`s, and their reading with later rows in place of earlier ones."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from liverank.settings import Settings
from liverank.v1.stream_pb2 import Example

if TYPE_CHECKING:
    import pyarrow as pa

OUTCOMES: Final = ("click", "dwell", "like", "purchase", "dismiss")
_NUMBER: Final = ("generation", "partition", "offset", "step", "index")
_PLAIN: Final = (
    "request_id", "position", "user_id", "item_id", "exposure_ts_ms", "closed_ts_ms", "surface", "policy", "arm",
    "base_model", "schema", "propensity", "pinned", "drawn", "seen", "reward", "correction", "catalogue_version",
)  # fmt: skip
_LISTS: Final = ("phi", "p_shown", "heads")
MERGE_ABOVE: Final = 64
"""Small files of a partition are merged when there are more."""
GROUP_ROWS: Final = 4_096
"""Rows of a merged file's row group: about 2 MB in memory, of which a merge holds few."""


def examples_dir(settings: Settings) -> Path:
    """Folder of a namespace's label rows: `<partition>/<first>-<last>.parquet`, named by offsets of the topic."""
    return settings.home / settings.namespace / "examples"


def schema() -> pa.Schema:
    """Columns of a file: `n_*` the number, the fields of `Example`, `outcome_*` the outcomes (null = not a head)."""
    import pyarrow as pa

    kinds: dict[str, Any] = {
        "position": pa.int32(),
        "exposure_ts_ms": pa.int64(),
        "closed_ts_ms": pa.int64(),
        "propensity": pa.float64(),
        "reward": pa.float64(),
        "catalogue_version": pa.int64(),
        **dict.fromkeys(("pinned", "drawn", "seen", "correction"), pa.bool_()),
    }
    return pa.schema(
        [
            *((f"n_{name}", pa.int64()) for name in _NUMBER),
            *((name, kinds.get(name, pa.string())) for name in _PLAIN),
            *((f"outcome_{name}", pa.float64()) for name in OUTCOMES),
            ("phi", pa.list_(pa.float32())),
            ("p_shown", pa.list_(pa.float32())),
            ("heads", pa.list_(pa.string())),
        ]
    )


def table_of(examples: Iterable[Example]) -> pa.Table:
    """Rows of examples, in order."""
    import pyarrow as pa

    rows = []
    for example in examples:
        row: dict[str, Any] = {f"n_{name}": getattr(example.number, name) for name in _NUMBER}
        row |= {name: getattr(example, name) for name in _PLAIN}
        row |= {f"outcome_{name}": example.outcomes[name] for name in OUTCOMES if name in example.outcomes}
        row |= {name: list(getattr(example, name)) for name in _LISTS}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=schema())


def write_examples(folder: Path, partition: int, first: int, last: int, examples: Sequence[Example]) -> Path:
    """Write one file, whole or not at all, and merge the partition's files when they are many.

    Writing the same offsets again, in the same cut or another, is harmless: readers take a row once.

    Parameters
    ----------
    folder : Path
        `examples_dir(settings)`.
    partition, first, last : int
        Where in the topic the rows lie.
    """
    path = folder / str(partition) / f"{first:016d}-{last:016d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path.parent):
        _write(path, table_of(examples).to_batches())
        _merge(path.parent)
    return path


def remove_users(folder: Path, gone: Mapping[str, int]) -> tuple[int, int]:
    """Delete the rows of users whose exposure is not later than the time given; return numbers of rows and files.

    Parameters
    ----------
    gone : mapping of str to int
        Newest exposure time that goes, ms, by user id.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    rows = files = 0
    for part in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not part.is_dir():
            continue
        with _alone(part):
            for path in sorted(part.glob("*.parquet")):
                table = pq.read_table(path, schema=schema())
                until = [gone.get(user, -1) for user in table["user_id"].to_pylist()]
                keep = pc.greater(table["exposure_ts_ms"], pa.array(until, pa.int64()))
                kept = table.filter(keep)
                if kept.num_rows < table.num_rows:
                    rows += table.num_rows - kept.num_rows
                    files += 1
                    _write(path, kept.to_batches())
    return rows, files


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else writes or merges files of this folder meanwhile."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(path: Path, batches: Iterable[pa.RecordBatch]) -> None:
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with pq.ParquetWriter(staging, schema(), compression="zstd") as writer:
            for batch in batches:
                writer.write_batch(batch)
        staging.rename(path)
    finally:
        staging.unlink(missing_ok=True)


def _merge(folder: Path) -> None:
    small = [path for path in sorted(folder.glob("*.parquet")) if path.stat().st_size < 8 << 20]
    if len(small) <= MERGE_ABOVE:
        return
    first, last = small[0].name.split("-")[0], max(path.stem.split("-")[1] for path in small)
    target = folder / f"{first}-{last}.parquet"
    _write(target, _batches(small))
    for path in small:
        if path != target:
            path.unlink()


def _batches(paths: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    """Rows of files, in order, `GROUP_ROWS` at a time or a few more."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    waiting: list[pa.RecordBatch] = []
    for path in paths:
        with pq.ParquetFile(path) as file:
            if file.schema_arrow.equals(schema()):
                batches = file.iter_batches(GROUP_ROWS, use_threads=False)
            else:  # of an earlier release: columns that it does not have are null
                batches = iter(pq.read_table(path, schema=schema()).to_batches())
            for batch in batches:
                waiting.append(batch)
                if sum(one.num_rows for one in waiting) >= GROUP_ROWS:
                    yield pa.concat_batches(waiting)
                    waiting = []
    if waiting:
        yield pa.concat_batches(waiting)


def read_examples(folder: Path, *, since_ms: int = 0, until_ms: int = 1 << 62) -> pa.Table:
    """The one valid row of every slot, ordered by (exposure time, request_id, position).

    A row is replaced by the one of the same (request_id, position) with a higher number: corrections, and repeats.

    Parameters
    ----------
    folder : Path
        `examples_dir(settings)`.
    since_ms, until_ms : int
        Exposure times, half-open.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    tables = _read_all(folder)
    if not tables:
        return schema().empty_table()
    table = pa.concat_tables(tables)
    inside = pc.and_(pc.greater_equal(table["exposure_ts_ms"], since_ms), pc.less(table["exposure_ts_ms"], until_ms))
    table = table.filter(inside)
    numbers = [f"n_{name}" for name in _NUMBER]
    keys = table.select(["request_id", "position", "exposure_ts_ms", *numbers]).to_pandas()
    keys = keys.sort_values(["request_id", "position", *numbers], kind="stable")
    keys = keys.drop_duplicates(["request_id", "position"], keep="last")
    keys = keys.sort_values(["exposure_ts_ms", "request_id", "position"], kind="stable")
    return table.take(keys.index.to_numpy())


def _read_all(folder: Path) -> list[pa.Table]:
    import pyarrow.parquet as pq

    while True:
        try:
            return [pq.read_table(path, schema=schema()) for path in sorted(folder.glob("*/*.parquet"))]
        except FileNotFoundError:  # merged away since the folder was listed: list it again
            continue
