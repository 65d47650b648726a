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
    """Every event but exposures arrives up to `most_ms` late; append times follow arrival."""
    arrivals = sorted(
        (event.event_ts_ms + (0 if event.HasField("exposure") else rng.randrange(most_ms + 1)), at)
        for at, event in enumerate(events)
    )
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


@settings(max_examples=50, deadline=None)
@given(seed=seeds, n=st.integers(2, 80), span_h=st.sampled_from([1, 6, 72]))
def test_ING_5_ING_7_delayed_events_equal_the_recount_and_the_sorted_log(seed: int, n: int, span_h: int) -> None:
    """Delays of up to 20 minutes. What arrives after a window closed gives corrections, so labels may differ from those
    of the sorted log; features never do.
    """
    rng = random.Random(seed)
    events = scene(rng, n, span_h * HOUR_MS)
    log = _delayed(events, rng, 20 * MINUTE_MS)
    end_ms = log[-1].append_ts_ms + 2 * HOUR_MS
    log.append(Logged(None, end_ms))
    world = play(log, crash_rate=0.1, write_rate=0.5, seed=seed)
    assert differences(world, log, end_ms) == []
    in_order = [*_in_order(events), Logged(None, end_ms)]
    assert differences(world, in_order, end_ms, labels=False) == []


@settings(max_examples=50, deadline=None)
@given(seed=seeds, n=st.integers(2, 60))
def test_ING_5_any_order_within_the_horizon_equals_the_sorted_log(seed: int, n: int) -> None:
    """No exposures: everything arrives in any order after the last event, up to 6 days late."""
    rng = random.Random(seed)
    span_ms = rng.choice([HOUR_MS, 20 * HOUR_MS, 6 * DAY_MS])
    events = scene(rng, n, span_ms, exposures=0.0)
    rng.shuffle(events)
    arrivals = sorted(START_MS + span_ms + rng.randrange(HOUR_MS) for _ in events)
    log = [Logged(event, append_ts_ms) for event, append_ts_ms in zip(events, arrivals, strict=True)]
    end_ms = arrivals[-1] + DAY_MS
    log.append(Logged(None, end_ms))
    world = play(log, crash_rate=0.1, write_rate=0.5, seed=seed)
    assert differences(world, log, end_ms) == []
    in_order = [*sorted(log[:-1], key=lambda each: each.event.event_ts_ms), log[-1]]
    assert differences(world, in_order, end_ms) == []


@settings(max_examples=50, deadline=None)
@given(seed=seeds, n=st.integers(2, 40))
def test_ING_7_outcomes_before_and_after_their_exposures_give_the_same(seed: int, n: int) -> None:
    """Exposures and outcomes of half an hour in any order: the outcome waits, joins, and moves to a later exposure."""
    rng = random.Random(seed)
    events = scene(rng, n, 14 * MINUTE_MS, exposures=0.4)
    shuffled = rng.sample(events, len(events))
    arrivals = sorted(START_MS + 15 * MINUTE_MS + rng.randrange(14 * MINUTE_MS) for _ in events)
    end_ms = arrivals[-1] + 2 * HOUR_MS
    log = [Logged(event, append_ts_ms) for event, append_ts_ms in zip(shuffled, arrivals, strict=True)]
    log.append(Logged(None, end_ms))
    world = play(log, crash_rate=0.1, write_rate=0.5, seed=seed)
    assert differences(world, log, end_ms) == []
    assert differences(world, [*_in_order(events), Logged(None, end_ms)], end_ms) == []


@settings(max_examples=60, deadline=None)
@given(seed=seeds, n=st.integers(2, 60))
def test_ING_7_late_outcomes_give_one_correction_row(seed: int, n: int) -> None:
    """Outcomes that name their request arrive up to three hours late, some after the exposure was dropped."""
    rng = random.Random(seed)
    events = scene(rng, n, rng.choice([HOUR_MS, 5 * HOUR_MS]), exposures=0.3)
    arrivals = sorted(
        (event.event_ts_ms + (rng.randrange(3 * HOUR_MS) if event.request_id else 0), at)
        for at, event in enumerate(events)
    )
    log = [Logged(events[at], append_ts_ms) for append_ts_ms, at in arrivals]
    end_ms = log[-1].append_ts_ms + 2 * HOUR_MS
    log.append(Logged(None, end_ms))
    world = play(log, crash_rate=0.1, write_rate=0.5, seed=seed)
    assert differences(world, log, end_ms) == []


@settings(max_examples=60, deadline=None)
@given(seed=seeds, n=st.integers(2, 80), most_min=st.sampled_from([5, 40, 200]))
def test_ING_7_anything_late_in_any_order_equals_the_play_of_arrivals(seed: int, n: int, most_min: int) -> None:
    """Exposures and outcomes alike arrive up to 200 minutes late: after the close, after the exposure was dropped,
    exposures whose window is over, outcomes that move to another exposure when both are closed.
    """
    rng = random.Random(seed)
    events = scene(rng, n, rng.choice([10 * MINUTE_MS, HOUR_MS, 5 * HOUR_MS]), exposures=0.4, users=1)
    arrivals = sorted(
        (event.event_ts_ms + (rng.randrange(most_min * MINUTE_MS) if rng.random() < 0.5 else 0), at)
        for at, event in enumerate(events)
    )
    log = [Logged(events[at], append_ts_ms) for append_ts_ms, at in arrivals]
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(log))
        log.insert(at, Logged(None, log[at].append_ts_ms))
    end_ms = log[-1].append_ts_ms + rng.choice([0, 20 * MINUTE_MS, 4 * HOUR_MS])
    log.append(Logged(None, end_ms))
    world = play(log, crash_rate=0.1, write_rate=0.5, seed=seed)
    assert differences(world, log, end_ms) == []


@settings(max_examples=30, deadline=None)
@given(seed=seeds, n=st.integers(1, 60))
def test_ING_4_repeats_change_nothing(seed: int, n: int) -> None:
    """Every event twice or three times, at random places within the dedup horizon."""
    rng = random.Random(seed)
    events = scene(rng, n, 4 * HOUR_MS)
    once = [*_in_order(events), Logged(None, START_MS + DAY_MS)]
    again = list(once[:-1])
    for logged in once[:-1]:
        for _ in range(rng.randint(1, 2)):
            first = next(at for at, each in enumerate(again) if each.event is logged.event)
            at = rng.randint(first + 1, len(again))
            append_ts_ms = again[at - 1].append_ts_ms
            again.insert(at, Logged(logged.event, append_ts_ms))
    again.append(once[-1])
    plain, doubled = play(once), play(again, crash_rate=0.2, write_rate=0.5, seed=seed)
    assert differences(doubled, again, START_MS + DAY_MS) == []
    for user_id in ("u0", "u1"):
        assert doubled.fields(user_id) == plain.fields(user_id)
    assert doubled.items.store.fields == plain.items.store.fields
    assert len(doubled.examples()) == len(plain.examples())


def test_STR_1_a_hundred_thousand_events_equal_the_brute_force_now_and_later() -> None:
    """1,200 users over three days; read at the end, and 5 hours and 20 days later with no new event."""
    rng = random.Random(7)
    events = scene(rng, 100_000, 3 * DAY_MS, users=1_200, exposures=0.01)
    end_ms = events[-1].event_ts_ms
    log = [*_in_order(events), Logged(None, end_ms)]
    world = play(log, write_rate=0.005)
    assert differences(world, log, end_ms, later_ms=(end_ms + 5 * HOUR_MS, end_ms + 20 * DAY_MS)) == []
