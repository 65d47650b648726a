"""Traffic that leaves nothing out: duplicates, shuffles, late ones, strays, JSON, refused records, changing items."""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from google.protobuf import json_format

from bench.chaos.plan import BUSIEST
from liverank.errors import LiverankError
from liverank.kafka import Producer
from liverank.partition import partition as partition_of
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType, Exposure, ExposureSlot
from liverank.v1.item_pb2 import Item, ItemChange, ItemRemoved

__all__ = ["MOVERS", "Traffic"]

_T = EventType
_DAY_MS = 86_400_000
N_ITEMS = 150
MOVERS = 15
"""Items `i0`..: their categories change, they leave and come back. Others change price and availability only."""
_OUTCOMES = (
    _T.EVENT_TYPE_CLICK, _T.EVENT_TYPE_CLICK, _T.EVENT_TYPE_CLICK, _T.EVENT_TYPE_DISMISS, _T.EVENT_TYPE_LIKE,
    _T.EVENT_TYPE_SAVE, _T.EVENT_TYPE_DWELL, _T.EVENT_TYPE_DWELL, _T.EVENT_TYPE_RATING, _T.EVENT_TYPE_PURCHASE,
    _T.EVENT_TYPE_SKIP, _T.EVENT_TYPE_THUMBS_DOWN, _T.EVENT_TYPE_NOT_INTERESTED, _T.EVENT_TYPE_IMPRESSION,
    _T.EVENT_TYPE_IMPRESSION,
)  # fmt: skip
_OTHERS = (*_OUTCOMES, _T.EVENT_TYPE_IMPRESSION, _T.EVENT_TYPE_SEARCH, _T.EVENT_TYPE_SURVEY, _T.EVENT_TYPE_SESSION_END)
_VALUES = {_T.EVENT_TYPE_DWELL: (2.0, 12.5, 45.0), _T.EVENT_TYPE_RATING: (2.0, 5.0, 9.0)}


class _Sending(NamedTuple):
    at_s: float
    place: int
    event: Event
    how: str


def _slots(rng: random.Random, n_items: int, n: int = 4) -> list[ExposureSlot]:
    return [
        ExposureSlot(
            item_id=f"i{item}", catalogue_version=-1, propensity=rng.uniform(0.1, 1.0), p_shown=[0.2, 0.05, 0.02],
            p_first=[0.3, 0.05, 0.03], phi=[rng.gauss(0, 1) for _ in range(4)],
        )
        for item in rng.sample(range(n_items), n)
    ]  # fmt: skip


