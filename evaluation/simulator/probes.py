"""What each effect of a world is worth, with an interval: away from 0 with the effect on, around 0 with it off.

Every probe draws its own users, times and choices from a seed; nothing of the system is involved.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.simulator.catalogue import DAY_MS
from evaluation.simulator.population import DEVICES, User
from evaluation.simulator.utility import DAYPARTS
from evaluation.simulator.vocabulary import KINDS
from evaluation.simulator.world import World
from liverank.contract import NEGATIVE

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Probe:
    """An estimate and its 95 % interval (normal, over independent units)."""

    effect: str
    estimate: float
    low: float
    high: float

    @property
    def found(self) -> bool:
        """The interval leaves out 0."""
        return self.low > 0.0 or self.high < 0.0


def probe(world: World, effect: str, *, n: int = 400, seed: int = 0) -> Probe:
    """Measure one effect on `n` units (users, items or slates, as it goes)."""
    rng = np.random.default_rng([world.params.seed, 77, seed])
    units = _PROBES[effect](world, n, rng)
    mean = float(units.mean())
    half = float(1.96 * units.std(ddof=1) / np.sqrt(len(units)))
    return Probe(effect, mean, mean - half, mean + half)


def _some(world: World, n: int, rng: np.random.Generator) -> list[User]:
    users = world.population.users
    return [users[i] for i in rng.choice(len(users), size=min(n, len(users)), replace=False)]


def _now(world: World) -> int:
    return world.start_ms + 50 * DAY_MS


def _logit(p: Floats) -> Floats:
    result: Floats = np.log(p) - np.log1p(-p)
    return result


def _net(world: World, user: User, rows: NDArray[np.int64], at_ms: int, part: int, device: int) -> Floats:
    return world.utility.raw(world.population.taste(user, at_ms), rows, at_ms, part, device)


def _taste(world: World, n: int, rng: np.random.Generator) -> Floats:
    """How much better items of a user's favourite kind do for this user than for another one in the same context."""
    at_ms, cat = _now(world), world.catalogue
    users = _some(world, n, rng)
    out = []
    for user, other in zip(users, reversed(users), strict=True):
        rows = np.flatnonzero(cat.kind == user.favourite_kinds(at_ms)[0])
        if user.user_id != other.user_id and len(rows):
            own, foreign = (_net(world, who, rows, at_ms, 0, 0).mean() for who in (user, other))
            out.append(own - foreign)
    return np.array(out)


def _quality(world: World, n: int, rng: np.random.Generator) -> Floats:
    """Top against bottom quarter of hidden quality (drawn again where it is off), for one user, within one kind."""
    at_ms, cat = _now(world), world.catalogue
    out = []
    for user in _some(world, n, rng):
        rows = np.flatnonzero(cat.kind == rng.integers(len(cat.kind_centres)))
        if len(rows) < 8:
            continue
        quality = cat.quality[rows] if cat.quality.any() else rng.normal(size=len(rows))
        order = rows[np.argsort(quality)]
        quarter = len(order) // 4
        value = [_net(world, user, part, at_ms, 0, 0).mean() for part in (order[-quarter:], order[:quarter])]
        out.append(value[0] - value[1])
    return np.array(out)


def _context(world: World, n: int, rng: np.random.Generator) -> Floats:
    """Spread of an item's utility over dayparts and devices, for one user."""
    at_ms = _now(world)
    out = []
    for user in _some(world, n, rng):
        rows = rng.choice(len(world.catalogue.items), size=5)
        grid = [_net(world, user, rows, at_ms, p, d) for p in range(len(DAYPARTS)) for d in range(len(DEVICES))]
        out.append(np.std(np.array(grid) - grid[0], axis=0).mean())
    return np.array(out)


def _position(world: World, n: int, rng: np.random.Generator) -> Floats:
    """Looks at the first slot minus looks at the last one."""
    looked = world.behaviour().looked
    first, last = rng.random(n) < looked[0], rng.random(n) < looked[-1]
    difference: Floats = first.astype(np.float64) - last
    return difference


def _drift(world: World, n: int, rng: np.random.Generator) -> Floats:
    """Distance between a user's tastes 50 days apart."""
    early = world.start_ms
    tastes = ((world.population.taste(u, early), world.population.taste(u, _now(world))) for u in _some(world, n, rng))
    return np.array([float(np.linalg.norm(a - b)) for a, b in tastes])


def _freshness(world: World, n: int, rng: np.random.Generator) -> Floats:
    """An item's utility when it appears minus 30 days later, taste held."""
    out = []
    for user in _some(world, n, rng):
        row = rng.integers(len(world.catalogue.items), size=1)
        taste = world.population.taste(user, world.start_ms)
        born_ms = int(world.catalogue.published_ms[row[0]])
        values = [world.utility.raw(taste, row, born_ms + days * DAY_MS, 0, 0)[0] for days in (0, 30)]
        out.append(values[0] - values[1])
    return np.array(out)


def _reactions(world: World, n: int, rng: np.random.Generator) -> list[list[int]]:
    behaviour = world.behaviour()
    live = world.live_rows(_now(world))
    out = []
    for user in _some(world, n, rng):
        ids = [f"item-{row}" for row in rng.choice(live, size=world.params.slate, replace=False)]
        reaction = behaviour.react(
            user, ids, request_id="r", session_id="s", surface="home", at_ms=_now(world), rng=rng, ids=random.Random(0)
        )
        out.append([int(event.type) for event in reaction.events])
    return out


def _negatives(world: World, n: int, rng: np.random.Generator) -> Floats:
    """Explicit negative signals a slate."""
    return np.array([float(sum(kind in NEGATIVE for kind in kinds)) for kinds in _reactions(world, n, rng)])


def _satiation(world: World, n: int, rng: np.random.Generator) -> Floats:
    """log-odds of a click before minus after the item has been opened."""
    behaviour = world.behaviour()
    out = []
    for user in _some(world, n, rng):
        row = rng.integers(len(world.catalogue.items), size=1)
        before = behaviour.click_probability(user, row, _now(world))
        behaviour.opened(user).add(int(row[0]))
        out.append((_logit(before) - _logit(behaviour.click_probability(user, row, _now(world))))[0])
    return np.array(out)


def _content(world: World, n: int, rng: np.random.Generator) -> Floats:
    """Shared theme words of two items of one kind minus those of two items of different kinds."""
    cat = world.catalogue
    themes = {word for kind in KINDS.values() for theme in kind for word in theme.split()}
    words = [set(re.split(r"[^a-z-]+", f"{item.title} {item.text}".lower())) & themes for item in cat.items]
    out = []
    for _ in range(n):
        a = int(rng.integers(len(words)))
        same, other = np.flatnonzero(cat.kind == cat.kind[a]), np.flatnonzero(cat.kind != cat.kind[a])
        same = same[same != a]
        if len(same):
            b, c = int(rng.choice(same)), int(rng.choice(other))
            out.append(float(len(words[a] & words[b]) - len(words[a] & words[c])))
    return np.array(out)


_PROBES: dict[str, Callable[[World, int, np.random.Generator], Floats]] = {
    "taste": _taste,
    "quality": _quality,
    "context": _context,
    "position": _position,
    "drift": _drift,
    "freshness": _freshness,
    "negatives": _negatives,
    "satiation": _satiation,
    "content": _content,
}
