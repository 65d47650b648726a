"""Files of the archive: whole or not there, each offset once, in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from features.archive import last_offset, part_dir, partitions_of, read_archive, read_part, write_part
from liverank.kafka import Record
from liverank.settings import Settings


def records(first: int, last: int, partition: int = 0) -> list[Record]:
    return [
        Record(
            "events", partition, o, None if o % 2 else b"k%d" % o, b"v%d" % o, (("h", b"x"),) if o % 3 else (), 1000 + o
        )
        for o in range(first, last + 1)
    ]


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    write_part(tmp_path, records(0, 9))
    write_part(tmp_path, records(10, 19))
    assert list(read_part(tmp_path, "events", 0)) == records(0, 19)
    assert list(read_part(tmp_path, "events", 0, start=7)) == records(7, 19)
    assert last_offset(tmp_path) == 19


def test_overlapping_files_give_each_offset_once(tmp_path: Path) -> None:
    for first, last in ((0, 9), (5, 14), (0, 4), (12, 20)):
        write_part(tmp_path, records(first, last))
    assert [record.offset for record in read_part(tmp_path, "events", 0)] == list(range(21))


def test_a_hole_in_one_file_is_filled_by_others(tmp_path: Path) -> None:
    write_part(tmp_path, [*records(0, 2), *records(9, 12)])
    write_part(tmp_path, records(3, 5))
    write_part(tmp_path, records(6, 8))
    write_part(tmp_path, records(13, 14))
    assert list(read_part(tmp_path, "events", 0)) == records(0, 14)


def test_an_unfinished_file_is_not_seen(tmp_path: Path) -> None:
    write_part(tmp_path, records(0, 3))
    (tmp_path / f".{4:016d}-{9:016d}.parquet.77.tmp").write_bytes(b"half")
    assert last_offset(tmp_path) == 3
    assert len(list(read_part(tmp_path, "events", 0))) == 4


def test_partitions_and_layout(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, namespace="n")
    for partition in (3, 0):
        write_part(part_dir(settings, "events", 1, partition), records(0, 2, partition))
    assert part_dir(settings, "events", 1, 3) == tmp_path / "archive" / "n" / "events" / "1" / "3"
    assert partitions_of(settings, "events", 1) == [0, 3]
    assert partitions_of(settings, "decisions", 0) == []
    assert [r.partition for r in read_archive(settings, "events", generation=1)] == [0] * 3 + [3] * 3


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        write_part(tmp_path, [])