class Traffic(threading.Thread):
    """Sends until it is stopped. Content follows the seed, times follow the wall.

    Parameters
    ----------
    settings : Settings
        Resolved.
    rate : float
        Events a second, repeats not counted.
    users : int
    skew : float
        See `Plan`.
    """

    def __init__(self, settings: Settings, *, seed: int, rate: float, users: int, skew: float) -> None:
        super().__init__(daemon=True)
        self.sent: Counter[str] = Counter()
        self.ids: set[str] = set()
        self.many_ids: set[str] = set()
        self.failed: list[LiverankError] = []
        self._settings, self._rate, self._seed = settings, rate, seed
        self._users, self._skew = users, skew
        self._rng = random.Random(seed)
        self._window_ms = settings.streams.attribution_window_s * 1000
        self._topic = settings.topic("events", 1)
        options = {"delivery.timeout.ms": 600_000}
        bootstrap = settings.kafka.bootstrap
        self._producer = Producer(bootstrap, on_error=self.failed.append, options=options)
        self._foreign = Producer(
            bootstrap, on_error=self.failed.append, options={**options, "partitioner": "consistent_random"}
        )
        self._done = threading.Event()
        self._waiting: list[_Sending] = []
        self._lock = threading.Lock()
        self._n = 0
        self._made: Counter[str] = Counter()
        self.n_items = N_ITEMS

    # -- life

    def run(self) -> None:
        """Send."""
        start_s = time.monotonic()
        made, changed_s = 0, start_s
        events = self._events()
        while not self._done.is_set():
            now_s = time.monotonic()
            wanted = int((now_s - start_s) * self._rate)
            while made < wanted:
                self._plan(next(events))
                made += 1
            self._send_due(now_s)
            if now_s - changed_s > 1.0:
                changed_s = now_s
                self._change_item()
            self._producer.poll(0)
            self._done.wait(0.02)
        self._send_due(float("inf"))

    def stop(self) -> None:
        """Send what waits, and wait until the broker has everything."""
        self._done.set()
        self.join()
        if self._producer.flush(120.0) + self._foreign.flush(120.0) or self.failed:
            raise RuntimeError(f"the broker did not take all events: {self.failed[:3]}")

    def catalogue(self) -> None:
        """Send all items once."""
        for item in range(self.n_items):
            self._send_item(item)
        if self._producer.flush(60.0):
            raise RuntimeError("the broker did not take the catalogue")

    def burst(self, n_users: int, partition: int) -> None:
        """One exposure each of `n_users` users of one partition, all at one time: their windows close in one tick."""
        rng = random.Random(f"{self._seed}-{partition}-{n_users}")
        now_ms = int(time.time() * 1000)
        slots = _slots(rng, N_ITEMS, 2)
        found = 0
        with self._lock:
            start = self._n
            self._n += 20 * n_users * self._settings.stack.partitions
        for number in range(start, start + 20 * n_users * self._settings.stack.partitions):
            user = f"many{number}"
            if partition_of(user.encode(), self._settings.stack.partitions) != partition:
                continue
            exposure = Exposure(policy="p", arm="a", base_model="m0", schema="s", drawn=True, heads=["click"])
            for slot in slots:
                exposure.slots.add().CopyFrom(slot)
                del exposure.slots[-1].p_shown[1:]
                del exposure.slots[-1].p_first[1:]
            exposure.base_model = "many"
            event = Event(
                event_id=f"x{number}", type=_T.EVENT_TYPE_EXPOSURE, user_id=user, event_ts_ms=now_ms,
                request_id=f"x{number}", surface="home", exposure=exposure,
            )  # fmt: skip
            self.many_ids.add(event.event_id)
            self._producer.produce(self._topic, key=user.encode(), value=event.SerializeToString(), block_s=120.0)
            found += 1
            if found == n_users:
                break
        self.sent["burst"] += found

    # -- events

    def _events(self) -> Iterator[Event]:
        rng = self._rng
        waiting: list[Event] = []
        while True:
            if waiting and rng.random() < 0.55:
                yield waiting.pop(rng.randrange(len(waiting)))
                continue
            self._n += 1
            now_ms = int(time.time() * 1000)
            user = self._user(rng)
            who = ("", f"s-{user}") if rng.random() < 0.01 else (user, "")
            if rng.random() < 0.3:
                yield from self._exposure(rng, who, now_ms, waiting)
                continue
            kind = rng.choice(_OTHERS)
            item = "" if kind in (_T.EVENT_TYPE_SEARCH, _T.EVENT_TYPE_SESSION_END) else self._item(rng)
            yield Event(
                event_id=f"e{self._seed}-{self._n}", type=kind, item_id=item, surface="home", event_ts_ms=now_ms,
                value=rng.choice(_VALUES.get(kind, (0.0,))), position=rng.randrange(5),
                user_id=who[0], session_id=who[1],
            )  # fmt: skip

    def _user(self, rng: random.Random) -> str:
        """A few users do much, most little; none more than `BUSIEST`, however long faults prolong the run."""
        user = f"u{int(self._users * rng.random() ** self._skew)}"
        while self._made[user] >= BUSIEST:
            user = f"u{rng.randrange(self._users)}"
        return user

    def _item(self, rng: random.Random) -> str:
        return "nobody-knows-it" if rng.random() < 0.005 else f"i{int(self.n_items * rng.random() ** 1.5)}"

    def _exposure(self, rng: random.Random, who: tuple[str, str], now_ms: int, waiting: list[Event]) -> Iterator[Event]:
        request = f"r{self._seed}-{self._n}"
        slots = _slots(rng, N_ITEMS)
        exposure = Exposure(
            policy="thompson", arm="a", base_model=f"m{rng.randrange(2)}", schema="s", drawn=rng.random() < 0.9,
            heads=["click", "dismiss", "like"], slots=slots,
        )  # fmt: skip
        for slot in rng.sample(range(len(slots)), rng.randrange(4)):
            kind = rng.choice(_OUTCOMES)
            named = rng.random() < 0.7
            waiting.append(
                Event(
                    event_id=f"o{self._seed}-{self._n}-{slot}", type=kind, surface="home",
                    item_id=slots[slot].item_id, request_id=request if named else "",
                    event_ts_ms=now_ms + rng.randrange(1, int(1.2 * self._window_ms)),
                    value=rng.choice(_VALUES.get(kind, (0.0,))), position=slot + 1 if rng.random() < 0.5 else 0,
                    user_id=who[0], session_id=who[1],
                )
            )  # fmt: skip
        yield Event(
            event_id=request, type=_T.EVENT_TYPE_EXPOSURE, event_ts_ms=now_ms, request_id=request, surface="home",
            exposure=exposure, user_id=who[0], session_id=who[1],
        )  # fmt: skip

    # -- sending

    def _plan(self, event: Event) -> None:
        """When and how often an event is sent, and what is wrong with it."""
        self._made[event.user_id] += 1
        rng = self._rng
        now_s, now_ms = time.monotonic(), int(time.time() * 1000)
        # An outcome is sent about when it happens; some come before their exposure, some after the close, some when
        # the exposure is long forgotten.
        delay_s = max(0.0, (event.event_ts_ms - now_ms) / 1000) * (rng.random() < 0.9) + rng.expovariate(2.0)
        how = rng.choices(
            ("plain", "late", "very late", "stray", "json", "ancient", "future", "garbage"),
            (0.88, 0.05, 0.01, 0.025, 0.025, 0.003, 0.002, 0.005),
        )[0]
        if how == "late":
            delay_s += rng.uniform(0.5, 3.0) * self._window_ms / 1000
        elif how == "very late":
            event.event_ts_ms -= rng.randrange(3_600_000)
        elif how == "ancient":
            event.event_ts_ms -= 8 * _DAY_MS
        elif how == "future":
            event.event_ts_ms += 3_600_000
        self._push(now_s + delay_s, event, how)
        if how not in ("garbage", "stray") and rng.random() < 0.06:
            self._push(now_s + delay_s + rng.choice((0.0, 1.0, rng.uniform(0, 20))), event, "again")

    def _push(self, at_s: float, event: Event, how: str) -> None:
        heapq.heappush(self._waiting, _Sending(at_s, len(self._waiting) + self._n * 1000, event, how))

    def _send_due(self, now_s: float) -> None:
        while self._waiting and self._waiting[0].at_s <= now_s:
            _, _, event, how = heapq.heappop(self._waiting)
            key = (event.user_id or event.session_id).encode()
            value, headers = event.SerializeToString(), None
            if how == "json":
                value, headers = json_format.MessageToJson(event).encode(), [("content-type", b"application/json")]
            elif how == "garbage":
                value = value[: len(value) // 2] + b"\xff"
            else:
                self.ids.add(event.event_id)
            if how == "json":
                self.ids.add(event.event_id)
            producer = self._foreign if how == "stray" else self._producer
            producer.produce(self._topic, key=key, value=value, headers=headers, block_s=300.0)
            self.sent[how] += 1

    # -- the catalogue

    def _change_item(self) -> None:
        rng = self._rng
        roll = rng.random()
        if roll < 0.1:
            item_id = f"i{rng.randrange(MOVERS)}"
            self._produce_item(ItemChange(item_id=item_id, removed=ItemRemoved()), "removed")
        elif roll < 0.15:
            self._send_item(self.n_items)
            self.n_items += 1
        else:
            self._send_item(rng.randrange(MOVERS if roll < 0.5 else self.n_items))

    def _send_item(self, number: int) -> None:
        rng = self._rng
        category = f"c{rng.randrange(9)}" if number < MOVERS else f"c{number % 9}"
        item = Item(
            item_id=f"i{number}", title=f"The {number}th thing of {category}", available=rng.random() < 0.9,
            price=rng.uniform(1, 50), categories=[category],
        )  # fmt: skip
        self._produce_item(ItemChange(item_id=item.item_id, upsert=item), "changed")

    def _produce_item(self, change: ItemChange, what: str) -> None:
        self._producer.produce(
            self._settings.topic("items"), key=change.item_id.encode(), value=change.SerializeToString(), block_s=300.0
        )
        self.sent[f"item {what}"] += 1
