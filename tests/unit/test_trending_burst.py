"""A burst puts a new item among the trending ones within a minute of event time, and it goes as it came."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np

from features.item_table import ItemTable
from ranker.retrieval.top_lists import trending
from tests.recount.program import PROGRAM
from tests.recount.scenes import DAY_MS, MINUTE_MS, START_MS, action
from tests.recount.world import Catalogue, World

N_ITEMS = 40
TOP = 5


def test_STR_6_a_burst_makes_a_new_item_trend_within_60_s_and_it_decays() -> None:
    rng = random.Random(6)
    catalogue = Catalogue()
    for item in range(N_ITEMS + 1):
        catalogue.put(f"i{item}", f"c{item % 4}")
    world, table = World(catalogue=catalogue), ItemTable(PROGRAM)
    new, taken, number = f"i{N_ITEMS}", 0, 0

    def click(item: str, ts_ms: int) -> None:
        nonlocal number
        number += 1
        world.send(action(f"e{number}", "click", ts_ms, item, user=f"u{rng.randrange(300)}"))

    def trends(as_of_ms: int) -> list[str]:
        nonlocal taken
        rows = world.items.feeds
        for row in rows[taken:]:
            table.apply_row(row)
        taken = len(rows)
        for item in range(N_ITEMS + 1):
            table.set_catalogue(
                f"i{item}", version=1, available=True, price=0.0, creator="", categories=("c",), published_ms=0
            )
        allowed = np.ones(len(table), dtype=np.bool_)
        query = SimpleNamespace(table=table, as_of_ms=as_of_ms, allowed=allowed)
        found = trending(keep_s=0).propose(query, TOP)  # type: ignore[arg-type]
        return [table.ids[row] for row in found.rows]

    at_ms = START_MS
    while at_ms < START_MS + 2 * DAY_MS:  # two usual days
        at_ms += rng.randrange(4 * MINUTE_MS)
        click(f"i{rng.randrange(N_ITEMS)}", at_ms)
    assert new not in trends(at_ms)
    burst_ms = at_ms
    for second in range(50):
        click(new, burst_ms + 1000 * second)
    assert trends(burst_ms + 60_000)[0] == new
    while at_ms < burst_ms + 2 * DAY_MS:  # two more
        at_ms += rng.randrange(4 * MINUTE_MS)
        click(f"i{rng.randrange(N_ITEMS)}", at_ms)
    assert new not in trends(at_ms)
