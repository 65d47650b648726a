"""Traffic for the crash tests, and the comparison of what survived with a recount of the log."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format

from features.redis import connect, namespace_token
from features.state.neighbours import FIELDS as NEIGHBOURS
from features.state.neighbours import decode as decode_neighbours
from features.state.params import state_params
from features.wire import entity_key, feature_field, pack_bytes
from liverank.kafka import BEGINNING, LogReader, Producer, Record, Tp, end_offsets
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType, Exposure, ExposureSlot
from liverank.v1.item_pb2 import Item, ItemChange
from liverank.v1.stream_pb2 import Example
from streams.catalogue import Catalogue
from streams.items import ItemFold
from streams.outbox import Output
from streams.replayer import Replayer
from streams.users import UserFold
from tests.recount.live import live_differences
from tests.recount.program import PROGRAM

T = EventType
N_USERS, N_ITEMS = 60, 40
NOW_MS = int(time.time() * 1000)
OUTCOMES = (T.EVENT_TYPE_CLICK, T.EVENT_TYPE_CLICK, T.EVENT_TYPE_DISMISS, T.EVENT_TYPE_LIKE, T.EVENT_TYPE_DWELL)


def send_catalogue(settings: Settings, prefix: str = "") -> None:
    """Send the items that `traffic` with this prefix is about."""
    producer = Producer(settings.kafka.bootstrap)
    for i in range(N_ITEMS):
        item = Item(item_id=f"{prefix}i{i}", title=f"item {i}", available=True, categories=[f"c{i % 7}"])
        change = ItemChange(item_id=item.item_id, upsert=item)
        producer.produce(settings.topic("items"), key=item.item_id.encode(), value=change.SerializeToString())
    assert producer.flush(30) == 0


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
                    p_first=[0.3, 0.05], phi=[rng.gauss(0, 1) for _ in range(4)],
                )
                for item in rng.sample(range(N_ITEMS), 4)
            ]  # fmt: skip
            request = f"r{seed}-{len(events)}"
            exposure = Exposure(
                policy="thompson", arm="a", base_model=f"m{rng.randrange(2)}", schema="s", drawn=True,
                heads=["click", "dismiss"], slots=slots,
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
        producer.produce(settings.topic("events", 1), key=event.user_id.encode(), value=value, headers=headers)
    assert producer.flush(30) == 0


def read_topic(settings: Settings, topic: str) -> list[Record]:
    """Everything in a topic, in order per partition."""
    tps = [Tp(topic, p) for p in range(settings.stack.partitions)]
    ends = end_offsets(settings.kafka.bootstrap, tps)
    left = {tp for tp, end in ends.items() if end > 0}
    reader = LogReader(settings.kafka.bootstrap, dict.fromkeys(tps, BEGINNING))
    records: list[Record] = []
    while left:
        for record in reader.poll_batch(5000, 1.0):
            tp = Tp(record.topic, record.partition)
            if record.offset < ends[tp]:
                records.append(record)
            if record.offset + 1 >= ends[tp]:
                left.discard(tp)
    reader.close()
    return records


def settle(settings: Settings, *, timeout_s: float = 120.0, quiet_s: float = 6.5) -> None:
    """Wait until both folds have passed everything that is no tick, strays and effects included, and statistics are
    out.
    """
    deadline_s = time.monotonic() + timeout_s
    with connect(settings) as client:
        goal: dict[int, int] = {}
        asked_s = time.monotonic()
        tps = [Tp(settings.topic("events", 1), p) for p in range(settings.stack.partitions)]
        goal = {tp.partition: end for tp, end in end_offsets(settings.kafka.bootstrap, tps).items()}
        for kind, topic in (("u", ""), ("u", "again"), ("i", "item-effects")):
            if topic == "again":
                goal = {tp.partition: end for tp, end in end_offsets(settings.kafka.bootstrap, tps).items()}
            if topic == "item-effects":
                effects = [Tp(settings.topic(topic, 1), p) for p in range(settings.stack.partitions)]
                goal = {tp.partition: end for tp, end in end_offsets(settings.kafka.bootstrap, effects).items()}
            while True:
                found = {}
                for p in goal:
                    key = f"{settings.namespace}:{{{settings.namespace}.1.{p}}}:{kind}.meta"
                    position = client.hget(key, "position")
                    found[p] = int(position.split(b":")[1]) + 1 if position else 0
                if all(found[p] >= end for p, end in goal.items()):
                    break
                assert time.monotonic() < deadline_s, f"{kind} folds stand at {found}, wanted {goal}"
                time.sleep(0.1)
        time.sleep(max(0.0, quiet_s - (time.monotonic() - asked_s)))


@dataclass
class Found:
    """What a namespace holds."""

    states: dict[str, dict[bytes, bytes]]
    rows: dict[tuple[str, str], dict[bytes, bytes]]
    partials: dict[str, dict[bytes, bytes]]


def found(settings: Settings) -> Found:
    """Read all states, rows and partials of a namespace."""
    states, rows, partials = {}, {}, {}
    with connect(settings) as client:
        for kind, join in (("u", "user_id"), ("i", "item_id")):
            for raw in client.scan_iter(match=f"{settings.namespace}:{{*:{kind}:*", count=1000):
                place, _, name = raw.decode().partition(f":{kind}:")
                part = place.rpartition(".")[2].rstrip("}")
                states[f"{part}:{kind}:{name}"] = client.hgetall(raw)
                if not name.startswith("#"):
                    row = client.hgetall(entity_key(settings.feast_project, (join,), (name,)))
                    rows[kind, name] = {k: v for k, v in row.items() if not k.startswith((b"_lr:", b"_ts:"))}
        for raw in client.scan_iter(match=f"{settings.namespace}:bandit:*", count=1000):
            partials[raw.decode().partition(":")[2]] = {k: v for k, v in client.hgetall(raw).items() if k != b"v"}
    return Found(states, rows, partials)


def recounted(settings: Settings, have: Found, examples: Sequence[Example]) -> list[str]:
    """Differences to the recount that shares no code with the folds (tests/recount/expected.py)."""
    catalogue = Catalogue()
    for record in read_topic(settings, settings.topic("items")):
        catalogue.put_record(record)
    place = f"{settings.namespace}:{{{settings.namespace}.1"
    with connect(settings) as client:
        positions = {
            p: int(client.hget(f"{place}.{p}}}:u.meta", "position").split(b":")[1])
            for p in range(settings.stack.partitions)
        }
    records = [r for r in read_topic(settings, settings.topic("events", 1)) if r.offset <= positions[r.partition]]
    return live_differences(
        records, n_partitions=settings.stack.partitions, catalogue=catalogue, params=state_params(settings),
        program=PROGRAM, states={(n.split(":", 2)[1], n.split(":", 2)[2]): f for n, f in have.states.items()},
        partials=[(n.split(":")[2], n.split(":")[3], fields[b"d"]) for n, fields in have.partials.items()],
        examples=examples, as_of_ms=int(time.time() * 1000) + 60_000,
    )  # fmt: skip


def recount(settings: Settings) -> tuple[Found, list[Example]]:
    """Fold the log once more, in memory, into a namespace of its own: what must have come out, and the label rows."""
    other = settings.model_copy(update={"namespace": f"{settings.namespace}x"})
    catalogue = Catalogue()
    for record in read_topic(settings, settings.topic("items")):
        catalogue.put_record(record)
    examples: list[Example] = []

    def take(outputs: Sequence[Output]) -> None:
        examples.extend(Example.FromString(o.value) for o in outputs if o.topic == "examples")

    with connect(settings) as client:
        replayer = Replayer(
            other, client, users=UserFold(other, PROGRAM, token=namespace_token(client, settings.namespace)),
            items=ItemFold(other, PROGRAM), n_partitions=settings.stack.partitions, generation=1, store_generation=1,
            catalogue=catalogue, outputs=take,
        )  # fmt: skip
        positions = {}
        for p in range(settings.stack.partitions):
            meta = client.hget(f"{settings.namespace}:{{{settings.namespace}.1.{p}}}:u.meta", "position")
            positions[p] = int(meta.split(b":")[1])
        records = read_topic(settings, settings.topic("events", 1))
        for record in sorted(records, key=lambda r: (r.append_ts_ms, r.partition, r.offset)):
            if record.offset <= positions[record.partition]:
                replayer.feed(record)
        replayer.finish(live=True)
        result = found(other)
        for key in client.scan_iter(match=f"{other.namespace}:*", count=1000):
            client.unlink(key)
        for kind, name in result.rows:
            join = "user_id" if kind == "u" else "item_id"
            client.unlink(entity_key(other.feast_project, (join,), (name,)))
    return result, examples


def same_item(name: str, mine: Mapping[bytes, bytes], theirs: Mapping[bytes, bytes]) -> None:
    """Assert equality up to the order in which an item's sources were added: float64 sums to 1e-9."""
    for field, page in theirs.items():
        if not field.startswith(b"item_neighbours:"):
            assert same_page(mine[field], page), (name, field)
    ours, others = ({**dict.fromkeys(NEIGHBOURS), **fields} for fields in (mine, theirs))
    a, b = (decode_neighbours([fields[f] for f in NEIGHBOURS], NOW_MS) for fields in (ours, others))
    assert dict(zip(a[0].tolist(), a[1], strict=True)) == pytest.approx(
        dict(zip(b[0].tolist(), b[1], strict=True)), rel=1e-9
    ), name


