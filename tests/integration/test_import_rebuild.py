"""Import of history, the archive, and rebuild: the same state by every way."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import MakeNamespace
from crash import send, send_catalogue, traffic

from features.archive import last_offset, part_dir, partitions_of, read_part
from features.examples import examples_dir, read_examples
from features.redis import connect
from features.wire import entity_key
from liverank.errors import ConfigError
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType
from liverank.v1.item_pb2 import Item, ItemChange
from streams import restore_parts
from streams.archive import Archiver
from streams.history import import_history
from streams.rebuild import rebuild
from tests.recount.namespace import accepted, check_same, found, settle
from tests.recount.program import PROGRAM

HERE = Path(__file__).parent
STREAMS = {"attribution_window_s": 2, "session_timeout_s": 1, "archive_flush_s": 0.5}


@pytest.fixture
def settings(make_namespace: MakeNamespace) -> Settings:
    made = make_namespace(streams=STREAMS)
    with connect(made) as client:
        client.set(f"{made.namespace}:program", PROGRAM.to_json())
    return made


def items(prefix: str = "") -> list[ItemChange]:
    return [
        ItemChange(
            item_id=f"{prefix}i{i}", upsert=Item(item_id=f"{prefix}i{i}", available=True, categories=[f"c{i % 7}"])
        )
        for i in range(40)
    ]


def past(events: list[Event], days: float) -> list[Event]:
    """The same events, so many days ago and 20 times as slow: most windows close within the past."""
    moved = []
    newest_ms = max(event.event_ts_ms for event in events)
    for event in events:
        copy = Event()
        copy.CopyFrom(event)
        copy.event_ts_ms = newest_ms - 20 * (newest_ms - event.event_ts_ms) - int(days * 86_400_000)
        moved.append(copy)
    return moved


def work(settings: Settings) -> subprocess.Popen[str]:
    program = [sys.executable, str(HERE / "folds.py"), settings.model_dump_json(), "w0"]
    with (settings.home / f"folds-{time.monotonic_ns()}.log").open("w") as errors:
        return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=errors, text=True)


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_STR_7_import_then_live_then_rebuild_is_one_state(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing of an import is left by the next one.
    import_history(settings, past(traffic(1000, seed=10, prefix="gone-"), days=3), items=items("gone-"))
    history = past(traffic(800, seed=11), days=3)
    bad = Event(event_id="bad", type=EventType.EVENT_TYPE_CLICK, user_id="u1", event_ts_ms=history[0].event_ts_ms)
    report = import_history(settings, [*history, bad], items=items())
    assert report.events == len(history)
    assert report.items == 40
    assert dict(report.dead_letters) == {"missing_id": 1}
    assert report.examples > 200
    assert read_examples(examples_dir(settings)).num_rows == report.examples
    assert sum(last_offset(part_dir(settings, "events", 0, p)) + 1 for p in range(4)) == len(history)
    imported = found(settings)
    assert gone(settings) == []
    assert all(int(fields[b"v"].split(b".")[1]) < 800 for fields in partials(settings).values())
    import_history(settings, [*history, bad], items=items())  # may be repeated while nothing is live
    check_same(found(settings), imported)

    archiver = Archiver(settings, 1, member="a0")
    archiving = threading.Thread(target=archiver.run)
    archiving.start()
    worker = work(settings)
    send(settings, traffic(600, seed=12))
    settle(settings)
    end(worker)
    wait_archived(settings)
    archiver.stop()
    archiving.join(20)
    live = found(settings)
    spoil_rows(settings)  # readers see what was rebuilt, though it is as old as what they saw before
    with pytest.raises(ConfigError, match="before the first live one"):
        import_history(settings, history)
    monkeypatch.setattr(restore_parts, "_SEEN_BYTES", 0)  # of what this process folds, rows are built from states
    redone = rebuild(settings, processes=2)
    assert redone.imported == len(history)
    assert redone.items >= 40
    trimmed = {p: offsets(settings, p) for p in range(4)}
    assert all(archived == folded for archived, folded in trimmed.values()), trimmed
    check_same(found(settings), live)


def gone(settings: Settings) -> list[bytes]:
    """Rows and states of the import that another one replaced."""
    with connect(settings) as client:
        rows = client.scan_iter(match=f"*gone-*{settings.feast_project}", count=1000)
        states = client.scan_iter(match=f"{settings.namespace}:*gone-*", count=1000)
        return [*rows, *states]


def partials(settings: Settings) -> dict[bytes, dict[bytes, bytes]]:
    with connect(settings) as client:
        keys = client.scan_iter(match=f"{settings.namespace}:bandit:*", count=1000)
        return {key: client.hgetall(key) for key in keys}


def spoil_rows(settings: Settings) -> None:
    """Other bytes in the rows of items, under the versions that they have."""
    with connect(settings) as client:
        for number in range(40):
            key = entity_key(settings.feast_project, ("item_id",), (f"i{number}",))
            for field in client.hkeys(key):
                if not field.startswith((b"_lr:", b"_ts:")):
                    client.hset(key, field, b"spoilt")


def offsets(settings: Settings, p: int) -> tuple[int, int]:
    """Last archived offset and the fold's position of a partition."""
    with connect(settings) as client:
        position = client.hget(f"{settings.namespace}:{{{settings.namespace}.1.{p}}}:u.meta", "position")
    return last_offset(part_dir(settings, "events", 1, p)), int(position.split(b":")[1])


