"""Exploration on, off and uniform through liverank's own code, over rounds of a simulated world.

    python -m bench.system_loop [--seeds 12] [--null-seeds 6] [--rounds 20] [--requests 120]
                                [--worlds news null moving] [--ablations]
                                [--kept FOLDER] [--out FOLDER]

`bench.loop` asks the same of a small stand-in; here the ranker's pipeline, the folds, training and posterior are the
real ones (`bench.system_loop_stack` says which). A world's first days are imported history and train the first model.
Then come 45 days in rounds: users ask for slates, react, and at the end of each round the model is trained anew on
history and everything served, its bandit statistics are re-scored, and it serves. `on` is `thompson_doubt` with the
default settings, `off` is the kill switch (greed, no source `explore`; learning goes on), `uniform` is
`epsilon_greedy` over the same shortlist with the share that `on` explored in the same round. All arms see the same
users at the same times with the same luck. `thompson_doubt` also learns what each item earns beyond the heads, which
greed could do too: `--ablations` plays greed on that belief and uniform exploration on it. Rewards are expected clicks
a slot under the world's true probabilities, in the long run = the last ten rounds; intervals are two standard errors
over worlds (seeds).

The news world is one in which an item can be learned and what was learned can be used: some 70 items are on offer, each
for 18 days (eight rounds), nine new ones a round, so that an item is shown some 140 times in its life if all are shown
alike; 250 people; clicks come often, as in short video (KuaiRand: .44), and depend on a quality that content does not
tell (.8 log-odds a standard deviation). Portals choose among few articles of short life in the same way (Agarwal et
al., "Online Models for Content Optimization", NIPS 2008; Li et al., WWW 2010). The null world is the same without
arrivals, lives and drift, after twice the time. In the moving world there is little to earn by exploring: 40 people,
1,200 items of which six tenths appear over time (27 a round) and stay, so that an item is shown 17 times until the end;
the best possible click rate is .28, since at the default .35 clicks are all but certain or impossible in some small
worlds. Last line: one JSON object (bench/README.md).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.loop import Outcome, compare, interval
from bench.loop_system import gini, some_users
from bench.plots import draw_curves
from bench.report import Figure, finish, table
from bench.system_loop_stack import SURFACE, Past, Stack
from evaluation.simulator import Effects, World, WorldParams
from liverank.hot import HotSettings
from liverank.settings import RankerSettings
from ranker.training.errors import TooLittleDataError

Floats = NDArray[np.float64]
START_MS, DAY_MS = 1_757_000_000_000, 86_400_000
LOOP_DAYS = 45.0
LIFE_DAYS, N_ALIVE = 18.0, 70
"""Of the news world: life of an item, and items on offer at a time."""
HISTORY_DAYS = {"news": 15.0, "null": 30.0, "moving": 15.0}
HISTORY_SLATES = {"news": 2_400, "null": 4_000, "moving": 2_400}
ARMS = {"news": ("off", "on", "uniform"), "null": ("off", "on"), "moving": ("off", "on", "uniform")}
FOUND, LATE = 10, 5
"""Greedy exposures after which a new item is found; rounds that an item needs to have time to be found."""
EARNED = 3.0
"""Expected clicks, whoever chose the item, after which a new item has begun to earn."""
LONG_RUN = 10
"""Last rounds, whose reward is the long run's."""
GREEDY_SLOTS = RankerSettings().greedy_slots
OF_ARM = {
    "on": RankerSettings(arms={"thompson_doubt": 1.0}),
    "off": RankerSettings(arms={"thompson": 1.0}),
    "uniform": RankerSettings(arms={"epsilon_greedy": 1.0}, floor=0.0, explore_cap=1.0),
    "greed": RankerSettings(arms={"epsilon_greedy_items(epsilon=0)": 1.0}, floor=0.0, explore_candidates=0),
    "informed": RankerSettings(arms={"epsilon_greedy_items": 1.0}, floor=0.0, explore_cap=1.0),
}
ABLATIONS = ("greed", "informed")
"""On the belief that `on` has: greed, which explores nothing, and uniform exploration of the same share."""


