"""Many usual records in one native call: every call of the partition is the same as record by record."""

from __future__ import annotations

import math
import os
import random
from typing import Literal

import pytest

from features import native
from features.item_version import CatalogueItem
from liverank.contract import INTERNAL_HEADER
from liverank.errors import ContractError
from liverank.kafka import Record
from liverank.partition import partition
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType, Exposure, ExtraStatistics
from streams.calls import Call, Limits
from streams.catalogue import Catalogue, History
from streams.dues import DueIndex, _DueIndex
from streams.fold import Parsed
from streams.partition_fold import PartitionFold
from streams.past import MemoryStore, feed, memory_part
from streams.producers import EVERY
from streams.share import Share
from streams.users import UserFold
from tests.contract.test_native_transition import T0, event_of
from tests.recount.program import PROGRAM

pytestmark = pytest.mark.skipif(
    native.core is None and os.environ.get("CI") != "true", reason=f"no native state: {native.why_not}"
)
TOKEN = b"token"
MINUTE = 60_000
USERS = 40
N_PARTITIONS = 2


def catalogue() -> Catalogue:
    table = Catalogue()
    for version, append_ts_ms in enumerate((T0 - MINUTE, T0 + 300 * MINUTE, T0 + 900 * MINUTE)):
        for number in range(40):
            if number % 7 == 0:
                continue
            categories = () if number % 11 == 0 else (f"kind-{(number + version) % 5}",)
            name = f"item-{number}"
            item = CatalogueItem(name, version, append_ts_ms, categories, "", 0.0, True, 0)
            table.put(name, append_ts_ms, None if (number + version) % 6 == 0 else item, keep_all=True)
    return table


def records(rng: random.Random, n: int) -> list[Record]:
    """Events of users of partition 0, and now and then something that is none."""
    users = [name for number in range(4 * USERS) if partition((name := f"user-{number}").encode(), N_PARTITIONS) == 0]
    users = [*users[:USERS], "#odd", "å"]
    now_ms, requests, made = T0, list[str](), []
    for at in range(n):
        now_ms += rng.randrange(90 * MINUTE) if rng.random() < 0.01 else rng.randrange(20_000)
        event = event_of(rng, now_ms, at, requests)
        event.user_id = rng.choice(users)
        if event.type == EventType.EVENT_TYPE_EXPOSURE and rng.random() < 0.7:
            for slot in event.exposure.slots:
                slot.variant_id = ""
            vary(rng, event.exposure)
        headers: tuple[tuple[str, bytes], ...] = ()
        draw = rng.random()
        if draw < 0.01:
            event.user_id, event.session_id = "", f"s-{rng.randrange(4)}"
        elif draw < 0.02:
            event = Event(type=EventType.EVENT_TYPE_TICK)
            headers = ((INTERNAL_HEADER, TOKEN),)
        elif draw < 0.03:
            event.event_ts_ms = now_ms - 8 * 1440 * MINUTE
        elif draw < 0.04:
            event.item_id = "köp"
        elif draw < 0.05:
            event.attributes["a"].text = "b"
        value = event.SerializeToString()
        if draw > 0.99:
            value = rng.choice([b"\xff\xff", value[:-3], value + value])
        made.append(Record("events", 0, at, (event.user_id or event.session_id).encode(), value, headers, now_ms))
    return made


def vary(rng: random.Random, slate: Exposure) -> None:
    """Other numbers; now and then those that the statistics refuse, or more of them."""
    slate.base_model = rng.choice(["", "m", "n"])
    dim = 3 if slate.base_model == "n" and rng.random() < 0.1 else 2
    for slot in slate.slots:
        slot.phi[:] = [rng.uniform(-3, 3) for _ in range(dim)]
        slot.p_shown[:] = [rng.random() for _ in slate.heads]
    wrong = rng.random()
    if wrong < 0.04:
        slate.slots[-1].phi[0] = 65.0
    elif wrong < 0.08:
        slate.slots[0].p_shown[0] = rng.choice([-64.5, math.inf])
    elif wrong < 0.12:
        slate.statistics.append(ExtraStatistics.EXTRA_STATISTICS_ARMS)


def opened(clock: Literal["wall", "data"], *, first: bool) -> tuple[UserFold, MemoryStore, PartitionFold]:
    settings = Settings(clock=clock)
    fold = UserFold(settings, PROGRAM, token=TOKEN)
    store = MemoryStore()
    table = catalogue()
    part = memory_part(
        settings, fold, store, partition=0, n_partitions=N_PARTITIONS, generation=1,
        catalogue=History(table) if first else table, limits=Limits(keys=25, size_bytes=256 * 1024),
    )  # fmt: skip
    return fold, store, part


