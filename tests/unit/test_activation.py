"""Views that are activated, backfilled and merged, or removed, in the middle of a log: exact, whatever crashes."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest

from features.archive import part_dir, write_part
from features.item_version import CatalogueItem
from features.program import Aggregate, FeatureProgram, ViewProgram
from features.tiles import windows
from liverank.errors import ContractError
from liverank.kafka import Record
from liverank.partition import partition as partition_of
from liverank.settings import Settings
from liverank.v1.event_pb2 import Control, Event, EventType
from liverank.v1.stream_pb2 import ItemEffects
from streams.backfill import stage
from streams.calls import Limits
from streams.catalogue import Catalogue
from streams.control import (
    Activate,
    Adopt,
    Command,
    Erase,
    Merge,
    Remove,
    Sweep,
    control,
    parse_control,
    staged,
    write_staged,
)
from streams.direct import is_direct
from streams.program import PROGRAM_KEY, ProgramState
from streams.rows import SESSION, plain_key, session_key, state_key
from streams.staging import Job
from tests.recount.program import DAY_MS, HOUR_MS, PROGRAM
from tests.recount.scenes import MINUTE_MS, N_ITEMS, START_MS, scene
from tests.recount.world import TOKEN, World

INTERNAL = (("liverank-internal", TOKEN),)
SETTINGS = {"attribution_window_s": 1800, "session_timeout_s": 900}


def of(name: str, column: str, function: str, window_ms: int, slide_ms: int) -> Aggregate:
    return Aggregate(name=name, column=column, function=function, window_ms=window_ms, slide_ms=slide_ms)  # type: ignore[arg-type]


NEW = (
    ViewProgram(
        name="user_new",
        entity="user",
        aggregates=(
            of("events_6h", "one", "sum", 6 * HOUR_MS, 5 * MINUTE_MS),
            of("seen_6h", "impression", "sum", 6 * HOUR_MS, 5 * MINUTE_MS),
            of("left_7d", "abandonment", "sum", 7 * DAY_MS, DAY_MS),
            of("longest_1d", "dwell_s", "max", DAY_MS, HOUR_MS),
            of("items_7d", "item_id", "count_distinct", 7 * DAY_MS, DAY_MS),
        ),
    ),
    ViewProgram(
        name="category_new", entity="user_category", aggregates=(of("saves_6h", "save", "sum", 6 * HOUR_MS, HOUR_MS),)
    ),
    ViewProgram(
        name="item_new",
        entity="item",
        aggregates=(
            of("expected_6h", "expected", "sum", 6 * HOUR_MS, HOUR_MS),
            of("n_7d", "one", "count", 7 * DAY_MS, DAY_MS),
        ),
    ),
)
WHOLE = FeatureProgram(project=PROGRAM.project, views=(*PROGRAM.views, *NEW))
NAMED = tuple((f"{view.tiles_id}.1", view) for view in NEW)


class Log:
    """A world whose log is kept and archived."""

    def __init__(self, home: Path, program: FeatureProgram, *, limits: Limits, clock: str = "wall") -> None:
        self.settings = Settings(home=home, clock=clock, streams=SETTINGS)  # type: ignore[arg-type]
        self.table = Catalogue()
        for item in range(N_ITEMS):
            name = f"i{item}"
            self.table.put(name, 0, CatalogueItem(name, item, 0, (f"c{item % 4}",), "", 0.0, True, 0))
        # Nothing is written before `flush`, so that a crash finds calls that are not.
        self.world = World(self.settings, program=program, catalogue=self.table, limits=limits, write_rate=0.0)  # type: ignore[arg-type]
        self.records: list[Record] = []
        self.now_ms = 0
        self.n_calls_left = 0
        self._item_controls = 0

    def send(self, events: Iterable[Event]) -> None:
        for event in events:
            self.now_ms = max(self.now_ms + 1, event.event_ts_ms)
            self._append(event, (event.user_id or event.session_id).encode(), ())
            self.world.flush()

    def tick(self, later_ms: int) -> None:
        self.now_ms += later_ms
        self._append(Event(type=EventType.EVENT_TYPE_TICK), None, INTERNAL)
        self.world.flush()

    def control(self, command: Command, *, crash_after: int | None = None) -> int:
        """Append a control record, return its offset; `crash_after`: lose the memory after so many of its calls."""
        self.now_ms += 1
        self._append(Event(type=EventType.EVENT_TYPE_CONTROL, control=control(command)), None, INTERNAL)
        if crash_after is not None:
            self.n_calls_left += max(0, len(self.world.users.partition.calls) - crash_after)
            self.world.users.write(crash_after)
            self.world.users.crash()
            self.world.users.feed(self.records[-1])
        self.world.flush()
        return self.records[-1].offset

    def item_control(self, command: Command, *, crash_after: int | None = None) -> None:
        """The same for the item fold's own log."""
        value = ItemEffects(control=control(command)).SerializeToString()
        items = self.world.items
        record = Record("item-effects.1", 0, 10**9 + self._item_controls, None, value, INTERNAL, 0)
        self._item_controls += 1
        items.feed(record)
        if crash_after is not None:
            self.n_calls_left += max(0, len(items.partition.calls) - crash_after)
            items.write(crash_after)
            items.crash()
            items.feed(record)
        items.write()

    def archive(self) -> None:
        write_part(part_dir(self.settings, "events", 1, 0), self.records)

    def fields(self, views: Sequence[ViewProgram]) -> dict[tuple[str, str], dict[bytes, bytes]]:
        """Stored pages of these views."""
        names = {field for view in views for field in view.page_fields}
        found = {}
        for kind, runner in (("u", self.world.users), ("i", self.world.items)):
            for key, stored in runner.store.fields.items():
                kept = {name: page for name, page in stored.items() if name in names}
                if kept:
                    found[kind, key] = kept
        return found

    def _append(self, event: Event, key: bytes | None, headers: tuple[tuple[str, bytes], ...]) -> None:
        record = Record("events.1", 0, len(self.records), key, event.SerializeToString(), headers, self.now_ms)
        self.records.append(record)
        self.world.send_bytes(record.value, record.append_ts_ms, key, headers)