@dataclass(frozen=True)
class Played(Outcome):
    """One arm in one world.

    Attributes
    ----------
    earned_after : ndarray, shape (n_good_new_items,)
        Rounds from publication until an item had `EARNED` clicks; the rounds that it had where it never did.
    """

    earned_after: Floats


def world_of(kind: str, seed: int) -> World:
    """A world of a kind, see the top."""
    effects = replace(Effects(), freshness=False, satiation=False)
    if kind == "moving":
        params = WorldParams(
            seed=seed,
            n_items=1_200,
            n_users=40,
            oracle_rate=0.28,
            published_share=0.4,
            sessions_per_user=150.0,
            effects=effects,
        )
        return World.build(params, START_MS)
    params = WorldParams(
        seed=seed,
        n_items=303,
        n_users=250,
        oracle_rate=0.24,
        popular_rate=0.19,
        published_share=LIFE_DAYS / (LIFE_DAYS + 60.0),
        sessions_per_user=24.0,
        quality_weight=0.8,
        life_days=LIFE_DAYS,
        effects=effects,
    )
    if kind == "null":
        still = replace(effects, drift=False)
        params = replace(params, n_items=N_ALIVE, published_share=1.0, life_days=None, effects=still)
    return World.build(params, START_MS)


def hot_of(arm: str, share: float) -> HotSettings:
    """Hot settings of an arm; `share` of all slots is what the uniform ones are to explore."""
    if arm == "off":
        return HotSettings(exploration=False)
    if arm in ("on", "greed"):
        return HotSettings()
    epsilon = min(1.0, share / (1.0 - GREEDY_SLOTS / 10))
    policy = "epsilon_greedy" if arm == "uniform" else "epsilon_greedy_items"
    return HotSettings(policies={"*/*": f"{policy}(epsilon={epsilon:.6f})"})


def play(
    past: Past,
    kind: str,
    arm: str,
    n_rounds: int,
    n_requests: int,
    explored: Floats | None,
    *,
    settings: RankerSettings | None = None,
) -> Played:
    """Run one arm; `explored` is the share a round that uniform ones are to explore, `settings` others than its own."""
    world = past.world
    seed, k = world.params.seed, world.params.slate
    behaviour, users = world.behaviour(), world.population.users
    begin_ms = world.start_ms + int(HISTORY_DAYS[kind] * DAY_MS)
    round_ms = int(LOOP_DAYS / n_rounds * DAY_MS)
    shares: dict[str, list[float]] = {name: [] for name in ("reward", "explored", "coverage", "gini")}
    by_greed = np.zeros((n_rounds, len(world.catalogue.items)))
    clicks = np.zeros_like(by_greed)
    with tempfile.TemporaryDirectory() as home:
        stack = Stack(past, Path(home), settings or OF_ARM[arm], hot_of(arm, 0.0), seed)
        for round_ in range(n_rounds):
            stack.change(hot_of(arm, float(explored[round_]) if explored is not None else 0.0))
            rng = np.random.default_rng([seed, round_ + 1, 31])
            rewards, n_explored = [], 0
            exposures = np.zeros(len(world.catalogue.items))
            for index, at in enumerate(some_users(world, n_requests, rng).tolist()):
                user, at_ms = users[at], begin_ms + int((round_ + index / n_requests) * round_ms)
                made = stack.rank(user, behaviour.context(user), k, at_ms)
                if made.rungs or len(made.slots) != k:
                    raise RuntimeError(f"not in full service: {list(made.rungs)}, {len(made.slots)} slots")
                ids = [slot.item_id for slot in made.slots]
                rows = np.array([world.catalogue.row(item_id) for item_id in ids], dtype=np.int64)
                was_explored = np.array([slot.explored for slot in made.slots])
                n_explored += int(was_explored.sum())
                np.add.at(by_greed[round_], rows[~was_explored], 1)
                np.add.at(exposures, rows, 1.0)
                p_click = world.utility.click_probability(user, rows, at_ms)
                np.add.at(clicks[round_], rows, p_click * behaviour.looked[: len(rows)])
                rewards.append(world.slate_value(p_click))
                luck = np.random.default_rng([seed, round_, index, 7])
                stack.send(
                    behaviour.react(
                        user, ids, request_id=made.request_id, session_id=f"s-{round_}-{index}", surface=SURFACE,
                        at_ms=at_ms, rng=luck, ids=stack.ids,
                    ).events
                )  # fmt: skip
            if round_ + 1 < n_rounds:
                stack.advance(begin_ms + (round_ + 1) * round_ms)
                stack.train()
            on_sale = world.live_rows(begin_ms + (round_ + 1) * round_ms)
            shares["reward"].append(float(np.mean(rewards)))
            shares["explored"].append(n_explored / (n_requests * k))
            shares["coverage"].append(float((exposures[on_sale] > 0).mean()))
            shares["gini"].append(gini(exposures[on_sale]))
    after, found = discovery(world, by_greed, FOUND, begin_ms, round_ms)
    earned, _ = discovery(world, clicks, EARNED, begin_ms, round_ms)
    curves = {name: np.array(values) for name, values in shares.items()}
    return Played(**curves, found_after=after, found=found, earned_after=earned)


