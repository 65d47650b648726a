"""Label rows on disk: repeats and corrections count once, files are written whole and merged."""

from __future__ import annotations

from pathlib import Path

import pytest

from features.examples import MERGE_ABOVE, read_examples, write_examples
from liverank.v1.stream_pb2 import Example, Number


def example(request: str, position: int, offset: int, *, click: float = 0.0, correction: bool = False) -> Example:
    return Example(
        number=Number(generation=1, partition=2, offset=offset),
        request_id=request,
        position=position,
        user_id="u",
        item_id=f"i{position}",
        exposure_ts_ms=1_000 + offset,
        outcomes={"click": click, "dismiss": 0.0},
        reward=click,
        correction=correction,
        drawn=True,
        propensity=0.25,
        phi=[0.5, 1.5],
        p_shown=[0.1, 0.02],
        heads=["click", "dismiss"],
    )


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    write_examples(tmp_path, 2, 7, 8, [example("r1", 1, 7, click=1.0), example("r1", 2, 8)])
    rows = read_examples(tmp_path).to_pylist()
    assert [(row["request_id"], row["position"], row["outcome_click"]) for row in rows] == [
        ("r1", 1, 1.0),
        ("r1", 2, 0.0),
    ]
    assert rows[0]["outcome_dismiss"] == 0.0
    assert rows[0]["outcome_like"] is None
    assert rows[0]["phi"] == [0.5, 1.5]
    assert rows[0]["propensity"] == 0.25
    assert (tmp_path / "2" / "0000000000000007-0000000000000008.parquet").exists()


def test_ING_7_a_later_row_of_the_slot_replaces_it_whatever_the_order_of_files(tmp_path: Path) -> None:
    late = example("r1", 1, 50, click=1.0, correction=True)
    write_examples(tmp_path, 2, 40, 60, [late])
    write_examples(tmp_path, 2, 1, 3, [example("r1", 1, 1), example("r2", 1, 3)])
    write_examples(tmp_path, 2, 1, 2, [example("r1", 1, 1)])  # the same offsets in another cut
    rows = read_examples(tmp_path).to_pylist()
    assert [(row["request_id"], row["outcome_click"], row["correction"]) for row in rows] == [
        ("r2", 0.0, False),
        ("r1", 1.0, True),
    ]


def test_time_ranges_are_half_open(tmp_path: Path) -> None:
    write_examples(tmp_path, 0, 0, 9, [example(f"r{i}", 1, i) for i in range(10)])
    assert read_examples(tmp_path, since_ms=1_003, until_ms=1_006)["request_id"].to_pylist() == ["r3", "r4", "r5"]
    assert read_examples(tmp_path / "none").num_rows == 0


def test_small_files_are_merged(tmp_path: Path) -> None:
    n = MERGE_ABOVE + 10
    for i in range(n):
        write_examples(tmp_path, 0, i, i, [example(f"r{i:04d}", 1, i)])
    assert len(list((tmp_path / "0").iterdir())) < n
    assert read_examples(tmp_path)["request_id"].to_pylist() == [f"r{i:04d}" for i in range(n)]


def test_files_of_an_earlier_release_are_merged_with_nulls(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    for i in range(MERGE_ABOVE + 1):
        path = write_examples(tmp_path, 0, i, i, [example(f"r{i:04d}", 1, i)])
        if i == 3:
            with pq.ParquetFile(path) as file:
                older = file.read().drop_columns(["catalogue_version"])
            pq.write_table(older, path)
    (merged,) = (tmp_path / "0").glob("*.parquet")
    with pq.ParquetFile(merged) as file:
        versions = file.read()["catalogue_version"].to_pylist()
    assert len(versions) == MERGE_ABOVE + 1
    assert [i for i, version in enumerate(versions) if version is None] == [3]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    def refuse(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(pq.ParquetWriter, "write_batch", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_examples(tmp_path, 0, 0, 0, [example("r", 1, 0)])
    assert [path.name for path in (tmp_path / "0").iterdir()] == [".lock"]