def feed_all(fold: UserFold, part: PartitionFold, batch: list[Record]) -> int:
    """As the past is folded; return how many records native code folded."""
    at = n_usual = 0
    while at < len(batch):
        following = part.feed_usual(batch, at)
        n_usual += following - at
        if following < len(batch):
            feed(fold, part, batch[following])
            following += 1
        at = following
    return n_usual


def feed_looked(fold: UserFold, part: PartitionFold, batch: list[Record]) -> int:
    """As the engine folds a poll."""

    def parse(record: Record) -> Parsed | ContractError:
        parsed.add(record.offset)
        try:
            return fold.parse(record)
        except ContractError as error:
            return error

    parsed = set[int]()
    share = Share(list(batch))
    share.look(part, parse)
    left = parsed.copy()
    watched = [record.offset for record, _ in share.watched(parse)]
    assert left <= set(watched)
    if share.scanned is not None:
        assert {record.offset for record in batch if record.offset % EVERY == 0} <= set(watched)
    parsed -= set(watched) - left
    part.prefetch(share.missing(part))
    share.feed(part, parse)
    return len(batch) - len(parsed)


@pytest.mark.parametrize("looked", [False, True])
@pytest.mark.parametrize(("clock", "first"), [("wall", False), ("wall", True), ("data", False)])
def test_STR_7_many_records_in_one_call_are_folded_as_one_by_one(
    clock: Literal["wall", "data"], first: bool, looked: bool
) -> None:
    rng = random.Random(f"{clock} {first}")
    slow, fast = opened(clock, first=first), opened(clock, first=first)
    load = records(rng, 4000)
    n_usual = 0
    for start in range(0, len(load), 500):
        batch = load[start : start + 500]
        for record in batch:
            feed(slow[0], slow[2], record)
        n_usual += (feed_looked if looked else feed_all)(fast[0], fast[2], batch)
        slow[2].close()
        fast[2].close()
        assert len(slow[2].calls) > 3
        # Where a poll is cut changes no number: the lane looks at a call's size when it stops, not at each record.
        assert joined(slow[2].calls) == joined(fast[2].calls)
        slow[1].take(slow[2])
        fast[1].take(fast[2])
        assert slow[1].fields == fast[1].fields
    assert {"#stats::", "#stats:m:", "#stats:n:"} <= slow[1].fields.keys()
    assert n_usual > len(load) // 2


def joined(calls: list[Call]) -> tuple[object, ...]:
    """What calls say together."""
    pages: dict[str, dict[bytes, bytes]] = {}
    due: dict[str, int | None] = {}
    effects: dict[int, list[bytes]] = {}
    for call in calls:
        for key, fields in call.pages.items():
            pages.setdefault(key, {}).update(fields)
        due.update(call.due)
        for target, entries in call.effects.items():
            effects.setdefault(target, []).extend(entries)
    outputs = [output for call in calls for output in call.outputs]
    changes = [change for call in calls for change in call.changes]
    last = calls[-1]
    n = sum(call.n_records for call in calls)
    return pages, due, effects, outputs, changes, last.end, last.clock_ms, last.version, n


@pytest.mark.parametrize("seed", range(4))
def test_due_keys_are_found_alike(seed: int) -> None:
    rng = random.Random(seed)
    fast, slow = DueIndex(), _DueIndex()
    horizon_ms = 0
    for clock_ms in range(0, 3000, 20):
        if clock_ms >= horizon_ms:
            horizon_ms += 700
            stored = [(f"key-{rng.randrange(60)}", rng.randrange(clock_ms, horizon_ms)) for _ in range(20)]
            for index in (fast, slow):
                index.extend(stored, horizon_ms)
        for _ in range(rng.randrange(12)):
            key, due_ms = f"key-{rng.randrange(60)}", rng.choice([None, clock_ms + rng.randrange(1, 9) * 100])
            for index in (fast, slow):
                index.put(key, due_ms)
        assert (len(fast), fast.horizon_ms, fast.any_due(clock_ms)) == (
            len(slow), slow.horizon_ms, slow.any_due(clock_ms)
        )  # fmt: skip
        assert fast.pop_due(clock_ms) == slow.pop_due(clock_ms)
        assert fast.changes == slow.changes
        assert fast.take_changes() == slow.take_changes()