def discovery(
    world: World, by_round: Floats, enough: float, begin_ms: int, round_ms: int
) -> tuple[Floats, NDArray[np.bool_]]:
    """(rounds until an item had enough, whether it had) of new items whose true worth lies above their median."""
    n_rounds = by_round.shape[0]
    born = (world.catalogue.published_ms - begin_ms) // round_ms
    new = np.flatnonzero((born >= 0) & (born < n_rounds - LATE))
    if not len(new):
        return np.zeros(0), np.zeros(0, dtype=np.bool_)
    at_ms = begin_ms + n_rounds * round_ms // 2
    worth = np.mean([world.utility.click_probability(user, new, at_ms) for user in world.population.users], axis=0)
    good = new[worth > np.median(worth)]
    shown = by_round[:, good].cumsum(axis=0) >= enough
    found = np.asarray(shown.any(axis=0), dtype=np.bool_)
    end = np.minimum((world.catalogue.withdrawn_ms[good] - begin_ms) // round_ms, n_rounds)
    first = np.where(found, shown.argmax(axis=0), end)
    return (first - born[good]).astype(np.float64), found


def play_world(kind: str, seed: int, arms: Sequence[str], n_rounds: int, n_requests: int, kept: Path) -> None:
    """Some arms in one world; what is in the folder already is not played again."""
    past: Past | None = None
    for arm in arms:
        path = kept_in(kept, kind, seed, arm, n_rounds, n_requests)
        if path.exists():
            continue
        past = past or Past.of(world_of(kind, seed), HISTORY_DAYS[kind], HISTORY_SLATES[kind])
        on = kept_in(kept, kind, seed, "on", n_rounds, n_requests)
        explored = read(on).explored if arm in ("uniform", "informed") else None
        one = play(past, kind, arm, n_rounds, n_requests, explored)
        np.savez(path, **{item.name: getattr(one, item.name) for item in fields(one)})
        sys.stderr.write(
            f"{kind} {seed} {arm}: reward {one.reward.mean():.4f}, late {one.reward[-LATE:].mean():.4f}, "
            f"explored {one.explored.mean():.3f}\n"
        )


def kept_in(folder: Path, kind: str, seed: int, arm: str, n_rounds: int, n_requests: int) -> Path:
    """Where an outcome is kept."""
    return folder / f"{kind}-{seed}-{arm}-{n_rounds}-{n_requests}.npz"


def read(path: Path) -> Played:
    """A kept outcome."""
    with np.load(path) as found:
        return Played(**{item.name: found[item.name] for item in fields(Played)})


def sooner(outcomes: dict[str, list[Played]], entry: dict[str, Figure]) -> None:
    """Print by how many rounds new items begin to earn sooner with exploration, and add the figures to the world's."""
    after = {arm: np.array([one.earned_after.mean() for one in found]) for arm, found in outcomes.items()}
    rows: list[list[object]] = []
    for arm in (arm for arm in after if arm != "on"):
        mean, low, high = interval(after[arm] - after["on"])
        entry[f"earns_sooner_than_{arm}"] = {"mean": round(mean, 5), "low": round(low, 5), "high": round(high, 5)}
        rows.append([arm, float(after[arm].mean()), float(after["on"].mean()), mean, low, high])
    print(table([f"rounds until {EARNED:g} clicks", "its", "on", "sooner", "low", "high"], rows), flush=True)


def main() -> int:
    """Play all arms in all worlds, print the tables and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--null-seeds", type=int, help="null worlds, where not as many as the others")
    parser.add_argument("--first-seed", type=int, default=100, help="those below 100 were tuned upon")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=120)
    parser.add_argument("--kept", type=Path, help="folder where outcomes are kept and not played again")
    parser.add_argument("--worlds", nargs="+", choices=tuple(ARMS), default=("news", "null"))
    parser.add_argument("--without-uniform", action="store_true", help="two arms only, a third of the time less")
    parser.add_argument("--ablations", action="store_true", help="two arms more, on the belief that `on` has")
    parser.add_argument("--out", type=Path, help="folder for the plot and the figures")
    args = parser.parse_args()
    figures: dict[str, Figure] = {"seeds": args.seeds, "rounds": args.rounds, "requests": args.requests}
    lines: dict[str, dict[str, list[float]]] = {}
    errors: dict[str, dict[str, list[float]]] = {}
    kept = args.kept or Path(tempfile.mkdtemp(prefix="system-loop-"))
    kept.mkdir(parents=True, exist_ok=True)
    for kind in args.worlds:
        n_seeds = args.null_seeds if kind == "null" and args.null_seeds else args.seeds
        arms = [arm for arm in ARMS[kind] if arm != "uniform" or not args.without_uniform]
        arms += ABLATIONS if args.ablations else ()
        played = []
        for seed in range(args.first_seed, args.first_seed + n_seeds):
            try:
                play_world(kind, seed, arms, args.rounds, args.requests, kept)
            except TooLittleDataError as error:
                sys.stderr.write(f"{kind} {seed} left out, its past trains no model: {error}\n")
            else:
                played.append(seed)
        outcomes = {
            arm: [read(kept_in(kept, kind, seed, arm, args.rounds, args.requests)) for seed in played] for arm in arms
        }
        if len(played) < 2:
            continue  # an interval needs two
        compare(kind, outcomes, figures, late_rounds=LONG_RUN)
        if outcomes["on"][0].earned_after.size:
            entry = figures[kind]
            assert isinstance(entry, dict)
            sooner(outcomes, entry)
        curves = {arm: np.stack([one.reward for one in found]) for arm, found in outcomes.items()}
        lines[kind] = {arm: curve.mean(axis=0).round(5).tolist() for arm, curve in curves.items()}
        errors[kind] = {
            arm: (2 * (curve - curves["off"]).std(axis=0, ddof=1) / np.sqrt(len(played))).round(5).tolist()
            for arm, curve in curves.items()
        }
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "system-loop.json").write_text(json.dumps({"figures": figures, "reward": lines}) + "\n")
        draw_curves(
            args.out / "system-loop.svg", np.arange(args.rounds), lines, errors, y_label="expected clicks a slot"
        )
    gains = ("late_on_minus_off", "late_on_minus_uniform", "rounds_sooner_than_off", "earns_sooner_than_off")
    bounds: dict[str, tuple[str, float | bool]] = {
        f"{world}.{gain}.low": (">=", 0.0) for world in ("news", "moving") for gain in gains
    }
    bounds["null.late_on_minus_off.low"] = ("<=", 0.0)
    asked = {
        name: bound
        for name, bound in bounds.items()
        if name.partition(".")[0] in figures and not (args.without_uniform and "uniform" in name)
    }
    return finish("system_loop", figures, asked)


if __name__ == "__main__":
    sys.exit(main())
