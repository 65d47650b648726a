"""BAN-13: impressions until an above-median new item is found, with and without a prior from content.

    python -m bench.new_arms [--seeds 20] [--rounds 3000]

300 old items teach `bandits.content_prior` what content is worth; then 50 new items compete under Beta-Bernoulli
Thompson sampling, each shown at most 200 times (the budget). A new item is found when the posterior says with 90 %
certainty that it lies above the median of the new items, after at least 20 impressions of its own. In the deceiving
world content says nothing: the prior must then be the base rate, and cost nothing. Intervals are two standard errors
over seeds, pairs by seed.
"""

from __future__ import annotations

import argparse
import sys
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bandits.content_prior import ContentPrior, fit_content_prior
from bench.report import Figure, finish, table

Floats: TypeAlias = NDArray[np.float64]

N_OLD, N_NEW, DIM, BUDGET, BASE_RATE = 300, 50, 8, 200, 0.05
SURE, ENOUGH = 0.9, 20
N_CHECK = 400
"""Posterior draws that say how sure it is."""


def population(seed: int, informative: bool) -> tuple[Floats, Floats]:
    """(content, true click rates) of old and new items; half the spread in logits comes from content."""
    rng = np.random.default_rng([seed, 41])
    n = N_OLD + N_NEW
    content = rng.normal(size=(n, DIM))
    worth = content @ rng.normal(size=DIM) / np.sqrt(DIM)
    if not informative:
        content = rng.normal(size=(n, DIM))
    logits = np.log(BASE_RATE / (1 - BASE_RATE)) + 0.5 * worth + 0.5 * rng.normal(size=n)
    return content, 1.0 / (1.0 + np.exp(-logits))


def learned(seed: int, informative: bool) -> tuple[ContentPrior, Floats, Floats]:
    """(prior fitted on the old items, content of the new ones, their true rates)."""
    content, rates = population(seed, informative)
    rng = np.random.default_rng([seed, 42])
    shown = rng.integers(20, 300, N_OLD)
    clicked = rng.binomial(shown, rates[:N_OLD])
    return fit_content_prior(content[:N_OLD], shown, clicked), content[N_OLD:], rates[N_OLD:]


def impressions(seed: int, mean: Floats, strength: float, rates: Floats, n_rounds: int) -> tuple[int, float, float]:
    """(impressions until an above-median item is found, clicks an impression, most impressions of one item)."""
    rng = np.random.default_rng([seed, 43])
    above = rates > np.median(rates)
    alpha, beta = strength * mean, strength * (1.0 - mean)
    shown, clicks, found = np.zeros(N_NEW), 0.0, 0
    for round_ in range(n_rounds):
        drawn = np.where(shown < BUDGET, rng.beta(alpha, beta), -1.0)
        arm = int(drawn.argmax())
        if drawn[arm] < 0:
            break
        clicked = float(rng.random() < rates[arm])
        shown[arm] += 1
        clicks += clicked
        alpha[arm] += clicked
        beta[arm] += 1.0 - clicked
        if not found and round_ % 10 == 9:
            draws = rng.beta(alpha, beta, size=(N_CHECK, N_NEW))
            sure = (draws > np.median(draws, axis=1, keepdims=True)).mean(axis=0)
            if bool((above & (sure > SURE) & (shown >= ENOUGH)).any()):
                found = round_ + 1
    return found or n_rounds, clicks / max(shown.sum(), 1.0), float(shown.max())


def interval(values: Floats) -> tuple[float, float, float]:
    """(mean, mean - 2 se, mean + 2 se)."""
    mean, half = float(values.mean()), float(2.0 * values.std(ddof=1) / np.sqrt(values.shape[0]))
    return mean, mean - half, mean + half


def main() -> int:
    """Compare, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3_000)
    args = parser.parse_args()
    figures: dict[str, Figure] = {"seeds": args.seeds, "budget": BUDGET}
    rows: list[list[object]] = []
    most = 0.0
    for world, informative in (("content", True), ("deceiving", False)):
        waits: dict[str, list[float]] = {"content prior": [], "base rate": []}
        earned: dict[str, list[float]] = {"content prior": [], "base rate": []}
        strengths: list[float] = []
        for seed in range(args.seeds):
            prior, content, rates = learned(seed, informative)
            strengths.append(prior.strength)
            plain = np.full(N_NEW, prior.base_rate)
            for name, mean in (("content prior", prior.mean(content)), ("base rate", plain)):
                wait, rate, largest = impressions(seed, mean, prior.strength, rates, args.rounds)
                waits[name].append(wait)
                earned[name].append(rate)
                most = max(most, largest)
        fewer = interval(np.array(waits["base rate"]) - np.array(waits["content prior"]))
        more = interval(np.array(earned["content prior"]) - np.array(earned["base rate"]))
        figures[world] = {
            "impressions_content": round(float(np.mean(waits["content prior"])), 1),
            "impressions_base": round(float(np.mean(waits["base rate"])), 1),
            "fewer_impressions": round(fewer[0], 1),
            "fewer_impressions_low": round(fewer[1], 1),
            "fewer_impressions_high": round(fewer[2], 1),
            "rate_gain": round(more[0], 5),
            "rate_gain_low": round(more[1], 5),
            "rate_gain_high": round(more[2], 5),
            "median_strength": float(np.median(strengths)),
        }
        for name in waits:
            rows.append([world, name, *interval(np.array(waits[name])), *interval(np.array(earned[name]))])
    figures["most_impressions_of_one_item"] = most
    print(table(["world", "prior", "impressions", "low", "high", "click rate", "low", "high"], rows))
    return finish(
        "new_arms",
        figures,
        {
            "content.fewer_impressions_low": (">=", 0.0),
            "content.rate_gain_low": (">=", 0.0),
            "deceiving.rate_gain_high": (">=", 0.0),
            "most_impressions_of_one_item": ("<=", BUDGET),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
