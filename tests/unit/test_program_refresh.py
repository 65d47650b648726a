"""A program that cannot be read is ignored, with an alarm and a metric; a good one is taken up in one step."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from features.errors import ProgramError
from features.program import Aggregate, FeatureProgram, ViewProgram
from liverank.settings import Settings
from ranker import metrics as ranker_metrics
from ranker.catalogue import Catalogue
from ranker.registry import RegistryFeed
from streams.activation import Partitions, Steward, served_key
from streams.metrics import PROGRAM_INVALID
from streams.program import ProgramState
from tests.recount.program import PROGRAM

CLICKS = Aggregate(name="n", column="click", function="sum", window_ms=3_600_000, slide_ms=600_000)


class Keys:
    """Redis as far as it is asked here."""

    def __init__(self, **texts: str) -> None:
        self.texts = {f"live:program{name}": text.encode() for name, text in texts.items()}

    def get(self, key: str) -> bytes | None:
        return self.texts.get(key)

    def set(self, key: str, text: str) -> None:
        self.texts[key] = text.encode()


def value(gauge: Any) -> float:
    return float(gauge._value.get())


def test_the_steward_ignores_an_invalid_program() -> None:
    redis = Keys()
    steward = Steward(cast(Any, redis), Settings(), PROGRAM, generation=1, n_partitions=4, token=b"t")
    steward.step()  # nothing was ever published
    redis.texts["live:program"] = b'{"format": 2, "project": "p", "views": [{"name": "v"}]}'
    steward.step()
    assert value(PROGRAM_INVALID) == 1
    assert list(redis.texts) == ["live:program"]


def test_what_is_served_is_said_once_all_partitions_hold_it() -> None:
    view = ViewProgram(name="v", entity="item", aggregates=(CLICKS,))
    states = [ProgramState(PROGRAM, {}) for _ in range(4)]
    partitions = Partitions(users=states[:2], items=states[2:])
    assert all(partitions.served(each) for each in PROGRAM.views)
    assert not partitions.counted(view)
    for state in states[:2]:
        state.activate("a", view, 5, None, 2)
    for state in states[2:]:
        state.activate("a", view, 5, 0, 2)
    assert not partitions.counted(view)
    for state in states[2:]:
        state.activate("a", view, 5, 1, 2)
    assert partitions.counted(view)
    states[2].merged(["a"])
    assert not partitions.served(view)
    states[3].merged(["a"])
    assert partitions.served(view)
    redis = Keys()
    steward = Steward(cast(Any, redis), Settings(), PROGRAM, generation=1, n_partitions=2, token=b"t")
    steward._serve(PROGRAM)
    assert redis.texts[served_key("live")] == PROGRAM.to_json().encode()


class Reader:
    """A reader of users that notes what it was told."""

    def __init__(self) -> None:
        self.schema = type("Schema", (), {"program": PROGRAM})()
        self.swapped: list[object] = []

    def swap(self, reading: object) -> None:
        self.swapped.append(reading)


class Table:
    """A table without items."""

    ids: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.steps: list[str] = []

    def prepare(self, program: FeatureProgram) -> bool:
        self.steps.append("prepare")
        return True

    def adopt(self) -> None:
        self.steps.append("adopt")


def test_the_ranker_swaps_users_and_items_together_and_ignores_what_is_invalid() -> None:
    redis, reader, table = Keys(), Reader(), Table()
    catalogue = type("Guard", (), {"lock": threading.RLock()})()
    held: list[object] = []
    feed = RegistryFeed(
        Settings(),
        cast(Any, redis),
        cast(Catalogue, catalogue),
        cast(Any, table),
        cast(Any, reader),
        lambda program: cast(Any, held[0]) if held else None,
        lambda: True,
    )
    feed.step()  # nothing is published
    redis.texts["live:program"] = PROGRAM.to_json().encode()
    feed.step()  # what it reads already
    other = FeatureProgram(project="p", views=(ViewProgram(name="w", entity="user", aggregates=(CLICKS,)),))
    redis.texts[served_key("live")] = other.to_json().encode()
    feed.step()  # the registry does not hold it
    assert not reader.swapped
    held.append("reading")
    feed.step()
    assert reader.swapped == ["reading"]
    assert table.steps == ["prepare", "adopt"]
    redis.texts[served_key("live")] = b"{"
    with pytest.raises(ProgramError):
        feed.step()
    assert value(ranker_metrics.PROGRAM_INVALID) == 1
    feed.step()  # said once
    assert reader.swapped == ["reading"]