@pytest.mark.parametrize("crash_after", [None, 0, 1, 3])
@pytest.mark.parametrize("seed", [1, 2])
def test_FEA_1_a_view_that_comes_later_holds_what_it_would_have_held(
    tmp_path: Path, seed: int, crash_after: int | None
) -> None:
    events = scene(random.Random(seed), 500, 30 * HOUR_MS, users=9)
    limits = Limits(keys=3, size_bytes=20_000)
    late = Log(tmp_path, PROGRAM, limits=limits)
    late.send(events[:300])
    late.tick(2 * HOUR_MS)  # sessions end, windows close: what is derived counts too
    at = late.control(Activate(views=NAMED), crash_after=crash_after)
    late.control(Activate(views=NAMED))  # again: nothing happens
    late.send(events[300:400])
    late.archive()
    job = Job(generation=1, project=PROGRAM.project, views=NAMED, offsets={0: at})
    manifest = stage(late.settings, job, late.table, TOKEN)
    assert manifest.events == at + 1
    for kind, send, entities in (("u", late.control, ("user", "user_category")), ("i", late.item_control, ("item",))):
        file = manifest.files[kind, 0]
        names = tuple(name for name, view in NAMED if view.entity in entities)
        merge = Merge(activations=names, path=file.path, sha256=file.sha256)
        assert file.keys > 6
        send(merge, crash_after=crash_after)
        send(merge)  # again: nothing happens
    late.send(events[400:])
    late.tick(2 * HOUR_MS)

    whole = Log(tmp_path / "whole", WHOLE, limits=limits)
    for record in late.records:  # the same log, with views that count from its first record
        event = Event.FromString(record.value)
        if event.type == EventType.EVENT_TYPE_CONTROL:
            event = Event(type=EventType.EVENT_TYPE_TICK)
        whole.world.send_bytes(event.SerializeToString(), record.append_ts_ms, record.key, record.headers)
    whole.world.flush()
    expected = whole.fields(NEW)
    assert {kind for kind, _ in expected} == {"u", "i"}
    assert late.fields(NEW) == expected
    assert late.fields(PROGRAM.views) == whole.fields(PROGRAM.views)
    assert crash_after is None or late.n_calls_left > 0
    assert not [letter for letter in late.world.dead_letters() if letter.reason == "bad_control"]
    for runner in (late.world.users, late.world.items):
        state = ProgramState(PROGRAM, runner.store.fields[PROGRAM_KEY])
        own = [view for view in NEW if (view.entity == "item") == (runner is late.world.items)]
        assert all(state.of_tiles(view.tiles_id).merged for view in own)  # type: ignore[union-attr]


