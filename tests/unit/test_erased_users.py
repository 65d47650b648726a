"""An erased user in the fold: gone at once, whatever comes late or again; sums stay."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from features.hashing import id_hash
from features.state.effects import item_pairs
from features.state.neighbours import Neighbours, decode
from liverank.errors import ContractError
from liverank.settings import Settings
from liverank.v1.event_pb2 import Control, Event, EventType
from liverank.v1.stream_pb2 import ItemEffect
from streams.control import Erase, Erased, Void, control, parse_control, staged
from streams.erasure import ERASED_KEY, ErasedKeys, write_left
from tests.recount.scenes import START_MS, scene
from tests.recount.world import TOKEN, World

INTERNAL = (("liverank-internal", TOKEN),)
JOB = "00112233445566aa"


def told(world: World, command: Erase, now_ms: int) -> None:
    event = Event(type=EventType.EVENT_TYPE_CONTROL, control=control(command))
    world.send_bytes(event.SerializeToString(), now_ms, None, INTERNAL)


def played(seed: int) -> tuple[World, list[Event], str]:
    world = World(Settings(), seed=seed)
    for item in range(12):
        world.catalogue.put(f"i{item}", f"c{item % 4}")
    events = scene(random.Random(seed), 300, 6 * 3_600_000, users=3)
    for event in events:
        event.user_id = f"somebody-{event.user_id}"
        world.send(event)
    users = {event.user_id for event in events}
    return world, events, max(users, key=lambda user: sum(event.user_id == user for event in events))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_OPS_6_an_erase_forgets_the_user_and_keeps_the_sums(seed: int) -> None:
    world, events, user = played(seed)
    now_ms = max(event.event_ts_ms for event in events) + 1
    items = {key: dict(fields) for key, fields in world.items.store.fields.items()}
    sums = {k: dict(f) for k, f in world.users.store.fields.items() if k.startswith("#stats")}
    others = {k: dict(f) for k, f in world.users.store.fields.items() if k[:1] not in "#" and k != user}
    assert world.fields(user)
    assert user in world.rows_of_users()
    told(world, Erase(user_id=user, sessions=(), job=JOB), now_ms)
    n_outputs = len(world.users.outputs)
    assert not world.fields(user)
    assert user not in world.users.store.due
    assert user not in world.rows_of_users()
    for key, fields in others.items():
        assert world.fields(key) == fields, key
    assert {k: f for k, f in world.users.store.fields.items() if k.startswith("#stats")} == sums
    assert world.items.store.fields == items
    left = {key: fields for key, fields in world.users.store.fields.items() if fields}
    assert user not in repr(left)
    # What comes late or again of before stays out, and so does the request.
    for event in [each for each in events if each.user_id == user][-30:]:
        world.send(event, now_ms + 1)
    told(world, Erase(user_id=user, sessions=(), job=JOB), now_ms + 2)
    world.tick(now_ms + 10 * 86_400_000)
    assert not world.fields(user)
    assert all(user.encode() not in output.value for output in world.users.outputs[n_outputs:])


def test_OPS_6_the_user_may_come_back_as_a_new_one() -> None:
    world, events, user = played(4)
    now_ms = max(event.event_ts_ms for event in events) + 1
    told(world, Erase(user_id=user, sessions=(), job=JOB), now_ms)
    first = Event(event_id="new", type=EventType.EVENT_TYPE_CLICK, user_id=user, item_id="i1", event_ts_ms=now_ms + 5)
    world.send(first)
    fresh = World(Settings())
    for item in range(12):
        fresh.catalogue.put(f"i{item}", f"c{item % 4}")
    fresh.send(first)
    assert world.fields(user) == fresh.fields(user)
    told(world, Erase(user_id=user, sessions=(), job=JOB), now_ms + 9)  # the same request again
    assert world.fields(user) == fresh.fields(user)
    told(world, Erase(user_id=user, sessions=(), job="ff" * 8), now_ms + 9)  # another one
    assert not world.fields(user)


def test_OPS_6_erased_keys_are_kept_for_a_week() -> None:
    keys = ErasedKeys({})
    keys.add([id_hash("u1")], 1_000, 7, JOB, 1_000)
    again = ErasedKeys(keys.dirty())
    assert again.knows(JOB)
    assert again.jobs() == {JOB: 7}
    assert again.of_job(JOB) == ((id_hash("u1"),), 1_000)
    assert again.holds_back("u1", 1_000)
    assert not again.holds_back("u1", 1_001)
    assert again.gone_since("u1", 6)
    assert not again.gone_since("u1", 7)
    again.add([id_hash("u2")], 8 * 86_400_000, 9, "ff" * 8, 8 * 86_400_000)
    assert not again.knows(JOB)


@pytest.mark.parametrize(
    "command",
    [
        Erase(user_id="u", sessions=("s1", "s2"), job=JOB),
        Erased(keys=(1, -2), at_ms=3, job=JOB, path="archive/x", sha256="ab"),
        Void(),
    ],
)
def test_records_read_back(command: Erase | Erased | Void) -> None:
    assert parse_control(control(command)) == command


@pytest.mark.parametrize(
    "payload", [b'{"user_id":"","sessions":[],"job":"00"}', b"{}", b'{"user_id":"u","sessions":[]}']
)
def test_a_request_that_cannot_be_read_is_refused(payload: bytes) -> None:
    with pytest.raises(ContractError, match="bad_control"):
        parse_control(Control(kind="erase", payload=payload))
    assert ERASED_KEY[0] == "#"


def test_pairs_that_a_login_took_back_stay_taken_back(tmp_path: Path) -> None:
    """A session's pairs and their opposites at its login: the file of its erase must leave nothing of them."""
    rng = random.Random(8)
    effects_told: list[ItemEffect] = []
    live = Neighbours({})
    pairs = [(rng.choices(range(200), k=3), [rng.random() for _ in range(3)], START_MS + at) for at in range(40)]
    for sign in (1, -1):
        for others, weights, ts_ms in pairs[: 40 if sign > 0 else 30]:
            signed = [sign * weight for weight in weights][::sign]
            effects_told.append(ItemEffect.FromString(item_pairs("i1", others[::sign], signed, ts_ms)))
            live.add(others[::sign], signed, ts_ms)
    path = tmp_path / "left.parquet"
    effects = dict(staged(path, write_left(path, effects_told, {ERASED_KEY: {b"e": b""}})))["i:i1"]
    redone = Neighbours({})
    for _, packed in sorted(effects.items()):
        each = ItemEffect.FromString(packed).pairs
        redone.add(each.other_hashes, each.weights, each.event_ts_ms)
    has, expected = (decode(each.dirty().values(), START_MS) for each in (redone, live))
    assert len(expected[0])
    assert has[0].tolist() == expected[0].tolist()
    assert has[1] == pytest.approx(expected[1], rel=1e-9)
