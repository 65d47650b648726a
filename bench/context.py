"""RNK-13: what the context of a request is worth to heads and bandit, in simulated worlds where taste depends on it.

`python -m bench.context`. In these worlds a kind does better or worse by time of day and device. A recorded past is
folded by the same code as the stream workers; heads are trained on its first slates, the bandit's statistics on later
ones; then requests at the end of the past are ranked, with context and with context held back from training and
serving alike, and judged by the true click probabilities: NDCG@10 of 100 random items. The bandit is the hybrid
posterior per category, whose coefficients of the hour differ from kind to kind; it stands on heads that know no
context. The heads' own gain is reported without a bound: it is small after so short a past. Null worlds, where context
moves nothing, must show no gain. Last line: one JSON object (bench/README.md).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bandits.arms import ArmPartials
from bandits.hybrid import HybridPosterior, HybridPrior
from bench.report import Figure, finish, table
from evaluation.intervals import Interval, bootstrap
from evaluation.simulator import World, WorldParams, history
from evaluation.simulator.utility import tune
from features.apply import repo_program
from features.program import FeatureProgram
from features.state.params import StateParams
from liverank.settings import RankerSettings, Settings
from liverank.v1.event_pb2 import EventType
from liverank.v1.stream_pb2 import Example
from ranker.affinity import affinities
from ranker.columns import INDEX, build
from ranker.phi import DIM, NAMES, SOURCES, phi
from ranker.retrieval import co_occurrence
from ranker.training.dataset import Dataset, with_shown
from ranker.training.heads import BoosterParameters, train_heads
from ranker.training.history import chosen, in_order
from ranker.training.memory import Memory

Floats = NDArray[np.float64]
START_MS, DAY_MS = 1_750_000_000_000, 86_400_000
CONTEXT = ("crosses:hour_sin", "crosses:hour_cos", "crosses:weekend", "crosses:device")
PHI_CONTEXT = ("hour_sin", "hour_cos", "weekend")
N_CANDIDATES, K = 100, 10
HEADS_UNTIL, BANDIT_UNTIL = 0.5, 0.85
"""Shares of the past, by time: what heads learn from, what the bandit learns from after them, what is judged."""
_SERVED = RankerSettings()
PRIOR = HybridPrior(shared_sd=_SERVED.prior_sd, arm_sd=_SERVED.arm_sd, noise_sd=_SERVED.noise_sd)
"""That of the policies `thompson_hybrid` and `linucb_hybrid` by default."""
FIRST_SEED = 10


@dataclass
class Rows:
    """Feature rows of slates: shown ones with clicks, or candidates with their true click probabilities."""

    x: list[NDArray[np.float32]]
    kinds: list[list[str]]
    truth: list[Floats]
    users: list[str]
    at_ms: list[int]


@cache
def program() -> FeatureProgram:
    """The shipped feature program."""
    with tempfile.TemporaryDirectory() as home:
        return repo_program(Settings(home=Path(home)))


def world_of(seed: int, strength: float, n_users: int) -> World:
    """A world in which context counts `strength` times as much as by default; 0 = not at all."""
    world = World.build(WorldParams(seed=seed, n_items=400, n_users=n_users, sessions_per_user=9.0), START_MS)
    utility = replace(world.utility, affinity=strength * world.utility.affinity)
    return replace(world, utility=tune(utility, START_MS + 30 * DAY_MS))


def walk(world: World, n_slates: int, n_judged: int) -> tuple[Rows, Rows]:
    """Fold the past of a world; rows of shown slates, and of requests that are judged."""
    events = in_order(history(world))
    exposures = [event for event in events if event.type == EventType.EVENT_TYPE_EXPOSURE]
    begin, end = events[0].event_ts_ms, events[-1].event_ts_ms
    judged_from = begin + BANDIT_UNTIL * (end - begin)
    warm = begin + 0.1 * (end - begin)
    learnable = [e.event_id for e in exposures if warm <= e.event_ts_ms < judged_from - 3_600_000]
    wanted = chosen(learnable, n_slates)
    judged = chosen([e.event_id for e in exposures if e.event_ts_ms >= judged_from], n_judged)
    clicks: dict[tuple[str, int], float] = {}

    def label(example: Example) -> None:
        clicks[example.request_id, example.position] = example.outcomes["click"]

    items = {item.item_id: item for item in world.catalogue.items}
    memory = Memory(program=program(), params=StateParams(), items=items, vectors={}, space="", on_example=label)
    rng = np.random.default_rng([world.params.seed, 61])
    shown, asked = Rows([], [], [], [], []), Rows([], [], [], [], [])
    slates: list[tuple[str, int]] = []
    for event in events:
        if event.event_id in wanted or event.event_id in judged:
            memory.advance(event.event_ts_ms)
            items_of = [slot.item_id for slot in event.exposure.slots]
            rows, into = shown, wanted
            if event.event_id in judged:
                rows, into = asked, judged
                live = world.live_rows(event.event_ts_ms)
                picked = np.sort(rng.choice(live, N_CANDIDATES, replace=False))
                items_of = [world.catalogue.items[row].item_id for row in picked]
                user = world.population.user(event.user_id)
                rows.truth.append(world.utility.click_probability(user, picked, event.event_ts_ms))
            else:
                slates.append((event.event_id, len(items_of)))
            assert event.event_id in into
            found = memory.refresh()
            seen = memory.user(event.user_id, event.event_ts_ms)
            affinity = affinities(seen, found, event.event_ts_ms)
            places = np.array([found.row_of(item) for item in items_of], dtype=np.int32)
            scores = co_occurrence(affinity, found).of(places)
            rows.x.append(
                build(
                    seen, found, places, context=event.context, as_of_ms=event.event_ts_ms, scores=scores,
                    affinity=affinity,
                )
            )  # fmt: skip
            rows.kinds.append([items[item].categories[0] for item in items_of])
            rows.users.append(event.user_id)
            rows.at_ms.append(event.event_ts_ms)
        memory.observe(event)
    memory.close()
    shown.truth = [np.array([clicks.get((r, at), 0.0) for at in range(1, n + 1)]) for r, n in slates]
    return shown, asked


def without(x: NDArray[np.float32], names: Sequence[str], index: Callable[[str], int]) -> NDArray[np.float32]:
    """Rows that know nothing of some columns."""
    out = x.copy()
    out[:, [index(name) for name in names]] = 0.0
    return out


def predict_click(shown: Rows, n_first: int, held_back: Sequence[str]) -> Callable[[NDArray[np.float32]], Floats]:
    """Train a click head on the first slates; gives P(click) of rows."""
    import lightgbm

    x = np.concatenate(shown.x[:n_first])
    sizes = [len(one) for one in shown.x[:n_first]]
    ts_ms = np.repeat(np.array(shown.at_ms[:n_first], dtype=np.int64), sizes)
    slot = np.concatenate([np.arange(1, size + 1, dtype=np.int32) for size in sizes])
    rows = without(with_shown(x, slot, ts_ms, int(ts_ms.max())), held_back, INDEX.__getitem__)
    data = Dataset(
        kind="exposures",
        X=rows,
        labels={"click": np.concatenate(shown.truth[:n_first]).astype(np.float32)},
        group=np.repeat(np.arange(n_first), sizes),
        ts_ms=ts_ms,
    )
    trained = train_heads(data.blocks(), ("click",), {"click": 1.0}, BoosterParameters())
    booster = lightgbm.Booster(model_str=trained.files["click.txt"].decode())
    calibration = trained.calibration["click"]

    def predict(x: NDArray[np.float32]) -> Floats:
        raw = np.asarray(booster.predict(without(x, held_back, INDEX.__getitem__), raw_score=True), dtype=np.float64)
        return calibration.apply(raw)

    return predict


def learn(
    shown: Rows, n_first: int, predict: Callable[[NDArray[np.float32]], Floats]
) -> tuple[HybridPosterior, HybridPosterior]:
    """The bandit's statistics per kind from the slates after the first, with context and without: residuals of the
    heads at the slots shown.
    """
    arms = ArmPartials(DIM, 1), ArmPartials(DIM, 1)
    for x, kinds, clicks in zip(shown.x[n_first:], shown.kinds[n_first:], shown.truth[n_first:], strict=True):
        slots = with_shown(x, np.arange(1, len(x) + 1, dtype=np.int32), np.zeros(len(x), np.int64), 0)
        residual = clicks - predict(slots)
        for one, held_back in zip(arms, ((), PHI_CONTEXT), strict=True):
            features = phi_without(x, kinds, held_back)
            for at, kind in enumerate(kinds):
                one.shown(kind, features[at], [residual[at]])
    with_context, plain = (HybridPosterior(one.statistics(), [1.0], PRIOR, DIM) for one in arms)
    return with_context, plain


def phi_without(x: NDArray[np.float32], kinds: Sequence[str], held_back: Sequence[str]) -> Floats:
    """Bandit features that know nothing of some names."""
    found_by = np.zeros((len(x), len(SOURCES)), dtype=np.bool_)
    return without(phi(x, kinds, found_by), held_back, NAMES.index).astype(np.float64)


def ndcg(score: Floats, gains: Floats) -> float:
    """NDCG@10 with the true click probability as gain."""
    discount = 1.0 / np.log2(2.0 + np.arange(K))
    best = np.sort(gains)[::-1][:K] @ discount
    return float(gains[np.argsort(-score, kind="stable")[:K]] @ discount / best)


def play(world: World, n_slates: int, n_judged: int) -> dict[str, list[float]]:
    """NDCG@10 of each judged request, by what knew the context."""
    shown, asked = walk(world, n_slates, n_judged)
    split = START_MS + HEADS_UNTIL * 60 * DAY_MS
    n_first = int(np.searchsorted(np.array(shown.at_ms), split))
    told, untold = predict_click(shown, n_first, ()), predict_click(shown, n_first, CONTEXT)
    with_context, plain = learn(shown, n_first, untold)
    out: dict[str, list[float]] = {name: [] for name in ("heads", "heads without", "bandit", "bandit without")}
    for x, kinds, truth in zip(asked.x, asked.kinds, asked.truth, strict=True):
        base = untold(x)
        out["heads"].append(ndcg(told(x), truth))
        out["heads without"].append(ndcg(base, truth))
        out["bandit"].append(ndcg(base + with_context.of(kinds).mean(phi_without(x, kinds, ())), truth))
        out["bandit without"].append(ndcg(base + plain.of(kinds).mean(phi_without(x, kinds, PHI_CONTEXT)), truth))
    out["users"] = [float(user.removeprefix("user-")) for user in asked.users]
    return out


def main() -> int:
    """Play, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="worlds with context")
    parser.add_argument("--null-seeds", type=int, default=3, help="worlds without")
    parser.add_argument("--users", type=int, default=800)
    parser.add_argument("--slates", type=int, default=6_000, help="slates that are learned from")
    parser.add_argument("--judged", type=int, default=600, help="requests that are judged in each world")
    parser.add_argument("--strength", type=float, default=2.0, help="how much context counts; the demo's worlds: 1")
    args = parser.parse_args()
    figures: dict[str, Figure] = {"seeds": args.seeds, "strength": args.strength}
    lines: list[list[object]] = []
    for name, strength, n_seeds in (("context", args.strength, args.seeds), ("null", 0.0, args.null_seeds)):
        seeds = range(FIRST_SEED, FIRST_SEED + n_seeds)
        found = [play(world_of(seed, strength, args.users), args.slates, args.judged) for seed in seeds]
        clusters = [(seed, user) for seed, one in enumerate(found) for user in one["users"]]
        for who in ("heads", "bandit"):
            knows = np.concatenate([one[who] for one in found])
            knows_not = np.concatenate([one[f"{who} without"] for one in found])
            gain: Interval = bootstrap(knows - knows_not, clusters=clusters)
            figures[f"{name}_{who}"] = {
                "ndcg10_with": round(float(knows.mean()), 4),
                "ndcg10_without": round(float(knows_not.mean()), 4),
                "gain": round(gain.estimate, 4),
                "gain_low": round(gain.low, 4),
                "gain_high": round(gain.high, 4),
            }
            means = float(knows.mean()), float(knows_not.mean())
            lines.append([f"{name}, {who}", *means, gain.estimate, gain.low, gain.high])
    sys.stdout.write(table(["world", "with", "without", "gain", "low", "high"], lines) + "\n")
    return finish(
        "context",
        figures,
        {"context_bandit.gain_low": (">=", 0.0), "null_bandit.gain_low": ("<=", 0.0)},
    )


if __name__ == "__main__":
    sys.exit(main())
