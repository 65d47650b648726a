"""One model, two readings of a user: what the day brought counts at once (FEA-5)."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from bench.override import WEIGHTS, memory_of, score, trained
from evaluation.simulator import World, WorldParams, history
from liverank.v1.event_pb2 import Context, Event, EventType
from ranker.training.history import Sampling, exposure_dataset, in_order

START_MS = 1_750_000_000_000


pytestmark = pytest.mark.filterwarnings()


def test_FEA_5_one_event_changes_the_ranking_and_not_the_model() -> None:
    world = World.build(WorldParams(seed=3, n_items=200, n_users=80, sessions_per_user=8.0), START_MS)
    items, events = world.catalogue.items, in_order(history(world))
    model = trained(exposure_dataset(partial(memory_of, items), events, tuple(WEIGHTS), Sampling(slates=2_000)))
    model_id, memory = model.model_id, memory_of(items)
    for event in events:
        memory.observe(event)
    now_ms = events[-1].event_ts_ms + 60_000
    # Items as they are now throughout: only the user's own event counts.
    found = memory.refresh()
    rows = np.sort([found.row_of(items[row].item_id) for row in world.live_rows(now_ms)]).astype(np.int32)
    moved = 0
    for user in world.population.users[:20]:
        asked = Event(user_id=user.user_id, event_ts_ms=now_ms, context=Context(device="phone"))
        before = memory.user(user.user_id, now_ms)
        first = score(model, before, found, rows, asked)
        memory.observe(
            Event(
                event_id=f"like-{user.user_id}", type=EventType.EVENT_TYPE_LIKE, user_id=user.user_id,
                item_id=found.ids[rows[int(np.argsort(-first)[len(first) // 2])]], event_ts_ms=now_ms,
            )
        )  # fmt: skip
        second = score(model, memory.user(user.user_id, now_ms), found, rows, asked)
        moved += bool((np.argsort(-first, kind="stable") != np.argsort(-second, kind="stable")).any())
        # The reading of before is what it was.
        np.testing.assert_array_equal(score(model, before, found, rows, asked), first)
    assert moved >= 8
    assert model.model_id == model_id
