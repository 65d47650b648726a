"""Bytes of the state's pages, as docs/specs/state.md fixes them: a change here is a new version of the page."""

from __future__ import annotations

import struct

import pytest

from features.errors import StateFormatError
from features.hashing import category_hash, id_hash, item_hash
from features.state.dedup import Dedup
from features.state.exposure import Outcome, pack_outcome
from features.state.exposures import Exposures
from features.state.history import Entry, History
from features.state.neighbours import Neighbours
from features.state.older import WEEK_MS, Older, priority
from features.state.pairs import Good, Pairs
from features.state.params import StateParams
from features.state.seen import CLICKED, DISMISSED, Seen
from features.state.session import Sessions, Shown
from features.state.surfaces import SurfaceCounts
from features.state.trend import Trend

T0 = 1_700_000_000_000
ITEM = item_hash("item-1")


def test_hashes() -> None:
    assert ITEM == id_hash("item-1") == 8406168460641299428
    assert item_hash("") == -5426141060434712860
    assert category_hash("") == 0
    assert category_hash("news") == id_hash("news") & 0xFFFFFFFF


def test_dedup_pages() -> None:
    dedup = Dedup({})
    dedup.add(ITEM, T0, T0 + 1_999)
    one = struct.pack("<q", ITEM)[1:]
    assert dedup.dirty() == {b"_d0": b"\x02" + struct.pack("<qIBB", T0, 1_700_000_001, 0, 0) + one}
    assert dedup.dirty() == {}
    dedup.add(-2, T0 - 70_000, T0 + 300_999)
    assert dedup.dirty() == {
        b"_d0": b"\x02"
        + struct.pack("<qIBB", T0 - 70_000, 1_700_000_001, 3, 2)
        + one
        + b"\xff" * 7
        + (70_000).to_bytes(3, "little")
        + bytes(3)
        + struct.pack("<HH", 0, 299)
    }


def test_history_pages() -> None:
    history = History({})
    history.add(Entry(T0, ITEM, 10, -32, 7, 5))
    entry = struct.pack("<IHBbiIq", T0 & 0xFFFFFFFF, T0 >> 32, 10, -32, 7, 5, ITEM)
    assert history.dirty() == {b"user_history:page_0": b"\x01" + entry}
    assert entry.hex() == "0068e5cf8b010ae00700000005000000e4eb9d5aadb5a874"


def test_older_pages() -> None:
    older, week = Older({}), 1_699_488_000_000
    assert week % WEEK_MS == 0
    for n in range(30):
        older.add(Entry(week + 1000 * n, ITEM, 2, 16, 7, 5))
    kept = sorted((priority(ITEM, week + 1000 * n, 16), week + 1000 * n) for n in range(30))[5:]
    entries = b"".join(struct.pack("<IHbBq", ts & 0xFFFFFFFF, ts >> 32, 16, 2, ITEM) for _, ts in kept)
    assert older.dirty() == {b"user_history:older_2": b"\x01" + entries}
    assert priority(ITEM, T0, 16) == 4 * priority(ITEM, T0, -16) == 84.67878420215452


def test_seen_pages() -> None:
    seen = Seen({})
    seen.mark(ITEM, T0)
    seen.act(ITEM, CLICKED, T0)
    seen.act(ITEM, DISMISSED, T0 + 5_000)
    page = ITEM % 4
    assert seen.dirty() == {
        b"user_seen:shown_%d" % page: b"\x01" + struct.pack("<qI", ITEM, T0 // 1000),
        b"user_seen:acted_%d" % page: b"\x01"
        + struct.pack("<qBI", ITEM, 1, T0 // 1000)
        + struct.pack("<qBI", ITEM, 3, T0 // 1000 + 5),
    }


def test_session_pages() -> None:
    sessions = Sessions({}, 1_800_000)
    sessions.add(T0, T0, shown=Shown(T0, "item-1", T0 + 1))
    dirty = sessions.dirty()
    assert dirty == {
        b"_sc": b"\x02"
        + struct.pack("<qqqIIIIIB", T0, T0, -1, 1, 0, 0, 0, 1, 1)
        + struct.pack("<qqB", T0, T0 + 1, 6)
        + b"item-1",
        b"user_session:state": b"\x01"
        + struct.pack("<qqqqIIIIIIIIf", T0, T0, -1, 1_800_000, 1, 0, 0, 0, 1, 1, 0, 0, 0),
    }


def test_outcome_and_pair_pages() -> None:
    outcome = Outcome(item_id="item-1", event_ts_ms=T0, bits=33, request_id="r", position=3)
    packed = struct.pack("<qBBBHBB", T0, 33, 255, 0, 3, 6, 1) + b"item-1r"
    assert pack_outcome(outcome) == packed
    exposures = Exposures({}, StateParams())
    exposures.add_outcome("item-1", T0, 33, "r", 3)
    assert exposures.dirty() == {b"_o0": b"\x01" + packed}
    pairs = Pairs({}, 5, 1_000)
    pairs.add(Good(T0, "item-1", ITEM))
    assert pairs.dirty() == {b"_p0": b"\x01" + struct.pack("<IHB", T0 & 0xFFFFFFFF, T0 >> 32, 6) + b"item-1"}


def test_item_pages() -> None:
    neighbours = Neighbours({})
    neighbours.add([ITEM], [0.5], 1_577_836_800_000)
    assert neighbours.dirty() == {
        b"item_neighbours:page_%d" % (ITEM % 8): b"\x01\x00" + struct.pack("<qdI", ITEM, 0.5, 1)
    }
    surfaces = SurfaceCounts({})
    surfaces.add("home", 1_577_836_800_000 + 30 * 86_400_000, 0.5, 1.0)  # a half-life after the landmark
    surfaces.add("", 1_577_836_800_000, 1.0, 1.0)
    assert surfaces.dirty() == {b"item_surfaces:counts": b"\x01" + struct.pack("<qdd", id_hash("home"), 1.0, 2.0)}
    trend = Trend({})
    landmark = 460 * 256 * 7 * 86_400_000
    trend.add(landmark, good=2.0, clicks=1.0, expected=0.5, chosen=3.0)
    values = struct.unpack("<21d", trend.dirty()[b"item_trend:decayed"][1:])
    assert values[10:15] == (460.0, 2.0, 1.0, 0.5, 3.0)
    assert values[15] == landmark // (256 * 30 * 86_400_000)
    assert values[20] == float(landmark)


def test_an_abandoned_session_is_stored_with_what_was_shown_last() -> None:
    sessions = Sessions({}, 1_800_000)
    sessions.add(T0, T0, shown=Shown(T0, "item-1", T0 + 1))
    abandoned = (1, Shown(T0 + 1_800_000, "item-1", T0 + 1))
    assert sessions.on_due(T0 + 1_800_000) == [abandoned]
    dirty = sessions.dirty()
    assert dirty[b"_sc"] == b"\x02" + (
        struct.pack("<qqqIIIIIB", T0, T0, -1, 1, 0, 0, 0, 1, 3) + struct.pack("<qqB", T0, T0 + 1, 6) + b"item-1"
    )
    again = Sessions(dirty, 1_800_000)
    assert again.due_ms() is None
    assert again.add(T0 + 1, T0 + 1_800_000, polarity=1) == [(-1, abandoned[1])]


def test_another_version_is_refused() -> None:
    with pytest.raises(StateFormatError, match=r"reads version 2.*liverank rebuild"):
        Dedup({b"_d0": b"\x01" + bytes(20)})
    with pytest.raises(StateFormatError, match="liverank rebuild"):
        History({b"user_history:page_0": b"\x02" + bytes(24)})
