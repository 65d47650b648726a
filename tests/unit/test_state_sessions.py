"""Sessions, abandonment, the six negative signals, and what is due when."""

from __future__ import annotations

import pytest

from features.hashing import category_hash, item_hash
from features.state import history
from liverank.v1.event_pb2 import EventType
from tests.recount.decoded import abandonments, counters, history_entries, last_session
from tests.recount.expected import Logged
from tests.recount.program import PROGRAM
from tests.recount.scenes import DAY_MS, MINUTE_MS, START_MS, action, differences, exposure, play

TIMEOUT_MS = 30 * MINUTE_MS


def _log(*events) -> list[Logged]:
    return [Logged(event, event.event_ts_ms) for event in events]


def test_STR_2_a_scripted_session_has_the_expected_values() -> None:
    world = play(
        _log(
            exposure("r1", START_MS, [0, 4, 1]),
            action("a", "click", START_MS + 10_000, 0),
            action("b", "dwell", START_MS + 20_000, 0, value=2.0),
            action("c", "click", START_MS + 40_000, 4),
            action("d", "save", START_MS + 50_000, 1),
            action("e", "search", START_MS + 60_000),
        )
    )
    session = last_session(world.fields("u"))
    assert session is not None
    assert (session.start_ms, session.last_ms) == (START_MS, START_MS + 60_000)
    assert (session.events, session.clicks, session.positives, session.negatives, session.shown) == (6, 2, 3, 1, 1)
    # Two clicks in category c0 and one save (worth two) in c1: the larger hash wins the tie.
    assert session.intent_category == max(category_hash("c0"), category_hash("c1"))
    assert session.intent_share == pytest.approx(0.5)
    assert session.is_open(START_MS + 60_000 + TIMEOUT_MS - 1)
    assert not session.is_open(START_MS + 60_000 + TIMEOUT_MS)


def test_STR_2_abandonment_fires_at_the_timeout_and_not_before() -> None:
    log = _log(exposure("r1", START_MS, [3, 4]), action("a", "impression", START_MS + 5_000, 4))
    end_ms = START_MS + 5_000 + TIMEOUT_MS
    before = play([*log, Logged(None, end_ms - 1)])
    assert abandonments(before.fields("u")).total() == 0
    world = play([*log, Logged(None, end_ms - 1), Logged(None, end_ms)])
    (entry,) = abandonments(world.fields("u"))
    assert entry == (end_ms, item_hash("i4"), EventType.EVENT_TYPE_ABANDON, -4, 4, category_hash("c0"))
    assert counters(PROGRAM, "user", world.fields("u"), end_ms)["abandonments_1h"] == 1
    assert counters(PROGRAM, "user", world.fields("u"), end_ms)["negatives_1h"] == 1
    assert counters(PROGRAM, "item", world.item_fields("i4"), end_ms)["negatives_1h"] == 1
    assert world.changes()[-1].clock_ms == end_ms


def test_STR_2_a_late_click_takes_the_abandonment_back() -> None:
    log = [
        *_log(exposure("r1", START_MS, [3, 4])),
        Logged(None, START_MS + 2 * TIMEOUT_MS),
        Logged(action("late", "click", START_MS + 60_000, 3), START_MS + 2 * TIMEOUT_MS + 1),
    ]
    world = play(log)
    assert abandonments(world.fields("u")).total() == 0
    assert counters(PROGRAM, "user", world.fields("u"), log[-1].append_ts_ms)["abandonments_1d"] == 0
    assert differences(world, log, log[-1].append_ts_ms) == []


def test_STR_2_an_explicit_end_closes_at_once_and_going_on_opens_again() -> None:
    log = _log(action("a", "impression", START_MS, 3), action("end", "session_end", START_MS + 1_000))
    world = play(log)
    assert abandonments(world.fields("u")).total() == 1
    session = last_session(world.fields("u"))
    assert session is not None
    assert session.closes_ms() == START_MS + 1_000
    log = [*log, *_log(action("b", "click", START_MS + 2_000, 3))]
    world = play(log)
    session = last_session(world.fields("u"))
    assert session is not None
    assert (session.sessions, session.events, session.abandonments) == (1, 3, 0)
    assert session.closes_ms() == START_MS + 2_000 + TIMEOUT_MS


