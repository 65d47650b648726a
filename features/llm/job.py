"""`liverank enrich`: catalogue -> vectors and attributes -> Parquet -> Feast -> the active vector space."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from features.apply import materialize
from features.item_vectors import ItemVectors, Space, activate_space, active_space
from features.llm import provider_of
from features.llm.cache import AnswerCache
from features.llm.catalogue import items_of_file, items_of_topic
from features.llm.cost import Ledger, Prices
from features.llm.enrich import Enrichment, Estimate, Tally
from features.llm.errors import LlmError
from features.llm.provider import Provider
from features.near_line import NearLine, users_of
from features.redis import Redis, connect, translated
from features.semantic import VIEW, parquet_path, write_parquet
from liverank.errors import ConfigError
from liverank.settings import Settings
from liverank.v1.item_pb2 import Item

CACHE_FILE: Final = "llm-cache.sqlite"
Note = Callable[[str], None]


class NothingToEnrichError(LlmError, ConfigError):
    """The catalogue is empty, or no item of it has a text."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run did."""

    space: str
    tally: Tally
    rows: int
    users: int
    calls: int
    cost: float
    seconds: float
    path: Path


def catalogue(settings: Settings, file: Path | None) -> list[Item]:
    """The items of a file, or of the topic `items`, by id."""
    items = {item.item_id: item for item in items_of_file(file)} if file else items_of_topic(settings)
    if not items:
        where = str(file) if file else settings.topic("items")
        raise NothingToEnrichError(f"{where} holds no items: send a catalogue first, or give a file with --items")
    return [items[item_id] for item_id in sorted(items)]


def cache_of(settings: Settings) -> AnswerCache:
    """The cache of this home; its namespaces share it."""
    return AnswerCache(settings.home / CACHE_FILE)


def prices_of(settings: Settings) -> Prices:
    """Prices per million tokens."""
    return Prices(input=settings.llm.price_input, output=settings.llm.price_output)


def estimate(settings: Settings, items: Iterable[Item]) -> Estimate:
    """What `enrich` would do now, without a call."""
    provider, cache, prices = provider_of(settings.llm), cache_of(settings), prices_of(settings)
    try:
        return Enrichment(provider, cache, Ledger(prices, settings.llm.max_cost or float("inf"))).estimate(
            items, prices
        )
    finally:
        cache.close()
        provider.close()


def enrich(
    settings: Settings,
    items: Iterable[Item],
    *,
    provider: Provider | None = None,
    retry_quarantined: bool = False,
    on_progress: Callable[[Tally], None] | None = None,
    note: Note = lambda _: None,
) -> Report:
    """Enrich a catalogue and make its vectors the ones that everything reads.

    Resumable at any point: answers are cached before the next call, the file is replaced whole, and each later step
    may be done twice. Until the last step the old space is served.

    Raises
    ------
    LlmError
        Provider, cap or cache; see `features.llm.errors`.
    NothingToEnrichError
        No item had a text.
    UnavailableError
        Redis or Kafka is away.
    """
    start_s = time.monotonic()
    ledger = Ledger(prices_of(settings), settings.llm.max_cost)
    provider = provider or provider_of(settings.llm)
    cache = cache_of(settings)
    try:
        if retry_quarantined:
            cache.clear_quarantine()
        job = Enrichment(provider, cache, ledger)
        path = parquet_path(settings)
        rows = write_parquet(path, job.run(items, on_progress), job.space, now_ms=time.time_ns() // 1_000_000)
    finally:
        cache.close()
        provider.close()
    if rows == 0:
        raise NothingToEnrichError("no item has a title, a text or any other words: send a catalogue with texts")
    note(f"reading {rows} rows into Feast")
    with contextlib.redirect_stdout(sys.stderr):  # Feast prints its progress
        materialize(settings, [VIEW])
    client = connect(settings)
    users = switch_space(client, settings, job.space, note, moved=job.tally.embedded > 0)
    return Report(
        space=str(job.space),
        tally=job.tally,
        rows=rows,
        users=users,
        calls=ledger.calls,
        cost=ledger.spent,
        seconds=time.monotonic() - start_s,
        path=path,
    )


def switch_space(
    client: Redis, settings: Settings, space: Space, note: Note = lambda _: None, *, moved: bool = False
) -> int:
    """Make a space active and bring all users' vectors into it; returns how many users were written.

    Where it was active before, users are left as they are unless `moved`: vectors of items came or changed.
    """
    before = active_space(client, settings)
    activate_space(client, settings, space)
    if before == space and not moved:
        return 0
    note(f"recomputing user vectors in {space}")
    return recompute_users(client, settings)


def recompute_users(client: Redis, settings: Settings) -> int:
    """Vectors of all users anew, from their history rows; returns how many were written. About 5,000 users a second.

    For what no change announces: an import, a rebuild, another vector space. Vectors are for now; where the namespace
    runs on the data's clock, for each user's newest event.
    """
    from features.hashing import item_hash

    with translated("reading the live generation"):
        active = client.get(f"{settings.namespace}:active")
    names = {item_hash(item_id): item_id for item_id in items_of_topic(settings)}
    near_line = NearLine(client, settings, ItemVectors(client, settings, names.get, capacity=1_000_000))
    users = list(dict.fromkeys(users_of(client, settings, int(active) if isinstance(active, bytes) else 1)))
    as_of_ms = time.time_ns() // 1_000_000 if settings.clock == "wall" else None
    return near_line.recompute(users, as_of_ms)
