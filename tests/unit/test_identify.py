"""A login in the contract, the SDK and the fold's corners; the law itself: tests/properties/test_login.py."""

from __future__ import annotations

import pytest

from features.state.raw import MAX_BYTES, MAX_EVENTS, RawEvents
from liverank.contract import event_key, validate_event
from liverank.errors import ContractError
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType
from streams.control import Adopt, control, parse_control
from tests.recount.scenes import START_MS, action, catalogue
from tests.recount.world import World


def login(session: str, user: str, ts_ms: int, event_id: str = "login") -> Event:
    kind = EventType.EVENT_TYPE_IDENTIFY
    return Event(event_id=event_id, type=kind, user_id=user, session_id=session, event_ts_ms=ts_ms)


def click(event_id: str, ts_ms: int, *, user: str = "", session: str = "") -> Event:
    event = action(event_id, "click", ts_ms, 1, user=user)
    event.session_id = session
    return event


def test_USE_7_a_login_needs_both_ids_and_goes_to_the_session() -> None:
    event = login("s", "u", START_MS)
    validate_event(event, now_ms=START_MS, exposures=False)
    assert event_key(event) == b"s"
    for session, user in (("", "u"), ("s", ""), ("u", "u")):
        with pytest.raises(ContractError, match="missing_id"):
            validate_event(login(session, user, START_MS), now_ms=START_MS)


def test_USE_7_events_of_a_session_are_bounded() -> None:
    raw = RawEvents({})
    stored: dict[bytes, bytes] = {}
    for at in range(MAX_EVENTS + 3):
        raw.add(b"e%d" % at, at)
    stored = {name: page for name, page in raw.dirty().items() if page}
    again = RawEvents(stored)
    assert not again.complete
    assert [each.append_ts_ms for each in again.events()] == list(range(3, MAX_EVENTS + 3))
    again.add(bytes(MAX_BYTES), 999)
    assert [each.append_ts_ms for each in again.events()] == [999]
    assert RawEvents({}).complete
    late = RawEvents({}, late=True)
    late.add(b"e", 1)
    assert not RawEvents(late.dirty()).complete


def test_USE_7_the_first_login_wins_and_late_events_follow_it() -> None:
    world = World(Settings(), catalogue=catalogue())
    world.send(click("e1", START_MS, session="s"))
    world.send(login("s", "ann", START_MS + 1))
    world.send(login("s", "bob", START_MS + 2, "other"))
    world.send(click("e2", START_MS - 5, session="s"), START_MS + 3)
    known = World(Settings(), catalogue=catalogue())
    for event_id, ts_ms in (("e1", START_MS), ("e2", START_MS - 5)):
        known.send(click(event_id, ts_ms, user="ann", session="s"), START_MS + 3)
    assert not world.fields("bob")
    for name in (b"user_session:state", b"_p0"):
        assert world.fields("ann")[name] == known.fields("ann")[name]
    assert world.item_fields("i1").keys() == known.item_fields("i1").keys()
    world.tick(START_MS + 8 * 86_400_000)  # after a week the id is nobody's again
    assert not world.fields("s")
    world.send(click("e3", START_MS + 8 * 86_400_000, session="s"))
    assert b"_r0" in world.fields("s")


def test_USE_7_a_session_of_too_many_events_keeps_its_sums() -> None:
    world = World(Settings(), catalogue=catalogue())
    for at in range(MAX_EVENTS + 10):
        world.send(click(f"e{at}", START_MS + at, session="s"))
    before = dict(world.item_fields("i1"))
    world.send(login("s", "ann", START_MS + 1000))
    assert world.item_fields("i1") == before
    assert world.fields("ann")
    assert set(world.fields("s")) == {b"_to"}


def test_USE_7_users_that_are_each_others_sessions_end_as_a_dead_letter() -> None:
    world = World(Settings(), catalogue=catalogue())
    world.send(login("a", "b", START_MS))
    world.send(login("b", "a", START_MS))
    world.send(click("e", START_MS + 1, session="a"))
    assert [letter.reason for letter in world.dead_letters()] == ["bad_control"]


def test_USE_7_what_moves_reads_back() -> None:
    command = Adopt(user_id="u", events=((b"\x00\xff", 7), (b"", 8)), whole=True, late=True, hops=2)
    assert parse_control(control(command)) == command