@pytest.mark.parametrize("clock", ["wall", "data"])
def test_the_short_way_gives_the_same_files(tmp_path: Path, clock: str) -> None:
    direct = (
        NEW[1],
        ViewProgram(
            name="user_direct",
            entity="user",
            aggregates=(
                of("clicks_6h", "click", "sum", 6 * HOUR_MS, 5 * MINUTE_MS),
                of("good_7d", "positive", "sum", 7 * DAY_MS, DAY_MS),
                of("longest_1d", "dwell_s", "max", DAY_MS, HOUR_MS),
                of("rated_1d", "rating", "mean", DAY_MS, HOUR_MS),
                of("dwells_1d", "dwell_s", "count", DAY_MS, HOUR_MS),
            ),
        ),
    )
    assert is_direct(direct)
    for view in (NEW[0], NEW[2]):
        assert not is_direct([direct[0], view])
    log = Log(tmp_path, PROGRAM, limits=Limits(), clock=clock)
    events = scene(random.Random(7), 900, 40 * HOUR_MS, users=9)
    log.send([*events[:500], *events[100:150]])  # some again
    log.tick(DAY_MS * 8)
    log.send([*events[500:600], *(event for event in events[600:] if event.user_id == "u3")])  # some far too late
    records = len(log.records)
    foreign = [record._replace(offset=records + n, key=b"x") for n, record in enumerate(log.records[:20])]
    log.records += foreign
    log.archive()
    named = tuple((view.tiles_id, view) for view in direct)
    job = Job(generation=1, project="p", views=named, offsets={0: len(log.records) - 1})
    slow = stage(log.settings, job, log.table, TOKEN, short=False)
    quick = stage(log.settings, job, log.table, TOKEN)
    assert quick.files == slow.files
    assert quick.events == slow.events == len(log.records)
    assert quick.files["u", 0].keys > 5


def test_FEA_1_an_interrupted_backfill_goes_on_with_the_partition_that_was_not_done(tmp_path: Path) -> None:
    log = Log(tmp_path, PROGRAM, limits=Limits())
    log.send(scene(random.Random(11), 600, 40 * HOUR_MS, users=12))
    n_partitions = 3
    by_partition: list[list[Record]] = [[] for _ in range(n_partitions)]
    for record in log.records:
        own = by_partition[partition_of(record.key or b"", n_partitions)]
        own.append(record._replace(partition=partition_of(record.key or b"", n_partitions), offset=len(own)))
    offsets = {p: len(own) - 1 for p, own in enumerate(by_partition)}
    assert min(offsets.values()) > 50
    job = Job(generation=1, project="p", views=NAMED, offsets=offsets)

    def home(name: str) -> Settings:
        settings = log.settings.model_copy(update={"home": tmp_path / name})
        for p, own in enumerate(by_partition):
            write_part(part_dir(settings, "events", 1, p), own)
        return settings

    def killed(done: int, _total: int) -> None:
        if done > offsets[0] + 1:  # partition 1 has counted something
            raise KeyboardInterrupt

    whole = stage(home("whole"), job, log.table, TOKEN)
    settings = home("killed")
    with pytest.raises(KeyboardInterrupt):
        stage(settings, job, log.table, TOKEN, on_progress=killed)
    (settings.home / job.folder(settings) / "u-1.parquet").write_bytes(b"half a file")
    for path in part_dir(settings, "events", 1, 0).iterdir():
        path.unlink()  # what was done is not read again
    told: list[int] = []
    again = stage(settings, job, log.table, TOKEN, on_progress=lambda done, _total: told.append(done))
    assert told[0] == offsets[0] + 1
    assert told[-1] == again.events == whole.events == len(log.records)
    assert again.files == whole.files
    assert {kind for kind, _ in again.files} == {"u", "i"}
    left = {path.name for path in (settings.home / job.folder(settings)).iterdir()}
    assert left == {"manifest.json"} | {f"{kind}-{p}.parquet" for kind in "ui" for p in range(n_partitions)}


