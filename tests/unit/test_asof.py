"""FEA-3: a row holds what was appended strictly before its instant, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from features.item_version import CatalogueItem
from liverank.contract import event_key
from liverank.kafka import Record
from liverank.partition import partition as partition_of
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType
from liverank.v1.item_pb2 import Item, ItemChange
from streams.asof import CatalogueRows, Moment, Past, rows_at
from streams.catalogue import Catalogue
from tests.recount.program import PROGRAM

N = 2
START_MS = 1_700_000_000_000
KINDS = (
    EventType.EVENT_TYPE_CLICK,
    EventType.EVENT_TYPE_IMPRESSION,
    EventType.EVENT_TYPE_SAVE,
    EventType.EVENT_TYPE_DISMISS,
    EventType.EVENT_TYPE_LIKE,
    EventType.EVENT_TYPE_PURCHASE,
)
FIELDS = frozenset(f"{view.name}:{field}" for view in PROGRAM.views for field in (*view.page_names, *view.fields)) | {
    f"item_catalogue:{name}" for name in ("title", "price")
}


def records(events: Sequence[tuple[int, Event]], generation: int = 1) -> list[Record]:
    """Records of (append time, event), in order, with the offsets of their partitions."""
    following = [0] * N
    out = []
    for append_ts_ms, event in sorted(events, key=lambda each: each[0]):
        key = event_key(event)
        p = partition_of(key, N)
        out.append(Record("events", p, following[p], key, event.SerializeToString(), (), append_ts_ms))
        following[p] += 1
    return out


def some(n: int, seed: int) -> list[tuple[int, Event]]:
    """Events of 6 users over 2 days, up to an hour late."""
    rng = random.Random(seed)
    found = []
    for at in range(n):
        ts_ms = START_MS + rng.randrange(2 * 86_400_000)
        event = Event(
            event_id=f"e{seed}-{at}", type=rng.choice(KINDS),
            user_id=f"u{rng.randrange(6)}", item_id=f"i{rng.randrange(8)}", event_ts_ms=ts_ms,
        )  # fmt: skip
        found.append((ts_ms + rng.choice((5, 5, 5, rng.randrange(3_600_000))), event))
    return found


def table() -> Catalogue:
    found = Catalogue()
    for at in range(8):
        found.put(f"i{at}", 0, CatalogueItem(f"i{at}", at, 0, (f"c{at % 3}",), "", 0.0, True, 0))
    return found


def answered(
    live: Sequence[Record],
    moments: Sequence[Moment],
    *,
    imported: Sequence[Record] = (),
    rows: CatalogueRows | None = None,
    users: set[str] | None = None,
) -> dict[int, dict[str, bytes]]:
    items = {moment.key for moment in moments if moment.entity == "item"}
    past = Past(Settings(), PROGRAM, token=b"t", n_partitions=N, table=table(), items=items, users=users)
    newest = max((record.append_ts_ms for record in imported), default=0)
    given: dict[str, Any] = {"imported": imported, "live": live, "newest_imported_ms": newest, "generation": 1}
    return dict(rows_at(past, rows, moments, FIELDS, **given))


def moments(log: Sequence[Record], n: int, seed: int) -> list[Moment]:
    """Random instants, half of them exactly those of records."""
    rng = random.Random(seed)
    found = []
    for row in range(n):
        entity, key = rng.choice((("user", f"u{rng.randrange(7)}"), ("item", f"i{rng.randrange(9)}")))
        record = rng.choice(log)
        found.append(Moment(row, entity, key, record.append_ts_ms + rng.choice((0, 0, 1, 60_000))))
    return found


def test_FEA_3_a_row_is_what_the_strictly_earlier_records_alone_give() -> None:
    log = records(some(250, seed=1))
    asked = moments(log, 60, seed=2)
    found = answered(log, asked)
    assert len(found) == len(asked)
    for moment in asked:
        earlier = [record for record in log if record.append_ts_ms < moment.ts_ms]
        assert found[moment.row] == answered(earlier, [moment])[moment.row], moment
    assert sum(map(bool, found.values())) > 40


def test_FEA_3_a_planted_future_value_never_appears() -> None:
    log = records(some(200, seed=3))
    at_ms = log[120].append_ts_ms
    asked = [Moment(0, "user", "u1", at_ms), Moment(1, "item", "i1", at_ms), Moment(2, "user", "u9", at_ms)]
    plain = answered(log, asked)
    planted = [
        (
            at_ms + append,
            Event(event_id=f"p{user}{append}", type=kind, user_id=user, item_id="i1", event_ts_ms=at_ms + ts),
        )
        for append, kind, user, ts in (
            (0, EventType.EVENT_TYPE_PURCHASE, "u1", 0),  # at the very instant
            (9, EventType.EVENT_TYPE_LIKE, "u1", -50),  # happened before, appended after
            (1, EventType.EVENT_TYPE_CLICK, "u9", 0),  # of a user that was not there yet
        )
    ]
    before = [(r.append_ts_ms, Event.FromString(r.value)) for r in log]
    assert answered(records([*before, *planted]), asked) == plain
    later = [moment._replace(ts_ms=at_ms + 10) for moment in asked]
    seen = answered(records([*before, *planted]), later)
    assert all(seen[row] != answered(log, later)[row] for row in range(3))


def test_FEA_3_other_users_may_be_left_out() -> None:
    log = records(some(300, seed=8))
    asked = [moment for moment in moments(log, 60, seed=9) if moment.entity == "user" and moment.key in {"u1", "u2"}]
    assert len(asked) > 5
    assert answered(log, asked, users={"u1", "u2"}) == answered(log, asked)


def test_FEA_3_imported_history_goes_on_into_the_live_log() -> None:
    old, new = some(150, seed=4), [(append + 3 * 86_400_000, event) for append, event in some(100, seed=5)]
    for _, event in new:
        event.event_ts_ms += 3 * 86_400_000
    past = records([(event.event_ts_ms, event) for _, event in old])
    live = records(new)
    asked = [*moments(past, 20, seed=6), *(m._replace(row=m.row + 20) for m in moments(live, 20, seed=7))]
    found = answered(live, asked, imported=past)
    for moment in asked:
        earlier = {
            "imported": [record for record in past if record.append_ts_ms < moment.ts_ms or moment.row >= 20],
            "live": [record for record in live if record.append_ts_ms < moment.ts_ms],
        }
        assert found[moment.row] == answered(earlier["live"], [moment], imported=earlier["imported"])[moment.row]


def test_FEA_3_catalogue_rows_are_the_version_of_that_time() -> None:
    def change(offset: int, append_ts_ms: int, title: str | None) -> Record:
        value = ItemChange(item_id="i1")
        if title is None:
            value.removed.SetInParent()
        else:
            value.upsert.CopyFrom(Item(item_id="i1", title=title, available=True))
        return Record("items", 0, offset, b"i1", value.SerializeToString(), (), append_ts_ms)

    versions = [change(0, 100, "first"), change(1, 200, "second"), change(2, 300, None)]
    rows = CatalogueRows(versions, {"i1"})
    title = "item_catalogue:title"
    assert rows.at("i1", 100, imported=False) == {}
    assert b"first" in rows.at("i1", 100, imported=True)[title]
    assert b"first" in rows.at("i1", 200, imported=False)[title]
    assert b"second" in rows.at("i1", 201, imported=False)[title]
    gone = rows.at("i1", 301, imported=False)
    assert b"second" in gone[title]
    assert gone["item_catalogue:available"] != rows.at("i1", 300, imported=False)["item_catalogue:available"]
    assert rows.at("other", 300, imported=True) == {}
