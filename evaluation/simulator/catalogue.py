"""Items: what the system may know (text, price, categories, creator) and what it may not (taste vector, quality)."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.simulator.parameters import WorldParams
from evaluation.simulator.vocabulary import ADJECTIVES, FIRST_NAMES, KINDS, LAST_NAMES, NOUNS, TEMPLATES
from liverank.calls import attribute
from liverank.v1.item_pb2 import Item, ItemChange

DAY_MS = 86_400_000
N_CREATORS_A_KIND = 8
N_THEMES = 4
NEVER_MS = 1 << 62


@dataclass(frozen=True)
class Catalogue:
    """The simulated catalogue; row n of every array is item n.

    Attributes
    ----------
    items : tuple of Item
        As producers publish them; available, `published_ts_ms` relative to the world's start.
    kind : int array, shape (n_items,)
        Index of the first category.
    latent : float array, shape (n_items, dim)
        Hidden: where the item lies in the space of tastes.
    quality : float array, shape (n_items,)
        Hidden: standard normal, 0 where the effect is off.
    kind_centres : float array, shape (n_kinds, dim)
        Hidden.
    published_ms : int array, shape (n_items,)
        First shown, ms since the UTC epoch.
    withdrawn_ms : int array, shape (n_items,)
        From then on not shown any more, ms since the UTC epoch; `NEVER_MS` where items stay.
    """

    items: tuple[Item, ...]
    kind: NDArray[np.int64]
    latent: NDArray[np.float64]
    quality: NDArray[np.float64]
    kind_centres: NDArray[np.float64]
    published_ms: NDArray[np.int64]
    withdrawn_ms: NDArray[np.int64]

    def live(self, at_ms: int) -> NDArray[np.bool_]:
        """Which items are published and not withdrawn, shape (n_items,)."""
        alive: NDArray[np.bool_] = (self.published_ms <= at_ms) & (at_ms < self.withdrawn_ms)
        return alive

    @property
    def kinds(self) -> list[str]:
        """Names of the kinds by index."""
        return list(KINDS)

    def changes(self) -> list[ItemChange]:
        """Upserts of all items, in order of publication."""
        order = np.argsort(self.published_ms, kind="stable")
        return [ItemChange(item_id=self.items[n].item_id, upsert=self.items[n]) for n in order]

    def row(self, item_id: str) -> int:
        """Row of an item id of this world."""
        return int(item_id.removeprefix("item-"))


def build_catalogue(params: WorldParams, start_ms: int) -> Catalogue:
    """The catalogue of a world whose history begins at `start_ms`."""
    rng = np.random.default_rng([params.seed, 1])
    words = random.Random(params.seed * 2 + 1)
    n, dim, n_kinds = params.n_items, params.dim, len(KINDS)
    centres = rng.normal(size=(n_kinds, dim))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    themes = rng.normal(scale=0.35 / np.sqrt(dim), size=(n_kinds, N_THEMES, dim))
    # Kinds differ in size, as they do in shops.
    sizes = rng.dirichlet(np.full(n_kinds, 6.0))
    kind = rng.choice(n_kinds, size=n, p=sizes)
    theme = rng.integers(N_THEMES, size=n)
    latent = centres[kind] + themes[kind, theme] + rng.normal(scale=0.25 / np.sqrt(dim), size=(n, dim))
    quality = rng.normal(size=n)
    price = np.round(np.exp(rng.normal(2.5, 0.8, size=n)), 2)
    before = rng.random(n) < params.published_share
    life = params.life_days
    past = rng.exponential(90.0, size=n) if life is None else rng.uniform(0.0, life, size=n)
    age_days = np.where(before, -past, rng.uniform(0.0, 60.0, size=n))
    published_ms = (start_ms + age_days * DAY_MS).astype(np.int64)
    withdrawn_ms = np.full(n, NEVER_MS) if life is None else published_ms + int(life * DAY_MS)
    names = list(KINDS)
    texts = [_text(words, names[k], int(t)) for k, t in zip(kind, theme, strict=True)]
    if not params.effects.content:
        words.shuffle(texts)
    items = []
    for row in range(n):
        title, text, creator = texts[row]
        second = int(kind[row] + 1 + rng.integers(n_kinds - 1)) % n_kinds
        items.append(
            Item(
                item_id=f"item-{row}",
                title=title,
                text=text,
                price=float(price[row]),
                available=True,
                creator=creator,
                categories=[names[kind[row]]] + ([names[second]] if rng.random() < 0.2 else []),
                published_ts_ms=int(published_ms[row]),
                attributes={"minutes": attribute(float(rng.integers(3, 90)))},
            )
        )
    if not params.effects.quality:
        quality = np.zeros(n)
    return Catalogue(tuple(items), kind, latent, quality, centres, published_ms, withdrawn_ms)


def _text(words: random.Random, kind: str, theme: int) -> tuple[str, str, str]:
    own = KINDS[kind][theme].split()
    other = words.choice(KINDS[kind][words.randrange(N_THEMES)].split())
    picked = words.sample(own, 4)
    kind_index = list(KINDS).index(kind)
    first = FIRST_NAMES[(kind_index * 7 + words.randrange(N_CREATORS_A_KIND)) % len(FIRST_NAMES)]
    creator = f"{first} {LAST_NAMES[(kind_index * 5 + theme) % len(LAST_NAMES)]}"
    # A title says less than the text: one word of the theme among words that any kind may use.
    title = f"The {words.choice(ADJECTIVES)} {words.choice([words.choice(own), words.choice(NOUNS)])} of {picked[0]}"
    a, b, c, d = picked
    text = words.choice(TEMPLATES).format(a=a.capitalize(), b=b, c=c, d=d, author=creator)
    return title, f"{text} Also: {other}, {words.choice(own)}.", creator