def wait_archived(settings: Settings) -> None:
    """Wait until the archive holds what was folded."""
    deadline_s = time.monotonic() + 30
    while not all(archived >= folded for archived, folded in (offsets(settings, p) for p in range(4))):
        assert time.monotonic() < deadline_s, [offsets(settings, p) for p in range(4)]
        time.sleep(0.1)


def test_state_that_is_gone_is_not_taken_for_new(settings: Settings) -> None:
    import_history(settings, past(traffic(200, seed=13), days=1), items=items())
    with connect(settings) as client:
        for key in client.scan_iter(match=f"{settings.namespace}:{{*", count=1000):
            client.unlink(key)
    assert "liverank rebuild" in refusal(settings, work(settings))
    rebuild(settings)
    assert partitions_of(settings, "events", 0) == [0, 1, 2, 3]
    worker = work(settings)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    end(worker)


def refusal(settings: Settings, worker: subprocess.Popen[str]) -> str:
    """What a worker that must end with status 1 leaves in its log."""
    try:
        worker.communicate(timeout=60)
    finally:
        worker.kill()
        worker.communicate()
    assert worker.returncode == 1
    return "".join(path.read_text() for path in settings.home.glob("folds-*.log"))


def to_another_layout(settings: Settings) -> int:
    """Give every page of users' states the version byte of a build to come; gives how many there are."""
    n_pages = 0
    with connect(settings) as client:
        for key in client.scan_iter(match=f"{settings.namespace}:{{*:u:*", count=1000):
            pages = client.hgetall(key)
            n_pages += len(pages)
            client.hset(key, mapping={name: b"\x09" + page[1:] for name, page in pages.items()})
    return n_pages


def test_USE_6_state_of_another_layout_is_refused_then_built_anew(settings: Settings) -> None:
    """The way from one layout of state to the next (docs/adr/0004): nothing of the old one is read."""
    events = traffic(300, seed=15)
    import_history(settings, past(events, days=1), items=items())
    before = found(settings)
    assert to_another_layout(settings) > 300
    worker = work(settings)
    send(settings, events)
    log = refusal(settings, worker)
    assert "has version 9" in log
    assert "liverank rebuild" in log
    rebuild(settings)
    check_same(found(settings), before)
    worker = work(settings)
    settle(settings)
    end(worker)


def test_ING_4_the_same_events_twice_change_nothing(settings: Settings) -> None:
    send_catalogue(settings)
    worker = work(settings)
    events = traffic(1500, seed=14)
    send(settings, events)
    settle(settings)
    once = found(settings)
    send(settings, events)
    settle(settings)
    twice = found(settings)
    end(worker)
    assert once.rows == twice.rows
    assert once.partials == twice.partials


def test_ING_7_every_slot_of_an_exposure_gives_one_row(settings: Settings) -> None:
    send_catalogue(settings)
    worker = work(settings)
    events = traffic(1200, seed=15)
    send(settings, events)
    settle(settings)
    end(worker)
    slots = {
        (event.event_id, place)
        for event in events
        if event.type == EventType.EVENT_TYPE_EXPOSURE
        for place in range(1, len(event.exposure.slots) + 1)
    }
    rows = [(e.request_id, e.position) for e in accepted(settings) if not e.correction]
    assert len(rows) == len(set(rows))
    assert set(rows) == slots
    corrections = [(e.request_id, e.position) for e in accepted(settings) if e.correction]
    assert len(corrections) == len(set(corrections))


def test_the_archive_survives_a_kill_and_takes_each_offset_once(settings: Settings) -> None:
    send(settings, traffic(300, seed=16))
    for turn in range(2):
        archiver = Archiver(settings, 1, member="a0")
        thread = threading.Thread(target=archiver.run)
        thread.start()
        deadline_s = time.monotonic() + 30
        goal = 300 * (turn + 1)
        while held(settings) < goal:
            assert time.monotonic() < deadline_s, held(settings)
            time.sleep(0.1)
        archiver.stop()
        thread.join(20)
        send(settings, traffic(300, seed=17 + turn))
    for p in range(4):
        folder = part_dir(settings, "events", 1, p)
        read = [record.offset for record in read_part(folder, "events", p)]
        assert read == list(range(len(read)))


def held(settings: Settings) -> int:
    return sum(last_offset(part_dir(settings, "events", 1, p)) + 1 for p in range(4))
