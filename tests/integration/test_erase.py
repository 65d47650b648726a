"""OPS-6: an erased user is nowhere any more; sums stay; a rebuild and a kill -9 end in the same state."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import MakeNamespace
from crash import send, send_catalogue, traffic
from test_agents_in_worker import worker
from test_import_rebuild import wait_archived
from workers import STREAMS, Folds

from features.apply import apply_here, open_store
from features.archive import rewriting
from features.redis import connect
from features.wire import entity_key
from liverank.kafka import Producer
from liverank.producer import EventProducer
from liverank.settings import Settings
from liverank.v1.decision_pb2 import Decision
from liverank.v1.event_pb2 import Event, EventType
from streams.erase import await_files, await_folded, send_erase
from streams.erase_files import rewrite
from streams.rebuild import rebuild
from tests.recount.namespace import Found, found, same_item, settle
from tests.recount.program import PROGRAM

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
)

PREFIX = "someone-"
T = EventType


def decide(settings: Settings, users: list[str]) -> None:
    """A decision of each user."""
    producer = Producer(settings.kafka.bootstrap)
    for user in users:
        decision = Decision(request_id=f"d-{user}", user_id=user, decided_ts_ms=int(time.time() * 1000))
        producer.produce(settings.topic("decisions"), key=b"d", value=decision.SerializeToString())
    assert producer.flush(30) == 0


def holders(settings: Settings, user: str) -> list[str]:
    """Where the id stands: keys and values of Redis, cells of files."""
    text, places = user.encode(), []
    with connect(settings) as client:
        for key in client.scan_iter(count=1000):
            kind = client.type(key)
            if kind == b"hash":
                held = [*client.hgetall(key).items()]
            elif kind == b"list":
                held = client.lrange(key, 0, -1)
            elif kind == b"zset":
                held = client.zrange(key, 0, -1)
            else:
                held = [client.get(key)]
            if text in key or text in repr(held).encode():
                places.append(f"redis {key!r}")
    for path in settings.home.rglob("*.parquet"):
        if settings.namespace in str(path) and _in_table(pq.read_table(path), text):
            places.append(str(path.relative_to(settings.home)))
    return places


def _in_table(table: pa.Table, text: bytes) -> bool:
    return any(text in repr(column.to_pylist()).encode() for column in table.columns)


def item_states(settings: Settings) -> dict[str, Any]:
    return {name: fields for name, fields in found(settings).states.items() if ":i:" in name or "#stats" in name}


def check_states(have: Found, expected: Found) -> None:
    """Users and statistics to the byte, items to 1e-9 (their sources are added in another order)."""
    assert set(have.states) == set(expected.states)
    for name, fields in expected.states.items():
        if ":i:" in name:
            assert set(have.states[name]) == set(fields), name
            same_item(name, have.states[name], fields)
        else:
            assert have.states[name] == fields, name
    assert have.partials == expected.partials


def test_OPS_6_after_an_erase_no_store_returns_the_id(make_namespace: MakeNamespace) -> None:
    settings = make_namespace(streams={**STREAMS, "archive_flush_s": 0.5, "tombstone_s": 3})
    apply_here(settings)
    with worker(settings):
        send_catalogue(settings, PREFIX)
        events = traffic(500, seed=31, prefix=PREFIX)
        send(settings, events)
        settle(settings, quiet_s=1)
        # Ids of two digits: no other id begins with such a one; nor do other bytes look like them (a tag is "0").
        counts = Counter(e.user_id for e in events if e.user_id[-2:].isdecimal() and e.user_id[-1] != "0")
        (user, n), *others = counts.most_common(4)
        assert any(event.user_id == user and event.HasField("exposure") for event in events)
        # What the user did before a login goes with them.
        session = f"{PREFIX}session-of-{user[-2:]}"
        now_ms = int(time.time() * 1000)
        before = [
            Event(
                event_id=f"b{i}",
                type=T.EVENT_TYPE_CLICK,
                session_id=session,
                item_id=f"{PREFIX}i{i}",
                event_ts_ms=now_ms,
            )
            for i in range(5)
        ]
        send(settings, before)
        settle(settings, quiet_s=0)
        producer = EventProducer(settings)
        producer.identify(session, user)
        producer.flush()
        settle(settings, quiet_s=1)
        assert any(session in place for place in holders(settings, user))
        wait_archived(settings)
        decide(settings, [user, *(other for other, _ in others)])
        asked = send_erase(settings, [user])
        offsets = await_folded(settings, asked)
        await_files(settings)
        assert [each.user_id for each in asked] == [user, session]
        assert asked[0].state_fields > 3
        assert holders(settings, user)
        report = rewrite(settings)
        assert report.users == 2
        assert {store for store, (rows, _) in report.removed.items() if rows} >= {"events", "decisions", "requests"}
        assert report.removed["events"][0] == n + len(before) + 2  # and the login, and what moved
        assert report.removed["decisions"][0] == 1
        assert rewrite(settings).removed == {}  # nothing stands there any more
        assert not rewriting(settings).exists()
        row = open_store(settings).get_online_features(
            features=["user_history:page_0", "user_session:state"], entity_rows=[{"user_id": user}]
        )
        assert row.to_dict() == {"user_id": [user], "page_0": [None], "state": [None]}
        deadline_s = time.monotonic() + 20
        while left := [
            *holders(settings, user),
            *holders(settings, session),
        ]:  # the empty row's key, for `tombstone_s`; an outbox, until the next tick
            assert time.monotonic() < deadline_s, left
            time.sleep(0.5)
        assert offsets[asked[0].job] >= 0
        settle(settings, quiet_s=STREAMS["attribution_window_s"] + 3)
        live = found(settings)
    redone = rebuild(settings)
    assert redone.live > 500
    check_states(found(settings), live)


def test_OPS_6_a_kill_in_the_middle_of_an_erase_changes_nothing(
    make_namespace: MakeNamespace, folds: Callable[..., Folds]
) -> None:
    settings = make_namespace(streams=STREAMS)
    with connect(settings) as client:
        client.set(f"{settings.namespace}:program", PROGRAM.to_json())
    send_catalogue(settings, PREFIX)
    first = folds(settings, failpoint="users.in_record").ready()
    send(settings, traffic(300, seed=32, prefix=PREFIX))
    settle(settings, quiet_s=STREAMS["attribution_window_s"] + 3)
    kept = item_states(settings)
    state = next(name for name in found(settings).states if f":u:{PREFIX}" in name)
    user = state.split(":")[2]
    asked = send_erase(settings, [user])
    assert first.process.wait(30) == -signal.SIGKILL
    with connect(settings) as client:
        assert client.exists(entity_key(settings.feast_project, ("user_id",), (user,)))  # fenced, not published
    second = folds(settings, member="w0").ready()
    await_folded(settings, asked)
    settle(settings, quiet_s=1)
    with connect(settings) as client:
        fields = client.hgetall(entity_key(settings.feast_project, ("user_id",), (user,)))
    assert fields
    assert all(name.startswith(b"_lr:") for name in fields)
    assert state not in found(settings).states
    check_items(item_states(settings), kept)
    second.stop()


def check_items(have: dict[str, Any], expected: dict[str, Any]) -> None:
    assert have == expected