@pytest.mark.parametrize("crash_after", [None, 0, 2])
def test_a_removed_view_leaves_nothing_and_may_come_back(tmp_path: Path, crash_after: int | None) -> None:
    events = scene(random.Random(3), 300, 20 * HOUR_MS, users=9)
    log = Log(tmp_path, WHOLE, limits=Limits(keys=3, size_bytes=20_000))
    log.send(events[:200])
    view = NEW[0]
    assert log.fields([view])
    log.control(Remove(tiles_id=view.tiles_id, activation="another"))  # not this life of it
    log.control(Remove(tiles_id=view.tiles_id, activation=""), crash_after=crash_after)
    log.send(events[200:250])
    again = Activate(views=((f"{view.tiles_id}.2", view),))
    log.control(again)
    assert "not swept yet" in log.world.dead_letters()[-1].detail
    held = [(key, dict.fromkeys(pages, b"")) for (kind, key), pages in log.fields([view]).items() if kind == "u"]
    digest = write_staged(tmp_path / "sweep.parquet", held)
    sweep = Sweep(tiles_id=view.tiles_id, path="sweep.parquet", sha256=digest)
    log.control(sweep, crash_after=crash_after)
    log.control(sweep)
    assert not log.fields([view])
    others = [each for each in WHOLE.views if each is not view]
    assert log.fields(others)
    rows = log.world.users.rows[held[0][0]]
    assert {rows[f"{view.name}:{name.decode().split(':')[1]}"] for name in held[0][1]} == {b""}  # published as null
    log.control(again)
    log.send(events[250:])
    assert log.fields([view])


def test_item_views_start_source_by_source() -> None:
    state = ProgramState(PROGRAM, {})
    view = NEW[2]
    state.activate("a", view, 7, 0, 2)
    assert state.skipped(0) == frozenset()
    assert state.skipped(1) == {view.tiles_id}
    assert not state.is_running("a", 1)
    again = ProgramState(PROGRAM, state.dirty())
    assert again.skipped(1) == {view.tiles_id}
    again.activate("a", view, 9, 1, 2)
    assert again.skipped(1) == again.skipped(0) == frozenset()
    assert again.is_running("a", 1)
    assert not again.of_tiles(view.tiles_id).merged  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("frobnicate", b"{}"),
        ("activate", b"{"),
        ("activate", b'{"views": [["a", {}]]}'),
        ("remove", b"{}"),
        ("merge", b'{"path": "x"}'),
        ("sweep", b"[]"),
    ],
)
def test_a_broken_control_record_is_a_dead_letter(kind: str, payload: bytes) -> None:
    with pytest.raises(ContractError) as refused:
        parse_control(Control(kind=kind, payload=payload))
    assert refused.value.reason == "bad_control"


def test_control_records_survive_their_bytes() -> None:
    for command in (
        Activate(views=NAMED),
        Remove(tiles_id="t", activation="a"),
        Merge(activations=("a", "b"), path="p", sha256="h"),
        Sweep(tiles_id="t", path="p", sha256="h"),
    ):
        assert parse_control(control(command)) == command


def test_a_staging_file_is_immutable(tmp_path: Path) -> None:
    rows: list[tuple[str, Mapping[bytes, bytes]]] = [("b", {b"v:x": b"1", b"v:a": b"2"}), ("a", {b"v:x": b""})]
    path = tmp_path / "f.parquet"
    digest = write_staged(path, rows)
    assert write_staged(tmp_path / "again.parquet", rows[::-1]) == digest
    assert staged(path, digest) == [("a", {b"v:x": b""}), ("b", {b"v:a": b"2", b"v:x": b"1"})]
    for broken in (digest[::-1], ""):
        with pytest.raises(ContractError, match="hash differs"):
            staged(path, broken)
    with pytest.raises(ContractError, match="cannot be read"):
        staged(tmp_path / "none", digest)


def test_a_control_record_of_the_item_log_needs_the_token(tmp_path: Path) -> None:
    log = Log(tmp_path, PROGRAM, limits=Limits())
    value = ItemEffects(control=control(Remove(tiles_id="t", activation="a"))).SerializeToString()
    with pytest.raises(ContractError) as refused:
        log.world.items.fold.parse(Record("item-effects.1", 0, 0, None, value, (), 0))
    assert refused.value.reason == "not_allowed"


