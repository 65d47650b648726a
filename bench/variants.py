"""BAN-11: which artwork to show, chosen per user, against the best fixed one, in the simulator.

    python -m bench.variants [--seeds 10] [--requests 6000] [--served-requests 60000]

Every item has four artworks. `contextual` draws one by Thompson sampling (`bandits.variants.draw_variants`) from a
posterior over style, style x device and the user's own clicks by style; what it learns is the residual of the item's
click probability. `fixed` shows the style that is best for all in hindsight, under the true probabilities, on the very
same requests: no fixed choice of a style does better. `best per item` is the same per item. Rewards are true click
probabilities of the second half; intervals are two standard errors over worlds.

`served` is what rankers do (`ranker.variants`): Beta arms per item, style and device, no person; on eight items that
are shown often, against the same rivals.

In the null world styles are worth the same to everyone on every device: nothing may be gained over the best per item.
"""

from __future__ import annotations

import argparse
import sys
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

import bandits
from bandits.variants import draw_variants
from bench.report import Figure, finish, table
from evaluation.simulator import World, WorldParams
from evaluation.simulator.population import DEVICES
from evaluation.simulator.variants import STYLES, Variants
from ranker.variants import choose

Floats: TypeAlias = NDArray[np.float64]

START_MS = 1_757_000_000_000
N_STYLES = len(STYLES)
REFRESH = 50
N_PLACED = 20
FLOOR = 0.02
PRIOR = bandits.Prior(sd=0.1, noise_sd=0.35)
N_SERVED = 8


def phi_of(device: int, liked: Floats, seen: Floats) -> Floats:
    """Features of the four variants for one user, shape (4, dim): style, style x device, the user's rate with it.

    The user's rate is clicks beyond expectation, shrunk by ten showings.
    """
    eye = np.eye(N_STYLES)
    crosses = np.zeros((N_STYLES, N_STYLES * len(DEVICES)))
    crosses[:, device * N_STYLES : (device + 1) * N_STYLES] = eye
    own = 5.0 * liked / (seen + 10.0)
    return bandits.on_phi_grid(np.concatenate([eye, crosses, own[:, None], np.ones((N_STYLES, 1))], axis=1))


def play(seed: int, n_requests: int, personal: float) -> dict[str, float]:
    """Mean true click probability over the second half, by how the artwork is chosen."""
    world = World.build(WorldParams(seed=seed, n_items=200, n_users=150), START_MS)
    variants = Variants.build(world, personal=personal)
    users = world.population.users
    rng = np.random.default_rng([seed, 51])
    partial: bandits.Partial | None = None
    posterior: bandits.Posterior | None = None
    liked, seen = np.zeros((len(users), N_STYLES)), np.zeros((len(users), N_STYLES))
    truths, rows, ours = np.empty((n_requests, N_STYLES)), np.empty(n_requests, dtype=np.int64), np.empty(n_requests)
    items = np.zeros(N_STYLES, dtype=np.int64)
    live = world.live_rows(START_MS)
    for request in range(n_requests):
        number = int(rng.integers(len(users)))
        user, at_ms = users[number], START_MS + request * 60_000
        plain = world.utility.click_probability(user, live, at_ms)
        place = int(rng.choice(np.argpartition(-plain, N_PLACED)[:N_PLACED]))  # what a good ranker would place
        row, expected = int(live[place]), float(plain[place])  # a well calibrated head
        truth = variants.click_probability(user, row, at_ms)
        phi = phi_of(user.device, liked[number], seen[number])
        if partial is None or posterior is None:
            partial = bandits.Partial(phi.shape[1], 1)
            posterior = bandits.Posterior(partial, [1.0], PRIOR)
        slate = draw_variants(
            bandits.Thompson(n_draws=32),
            items,
            np.full(N_STYLES, expected),
            phi,
            posterior,
            bandits.generator(int(rng.integers(2**62))),
            floor=FLOOR,
        )
        chosen = slate.order[0]
        clicked = float(rng.random() < truth[chosen])
        partial.shown(phi[chosen], [clicked - expected])
        liked[number, chosen] += clicked - expected
        seen[number, chosen] += 1.0
        if request % REFRESH == REFRESH - 1:
            posterior = bandits.Posterior(partial, [1.0], PRIOR)
        truths[request], rows[request], ours[request] = truth, row, truth[chosen]
    return summary(ours, truths, rows)


