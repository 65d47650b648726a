"""The dedup table against its rule in words, and what mature users' states hold above its bound."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from features.hashing import id_hash
from features.state.dedup import Dedup, Verdict
from tests.recount.expected import Logged, _Dedup
from tests.recount.scenes import DAY_MS, HOUR_MS, MINUTE_MS, START_MS, action, differences, play, scene

seeds = st.integers(0, 2**32 - 1)


def _reload(dedup: Dedup, stored: dict[bytes, bytes]) -> Dedup:
    for name, page in dedup.dirty().items():
        if page:
            stored[name] = page
        else:
            stored.pop(name, None)
    return Dedup(stored)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, gap_ms=st.sampled_from([0, 500, 5_000, 60_000]), late_ms=st.sampled_from([0, HOUR_MS, 3 * DAY_MS]))
def test_ING_4_the_table_follows_its_rule(seed: int, gap_ms: int, late_ms: int) -> None:
    """1,500 ids with repeats, late ones and pauses: same verdicts, same ids, same bound, also after a reload."""
    rng = random.Random(seed)
    dedup, rule, stored = Dedup({}), _Dedup(), {}
    clock_ms, sent = START_MS, []
    for at in range(1_500):
        clock_ms += rng.randrange(gap_ms + 1) + (HOUR_MS if rng.random() < 0.002 else 0)
        if sent and rng.random() < 0.1:
            event_id, ts_ms = rng.choice(sent[-700:])
        else:
            event_id, ts_ms = f"e{at}", clock_ms - rng.randrange(late_ms + 1)
            sent.append((event_id, ts_ms))
        verdict = dedup.judge(id_hash(event_id), ts_ms, clock_ms)
        if verdict is Verdict.NEW:
            dedup.add(id_hash(event_id), ts_ms, clock_ms)
        assert verdict.value == rule.take(event_id, ts_ms, clock_ms)
        assert dedup.bound_ms == rule.bound_ms
        if rng.random() < 0.01:
            dedup = _reload(dedup, stored)
    assert {id_hash(entry[0]) >> 8 for entry in rule.kept} == dedup._ids
    assert len(dedup) == len(rule.kept)


def test_ING_5_the_first_512_events_in_reverse_are_all_taken() -> None:
    events = [action(f"e{at}", "click", START_MS + at * MINUTE_MS, at % 12) for at in range(512)]
    end_ms = START_MS + 512 * MINUTE_MS
    log = [Logged(event, end_ms + at * 100) for at, event in enumerate(reversed(events))]
    log.append(Logged(None, end_ms + HOUR_MS))
    world = play(log, write_rate=0.1)
    assert world.dead_letters() == []
    assert differences(world, log, end_ms + HOUR_MS) == []
    in_order = [*(Logged(event, event.event_ts_ms) for event in events), log[-1]]
    assert differences(world, in_order, end_ms + HOUR_MS) == []


def test_ING_4_beyond_the_horizon_is_a_dead_letter() -> None:
    """After 600 events a day apart in blocks, older ones are refused with the reason, and so is what is over 7 days."""
    log = [
        Logged(action(f"e{at}", "click", START_MS + at * 20 * MINUTE_MS, at % 12), START_MS + at * 20 * MINUTE_MS)
        for at in range(600)
    ]
    now_ms = log[-1].append_ts_ms
    log.append(Logged(action("old", "click", START_MS + 30_000, 1), now_ms + 1))
    log.append(Logged(action("ancient", "click", now_ms - 8 * DAY_MS, 1, user="other"), now_ms + 2))
    log.append(Logged(action("fresh", "click", now_ms - 6 * DAY_MS, 1, user="other"), now_ms + 3))
    world = play(log, write_rate=0.1)
    assert [letter.reason for letter in world.dead_letters()] == ["beyond_dedup_horizon"] * 2
    assert differences(world, log, now_ms) == []


@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_ING_5_mature_users_above_the_bound_equal_the_recount(seed: int) -> None:
    """1,400 events of one user, many late: above the bound nothing is lost, below it dead letters."""
    rng = random.Random(seed)
    events = scene(rng, 1_400, 5 * DAY_MS, users=1, exposures=0.02)
    arrivals = sorted(
        (
            event.event_ts_ms
            + (0 if event.HasField("exposure") else rng.choice([0, 0, 0, rng.randrange(25 * MINUTE_MS)])),
            at,
        )
        for at, event in enumerate(events)
    )
    log = [Logged(events[at], append_ts_ms) for append_ts_ms, at in arrivals]
    end_ms = log[-1].append_ts_ms + HOUR_MS
    log.append(Logged(None, end_ms))
    world = play(log, crash_rate=0.05, write_rate=0.1, seed=seed)
    assert differences(world, log, end_ms) == []


def test_ING_4_a_bot_moves_no_item_and_no_statistic() -> None:
    """8,300 events in 15 minutes: the user's own counters go on, items and statistics stop, the table stays bounded."""
    log = [Logged(action(f"e{at}", "click", START_MS + at * 100, at % 12), START_MS + at * 100) for at in range(8_300)]
    world = play(log, write_rate=0.01)
    clicks = sum(
        effect.event.sign for packed in world.effects() for effect in packed.effects if effect.HasField("event")
    )
    assert clicks == 8_192
    pages = [name for name in world.fields("u") if name.startswith(b"_d") and name != b"_d"]
    assert len(pages) * 32 <= 8_192 + 576 + 64
