"""Traffic for the stream benches: Zipf-like users, a catalogue, exposures of 10 slots with their outcomes."""

from __future__ import annotations

import random
from collections.abc import Iterator

from liverank.kafka import Producer
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType, Exposure, ExposureSlot
from liverank.v1.item_pb2 import Item, ItemChange

__all__ = ["events", "send_catalogue"]

_T = EventType
#: What users do, by weight; an exposure every ten events.
_MIX = [_T.EVENT_TYPE_IMPRESSION] * 8 + [_T.EVENT_TYPE_CLICK] * 5 + [_T.EVENT_TYPE_DWELL] * 3 + [
    _T.EVENT_TYPE_LIKE, _T.EVENT_TYPE_SAVE, _T.EVENT_TYPE_SKIP, _T.EVENT_TYPE_DISMISS,
]  # fmt: skip


def send_catalogue(settings: Settings, n_items: int) -> None:
    """Send `n_items` items of 40 categories."""
    producer = Producer(settings.kafka.bootstrap, linger_ms=20)
    for i in range(n_items):
        item = Item(item_id=f"item-{i}", title=f"Item {i}", available=True, categories=[f"category-{i % 40}"])
        change = ItemChange(item_id=item.item_id, upsert=item)
        producer.produce(settings.topic("items"), key=item.item_id.encode(), value=change.SerializeToString())
    producer.flush(60.0)


def events(
    n: int, *, n_users: int, n_items: int, seed: int, start_ms: int, end_ms: int, exposures: float = 0.1
) -> Iterator[Event]:
    """Yield `n` events in the order of their times, evenly from `start_ms` to `end_ms`."""
    rng = random.Random(seed)
    run = rng.getrandbits(40)
    for at in range(n):
        ts_ms = start_ms + (end_ms - start_ms) * at // n
        user = f"user-{min(n_users - 1, int(n_users * rng.random() ** 2))}"
        if rng.random() < exposures:
            slots = [
                ExposureSlot(
                    item_id=f"item-{int(n_items * rng.random() ** 3)}", catalogue_version=0, propensity=0.5,
                    p_shown=[0.2, 0.02], p_first=[0.3, 0.02], phi=[rng.random() for _ in range(16)],
                )
                for _ in range(10)
            ]  # fmt: skip
            exposure = Exposure(
                policy="thompson", arm="a", base_model="bench", schema="bench", drawn=True, heads=["click", "dismiss"],
                slots=slots,
            )  # fmt: skip
            event_id = f"r{run}-{at}"
            yield Event(
                event_id=event_id, type=_T.EVENT_TYPE_EXPOSURE, user_id=user, event_ts_ms=ts_ms, request_id=event_id,
                surface="home", exposure=exposure,
            )  # fmt: skip
            continue
        yield Event(
            event_id=f"e{run}-{at}", type=rng.choice(_MIX), user_id=user, session_id=f"{user}-s",
            item_id=f"item-{int(n_items * rng.random() ** 3)}", event_ts_ms=ts_ms, value=rng.choice((3.0, 20.0, 60.0)),
            surface="home",
        )  # fmt: skip
