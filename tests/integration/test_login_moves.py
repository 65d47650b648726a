"""USE-7 on the real stack: sessions and users lie in different partitions, a worker is killed in the middle."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from conftest import MakeNamespace
from crash import send, send_catalogue, traffic
from workers import STREAMS, Folds

from features.redis import connect
from features.state.params import state_params
from liverank.contract import decode_event, event_key
from liverank.partition import partition as partition_of
from liverank.producer import EventProducer
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType
from streams.rows import plain_key
from tests.recount import check
from tests.recount.expected import Logged
from tests.recount.live import Log, recount_of
from tests.recount.namespace import catalogue_of, folded, found, partials_of, settle, state_keys
from tests.recount.program import PROGRAM

NOT_EVENTS = (EventType.EVENT_TYPE_TICK, EventType.EVENT_TYPE_CONTROL, EventType.EVENT_TYPE_IDENTIFY)


def anonymous(events: list[Event]) -> list[Event]:
    """The same events before anybody logged in."""
    found = []
    for event in events:
        copy = Event()
        copy.CopyFrom(event)
        copy.session_id, copy.user_id = f"anon-{event.user_id}", ""
        found.append(copy)
    return found


def known_log(settings: Settings) -> Log:
    """The log as if everybody had been known: events of sessions are their users'."""
    n = settings.stack.partitions
    log = Log({partition: [] for partition in range(n)}, {}, {})
    for record in sorted(folded(settings), key=lambda r: (r.append_ts_ms, r.partition, r.offset)):
        event = decode_event(record.value, record.headers)
        if event.type in NOT_EVENTS or partition_of(event_key(event), n) != record.partition:
            log.partitions[record.partition].append(Logged(None, record.append_ts_ms))
            continue
        event.user_id = event.user_id or event.session_id.removeprefix("anon-")
        log.partitions[partition_of(event.user_id.encode(), n)].append(Logged(event, record.append_ts_ms))
    return log


def test_USE_7_sessions_that_log_in_are_their_users_from_the_start(
    make_namespace: MakeNamespace, folds: Callable[..., Folds]
) -> None:
    settings = make_namespace(streams=STREAMS)
    with connect(settings) as client:
        client.set(f"{settings.namespace}:program", PROGRAM.to_json())
    send_catalogue(settings)
    first = folds(settings, failpoint="users.in_record:7").ready()
    events = traffic(300, seed=51)  # now: none may come after its window
    users = sorted({event.user_id for event in events})
    producer, sent_s = EventProducer(settings), time.monotonic()
    send(settings, anonymous(events))
    for user in (*users, *users[:9]):
        producer.identify(f"anon-{user}", user)
    producer.flush()
    assert first.process.wait(30) == -signal.SIGKILL
    second = folds(settings, member="w0").ready()
    # Later than a window: what comes after its close depends on when it comes, login or not.
    time.sleep(max(0.0, STREAMS["attribution_window_s"] - (time.monotonic() - sent_s)))
    send(settings, traffic(300, seed=52))
    settle(settings, quiet_s=STREAMS["attribution_window_s"] + 4)
    settle(settings, quiet_s=0)
    have = found(settings)
    params, recount = (
        state_params(settings),
        recount_of(known_log(settings), catalogue_of(settings), state_params(settings)),
    )
    as_of_ms = int(time.time() * 1000) + 60_000
    states = state_keys(have)
    different: list[str] = []
    held = {plain_key(key) for (kind, key), fields in states.items() if kind == "u" and set(fields) != {b"_to"}}
    assert {user for user in held if user[0] not in "#"} == set(recount.users)
    for user, count in recount.users.items():
        fields = states["u", user]
        different += check.user_differences(user, count, fields, PROGRAM, as_of_ms, params.session_timeout_ms)
    for item in set(recount.items) | {key for kind, key in states if kind == "i"}:
        fields = states.get(("i", item), {})
        different += check.item_differences(item, recount.items[item], fields, PROGRAM, as_of_ms, params.signals)
    kept = [check.kept_sums(model, schema, sums) for model, schema, sums in partials_of(have)]
    different += check.statistics_differences(recount, check.added(kept))
    assert not different, (len(different), different[:5])
    assert not [user for kind, user in have.rows if user.startswith("anon-") and have.rows[kind, user]]
    second.stop()