def test_views_of_sessions_count_their_own_events_and_go_a_week_later(tmp_path: Path) -> None:
    clicks = of("clicks_1h", "click", "sum", HOUR_MS, 10 * MINUTE_MS)
    jazz = of("kinds_1h", "category", "count_distinct", HOUR_MS, 10 * MINUTE_MS)
    view = ViewProgram(name="session_activity", entity="session", aggregates=(clicks, jazz))
    program = FeatureProgram(project=PROGRAM.project, views=(*PROGRAM.views, view))
    log = Log(tmp_path, program, limits=Limits(keys=3, size_bytes=20_000))

    def event(n: int, user: str, session: str, kind: int = EventType.EVENT_TYPE_CLICK) -> Event:
        return Event(
            event_id=f"e{n}", type=kind, user_id=user, session_id=session, item_id=f"i{n % 3}",  # type: ignore[arg-type]
            event_ts_ms=START_MS + n * 1000,
        )  # fmt: skip

    log.send([event(n, "ann", "s1") for n in range(7)] + [event(7, "ann", "ann"), event(8, "", "s3")])
    log.send([event(3, "ann", "s1"), event(9, "ann", "s1", EventType.EVENT_TYPE_SKIP)])  # a repeat; no click
    store = log.world.users.store

    def values(session: str) -> list[float]:
        fields = store.fields[session_key(session)]
        return list(windows(view, fields, START_MS + 20_000))

    assert values("s1") == [7, 3]
    assert values("ann") == [1, 1]  # a session may be called like a user
    assert values("s3") == [1, 1]  # keyed by the session itself
    assert log.world.users.rows["s1"][f"session_activity:{view.page_names[0]}"]
    log.tick(DAY_MS)
    assert session_key("s1") in store.due
    log.tick(7 * DAY_MS)
    assert [key for key, fields in store.fields.items() if key.startswith(SESSION) and fields] == []
    assert [key for key in store.due if key.startswith(SESSION)] == []
    assert store.fields["ann"]
    log.send([Event(event_id="late", type=2, user_id="ann", session_id="s1", item_id="i1", event_ts_ms=log.now_ms + 5)])
    assert list(windows(view, store.fields[session_key("s1")], log.now_ms)) == [1, 1]
    assert plain_key(session_key("s1")) == "s1"
    assert len({session_key("x"), state_key("x"), state_key("\x01s:x"), state_key("#x")}) == 4


def test_the_short_way_knows_logins_and_erasures(tmp_path: Path) -> None:
    sums = (
        of("clicks_6h", "click", "sum", 6 * HOUR_MS, 5 * MINUTE_MS),
        of("good_7d", "positive", "sum", 7 * DAY_MS, DAY_MS),
    )
    view = ViewProgram(name="user_direct", entity="user", aggregates=sums)
    log = Log(tmp_path, PROGRAM, limits=Limits())
    events = scene(random.Random(8), 300, 5 * HOUR_MS, users=4)
    for event in events[:200]:
        if event.user_id == "u1":
            event.user_id, event.session_id = "", "s"
    log.send(events[:200])
    moved = tuple((event.SerializeToString(), log.now_ms) for event in events[:200] if not event.user_id)
    login = EventType.EVENT_TYPE_IDENTIFY
    log.send([Event(event_id="login", type=login, user_id="u1", session_id="s", event_ts_ms=log.now_ms)])
    log.control(Adopt(user_id="u1", events=moved, whole=True))
    log.control(Erase(user_id="u2", sessions=(), job="00" * 8))
    log.send([*events[150:200], *events[200:]])  # some again; what is the session's, too
    log.archive()
    job = Job(generation=1, project="p", views=((view.tiles_id, view),), offsets={0: len(log.records) - 1})
    slow = stage(log.settings, job, log.table, TOKEN, short=False)
    quick = stage(log.settings, job, log.table, TOKEN)
    assert quick.files == slow.files
    keys = {key for key, _ in staged(log.settings.home / quick.files["u", 0].path, quick.files["u", 0].sha256)}
    assert keys == {"u0", "u1", "u2", "u3"}
