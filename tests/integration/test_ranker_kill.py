"""kill -9 of the ranker while users click: what was shown is joined once, or lost whole; never to another request."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter

from conftest import MakeNamespace
from crash import send_catalogue

from infra.stack import Stack
from liverank.client import Client
from liverank.contract import decode_event
from liverank.errors import LiverankError
from liverank.kafka import Producer
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType
from tests.recount.namespace import accepted, read_topic, settle

USERS = [f"u{number}" for number in range(12)]


def ranker_pid(settings: Settings) -> int:
    return {state.name: state.pid for state in Stack(settings).status().processes}[f"{settings.namespace}-ranker-0"]


def test_ING_7_kill_9_of_the_ranker_joins_no_outcome_to_another_request(make_running: MakeNamespace) -> None:
    """Every user meets the same few items again and again, so that a wrong join would be easy."""
    settings = make_running(streams={"attribution_window_s": 3, "late_outcome_s": 2, "session_timeout_s": 1})
    send_catalogue(settings)
    rng, producer = random.Random(3), Producer(settings.kafka.bootstrap)
    clicked: dict[str, str] = {}
    shown: dict[str, list[str]] = {}
    kills = failures = 0
    with Client(settings.ranker.grpc, deadline_s=5.0) as client:
        until_s = time.monotonic() + 90
        while not shown:
            assert time.monotonic() < until_s
            reply = client.rank(USERS[0], k=5)
            if reply.items:
                shown[reply.request_id] = [item.item_id for item in reply.items]
            time.sleep(0.1)
        pid, number = ranker_pid(settings), 0
        while len(shown) < 220:
            assert time.monotonic() < until_s, (len(shown), failures)
            number += 1
            user = rng.choice(USERS)
            try:
                reply = client.rank(user, k=5)
            except LiverankError:
                failures += 1
                time.sleep(0.1)
                continue
            items = [item.item_id for item in reply.items]
            if not items:
                continue
            shown[reply.request_id] = items
            clicked[reply.request_id] = rng.choice(items)
            click = Event(
                event_id=f"c{number}", type=EventType.EVENT_TYPE_CLICK, user_id=user, request_id=reply.request_id,
                item_id=clicked[reply.request_id], event_ts_ms=int(time.time() * 1000), surface="home",
            )  # fmt: skip
            producer.produce(settings.topic("events", 1), key=user.encode(), value=click.SerializeToString())
            if len(shown) in (70, 140) and len(shown) > kills * 100:
                # In the middle of its work: what it just replied may not be in Kafka yet.
                os.kill(pid, signal.SIGKILL)
                kills += 1
                while (new := ranker_pid(settings)) in (0, pid):
                    assert time.monotonic() < until_s
                    time.sleep(0.1)
                pid = new
    assert producer.flush(10.0) == 0
    settle(settings, quiet_s=8.0)
    delivered = {}
    for record in read_topic(settings, settings.topic("events", 1)):
        event = decode_event(record.value, record.headers)
        if event.HasField("exposure"):
            delivered[event.event_id] = [slot.item_id for slot in event.exposure.slots]
    rows = accepted(settings)
    assert kills == 2
    assert {row.request_id for row in rows} == set(delivered) <= set(shown)
    places = Counter((row.request_id, row.position) for row in rows if not row.correction)
    assert places == Counter((request, at + 1) for request, items in delivered.items() for at in range(len(items)))
    for row in rows:
        assert delivered[row.request_id][row.position - 1] == row.item_id
        if row.outcomes["click"]:
            assert clicked.get(row.request_id) == row.item_id, "a click was joined to another request"
    joined = {row.request_id for row in rows if row.outcomes["click"]}
    assert joined == set(delivered) & set(clicked)
