"""Traffic for the crash tests."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from google.protobuf import json_format

from liverank.contract import event_key
from liverank.kafka import Producer
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType, Exposure, ExposureSlot
from liverank.v1.item_pb2 import Item, ItemChange

T = EventType
N_USERS, N_ITEMS = 60, 40
OUTCOMES = (T.EVENT_TYPE_CLICK, T.EVENT_TYPE_CLICK, T.EVENT_TYPE_DISMISS, T.EVENT_TYPE_LIKE, T.EVENT_TYPE_DWELL)


def send_catalogue(settings: Settings, prefix: str = "") -> None:
    """Send the items that `traffic` with this prefix is about."""
    producer = Producer(settings.kafka.bootstrap)
    for change in catalogue_items(prefix):
        producer.produce(settings.topic("items"), key=change.item_id.encode(), value=change.SerializeToString())
    assert producer.flush(30) == 0


def catalogue_items(prefix: str = "") -> list[ItemChange]:
    """Items of seven categories."""
    items = [
        Item(item_id=f"{prefix}i{i}", title=f"item {i}", available=True, categories=[f"c{i % 7}"])
        for i in range(N_ITEMS)
    ]
    return [ItemChange(item_id=item.item_id, upsert=item) for item in items]


def traffic(n: int, seed: int, prefix: str = "") -> list[Event]:
    """About `n` events of users and items that begin with `prefix`, all of the last second.

    Exposures with their outcomes, other events, 5 % exact repeats, locally shuffled. Exposure and outcome arrive while
    their window is open: labels after its close depend on the order of arrival, which the recount leaves out.
    """
    rng = random.Random(seed)
    now_ms = int(time.time() * 1000)
    events: list[Event] = []
    while len(events) < n:
        user = f"{prefix}u{min(N_USERS - 1, int(rng.paretovariate(0.8)))}"
        ts_ms = now_ms - 1_200 + len(events) * 800 // n
        if rng.random() < 0.25:
            # Evenly over users: more than 32 exposures of one user within a window would close the oldest early.
            user = f"{prefix}u{rng.randrange(N_USERS)}"
            slots = [
                ExposureSlot(
                    item_id=f"{prefix}i{item}", catalogue_version=-1,
                    propensity=rng.uniform(0.1, 1), p_shown=[0.2, 0.05],
                    p_first=[0.3, 0.05], phi=[rng.gauss(0, 1) for _ in range(4)], category=f"kind{item % 3}",
                )
                for item in rng.sample(range(N_ITEMS), 4)
            ]  # fmt: skip
            request = f"r{seed}-{len(events)}"
            model = rng.randrange(2)
            exposure = Exposure(
                policy="thompson", arm="a", base_model=f"m{model}", schema="s", drawn=True,
                heads=["click", "dismiss"], slots=slots, statistics=(1, 2)[: 2 * model],
            )  # fmt: skip
            events.append(
                Event(event_id=request, type=T.EVENT_TYPE_EXPOSURE, user_id=user, event_ts_ms=ts_ms, request_id=request,
                      surface="home", exposure=exposure)
            )  # fmt: skip
            for slot in rng.sample(slots, rng.randrange(3)):
                events.append(
                    Event(event_id=f"o{seed}-{len(events)}", type=rng.choice(OUTCOMES), user_id=user, surface="home",
                          item_id=slot.item_id, event_ts_ms=ts_ms + rng.randrange(1, 600), value=40.0,
                          request_id=request if rng.random() < 0.8 else "")
                )  # fmt: skip
        else:
            events.append(
                Event(event_id=f"e{seed}-{len(events)}", type=rng.choice([T.EVENT_TYPE_IMPRESSION, *OUTCOMES]),
                      user_id=user, item_id=f"{prefix}i{rng.randrange(N_ITEMS)}", event_ts_ms=ts_ms, value=12.0,
                      surface="home")
            )  # fmt: skip
    events += rng.sample(events, n // 20)
    order = sorted(range(len(events)), key=lambda i: i + rng.uniform(0, 30))
    return [events[i] for i in order]


def send(settings: Settings, events: Sequence[Event], *, json: bool = False, foreign: bool = False) -> None:
    """Send events; `json` as proto3 JSON, `foreign` with librdkafka's default partitioner."""
    options = {"partitioner": "consistent_random"} if foreign else None
    producer = Producer(settings.kafka.bootstrap, options=options)
    for event in events:
        value = json_format.MessageToJson(event).encode() if json else event.SerializeToString()
        headers = [("content-type", b"application/json")] if json else None
        producer.produce(settings.topic("events", 1), key=event_key(event), value=value, headers=headers)
    assert producer.flush(30) == 0


def exposures_of_many(n_users: int) -> list[Event]:
    """One exposure of two slots a user, all at the same time: their windows close in one tick."""
    now_ms = int(time.time() * 1000)
    slots = [
        ExposureSlot(
            item_id=f"i{i}", catalogue_version=-1, propensity=0.5, p_shown=[0.2], p_first=[0.3], phi=[1.0, 0.5]
        )
        for i in range(2)
    ]
    exposure = Exposure(policy="p", arm="a", base_model="m", schema="s", drawn=True, heads=["click"], slots=slots)
    return [
        Event(event_id=f"x{i}", type=T.EVENT_TYPE_EXPOSURE, user_id=f"many{i}", event_ts_ms=now_ms, request_id=f"x{i}",
              surface="home", exposure=exposure)
        for i in range(n_users)
    ]  # fmt: skip
