"""Events for tests: builders, and whole scenes from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence

from features.program import FeatureProgram
from liverank.v1.event_pb2 import Event, EventType
from tests.recount import check
from tests.recount.expected import Logged, Recount
from tests.recount.program import PROGRAM
from tests.recount.world import Catalogue, World

START_MS = 1_700_000_000_000
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
N_ITEMS = 12
ACTIONS = (1, 2, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12)


def catalogue(n_items: int = N_ITEMS) -> Catalogue:
    """Items `i0`, `i1`, ... in four categories."""
    found = Catalogue()
    for item in range(n_items):
        found.put(f"i{item}", f"c{item % 4}")
    return found


def action(
    event_id: str,
    kind: int | str,
    ts_ms: int,
    item: int | str | None = None,
    *,
    user: str = "u",
    value: float = 0.0,
    request_id: str = "",
    position: int = 0,
) -> Event:
    """An event of a user."""
    number = kind if isinstance(kind, int) else EventType.Value(f"EVENT_TYPE_{kind.upper()}")
    item_id = f"i{item}" if isinstance(item, int) else item or ""
    return Event(
        event_id=event_id,
        type=number,  # type: ignore[arg-type]
        user_id=user,
        item_id=item_id,
        event_ts_ms=ts_ms,
        value=value,
        request_id=request_id,
        position=position,
        surface="home",
    )


def exposure(
    request_id: str,
    ts_ms: int,
    items: Sequence[int],
    *,
    user: str = "u",
    drawn: bool = True,
    seed: int = 0,
    heads: Sequence[str] = ("click", "dismiss", "like"),
) -> Event:
    """A slate that was shown."""
    rng = random.Random(f"{request_id}{seed}")
    event = Event(
        event_id=request_id, type=EventType.EVENT_TYPE_EXPOSURE, user_id=user, event_ts_ms=ts_ms, surface="home"
    )
    slate = event.exposure
    slate.policy, slate.arm, slate.base_model, slate.schema, slate.drawn = "thompson", "a", "model", "schema", drawn
    slate.heads.extend(heads)
    for item in items:
        slate.slots.add(
            item_id=f"i{item}",
            propensity=rng.uniform(0.1, 1.0),
            p_shown=[rng.random() for _ in heads],
            p_first=[rng.random() for _ in heads],
            phi=[rng.uniform(-1, 1) for _ in range(3)],
            catalogue_version=item,
        )
    # Every third slate is kept per category, every fourth for the logistic posterior too.
    told = rng.randrange(12)
    slate.statistics.extend([1] * (told % 3 == 0) + [2] * (told % 4 == 0) + [3] * (told % 2 == 0))
    for slot, item in zip(slate.slots, items, strict=True):
        slot.category = f"kind{item % 3}" if item % 5 and slate.statistics else ""
    return event


def scene(
    rng: random.Random, n: int, span_ms: int, *, users: int = 2, exposures: float = 0.15, ties: float = 0.1
) -> list[Event]:
    """Events over `span_ms` in the order of their times; some outcomes name a request, some times repeat."""
    events: list[Event] = []
    shown: list[Event] = []
    times = sorted(START_MS + rng.randrange(span_ms) for _ in range(n))
    for at, ts_ms in enumerate(times):
        if at and rng.random() < ties:
            ts_ms = times[at - 1]
        user = f"u{rng.randrange(users)}"
        if rng.random() < exposures:
            event = exposure(f"r{at}", ts_ms, rng.sample(range(N_ITEMS), rng.randint(1, 6)), user=user)
            shown.append(event)
        else:
            kind = rng.choice(ACTIONS) if rng.random() < 0.93 else rng.choice((8, 13, 14))
            request_id, position, item = "", 0, rng.randrange(N_ITEMS)
            mine = [each for each in shown if each.user_id == user]
            if mine and kind < 13 and kind != 8 and rng.random() < 0.6:
                slate = rng.choice(mine[-3:])
                slot = rng.randrange(len(slate.exposure.slots))
                item = int(slate.exposure.slots[slot].item_id[1:])
                if rng.random() < 0.6:
                    request_id, position = slate.event_id, slot + 1
            event = action(
                f"e{at}",
                kind,
                ts_ms,
                None if kind in (8, 13, 14) else item,
                user=user,
                value=rng.random() if kind == 14 else rng.choice((1.0, 4.0, 8.0, 45.0)) if kind in (3, 6) else 0.0,
                request_id=request_id,
                position=position,
            )
            if kind == 6:
                event.value = rng.choice((2.0, 5.0, 9.0))
        events.append(event)
    return events


def play(
    log: Sequence[Logged],
    *,
    crash_rate: float = 0.0,
    write_rate: float = 1.0,
    seed: int = 0,
    items: Catalogue | None = None,
    program: FeatureProgram = PROGRAM,
) -> World:
    """Fold a log."""
    world = World(
        catalogue=items or catalogue(), crash_rate=crash_rate, write_rate=write_rate, seed=seed, program=program
    )
    for event, append_ts_ms in log:
        if event is None:
            world.tick(append_ts_ms)
        else:
            world.send(event, append_ts_ms)
    world.flush()
    return world


def differences(
    world: World,
    log: Sequence[Logged],
    as_of_ms: int,
    *,
    later_ms: Sequence[int] = (),
    program: FeatureProgram = PROGRAM,
    labels: bool = True,
) -> list[str]:
    """Name every difference between a world and the recount of its log, read at `as_of_ms` and again at each of
    `later_ms`; `labels` False leaves out rows and sums.
    """
    params = world.users.fold._params  # type: ignore[attr-defined]
    recount = Recount(world.catalogue, params)
    recount.add_partition(log)
    found: list[str] = []
    for now_ms in (as_of_ms, *later_ms):
        for user_id, count in recount.users.items():
            found += check.user_differences(
                user_id, count, world.fields(user_id), program, now_ms, params.session_timeout_ms
            )
        # What was counted and all taken back leaves a state of zeros.
        for item_id in sorted(set(recount.items) | set(world.items.store.fields)):
            item_count = recount.items[item_id]
            found += check.item_differences(
                item_id, item_count, world.item_fields(item_id), program, now_ms, params.signals
            )
    if labels:
        found += check.example_differences(recount, world.examples())
        found += check.statistics_differences(recount, partials(world))
    dead = [letter for letter in world.dead_letters() if letter.reason == "beyond_dedup_horizon"]
    if len(dead) != len(recount.beyond):
        found.append(f"dead letters: got {len(dead)}, wanted {len(recount.beyond)}")
    return found


def partials(world: World) -> dict[tuple[str, ...], check.Sums]:
    """The bandit's sums by (base model, schema), per category and logistic ones beside them."""
    found: dict[tuple[str, ...], check.Sums] = {}
    for key, fields in world.users.store.fields.items():
        if key.startswith("#stats:"):
            _, model, schema = key.split(":")
            texts = {name.decode(): data for name, data in fields.items()}
            found |= check.kept_sums(model, schema, texts)
    return found
