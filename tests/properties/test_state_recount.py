"""The folds equal the recount, whatever the order of arrival, the polls and the crashes."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.recount.expected import Logged
from tests.recount.scenes import DAY_MS, HOUR_MS, MINUTE_MS, START_MS, differences, play, scene

seeds = st.integers(0, 2**32 - 1)


def _in_order(events: list) -> list[Logged]:
    return [Logged(event, event.event_ts_ms) for event in events]


def _delayed(events: list, rng: random.Random, most_ms: int) -> list[Logged]:
    """Every event arrives up to `most_ms` late; append times follow arrival."""
    arrivals = sorted((event.event_ts_ms + rng.randrange(most_ms + 1), at) for at, event in enumerate(events))
    return [Logged(events[at], append_ts_ms) for append_ts_ms, at in arrivals]


@settings(max_examples=60, deadline=None)
@given(seed=seeds, n=st.integers(1, 80), span_h=st.sampled_from([1, 6, 72, 400]))
def test_ING_7_STR_1_in_order_with_crashes_equals_the_recount(seed: int, n: int, span_h: int) -> None:
    rng = random.Random(seed)
    log = _in_order(scene(rng, n, span_h * HOUR_MS))
    end_ms = log[-1].append_ts_ms + rng.choice([0, 20 * MINUTE_MS, 3 * HOUR_MS, 2 * DAY_MS])
    log.append(Logged(None, end_ms))
    world = play(log, crash_rate=0.2, write_rate=0.4, seed=seed)
    assert differences(world, log, end_ms) == []
