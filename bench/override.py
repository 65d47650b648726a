"""FEA-5: what the user's own day is worth: live user features against the snapshot of the last midnight, one model.

    python -m bench.override [--seeds 3] [--data ../shared/data/movietweetings-100k]

One model is trained on live rows, as serving does. Then requests at the end of the log are ranked twice with it: with
the user's row as it is, and with the row that a nightly job would have left at the last midnight (UTC); items and the
clock are those of the request both times. Simulated worlds: 100 random items, gains are the true click probabilities.
Recorded ratings (left out where the folder is missing): 1,000 retrieved films, the one gain is the film rated next.
NDCG@10, paired, bootstrap over users.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.context import N_CANDIDATES, START_MS, ndcg, program
from bench.report import Figure, finish, table
from evaluation.datasets import load
from evaluation.intervals import paired
from evaluation.simulator import World, WorldParams, history
from features.item_table import ItemTable
from features.state.params import StateParams
from features.user_row import UserRow
from liverank.v1.event_pb2 import Event, EventType
from liverank.v1.item_pb2 import Item
from liverank.v1.stream_pb2 import Example
from ranker.affinity import affinities
from ranker.columns import build
from ranker.models.booster import BoosterModel
from ranker.retrieval import IndexSettings, Query, VectorIndex, retrieve, standard_sources
from ranker.training.dataset import Dataset
from ranker.training.history import Sampling, choice_dataset, chosen, exposure_dataset, in_order
from ranker.training.memory import Memory
from ranker.training.package import build as build_model
from ranker.user_states import DEFAULT_STATES

Floats = NDArray[np.float64]
Rows = NDArray[np.int32]
DAY_MS = 86_400_000
TRAINED_UNTIL = 0.85
"""Share of the log that the model learns from; requests after it are judged."""
WEIGHTS = {"click": 1.0, "dismiss": -2.0}
K = 10


@dataclass
class Judged:
    """NDCG@10 of the same requests, by live rows and by those of midnight."""

    live: list[float] = field(default_factory=list)
    nightly: list[float] = field(default_factory=list)
    users: list[object] = field(default_factory=list)
    changed: list[bool] = field(default_factory=list)


class Snapshots:
    """Rows of the users that will be judged, as midnight left them."""

    def __init__(self, judged: Sequence[Event]) -> None:
        self._wanted: dict[int, set[str]] = defaultdict(set)
        for event in judged:
            self._wanted[_midnight(event)].add(event.user_id)
        self._rows: dict[tuple[int, str], UserRow] = {}
        self._next = iter(sorted(self._wanted))
        self._due = next(self._next, None)

    def before(self, event: Event, memory: Memory) -> None:
        """Take the snapshots of every midnight that passes before `event` is folded."""
        while self._due is not None and event.event_ts_ms >= self._due:
            memory.advance(self._due)
            memory.refresh()
            for user in sorted(self._wanted[self._due]):
                self._rows[self._due, user] = memory.user(user, self._due)
            self._due = next(self._next, None)

    def of(self, event: Event) -> UserRow:
        """The user's row as of the midnight before the event."""
        return self._rows[_midnight(event), event.user_id]


def _midnight(event: Event) -> int:
    return event.event_ts_ms - event.event_ts_ms % DAY_MS


def acted_today(live: UserRow, event: Event) -> bool:
    """Whether the user's history holds something since midnight."""
    return bool((live.history["event_ts_ms"] >= _midnight(event)).any())


def memory_of(items: Sequence[Item], on_example: Callable[[Example], None] = lambda _: None) -> Memory:
    """Nothing folded yet; no vectors."""
    known = {item.item_id: item for item in items}
    return Memory(program=program(), params=StateParams(), items=known, vectors={}, space="", on_example=on_example)


def score(model: BoosterModel, user: UserRow, found: ItemTable, rows: Rows, event: Event) -> Floats:
    """The first head's probabilities, as served at slot 1."""
    affinity = affinities(user, found, event.event_ts_ms)
    query = Query(
        user=user, affinity=affinity, table=found, as_of_ms=event.event_ts_ms, allowed=np.ones(len(found), np.bool_)
    )
    X = build(
        user, found, rows, context=event.context, as_of_ms=event.event_ts_ms, scores=query.met.of(rows),
        affinity=affinity,
    )  # fmt: skip
    return np.asarray(model.predict(X, np.ones(len(X), np.int32))[:, 0], dtype=np.float64)


def judge(
    model: BoosterModel, memory: Memory, event: Event, nightly: UserRow, rows: Rows, gains: Floats, into: Judged
) -> None:
    """Rank one request both ways."""
    found = memory.refresh()
    live = memory.user(event.user_id, event.event_ts_ms)
    into.live.append(ndcg(score(model, live, found, rows, event), gains))
    into.nightly.append(ndcg(score(model, nightly, found, rows, event), gains))
    into.users.append(event.user_id)
    into.changed.append(acted_today(live, event))


def judged_walk(memory: Memory, events: Sequence[Event], wanted: set[str]) -> Iterator[tuple[Event, UserRow]]:
    """Fold events, and stop before each of those that are judged."""
    snapshots = Snapshots([event for event in events if event.event_id in wanted])
    for event in events:
        snapshots.before(event, memory)
        if event.event_id in wanted:
            memory.advance(event.event_ts_ms)
            yield event, snapshots.of(event)
        memory.observe(event)