def same_page(mine: bytes, theirs: bytes) -> bool:
    """Equal bytes, or equal float64s to 1e-9 after a common head of up to 7 bytes."""
    if mine == theirs:
        return True
    if len(mine) != len(theirs):
        return False
    for skip in range(8):
        body_a, body_b = mine[skip:], theirs[skip:]
        if mine[:skip] != theirs[:skip] or len(body_a) < 8:
            continue
        cut = len(body_a) // 8 * 8
        a, b = np.frombuffer(body_a[:cut], "<f8"), np.frombuffer(body_b[:cut], "<f8")
        if np.allclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True) and body_a[cut:] == body_b[cut:]:
            return True
    return False


def check_same(have: Found, expected: Found) -> None:
    """Assert that two namespaces, or one at two times, hold the same: users to the byte, items to 1e-9."""
    assert set(have.states) == set(expected.states)
    for name, fields in expected.states.items():
        assert set(have.states[name]) == set(fields), name
        if ":i:" in name:
            same_item(name, have.states[name], fields)
        else:
            differing = {f: (have.states[name][f], p) for f, p in fields.items() if have.states[name][f] != p}
            assert not differing, (name, differing)
    assert set(have.rows) == set(expected.rows)
    for (kind, name), row in expected.rows.items():
        assert set(have.rows[kind, name]) == set(row), name
        if kind == "u":
            assert have.rows[kind, name] == row, name
    for name, fields in have.states.items():
        _, kind, key = name.split(":", 2)
        if kind == "i":  # what a reader sees of an item is the state that was just compared
            for field, page in fields.items():
                view, _, feature = field.decode().partition(":")
                if not field.startswith(b"_"):
                    assert have.rows["i", key][feature_field(view, feature)] == pack_bytes(page), (name, field)
    assert have.partials == expected.partials
    assert have.partials


def check(settings: Settings) -> dict[str, int]:
    """Assert that rows, label rows and statistics equal the recount; return how many of each were compared."""
    expected, examples = recount(settings)
    have = found(settings)
    check_same(have, expected)
    taken = accepted(settings)
    assert sorted(e.SerializeToString(deterministic=True) for e in taken) == sorted(
        e.SerializeToString(deterministic=True) for e in examples
    )
    different = recounted(settings, have, taken)
    assert not different, different[:5]
    return {"states": len(have.states), "rows": len(have.rows), "partials": len(have.partials), "examples": len(taken)}


def accepted(settings: Settings) -> list[Any]:
    """Label rows as a reader takes them: the highest number per (generation, source partition, own partition)."""
    highest: dict[tuple[int, int], tuple[int, int, int]] = {}
    taken = []
    for record in read_topic(settings, settings.topic("examples")):
        example = Example.FromString(record.value)
        number = example.number
        place = (number.offset, number.step, number.index)
        source = (record.partition, number.partition)
        if place > highest.get(source, (-1, 0, 0)):
            highest[source] = place
            taken.append(example)
    return taken


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
