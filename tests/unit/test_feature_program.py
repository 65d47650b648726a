"""The compiled program: canonical JSON, what it refuses, and with which words."""

from __future__ import annotations

import pytest

from features.errors import ProgramError
from features.program import Aggregate, FeatureProgram, ViewProgram

DAY = 86_400_000
ONE = Aggregate(name="clicks_7d", column="click", function="sum", window_ms=7 * DAY, slide_ms=DAY)


def test_a_program_survives_json_and_keeps_its_hash() -> None:
    view = ViewProgram(
        name="v", entity="user", aggregates=(ONE,), kinds={"b": "last_k=3"}, transformation=b"\x00x", fields=("b",)
    )
    program = FeatureProgram(project="liverank_live", views=(view,))
    again = FeatureProgram.from_json(program.to_json())
    assert again == program
    assert again.hash == program.hash
    assert again.view("v").page_fields == (f"v:v_{view.digest}_p00".encode(),)
    assert FeatureProgram(project="other", views=(view,)).hash != program.hash


def test_only_what_changes_the_tiles_changes_the_pages() -> None:
    def view(**changes: object) -> ViewProgram:
        return ViewProgram(**{"name": "v", "entity": "user", "aggregates": (ONE,), **changes})  # type: ignore[arg-type]

    digest = view().digest
    shorter = Aggregate(name="clicks_2d", column="click", function="sum", window_ms=2 * DAY, slide_ms=DAY)
    renamed = Aggregate(name="other", column="click", function="sum", window_ms=7 * DAY, slide_ms=DAY)
    assert view(aggregates=(ONE, shorter)).digest == view(aggregates=(renamed,)).digest == digest
    longer = Aggregate(name="clicks_9d", column="click", function="sum", window_ms=9 * DAY, slide_ms=DAY)
    likes = Aggregate(name="likes", column="like", function="sum", window_ms=7 * DAY, slide_ms=DAY)
    changed = [{"aggregates": (longer,)}, {"aggregates": (ONE, likes)}, {"transformation_id": "f"}, {"entity": "item"}]
    assert len({digest, *(view(**each).digest for each in changed)}) == 5
    program = FeatureProgram(project="p", views=(view(transformation=b"one run", transformation_id="f"),))
    again = FeatureProgram(project="p", views=(view(transformation=b"another run", transformation_id="f"),))
    assert again.hash == program.hash


def test_an_unknown_view_names_the_known_ones() -> None:
    with pytest.raises(ProgramError, match="it has v; run `feast apply`"):
        FeatureProgram(project="p", views=(ViewProgram(name="v", entity="user"),)).view("w")


@pytest.mark.parametrize("text", ["", "{}", '{"format": 99, "project": "p", "views": []}', '{"format": 1}', "[]"])
def test_a_broken_program_is_refused(text: str) -> None:
    with pytest.raises(ProgramError, match="feast apply"):
        FeatureProgram.from_json(text)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"function": "frobnicate"}, "sum, count, mean, min, max, count_distinct"),
        ({"slide_ms": 500}, "between 1 s and the window"),
        ({"slide_ms": 8 * DAY}, "between 1 s and the window"),
        ({"slide_ms": 2 * DAY}, "whole multiple"),
        ({"slide_ms": 60_000}, "choose a slide of at least 3150000 ms"),
    ],
)
def test_aggregates_are_checked(changes: dict[str, object], words: str) -> None:
    values = {"name": "a", "column": "click", "function": "sum", "window_ms": 7 * DAY, "slide_ms": DAY, **changes}
    with pytest.raises(ProgramError, match=words):
        Aggregate(**values)  # type: ignore[arg-type]


def test_views_are_checked() -> None:
    with pytest.raises(ProgramError, match="entity must be one of"):
        ViewProgram(name="v", entity="planet")  # type: ignore[arg-type]
    bad = Aggregate(name="a", column="klick", function="sum", window_ms=DAY, slide_ms=DAY)
    with pytest.raises(ProgramError, match="no column 'klick'"):
        ViewProgram(name="v", entity="user", aggregates=(bad,))
    distinct = Aggregate(name="a", column="item_id", function="count_distinct", window_ms=DAY, slide_ms=DAY)
    with pytest.raises(ProgramError, match="declare it per user or per item"):
        ViewProgram(name="v", entity="user_category", aggregates=(distinct,))


def test_only_views_over_text_columns_need_text() -> None:
    distinct = Aggregate(name="a", column="item_id", function="count_distinct", window_ms=DAY, slide_ms=DAY)
    assert not ViewProgram(name="v", entity="user", aggregates=(ONE,)).needs_text
    assert ViewProgram(name="v", entity="user", aggregates=(ONE, distinct)).needs_text


def test_windows_with_one_slide_share_a_ring() -> None:
    month = Aggregate(name="clicks_30d", column="click", function="sum", window_ms=30 * DAY, slide_ms=DAY)
    layout = ViewProgram(name="v", entity="user", aggregates=(ONE, month)).layout
    assert [(ring.slide_ms, ring.n_tiles, ring.lengths) for ring in layout.rings] == [(DAY, 31, (7, 30))]