def simulated(seed: int, n_judged: int) -> Judged:
    """One world: train on the first part of its past, judge requests of the rest."""
    params = WorldParams(seed=seed, n_items=600, n_users=400, sessions_per_user=12.0)
    world = World.build(params, START_MS)
    events = in_order(history(world))
    cut = int(TRAINED_UNTIL * len(events))
    items = world.catalogue.items
    model = trained(exposure_dataset(partial(memory_of, items), events[:cut], tuple(WEIGHTS), Sampling(slates=4_000)))
    wanted = chosen([e.event_id for e in events[cut:] if e.type == EventType.EVENT_TYPE_EXPOSURE], n_judged)
    rng = np.random.default_rng([seed, 67])
    out, memory = Judged(), memory_of(items)
    for event, nightly in judged_walk(memory, events, wanted):
        live = np.sort(rng.choice(world.live_rows(event.event_ts_ms), N_CANDIDATES, replace=False))
        user = world.population.user(event.user_id)
        gains = world.utility.click_probability(user, live, event.event_ts_ms)
        found = memory.refresh()
        rows = np.array([found.row_of(f"item-{row}") for row in live], dtype=np.int32)
        judge(model, memory, event, nightly, rows, gains, out)
    return out


def recorded(folder: Path, n_judged: int) -> Judged:
    """Recorded ratings: films rated next, among those that retrieval proposes."""
    data = load(folder)
    items = [change.upsert for change in data.items]
    events = in_order(data.events)
    cut = int(TRAINED_UNTIL * len(events))
    sources = standard_sources(VectorIndex(IndexSettings(exact_below=1 << 31)), keep=False)
    model = trained(choice_dataset(memory_of(items), events[:cut], "click", Sampling(slates=3_000), sources))
    wanted = chosen([e.event_id for e in events[cut:]], n_judged)
    out, memory = Judged(), memory_of(items)
    for event, nightly in judged_walk(memory, events, wanted):
        found, as_of_ms = memory.refresh(), event.event_ts_ms
        live = memory.user(event.user_id, as_of_ms)
        affinity = affinities(live, found, as_of_ms)
        state = next(each for each in reversed(DEFAULT_STATES) if affinity.n_entries >= each.at_least)
        query = Query(
            user=live, affinity=affinity, table=found, as_of_ms=as_of_ms, allowed=found.available[: len(found)].copy()
        )
        share = 1_000 / sum(state.quotas.values())
        quotas = {name: max(1, round(share * quota)) for name, quota in state.quotas.items()}
        rows = retrieve(sources, query, quotas, 1_000).rows
        gains = (rows == found.rows[event.item_id]).astype(np.float64)
        if gains.any():
            judge(model, memory, event, nightly, rows, gains, out)
        else:
            out.live.append(0.0)
            out.nightly.append(0.0)
            out.users.append(event.user_id)
            out.changed.append(acted_today(live, event))
    return out


def trained(data: Dataset) -> BoosterModel:
    """A model of the shipped columns."""
    package = build_model(data, weights=WEIGHTS, space="")
    with tempfile.TemporaryDirectory() as folder:  # nothing is compiled there: LightGBM itself predicts
        return BoosterModel(package.manifest, package.files, Path(folder))


def main() -> int:
    """Judge both ways, print the table and the JSON line."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    default = Path(os.environ.get("LIVERANK_DATA") or beside) / "movietweetings-100k"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="simulated worlds")
    parser.add_argument("--judged", type=int, default=1_000, help="requests that are judged in each log")
    parser.add_argument("--data", type=Path, default=default, help="recorded ratings")
    args = parser.parse_args()
    figures: dict[str, Figure] = {"seeds": args.seeds}
    bounds: dict[str, tuple[str, float | bool]] = {}
    lines: list[list[object]] = []
    worlds = Judged()
    for seed in range(20, 20 + args.seeds):
        one = simulated(seed, args.judged)
        worlds.live += one.live
        worlds.nightly += one.nightly
        worlds.changed += one.changed
        worlds.users += [(seed, user) for user in one.users]
    logs = {"simulated": worlds}
    if args.data.is_dir():
        logs["recorded"] = recorded(args.data, 2 * args.judged)
    for name, one in logs.items():
        gain = paired(one.live, one.nightly, clusters=one.users)
        figures[name] = {
            "requests": len(one.live),
            "with_events_since_midnight": round(float(np.mean(one.changed)), 3),
            "ndcg10_live": round(float(np.mean(one.live)), 4),
            "ndcg10_nightly": round(float(np.mean(one.nightly)), 4),
            "gain": round(gain.estimate, 4),
            "gain_low": round(gain.low, 4),
            "gain_high": round(gain.high, 4),
        }
        bounds[f"{name}.gain_low"] = (">=", 0.0001)
        lines.append([name, len(one.live), float(np.mean(one.changed)), float(np.mean(one.live)),
                      float(np.mean(one.nightly)), gain.estimate, gain.low, gain.high])  # fmt: skip
    heads = ["log", "requests", "events since midnight", "live", "nightly", "gain", "low", "high"]
    sys.stdout.write(table(heads, lines) + "\n")
    return finish("override", figures, bounds)


if __name__ == "__main__":
    sys.exit(main())
