"""Records that come after their partition was given away are not archived by who had it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from features.archive import part_dir, read_part, write_part
from liverank.kafka import Record, Tp
from liverank.settings import Settings
from streams import archive
from streams.archive import Archiver

TP = Tp("liverank.n.events.1", 0)


def records(first: int, last: int) -> list[Record]:
    return [Record(TP.topic, 0, offset, b"k", b"v%d" % offset, (), 1000 + offset) for offset in range(first, last + 1)]


class Group:
    """A consumer whose group takes the partition away, and gives it back, in the poll that still hands out records."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.polls: list[Callable[[], list[Record]]] = []

    def subscribe(self, _topics: list[str], **calls: Callable[[list[Tp]], None]) -> None:
        self.calls = calls

    def assign(self, positions: Mapping[Tp, int]) -> None:
        self.position = positions[TP]

    def poll_batch(self, _n: int, _timeout_s: float) -> list[Record]:
        return self.polls.pop(0)()

    def resume_all(self) -> None:
        pass

    def close(self) -> None:
        pass


class Offsets:
    def __init__(self, _bootstrap: str) -> None:
        pass

    def begins(self, tps: list[Tp]) -> dict[Tp, int]:
        return dict.fromkeys(tps, 0)


@pytest.mark.parametrize("news", ["on_revoke", "on_lost"])
def test_what_comes_with_the_news_is_left_to_the_next_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, news: str
) -> None:
    settings = Settings(home=tmp_path, namespace="n", kafka={"bootstrap": "x"}, streams={"archive_flush_s": 1e9})
    assert settings.topic("events", 1) == TP.topic
    group = Group()
    monkeypatch.setattr(archive, "BatchConsumer", lambda *_, **__: group)
    monkeypatch.setattr(archive, "OffsetClient", Offsets)
    archiver = Archiver(settings, 1, member="a")
    folder = part_dir(settings, "events", 1, 0)

    def given() -> list[Record]:
        group.calls["on_assign"]([TP])
        return []

    def taken_away() -> list[Record]:
        group.calls[news]([TP])
        return records(3, 5)  # fetched before

    def back() -> list[Record]:
        write_part(folder, records(3, 3) if news == "on_revoke" else records(0, 3))  # two files of another owner
        write_part(folder, records(4, 7))
        group.calls["on_assign"]([TP])
        return records(3, 4)

    def last() -> list[Record]:
        archiver.stop()
        return records(8, 9)

    group.polls = [given, lambda: records(0, 2), taken_away, back, last]
    archiver.run()
    assert group.position == 8
    assert list(read_part(folder, TP.topic, 0)) == records(0, 9)
    ranges = sorted(path.stem for path in folder.glob("*.parquet"))
    assert ranges[-1] == f"{8:016d}-{9:016d}"
    assert len(ranges) == (4 if news == "on_revoke" else 3)
