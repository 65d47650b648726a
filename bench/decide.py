"""What one decision and one learned event cost: ours, Vowpal Wabbit, MABWiser and contextualbandits, in one run on
one machine.

    python -m bench.decide [--repeats 300] [--dim 32] [--candidates 50] [--slots 10]

A decision of ours is all of it: problem, generator from the logged seed, law, slate of 10 drawn slot by slot under
hard rules (at most 3 of a category, 2 of a creator), propensities, effective floors. The libraries choose one
candidate (or give one pmf) and no slate, and of theirs only VW hands out a probability; where a package is not
installed its rows are missing and named (extra `bench`).
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import bandits
from bandits.arms import ArmPartials
from bandits.beta import BetaArms, BetaPrior
from bandits.disjoint import DisjointPosterior
from bandits.hybrid import HybridPosterior, HybridPrior
from bandits.item_posterior import ItemPosterior, ItemPrior
from bandits.items import ItemSums, item_features, looks_at
from bandits.logistic import LogisticPartial, LogisticPosterior, LogisticPrior
from bandits.policies import ThompsonDoubt
from bandits.posterior import RewardPosterior
from bench.report import Figure, finish, table

Floats: TypeAlias = NDArray[np.float64]

N_BETA_ARMS = 10_000
BATCH = 50
#: Bounded; `thompson_doubt` is not: it draws three times as many normal variates, which is half of what it takes.
VOTING = ("thompson", "thompson_disjoint", "thompson_hybrid", "thompson_logistic", "two_level")
BOUNDS: dict[str, tuple[str, float | bool]] = {
    **{f"{name}_p50_us": ("<=", 300.0) for name in VOTING},
    "boltzmann_p50_us": ("<=", 60.0),
    "learn_batch_us_per_event": ("<=", 20.0),
    "beta_10k_p50_us": ("<=", 500.0),
}


class World:
    """Seeded candidates, rules and statistics of one size."""

    def __init__(self, n: int, dim: int, slots: int) -> None:
        self.rng = np.random.default_rng(20_261_121)
        self.n, self.dim, self.slots = n, dim, slots
        self.phi = bandits.on_phi_grid(self.rng.normal(size=(n, dim)) / np.sqrt(dim))
        self.value = self.rng.uniform(0.0, 0.4, n)
        self.p_first = self.rng.uniform(0.01, 0.3, (n, 2))
        self.arms = [f"arm-{index}" for index in self.rng.integers(0, 64, n)]
        self.looks = self.rng.uniform(0.0, 50.0, n)
        self.groups = np.stack([self.rng.integers(0, 8, n), self.rng.integers(0, 25, n)])
        self.partial = bandits.Partial(dim, 2)
        self.logistic = LogisticPartial(dim, 2)
        self.per_arm = ArmPartials(dim, 2)
        self.beside_items = bandits.Partial(dim + 1, 2)
        self.per_item = ItemSums(dim + 1, 2)
        for _ in range(100):
            rows = self.rng.integers(0, n, 20)
            residuals = self.rng.normal(size=(20, 2)) * 0.3
            self.partial.shown(self.phi[rows], residuals)
            self.logistic.shown(self.phi[rows], self.p_first[rows])
            x = item_features(self.phi[rows], self.p_first[rows, 0])
            self.beside_items.shown(x, residuals)
            self.per_item.shown([f"item-{row}" for row in rows], looks_at(np.arange(1, 21)), x, residuals)
            for row, residual in zip(rows.tolist(), residuals, strict=True):
                self.per_arm.shown(self.arms[row], self.phi[row], residual)

    def decision(self, policy: bandits.Policy, posterior: RewardPosterior) -> Callable[[int], bandits.Slate]:
        """One whole decision, by seed."""
        allowed = np.ones(self.n, dtype=np.bool_)

        def decide(seed: int) -> bandits.Slate:
            rules = bandits.GroupCaps(allowed, self.groups, [3, 2])
            problem = bandits.Problem(
                value=self.value,
                phi=self.phi,
                posterior=posterior,
                k=self.slots,
                feasible=rules,
                arms=self.groups[0],
                item_looks=self.looks,
                kind_looks=self.looks,
            )
            return bandits.draw_slate(policy, problem, bandits.generator(seed))

        return decide


def posteriors(world: World) -> Mapping[str, RewardPosterior]:
    """What was learned of each kind, bound to the candidates."""
    weights, statistics = [1.0, -2.0], world.per_arm.statistics()
    of_items = ItemPosterior(world.beside_items.statistics(), world.per_item, weights, ItemPrior())
    return {
        "shared": bandits.Posterior(world.partial, weights, bandits.Prior()),
        "disjoint": DisjointPosterior(statistics, weights, bandits.Prior(), world.dim).of(world.arms),
        "hybrid": HybridPosterior(statistics, weights, HybridPrior(), world.dim).of(world.arms),
        "logistic": LogisticPosterior(world.logistic, weights, LogisticPrior()).of(world.p_first),
        "items": of_items.bind(world.arms, world.p_first, [f"item-{row}" for row in range(world.n)]),
    }


def timed(call: Callable[[int], object], repeats: int) -> tuple[float, float]:
    """(p50, p99) of one call, us, after a warm-up."""
    for seed in range(max(3, repeats // 20)):
        call(seed)
    spent = np.empty(repeats)
    for seed in range(repeats):
        start = time.perf_counter_ns()
        call(seed)
        spent[seed] = time.perf_counter_ns() - start
    return float(np.percentile(spent, 50)) / 1e3, float(np.percentile(spent, 99)) / 1e3


def ours(world: World, repeats: int, figures: dict[str, Figure], rows: list[list[object]]) -> None:
    """Our policies, posteriors and learning."""
    learned = posteriors(world)
    shared, disjoint, hybrid = learned["shared"], learned["disjoint"], learned["hybrid"]
    cases: list[tuple[str, bandits.Policy, RewardPosterior]] = [
        ("thompson", bandits.Thompson(), shared),
        ("thompson_64", bandits.Thompson(n_draws=64), shared),
        ("thompson_disjoint", bandits.Thompson(), disjoint),
        ("thompson_hybrid", bandits.Thompson(), hybrid),
        ("thompson_logistic", bandits.Thompson(), learned["logistic"]),
        ("thompson_doubt", ThompsonDoubt(), learned["items"]),
        ("two_level", bandits.TwoLevel(), shared),
        ("linucb", bandits.LinUCB(), shared),
        ("linucb_disjoint", bandits.LinUCB(), disjoint),
        ("linucb_hybrid", bandits.LinUCB(), hybrid),
        ("epsilon_greedy", bandits.EpsilonGreedy(), shared),
        ("boltzmann", bandits.Boltzmann(), shared),
        ("greedy", bandits.Greedy(), shared),
    ]
    for name, policy, posterior in cases:
        p50, p99 = timed(world.decision(policy, posterior), repeats)
        figures[f"{name}_p50_us"], figures[f"{name}_p99_us"] = round(p50, 1), round(p99, 1)
        rows.append([f"liverank {name}", "slate + propensities", p50, p99])

    partial = bandits.Partial(world.dim, 2)
    residuals = np.zeros((BATCH, 2))

    def learn_batch(seed: int) -> object:
        partial.shown(world.phi[:BATCH], residuals[: world.phi[:BATCH].shape[0]])
        return bandits.Posterior(partial, [1.0, -2.0], bandits.Prior())

    p50, p99 = timed(learn_batch, repeats)
    figures["learn_batch_us_per_event"] = round(p50 / BATCH, 2)
    rows.append([f"liverank learn, {BATCH} a refresh", "per event", p50 / BATCH, p99 / BATCH])
    p50, p99 = timed(lambda seed: partial.outcome(world.phi[0], 0, 1.0), repeats)
    figures["learn_outcome_us"] = round(p50, 2)
    rows.append(["liverank learn, one outcome", "per event", p50, p99])

    beta = BetaArms(BetaPrior())
    shown = world.rng.integers(0, 100, N_BETA_ARMS)
    for index, (slots, clicks) in enumerate(zip(shown, world.rng.binomial(shown, 0.05), strict=True)):
        beta.shown(f"item-{index}", float(slots))
        beta.clicked(f"item-{index}", float(clicks))
    p50, p99 = timed(lambda seed: beta.propose(100, bandits.generator(seed)), repeats)
    figures["beta_10k_p50_us"], figures["beta_10k_p99_us"] = round(p50, 1), round(p99, 1)
    rows.append([f"liverank Beta arms, {N_BETA_ARMS}", "top 100 of one draw", p50, p99])
    posterior = beta.of([f"item-{index}" for index in range(N_BETA_ARMS)])
    p50, p99 = timed(lambda seed: bandits.generator(seed).beta(posterior.alpha, posterior.beta), max(30, repeats // 5))
    figures["beta_10k_plain_p50_us"] = round(p50, 1)
    rows.append([f"numpy, {N_BETA_ARMS} Beta arms", "one draw of all", p50, p99])
    proposer_p50, p99 = timed(lambda seed: beta.proposer(100), max(10, repeats // 20))
    figures["beta_10k_refresh_p50_us"] = round(proposer_p50, 1)
    rows.append([f"liverank Beta arms, {N_BETA_ARMS}", "refresh after counts changed", proposer_p50, p99])


def vowpal(world: World, repeats: int, figures: dict[str, Figure], rows: list[list[object]]) -> None:
    """VW: numbers pushed, text parsed, examples kept ready."""
    from bandits.vw import Vowpal, VowpalModel, VowpalSettings

    for exploration in ("squarecb", "cover", "bag"):
        model = VowpalModel(VowpalSettings(dim=world.dim, exploration=exploration))
        for seed in range(50):
            model.learn(world.phi, seed % world.n, float(seed % 2), 0.2)
        p50, p99 = timed(lambda seed, model=model: model.pmf(world.phi), repeats)  # type: ignore[misc]
        figures[f"vw_{exploration}_pmf_p50_us"] = round(p50, 1)
        rows.append([f"VW {exploration}", "one pmf, no text", p50, p99])
        p50, p99 = timed(lambda seed, model=model: model.learn(world.phi, seed % world.n, 1.0, 0.2), repeats)  # type: ignore[misc]
        figures[f"vw_{exploration}_learn_p50_us"] = round(p50, 1)
        rows.append([f"VW {exploration}", "learn one", p50, p99])
        model.close()
    model = VowpalModel(VowpalSettings(dim=world.dim))
    p50, p99 = timed(world.decision(Vowpal(), model), repeats)
    figures["vw_slate_p50_us"] = round(p50, 1)
    rows.append(["VW squarecb in our slate draw", "slate + propensities", p50, p99])
    p50, p99 = timed(lambda seed: model.pmf_of_text(_text(world.phi)), repeats)
    figures["vw_text_p50_us"] = round(p50, 1)
    rows.append(["VW squarecb", "one pmf, text formatted", p50, p99])
    model.close()


def _text(phi: Floats) -> list[str]:
    return ["|a " + " ".join(f"f{column}:{value:.5f}" for column, value in enumerate(row)) for row in phi.tolist()]


def mabwiser(world: World, repeats: int, figures: dict[str, Figure], rows: list[list[object]]) -> None:
    """MABWiser: one context, an arm per candidate."""
    from mabwiser.mab import MAB, LearningPolicy

    contexts = world.rng.normal(size=(500, world.dim)) / np.sqrt(world.dim)
    arms = list(range(world.n))
    decisions = np.array(arms * 20)[:500]
    rewards = world.rng.integers(0, 2, 500)
    for name, policy in (("lints", LearningPolicy.LinTS(0.5)), ("linucb", LearningPolicy.LinUCB(1.0))):
        model = MAB(arms, policy)
        model.fit(decisions, rewards, contexts)
        _library(
            f"mabwiser_{name}", f"MABWiser {name}", model.predict, model.partial_fit, contexts, repeats, figures, rows
        )


def contextual_bandits(world: World, repeats: int, figures: dict[str, Figure], rows: list[list[object]]) -> None:
    """contextualbandits: one context, an arm per candidate."""
    from contextualbandits.online import LinTS, LinUCB

    contexts = world.rng.normal(size=(500, world.dim)) / np.sqrt(world.dim)
    arms = world.rng.integers(0, world.n, 500)
    rewards = world.rng.integers(0, 2, 500).astype(np.float64)
    for name, made in (("lints", LinTS), ("linucb", LinUCB)):
        model = made(nchoices=world.n, beta_prior=None)
        model.fit(contexts, arms, rewards)
        _library(
            f"contextualbandits_{name}",
            f"contextualbandits {name}",
            model.predict,
            lambda a, r, x, model=model: model.partial_fit(x, a, r),  # type: ignore[misc]
            contexts,
            repeats,
            figures,
            rows,
        )


def _library(
    key: str,
    label: str,
    predict: Callable[[Any], object],
    learn: Callable[[Any, Any, Any], object],
    contexts: Floats,
    repeats: int,
    figures: dict[str, Figure],
    rows: list[list[object]],
) -> None:
    p50, p99 = timed(lambda seed: predict(contexts[seed % 500 : seed % 500 + 1]), repeats)
    figures[f"{key}_p50_us"] = round(p50, 1)
    rows.append([label, "one choice, no probability", p50, p99])
    one = np.array([1]), np.array([1.0])
    p50, p99 = timed(lambda seed: learn(one[0], one[1], contexts[seed % 500 : seed % 500 + 1]), repeats)
    figures[f"{key}_learn_p50_us"] = round(p50, 1)
    rows.append([label, "learn one", p50, p99])


def main() -> int:
    """Measure, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--slots", type=int, default=10)
    args = parser.parse_args()
    world = World(args.candidates, args.dim, args.slots)
    figures: dict[str, Figure] = {"candidates": args.candidates, "slots": args.slots, "dim": args.dim}
    rows: list[list[object]] = []
    ours(world, args.repeats, figures, rows)
    missing = []
    for package, measure in (
        ("vowpalwabbit", vowpal),
        ("mabwiser", mabwiser),
        ("contextualbandits", contextual_bandits),
    ):
        if importlib.util.find_spec(package) is None:
            missing.append(package)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the libraries' own deprecations
            measure(world, max(30, args.repeats // 5), figures, rows)
    figures["not_installed"] = missing
    print(table(["us", "what", "p50", "p99"], rows))
    if missing:
        print(f"not installed, not measured: {', '.join(missing)} (extra `bench`)")
    return finish("decide", figures, BOUNDS)


if __name__ == "__main__":
    sys.exit(main())
