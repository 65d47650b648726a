"""Work that processes share: who is free takes the next, and a death is not waited out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from liverank.errors import UnavailableError
from streams.restore_helpers import _MOST, Helpers, Task, n_processes
from streams.restore_tools import Folded, Tools


def folded(kind: str, partition: int, n_effects: int) -> Folded:
    return Folded(
        job="j", kind=kind, partition=partition, generation=1, offset=9, clock_ms=0, sources={}, records=(n_effects,)
    )


class Here(Tools):
    """Tools without a store."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str, int]] = []

    def fold(self, kind: str, partition: int, n_effects: int) -> Folded:
        self.done.append(("fold", kind, partition))
        return folded(kind, partition, n_effects)

    def write_rows(self, kind: str, partition: int, n_effects: int) -> Folded:
        self.done.append(("rows", kind, partition))
        return folded(kind, partition, n_effects)


def run(helpers: Helpers, tasks: list[Task], here: Here) -> Iterator[Folded]:
    return helpers.run(tasks, here, lambda _step, _n: None)


def test_alone_everything_is_done_in_order_and_in_any_number() -> None:
    tasks = [Task(number % 3 == 0, "ui"[number % 2], number, 2**40 - number) for number in range(_MOST + 5)]
    here = Here()
    with Helpers(1) as helpers:
        assert [(done.kind, done.partition, done.records[0]) for done in run(helpers, tasks, here)] == [
            task[1:] for task in tasks
        ]
        assert list(run(helpers, [], here)) == []
    assert here.done == [("rows" if task.rows else "fold", task.kind, task.partition) for task in tasks]


def test_a_helper_that_died_ends_the_run() -> None:
    here = Here()
    with Helpers(2) as helpers:
        for process in helpers._others.values():
            process.kill()
            process.wait()
        with pytest.raises(UnavailableError, match="run the same again"):
            list(run(helpers, [Task(False, "u", 3, -1)], here))
    assert here.done == [("fold", "u", 3)]


def test_a_short_past_is_folded_alone() -> None:
    assert n_processes(100, 8) == 1
    assert n_processes(100, 8, wanted=2) == 2
    assert n_processes(10**6, 1) == 1
    assert 1 <= n_processes(10**6, 8) <= 8


def test_an_item_row_is_newer_than_all_effects_that_there_were() -> None:
    done = folded("i", 0, 5)
    assert done.rows_version(-1).split(b".")[:2] == [b"0001", b"%016d" % 4]
    assert done.rows_version(70).split(b".")[1] == b"%016d" % 69
    assert folded("u", 0, 5).rows_version(70).split(b".")[1] == b"%016d" % 9
    assert Folded.from_json(done.to_json().encode()) == done
