"""A real log with exact repeats: as it is, twice, or without them, the state and the label rows are the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from liverank.v1.event_pb2 import Event
from tests.recount.expected import Logged
from tests.recount.kuairand import events, key, rows
from tests.recount.scenes import HOUR_MS, differences, play
from tests.recount.world import Catalogue, World

N_REPEATS = 2_975
"""Exact ones; by user, video and millisecond alone there are four more, with another outcome."""


def log_of(found: Sequence[dict[str, Any]], again: Sequence[dict[str, Any]] = ()) -> list[Logged]:
    """Events in the order of their times; `again` comes once more when all is over."""
    first: list[Event] = sorted((event for row in found for event in events(row)), key=lambda each: each.event_ts_ms)
    end_ms = first[-1].event_ts_ms + HOUR_MS
    log = [Logged(event, event.event_ts_ms) for event in first]
    log += [Logged(event, end_ms + at) for at, event in enumerate(e for row in again for e in events(row))]
    log.append(Logged(None, first[-1].event_ts_ms + 24 * HOUR_MS))
    return log


def labels(world: World) -> list[bytes]:
    """Label rows without their place in the log."""
    found = world.examples()
    for row in found:
        row.ClearField("number")
    return sorted(row.SerializeToString(deterministic=True) for row in found)


@pytest.mark.data
def test_ING_4_a_real_log_as_it_is_twice_or_deduplicated_gives_the_same(data: Path) -> None:
    every = rows(data / "kuairand-pure-apr25-30")
    counts = Counter(map(key, every))
    assert sum(n - 1 for n in counts.values()) == N_REPEATS
    repeating = sorted({row["user_id"] for row in every if counts[key(row)] > 1})
    users = set(repeating[::4])
    mine = [row for row in every if row["user_id"] in users]
    once = list({key(row): row for row in reversed(mine)}.values())[::-1]
    assert len(mine) - len(once) > 500
    catalogue = Catalogue()
    for row in once:
        catalogue.put(f"v{row['video_id']}", row["tag"])
    plain_log = log_of(once)
    plain = play(plain_log, write_rate=0.002, items=catalogue)
    assert differences(plain, plain_log, plain_log[-1].append_ts_ms) == []
    for log in (log_of(mine), log_of(mine, again=mine)):
        other = play(log, write_rate=0.002, items=catalogue)
        assert other.users.store.fields.keys() == plain.users.store.fields.keys()
        for user, fields in plain.users.store.fields.items():
            public = {name: data for name, data in fields.items() if not name.startswith(b"_")}
            assert {n: d for n, d in other.fields(user).items() if not n.startswith(b"_")} == public, user
        assert other.items.store.fields == plain.items.store.fields
        assert labels(other) == labels(plain)
        assert other.dead_letters() == []
