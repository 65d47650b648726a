"""The join of exposures and outcomes, case by case."""

from __future__ import annotations

import pytest

from tests.recount.expected import Logged
from tests.recount.scenes import MINUTE_MS, START_MS, action, differences, exposure, partials, play

WINDOW_MS = 30 * MINUTE_MS
CLOSED = Logged(None, START_MS + WINDOW_MS)


def _log(*events) -> list[Logged]:
    return [Logged(event, event.event_ts_ms) for event in events]


def _labels(world, correction: bool = False) -> dict[int, dict[str, float]]:
    return {
        row.position: {name: value for name, value in row.outcomes.items() if value}
        for row in world.examples()
        if row.correction == correction
    }


def test_ING_7_every_slot_becomes_one_row_when_the_window_closes() -> None:
    log = _log(exposure("r1", START_MS, [1, 2, 3, 4]), action("a", "click", START_MS + 5_000, 2, request_id="r1"))
    assert play([*log, Logged(None, START_MS + WINDOW_MS - 1)]).examples() == []
    world = play([*log, CLOSED])
    assert _labels(world) == {1: {}, 2: {"click": 1.0}, 3: {}, 4: {}}
    row = world.examples()[1]
    assert (row.request_id, row.item_id, row.user_id, row.surface) == ("r1", "i2", "u", "home")
    assert (row.exposure_ts_ms, row.closed_ts_ms) == (START_MS, START_MS + WINDOW_MS)
    assert (row.policy, row.base_model, row.schema, row.drawn, row.catalogue_version) == (
        "thompson",
        "model",
        "schema",
        True,
        2,
    )
    assert (len(row.phi), len(row.p_shown), list(row.heads)) == (3, 3, ["click", "dismiss", "like"])
    assert row.reward == 1.0
    assert [each.seen for each in world.examples()] == [True, True, True, True]
    assert differences(world, [*log, CLOSED], CLOSED.append_ts_ms) == []


def test_ING_7_an_outcome_before_its_exposure_waits_for_it() -> None:
    log = [
        Logged(action("a", "click", START_MS + 1, 2, request_id="r1"), START_MS + 1),
        Logged(exposure("r1", START_MS, [1, 2]), START_MS + 2),
        CLOSED,
    ]
    world = play(log)
    assert _labels(world) == {1: {}, 2: {"click": 1.0}}
    assert differences(world, log, CLOSED.append_ts_ms) == []


def test_ING_7_an_outcome_with_a_request_id_joins_no_other_request() -> None:
    """The ranker died before its exposure was delivered: the whole example is lost, and no other request gets it."""
    log = [*_log(exposure("r1", START_MS, [1, 2]), action("a", "click", START_MS + 9, 2, request_id="lost")), CLOSED]
    world = play(log)
    assert _labels(world) == {1: {}, 2: {}}
    assert differences(world, log, CLOSED.append_ts_ms) == []


def test_ING_7_without_a_request_id_the_newest_earlier_exposure_of_the_item_gets_it() -> None:
    log = _log(
        exposure("r1", START_MS, [1, 2]),
        exposure("r2", START_MS + 1_000, [2, 3]),
        exposure("r3", START_MS + 2_000, [3, 4]),
        action("a", "click", START_MS + 3_000, 2),
    )
    world = play([*log, Logged(None, START_MS + 2 * WINDOW_MS)])
    clicked = [(row.request_id, row.position) for row in world.examples() if row.outcomes["click"]]
    assert clicked == [("r2", 1)]


def test_ING_7_an_outcome_moves_to_an_exposure_that_arrives_later() -> None:
    log = [
        *_log(exposure("r1", START_MS, [1, 2]), action("a", "click", START_MS + 3_000, 2)),
        Logged(exposure("r2", START_MS + 1_000, [2, 3]), START_MS + 4_000),
        Logged(None, START_MS + 2 * WINDOW_MS),
    ]
    world = play(log)
    clicked = [(row.request_id, row.position) for row in world.examples() if row.outcomes["click"]]
    assert clicked == [("r2", 1)]
    assert differences(world, log, log[-1].append_ts_ms) == []  # the statistics took the first delta back