@pytest.mark.parametrize(
    ("kind", "value"),
    [("dismiss", 0), ("skip", 0), ("thumbs_down", 0), ("not_interested", 0), ("dwell", 2.0), ("abandon", 0)],
)
def test_STR_3_each_negative_signal_is_a_feature(kind: str, value: float) -> None:
    """Each of the six alone: a negative entry in the history, a negative of the user and of the item."""
    log = _log(action("x", "impression" if kind == "abandon" else kind, START_MS, 3, value=value))
    now_ms = START_MS + TIMEOUT_MS
    world = play([*log, Logged(None, now_ms)])
    fields = world.fields("u")
    entries = history.decode(*(fields.get(name) for name in history.FIELDS))
    assert len(entries) == 1
    assert entries["weight"][0] < 0
    assert entries["item_hash"][0] == item_hash("i3")
    assert entries["category"][0] == category_hash("c3")
    assert counters(PROGRAM, "user", fields, now_ms)["negatives_1d"] == 1
    assert counters(PROGRAM, "item", world.item_fields("i3"), now_ms)["negatives_1d"] == 1
    assert differences(world, [*log, Logged(None, now_ms)], now_ms) == []


def test_STR_3_weights_come_from_the_settings() -> None:
    from liverank.settings import Settings, StreamsSettings
    from tests.recount.scenes import catalogue
    from tests.recount.world import World

    settings = Settings(streams=StreamsSettings(signal_weights={"dismiss": -3.5, "skip": 0.0}))
    world = World(settings, catalogue=catalogue())
    world.send(action("a", "dismiss", START_MS, 3))
    world.send(action("b", "skip", START_MS + 1, 4))
    world.flush()
    assert [entry[3] / 16 for entry in history_entries(world.fields("u"))] == [-3.5]


def test_EMB_1_the_vectors_are_due_when_an_entry_leaves_a_window() -> None:
    """A click at t: due at t + 7, 30 and 180 days (rounded up to whole minutes), and never again."""
    log = _log(action("a", "click", START_MS + 1_234, 3))
    world = play(log)
    n_changes = len(world.changes())
    due_ms = []
    for days in (7, 30, 180):
        leaves_ms = -(-(START_MS + 1_234 + days * DAY_MS) // MINUTE_MS) * MINUTE_MS
        world.tick(leaves_ms - 1)
        world.flush()
        assert len(world.changes()) == n_changes
        assert world.users.store.due["u"] == leaves_ms
        world.tick(leaves_ms)
        world.flush()
        n_changes += 1
        assert len(world.changes()) == n_changes
        assert world.changes()[-1].clock_ms == leaves_ms
        due_ms.append(leaves_ms)
    assert "u" not in world.users.store.due


def test_EMB_1_with_a_hundred_newer_events_the_old_one_still_leaves() -> None:
    newer = [action(f"n{at}", "click", START_MS + DAY_MS + at * 60_000, at % 12) for at in range(100)]
    world = play(_log(action("a", "click", START_MS, 3), *newer))
    assert world.users.store.due["u"] == START_MS // MINUTE_MS * MINUTE_MS + 7 * DAY_MS + (
        MINUTE_MS if START_MS % MINUTE_MS else 0
    )
    world.tick(START_MS + 7 * DAY_MS + MINUTE_MS)
    world.flush()
    assert world.changes()[-1].clock_ms == -(-(START_MS + 7 * DAY_MS) // MINUTE_MS) * MINUTE_MS


def test_due_actions_give_the_same_with_and_without_ticks() -> None:
    """Ticks change when a result appears, never what it is: also not if the first later record is the user's own."""
    first = _log(exposure("r1", START_MS, [1, 2, 3]), action("a", "click", START_MS + 1_000, 2))
    last = _log(action("z", "click", START_MS + 9 * DAY_MS, 5))
    ticks = [Logged(None, START_MS + minutes * MINUTE_MS) for minutes in range(1, 200)]
    with_ticks, without = play([*first, *ticks, *last]), play([*first, *last])
    assert with_ticks.fields("u") == without.fields("u")

    def rows(world) -> list[bytes]:
        found = world.examples()
        for row in found:
            row.ClearField("number")
        return [row.SerializeToString(deterministic=True) for row in found]

    assert rows(with_ticks) == rows(without)
    assert with_ticks.items.store.fields == without.items.store.fields
