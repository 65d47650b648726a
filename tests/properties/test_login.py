"""USE-7: a session that logs in leaves the state that the user would have had, had they been known from the start."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from features.state.params import state_params
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType
from tests.recount import check
from tests.recount.expected import Logged, Recount
from tests.recount.scenes import HOUR_MS, START_MS, catalogue, differences, partials, scene
from tests.recount.world import World

USER, SESSION = "ann", "s-1"


def twins(events: Sequence[Event], login: int, rng: random.Random) -> tuple[list[Event], list[Event]]:
    """The stream as it is sent, with the login before event number `login`, and as if the user had been known."""
    sent, known = [], []
    for at, event in enumerate(events):
        if event.user_id == "u0":
            event.user_id, event.session_id = USER, SESSION
        known.append(event)
        as_sent = Event()
        as_sent.CopyFrom(event)
        if event.user_id == USER and at < login:
            as_sent.user_id = ""
        sent.append(as_sent)
    now_ms = events[login].event_ts_ms if login < len(events) else events[-1].event_ts_ms + 1
    told = Event(
        event_id="login", type=EventType.EVENT_TYPE_IDENTIFY, user_id=USER, session_id=SESSION, event_ts_ms=now_ms
    )
    sent.insert(login, told)
    for _ in range(4):  # repeats: of what was anonymous after the login, too, and of the login
        sent.insert(rng.randrange(login + 1, len(sent) + 1), sent[rng.randrange(login + 1)])
    return sent, known


def played(events: Sequence[Event], *, crash: float, seed: int) -> tuple[World, list[Logged]]:
    world = World(Settings(), catalogue=catalogue(), crash_rate=crash, seed=seed)
    now_ms, log = START_MS, list[Logged]()
    for event in events:
        now_ms = max(now_ms, event.event_ts_ms)
        world.send(event, now_ms)
        log.append((event, now_ms))
    for later_ms in (now_ms + 3 * HOUR_MS, now_ms + 4 * HOUR_MS):
        world.tick(later_ms)
        log.append((None, later_ms))
    return world, log


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.05, 1.0), hours=st.sampled_from([0.3, 2, 6]))
def test_USE_7_after_the_login_it_is_as_if_the_user_had_been_known(seed: int, share: float, hours: float) -> None:
    rng = random.Random(seed)
    events = scene(rng, 120, int(hours * HOUR_MS), users=2)
    sent, known = twins(events, int(share * len(events)), rng)
    world, _ = played(sent, crash=0.1, seed=seed)
    wanted, log = played(known, crash=0.0, seed=seed)
    # The recount shares no code with the folds and has never heard of logins.
    assert differences(world, log, log[-1][1], later_ms=(log[-1][1] + 5 * HOUR_MS,), labels=False) == []
    recount = Recount(world.catalogue, state_params(Settings()))
    recount.add_partition(log)
    assert check.statistics_differences(recount, partials(world)) == []
    for key in {k for k in wanted.users.store.fields if k.startswith("#stats")}:
        assert world.fields(key) == wanted.fields(key), key
    slots = {(row.request_id, row.position) for row in wanted.examples()}
    assert {(row.request_id, row.position) for row in world.examples()} == slots
    assert set(world.fields(SESSION)) <= {b"_to"}
    assert SESSION not in world.users.rows
