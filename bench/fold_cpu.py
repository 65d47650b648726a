"""CPU of the pure user and item folds, step by step, without Kafka and Redis: `python -m bench.fold_cpu`.

Users are made mature first (the dedup table is full), then a measured load of events and exposures is folded in polls.
Last line: one JSON object with microseconds of CPU per event.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ParamSpec, TypeVar

from bench.report import finish, table
from liverank.kafka import Record
from liverank.v1.event_pb2 import Event, EventType
from liverank.v1.stream_pb2 import ItemEffects
from streams.calls import Call
from streams.fold import Fold, Parsed
from streams.partition_fold import PartitionFold
from tests.recount.program import PROGRAM
from tests.recount.world import World

P = ParamSpec("P")
T = TypeVar("T")
START_MS = 1_700_000_000_000
DAY_MS = 86_400_000
_T = EventType
#: What users do, by weight.
TYPES = [_T.EVENT_TYPE_IMPRESSION] * 2 + [_T.EVENT_TYPE_CLICK] * 4 + [_T.EVENT_TYPE_DWELL] * 2 + [
    _T.EVENT_TYPE_LIKE, _T.EVENT_TYPE_SAVE, _T.EVENT_TYPE_PURCHASE, _T.EVENT_TYPE_SKIP, _T.EVENT_TYPE_DISMISS,
]  # fmt: skip


class Clock:
    """CPU seconds by step."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    def run(self, step: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run and account."""
        start = time.thread_time()
        result = call(*args, **kwargs)
        self.spent[step] = self.spent.get(step, 0.0) + time.thread_time() - start
        return result


def make(
    rng: random.Random, n: int, n_users: int, n_items: int, start_ms: int, gap_ms: int, share: float
) -> list[Event]:
    """Events of Zipf-like items over even users; a share of exposures with 20 slots."""
    events = []
    for at in range(n):
        ts_ms = start_ms + at * gap_ms
        user_id = f"user-{rng.randrange(n_users)}"
        if rng.random() < share:
            event = Event(
                event_id=f"r-{start_ms}-{at}", type=EventType.EVENT_TYPE_EXPOSURE, user_id=user_id, event_ts_ms=ts_ms
            )
            slate = event.exposure
            slate.policy, slate.base_model, slate.schema, slate.drawn = "thompson", "m" * 16, "s" * 8, True
            slate.heads.extend(["click", "dismiss"])
            for item in rng.sample(range(n_items), 20):
                slate.slots.add(
                    item_id=f"item-{item}",
                    propensity=0.5,
                    p_shown=[0.2, 0.1],
                    p_first=[0.3, 0.1],
                    phi=[rng.random() for _ in range(24)],
                )
        else:
            event = Event(
                event_id=f"e-{start_ms}-{at}",
                type=rng.choice(TYPES),
                user_id=user_id,
                item_id=f"item-{int(n_items * rng.random() ** 3)}",
                event_ts_ms=ts_ms,
                value=rng.random() * 40,
                surface="home",
            )
        events.append(event)
    return events


def parse(fold: Fold, poll: Sequence[Record]) -> list[Parsed]:
    """The records of a poll, parsed."""
    return [fold.parse(record) for record in poll]


def apply(partition: PartitionFold, poll: Sequence[Record], parsed: Sequence[Parsed]) -> None:
    """Fold a poll."""
    for record, body in zip(poll, parsed, strict=True):
        partition.feed(record, body)


def public_rows(fold: Fold, calls: Sequence[Call]) -> None:
    """Make the rows that readers see."""
    for call in calls:
        for key, fields in call.pages.items():
            public = {name: page for name, page in fields.items() if name[:1] != b"_" or key[:1] == "#"}
            fold.rows(key, public, call.states[key], call.version)


def seal(calls: Sequence[Call]) -> None:
    """Put the outputs of calls together."""
    for call in calls:
        call.seal()


def parse_and_apply(fold: Fold, partition: PartitionFold, records: Sequence[Record]) -> None:
    """Fold records and close the call."""
    apply(partition, records, parse(fold, records))
    partition.close()


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--exposures", type=float, default=0.0, help="share of exposures among the events")
    parser.add_argument("--warm", type=int, default=700, help="events per user before measuring")
    parser.add_argument("--poll", type=int, default=200)
    parser.add_argument(
        "--gap-ms", type=int, default=500, help="between events of the measured load, all users together"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-categories", action="store_true", help="leave out the (user, category) view")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    views = [view for view in PROGRAM.views if not (options.no_categories and view.entity == "user_category")]
    world = World(write_rate=0.02, program=replace(PROGRAM, views=tuple(views)))
    for item in range(options.items):
        world.catalogue.put(f"item-{item}", f"category-{item % 40}")
    n_warm = options.users * options.warm
    for event in make(rng, n_warm, options.users, options.items, START_MS, 7 * DAY_MS // n_warm, 0.0):
        world.send(event)
    world.flush()
    world.users.outputs.clear()
    events = make(
        rng, options.events, options.users, options.items, START_MS + 7 * DAY_MS, options.gap_ms, options.exposures
    )
    records = [
        Record("events.1", 0, n_warm + at, b"", event.SerializeToString(), (), event.event_ts_ms)
        for at, event in enumerate(events)
    ]
    clock, users, items = Clock(), world.users, world.items
    profile = cProfile.Profile()
    n_effects, state_bytes = 0, 0
    for first in range(0, len(records), options.poll):
        poll = records[first : first + options.poll]
        parsed = clock.run("users: parse", parse, users.fold, poll)
        if options.profile:
            profile.enable()
        clock.run("users: apply", apply, users.partition, poll, parsed)
        clock.run("users: dirty, close", users.partition.close)
        profile.disable()
        calls = list(users.partition.calls)
        state_bytes += sum(call.size_bytes for call in calls)
        clock.run("users: rows", public_rows, users.fold, calls)
        clock.run("users: seal", seal, calls)
        users.partition.calls.clear()
        effects = [output.value for call in calls for output in call.outputs if output.topic == "item-effects"]
        n_effects += sum(len(ItemEffects.FromString(value).effects) for value in effects)
        packed = [
            Record("item-effects.1", 0, world._effects_offset + at, None, value, (), 0)
            for at, value in enumerate(effects)
        ]
        world._effects_offset += len(effects)
        clock.run("items: parse, apply, dirty", parse_and_apply, items.fold, items.partition, packed)
        clock.run("items: rows", public_rows, items.fold, list(items.partition.calls))
        items.partition.calls.clear()
    n = len(records)
    steps = {step: seconds / n * 1e6 for step, seconds in clock.spent.items()}
    sys.stdout.write(table(("step", "CPU us an event"), list(steps.items())) + "\n")
    if options.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(28)
    figures = {
        "events": n,
        "us_per_event": sum(steps.values()),
        "steps_us": steps,
        "effects_per_event": n_effects / n,
        "state_bytes_per_event": state_bytes / n,
    }
    return finish("fold_cpu", figures, {})


if __name__ == "__main__":
    sys.exit(main())