class Counts:
    """Counts of variants as `features.item_table.ItemTable` gives them: for everybody, and by device."""

    def __init__(self, n_items: int) -> None:
        self.variants: dict[int, tuple[str, ...]] = dict.fromkeys(range(n_items), STYLES)
        self.counted = np.zeros((n_items, N_STYLES, 1 + len(DEVICES), 2))

    def variant_counts(self, row: int, device: str, surface: str) -> Floats:
        """See `ItemTable.variant_counts`; there is one surface."""
        on_device = 1 + DEVICES.index(device)
        found: Floats = self.counted[row][:, [0, on_device, on_device]]
        return found


def play_served(seed: int, n_requests: int, personal: float) -> dict[str, float]:
    """The same for the choice that rankers make, on a few items."""
    world = World.build(WorldParams(seed=seed, n_items=200, n_users=150), START_MS)
    variants = Variants.build(world, personal=personal)
    users = world.population.users
    rng = np.random.default_rng([seed, 52])
    live = world.live_rows(START_MS)
    liked = np.mean([world.utility.click_probability(user, live, START_MS) for user in users], axis=0)
    placed = live[np.argsort(-liked)[:N_SERVED]]
    counts = Counts(N_SERVED)
    policy = bandits.Thompson(n_draws=32)
    truths, rows, ours = np.empty((n_requests, N_STYLES)), np.empty(n_requests, dtype=np.int64), np.empty(n_requests)
    for request in range(n_requests):
        user, row = users[int(rng.integers(len(users)))], int(rng.integers(N_SERVED))
        truth = variants.click_probability(user, int(placed[row]), START_MS + request * 60_000)
        seed_of = int(rng.integers(2**62))
        found = choose(counts, [row], DEVICES[user.device], "home", policy=policy, floor=FLOOR, seed=seed_of).by_slot[0]
        chosen = STYLES.index(found.variant_id)
        clicked = float(rng.random() < truth[chosen])
        for which in (0, 1 + user.device):
            counts.counted[row, chosen, which] += (1.0, clicked)
        truths[request], rows[request], ours[request] = truth, row, truth[chosen]
    return summary(ours, truths, rows)


def summary(ours: Floats, truths: Floats, rows: NDArray[np.int64]) -> dict[str, float]:
    """Means over the second half; rivals know the truth."""
    half = len(ours) // 2
    late = truths[half:]
    # Best for the item over everybody to whom it was shown, in both halves.
    per_item = np.zeros((int(rows.max()) + 1, N_STYLES))
    np.add.at(per_item, rows, truths)
    return {
        "contextual": float(ours[half:].mean()),
        "fixed": float(late.mean(axis=0).max()),
        "best per item": float(late[np.arange(late.shape[0]), per_item.argmax(axis=1)[rows[half:]]].mean()),
        "uniform": float(late.mean()),
        "oracle": float(late.max(axis=1).mean()),
    }


def main() -> int:
    """Play, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--requests", type=int, default=6_000)
    parser.add_argument("--served-requests", type=int, default=60_000)
    args = parser.parse_args()
    figures: dict[str, Figure] = {"seeds": args.seeds, "requests": args.requests}
    rows: list[list[object]] = []
    for name, personal in (("personal", 0.6), ("null", 0.0), ("served", 0.6)):
        player, n = (play_served, args.served_requests) if name == "served" else (play, args.requests)
        found = [player(seed, n, personal) for seed in range(args.seeds)]
        entry: dict[str, Figure] = {key: round(float(np.mean([one[key] for one in found])), 5) for key in found[0]}
        for rival in ("fixed", "best per item"):
            gain = np.array([one["contextual"] - one[rival] for one in found])
            half = 2.0 * gain.std(ddof=1) / np.sqrt(gain.shape[0])
            key = f"gain_over_{rival.replace(' ', '_')}"
            entry[key] = round(float(gain.mean()), 5)
            entry[f"{key}_low"], entry[f"{key}_high"] = (
                round(float(gain.mean() - half), 5),
                round(float(gain.mean() + half), 5),
            )
            rows.append(
                [
                    name,
                    f"contextual - {rival}",
                    float(gain.mean()),
                    float(gain.mean() - half),
                    float(gain.mean() + half),
                ]
            )
        figures[name] = entry
    print(table(["world", "P(click)", "gain", "low", "high"], rows))
    return finish(
        "variants",
        figures,
        {
            "personal.gain_over_fixed_low": (">=", 0.0),
            "personal.gain_over_best_per_item_low": (">=", 0.0),
            "null.gain_over_best_per_item_low": ("<=", 0.0),
            "served.gain_over_fixed_low": (">=", 0.0),
            "served.gain_over_best_per_item_low": (">=", 0.0),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