def test_ING_7_a_late_outcome_gives_one_correction_and_the_next_none() -> None:
    log = [
        *_log(exposure("r1", START_MS, [1, 2])),
        CLOSED,
        Logged(action("a", "click", START_MS + 60_000, 2, request_id="r1"), START_MS + WINDOW_MS + 1),
        Logged(action("b", "like", START_MS + 61_000, 2, request_id="r1"), START_MS + WINDOW_MS + 2),
    ]
    world = play(log)
    assert _labels(world) == {1: {}, 2: {}}
    assert _labels(world, correction=True) == {2: {"click": 1.0}}
    assert len(world.examples()) == 3
    assert differences(world, log, log[-1].append_ts_ms) == []


def test_ING_7_an_outcome_outside_the_window_is_no_label() -> None:
    log = [
        *_log(exposure("r1", START_MS, [1, 2])),
        *_log(action("a", "click", START_MS + WINDOW_MS, 2, request_id="r1")),
        Logged(None, START_MS + 2 * WINDOW_MS),
    ]
    world = play(log)
    assert _labels(world) == {1: {}, 2: {}}
    assert len(world.examples()) == 2


def test_impression_events_win_over_inferred_ones() -> None:
    """Shown 5 slots: 2 are inferred at once; a click at slot 3 makes it 5; one impression event leaves what is told."""
    slate = exposure("r1", START_MS, [1, 2, 3, 4, 5])
    items = lambda world: {  # noqa: E731
        key: values["impressions_1h"]
        for key in ("i1", "i2", "i3", "i4", "i5")
        if (values := _item(world, key))["impressions_1h"]
    }
    assert items(play(_log(slate))) == {"i1": 1, "i2": 1}
    click = action("a", "click", START_MS + 1_000, 3, request_id="r1", position=3)
    assert items(play(_log(slate, click))) == dict.fromkeys(("i1", "i2", "i3", "i4", "i5"), 1)
    told = action("b", "impression", START_MS + 500, 2, request_id="r1", position=2)
    assert items(play(_log(slate, told, click))) == {"i2": 1, "i3": 1}


def _item(world, item_id: str) -> dict[str, float]:
    from tests.recount.decoded import counters
    from tests.recount.program import PROGRAM

    return counters(PROGRAM, "item", world.item_fields(item_id), START_MS + MINUTE_MS)


def test_statistics_only_for_drawn_slates_with_features() -> None:
    bare = exposure("r2", START_MS + 1, [1, 2])
    for slot in bare.exposure.slots:
        slot.ClearField("phi")
    world = play(_log(exposure("r1", START_MS, [1, 2], drawn=False), bare))
    assert partials(world) == {}
    world = play([*_log(exposure("r1", START_MS, [1, 2])), CLOSED])
    assert partials(world)["model", "schema"][2] == 2
    assert "d" in world.users.rows["live:bandit:1:model:schema:0"]


@pytest.mark.parametrize("n_slots", [1, 40])
def test_a_user_keeps_at_most_32_exposures(n_slots: int) -> None:
    """One more closes the oldest early: its rows are written, none is lost."""
    slates = [exposure(f"r{at}", START_MS + at * 1_000, [item % 12 for item in range(n_slots)]) for at in range(40)]
    world = play([*_log(*slates), Logged(None, START_MS + 3 * WINDOW_MS + MINUTE_MS)], write_rate=0.2, crash_rate=0.2)
    rows = [(row.request_id, row.position) for row in world.examples()]
    assert len(rows) == len(set(rows)) == 40 * n_slots
    kept = [name for name in world.fields("u") if name.startswith((b"_x", b"_j"))]
    assert kept == []


def test_USE_16_what_leaves_no_event_leaves_nothing() -> None:
    """SHADOW writes no exposure: an outcome that names its request finds none, and state and rows stay as they were."""
    log = _log(exposure("r1", START_MS, [1, 2]), action("a", "click", START_MS + 1_000, 2, request_id="r1"))
    world = play(log)
    before = {key: dict(fields) for key, fields in world.users.store.fields.items()}
    assert play(log).users.store.fields == before
