"""The archive on disk: Kafka's records as Parquet files, from which state is rebuilt and models are trained.

Layout: ``<home>/archive/<ns>/<topic>/<generation>/<partition>/<first>-<last>.parquet`` with offsets of 16 digits;
generation 0 where a topic has none, and for imported events. A file is written under another name and renamed, so
that one that can be seen is whole. Two writers may overlap (a worker that lost its partition): readers take each
offset once.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from liverank.kafka import Record
from liverank.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "TOPICS",
    "files_of",
    "generations_of",
    "last_offset",
    "part_dir",
    "partitions_of",
    "read_archive",
    "read_part",
    "rewrite_file",
    "rewriting",
    "write_part",
]

#: What is archived, and whether the topic has generations.
TOPICS: Final = {"events": True, "items": False, "decisions": False, "policy-snapshots": False}


def part_dir(settings: Settings, topic: str, generation: int, partition: int) -> Path:
    """Return the folder of one partition.

    Parameters
    ----------
    topic : str
        Short name, e.g. ``events``.
    generation : int
        0 where the topic has none.
    """
    return settings.home / "archive" / settings.namespace / topic / str(generation) / str(partition)


def partitions_of(settings: Settings, topic: str, generation: int) -> list[int]:
    """Return the partitions that the archive holds something of, in order."""
    folder = part_dir(settings, topic, generation, 0).parent
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and any(path.glob("*.parquet")))


def generations_of(settings: Settings, topic: str) -> list[int]:
    """Return the generations that the archive holds, oldest first."""
    base = settings.home / "archive" / settings.namespace / topic
    return sorted(int(path.name) for path in base.iterdir() if path.name.isdecimal()) if base.is_dir() else []


def _files(folder: Path) -> list[tuple[int, int, Path]]:
    found = []
    for path in folder.glob("*.parquet"):
        first, _, last = path.stem.partition("-")
        if first.isdecimal() and last.isdecimal():
            found.append((int(first), int(last), path))
    return sorted(found)


def last_offset(folder: Path) -> int:
    """Return the last offset that the folder holds; -1 = none."""
    return max((last for _, last, _ in _files(folder)), default=-1)


def files_of(settings: Settings, topic: str) -> list[tuple[int, int, Path]]:
    """Return (generation, partition, file) of everything the archive holds of a topic, in order."""
    return [
        (generation, partition, path)
        for generation in generations_of(settings, topic)
        for partition in partitions_of(settings, topic, generation)
        for _, _, path in _files(part_dir(settings, topic, generation, partition))
    ]


def rewriting(settings: Settings) -> Path:
    """Return the file that is there while `events` is rewritten after an erase: state cannot be built then."""
    return settings.home / "archive" / settings.namespace / "erased" / "unfinished"


def _schema() -> pa.Schema:
    import pyarrow as pa

    header = pa.struct([("name", pa.string()), ("value", pa.binary())])
    return pa.schema(
        [
            ("offset", pa.int64()),
            ("append_ts_ms", pa.int64()),
            ("key", pa.binary()),
            ("value", pa.binary()),
            ("headers", pa.list_(header)),
        ]
    )


def write_part(folder: Path, records: Sequence[Record]) -> Path:
    """Write records of one partition, in the order of their offsets, as one file; return its path.

    Raises
    ------
    ValueError
        There are no records.
    OSError
        The disk refuses; nothing can be seen of it.
    """
    if not records:
        raise ValueError("an archive file needs at least one record")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{records[0].offset:016d}-{records[-1].offset:016d}.parquet"
    _write(path, records)
    return path


def rewrite_file(path: Path, change: Callable[[Record], Record | None]) -> int:
    """Replace records of a file, under its name; return how many changed.

    Parameters
    ----------
    change : callable
        Returns the record itself, another one, or None: it goes.

    Raises
    ------
    OSError
        The disk refuses; the file is as it was.
    """
    kept, n = [], 0
    for record in _read(path, "", int(path.parent.name)):
        new = change(record)
        n += new is not record
        if new is not None:
            kept.append(new)
    if n:
        _write(path, kept)
    return n


def _write(path: Path, records: Sequence[Record]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pydict(
        {
            "offset": [record.offset for record in records],
            "append_ts_ms": [record.append_ts_ms for record in records],
            "key": [record.key for record in records],
            "value": [record.value for record in records],
            "headers": [[{"name": name, "value": value} for name, value in record.headers] for record in records],
        },
        schema=_schema(),
    )
    staging = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(table, staging, compression="zstd")
        staging.rename(path)
    finally:
        staging.unlink(missing_ok=True)


def _read(path: Path, topic: str, partition: int) -> Iterator[Record]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:  # `read_table` imports pandas, a quarter of a second
        table = file.read().select(_schema().names)
    if not table.schema.equals(_schema()):
        table = table.cast(_schema())
    offsets, times, keys, values = (
        table.column(name).to_pylist() for name in ("offset", "append_ts_ms", "key", "value")
    )
    headers: Iterable[tuple[tuple[str, bytes], ...]] = repeat(())
    if any(len(chunk.flatten()) for chunk in table.column("headers").chunks):
        headers = [
            tuple((header["name"], header["value"]) for header in each or ())
            for each in table.column("headers").to_pylist()
        ]
    for offset, ts_ms, key, value, pairs in zip(offsets, times, keys, values, headers, strict=False):
        yield Record(topic, partition, offset, key, value or b"", pairs, ts_ms)


def read_part(folder: Path, topic: str, partition: int, *, start: int = 0) -> Iterator[Record]:
    """Yield the records of a partition from offset `start` on, each offset once, in order.

    Parameters
    ----------
    topic : str
        Name that the records shall carry.

    Notes
    -----
    One file is in memory at a time, or those that overlap. Offsets that no file holds are left out; the caller decides
    whether a gap matters.
    """
    following = start
    for paths in _overlapping(folder):
        parts = [_read(path, topic, partition) for last, path in paths if last >= following]
        merged = parts[0] if len(parts) == 1 else heapq.merge(*parts, key=lambda each: each.offset)
        for record in merged:
            if record.offset >= following:
                yield record
                following = record.offset + 1


def _overlapping(folder: Path) -> Iterator[list[tuple[int, Path]]]:
    """Yield (last offset, file) of files whose ranges overlap together, in order: one of them may have a hole that
    another fills.
    """
    group: list[tuple[int, Path]] = []
    for first, last, path in _files(folder):
        if group and first > max(end for end, _ in group):
            yield group
            group = []
        group.append((last, path))
    if group:
        yield group


def read_archive(settings: Settings, topic: str, *, generation: int = 0) -> Iterator[Record]:
    """Yield everything the archive holds of a topic, partition by partition."""
    for partition in partitions_of(settings, topic, generation):
        yield from read_part(part_dir(settings, topic, generation, partition), topic, partition)
