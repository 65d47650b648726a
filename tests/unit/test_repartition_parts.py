"""Parts of a repartition that need no stack: seals, the archive dealt anew, going back, who follows."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

import streams.repartition
from features.archive import generations_of, part_dir, partitions_of, read_part, write_part
from features.generation import Note, active_generation, note_key, read_note, set_active, write_note
from features.program import FeatureProgram
from liverank.contract import FORWARDED_HEADER, INTERNAL_HEADER
from liverank.errors import ConfigError
from liverank.kafka import Record, Tp
from liverank.partition import partition as partition_of
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType
from ranker.generation import GenerationFeed
from streams.control import Erase, Erased, control, write_staged
from streams.errors import GenerationOverError
from streams.history import maintenance
from streams.rekey import Counts, Dealt, commit, deal, destination, discard, rekeyed
from streams.repartition import Repartition
from streams.seal import SEAL, Seal, Seals, seal_of
from streams.ticks import TICK_VALUE
from streams.users import UserFold
from streams.watch import GenerationWatch

TOKEN = b"token"
T0 = 1_790_000_000_000
NOTE = Note(ident="abc", old=1, new=2, n_old=2, n_new=3, since_ms=T0, begins=(0, 0))


class Memory:
    """The few commands of Redis that are asked for here."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        return self.data.get(key)

    def set(self, key: str, value: Any, **_: Any) -> bool:
        self.data[key] = value if isinstance(value, bytes) else str(value).encode()
        return True

    def delete(self, *keys: Any) -> int:
        return sum(self.data.pop(key.decode() if isinstance(key, bytes) else key, None) is not None for key in keys)

    unlink = delete

    def scan_iter(self, match: str, count: int = 0) -> Iterator[bytes]:
        yield from [key.encode() for key in self.data if fnmatch.fnmatchcase(key, match)]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(namespace="n", home=tmp_path)


@pytest.fixture
def redis() -> Memory:
    return Memory()


def decoder(settings: Settings) -> UserFold:
    return UserFold(settings, FeatureProgram(project="p", views=()), token=TOKEN, follow=False)


def record(partition: int, offset: int, value: bytes, *headers: tuple[str, bytes], at_ms: int | None = None) -> Record:
    return Record("t", partition, offset, None, value, headers, T0 + 10 * offset if at_ms is None else at_ms)


def event(partition: int, offset: int, user: str, *headers: tuple[str, bytes]) -> Record:
    sent = Event(
        event_id=f"{partition}-{offset}", type=EventType.EVENT_TYPE_CLICK, user_id=user, item_id="i", event_ts_ms=T0
    )
    return record(partition, offset, sent.SerializeToString(), *headers)._replace(key=user.encode())


def internal(partition: int, offset: int, command: Any) -> Record:
    body = Event(type=EventType.EVENT_TYPE_CONTROL, control=control(command))
    return record(partition, offset, body.SerializeToString(), (INTERNAL_HEADER, TOKEN))


def tick(partition: int, offset: int) -> Record:
    return record(partition, offset, TICK_VALUE, (INTERNAL_HEADER, TOKEN))


def users_of(partition: int, n: int) -> list[str]:
    return [user for i in range(40) if partition_of((user := f"u{i}").encode(), n) == partition]


def archive(settings: Settings) -> tuple[Note, int]:
    """Two partitions with events, ticks, a stray and its forwarded twin, poison, an erased user; then seals."""
    erased = Erased(keys=(1, 2), at_ms=T0, job="00" * 8, path="left.parquet", sha256="0")
    ends, n = [], 0
    for p in range(2):
        own, other = users_of(p, 2), users_of(1 - p, 2)
        made = [event(p, offset, user) for offset, user in enumerate(own)]
        made.append(event(p, len(made), other[0]))
        made.append(event(p, len(made), own[0], (FORWARDED_HEADER, b"1")))
        made.append(tick(p, len(made)))
        made.append(record(p, len(made), b"\xff\xff"))
        made.append(internal(p, len(made), Erase(user_id=own[1], sessions=(), job="11" * 8)))
        if p == 0:
            made.append(internal(p, len(made), erased))
        n += len(made)
        ends.append(len(made))
        made.append(record(p, len(made), TICK_VALUE, (INTERNAL_HEADER, TOKEN), Seal("abc", T0 + 99_000).header()))
        made.append(event(p, len(made), own[2]))  # behind the seal
        write_part(part_dir(settings, "events", 1, p), made)
    return replace(NOTE, ends=tuple(ends), clock_ms=T0 + 99_000), n


def test_every_record_goes_where_its_key_belongs(settings: Settings) -> None:
    note, n = archive(settings)
    counts = Counts()
    found = list(rekeyed(settings, note, 1, decoder(settings), TOKEN, counts))
    assert (counts.read, counts.strays, counts.anew) == (n, 2, 2)
    assert counts.read == counts.kept + counts.anew + counts.strays
    by_user: dict[str, list[tuple[int, int]]] = {}
    for p in range(3):
        own = [each for each in found if each.partition == p]
        assert [each.offset for each in own] == list(range(len(own)))
        assert [each.append_ts_ms for each in own] == sorted(each.append_ts_ms for each in own)
        assert own[-1].value == TICK_VALUE
        assert own[-1].append_ts_ms == note.clock_ms
        assert all(each.header(FORWARDED_HEADER) is None and each.header(SEAL) is None for each in own)
        kinds = [Event.FromString(each.value).control.kind for each in own if each.value != b"\xff\xff"]
        assert kinds.count("erased") == 1  # the keys are known in all partitions
        for each in own:
            if each.key is not None:
                assert partition_of(each.key, 3) == p
                by_user.setdefault(each.key.decode(), []).append((each.append_ts_ms, each.offset))
    assert set(by_user) == {f"u{i}" for i in range(40)}
    assert all(places == sorted(places) for places in by_user.values())


def test_the_archive_is_replaced_once_wherever_that_is_interrupted(settings: Settings) -> None:
    note, _ = archive(settings)
    kept = list(rekeyed(settings, note, 1, decoder(settings), TOKEN, Counts()))
    deal(settings, note, decoder(settings), TOKEN, lambda _counts: None)
    assert partitions_of(settings, "events", 1) == [0, 1]  # until the switch nobody sees it
    base = part_dir(settings, "events", 1, 0).parent.parent
    (base / "1").rename(base / "1.before-2")  # killed between two renames
    for _ in range(2):
        commit(settings, note)
        read = [list(read_part(part_dir(settings, "events", 1, p), "t", p)) for p in range(3)]
        assert sum(map(len, read)) == len(kept)
        assert sorted(path.name for path in base.iterdir()) == ["1"]
    assert generations_of(settings, "events") == [1]


def dealt(settings: Settings, note: Note) -> list[int]:
    """Deal the archive; return how many records that are no ticks imported history and the old generation have."""
    deal(settings, note, decoder(settings), TOKEN, lambda _counts: None)
    found = []
    for generation in (0, note.old):
        folder = destination(settings, generation, note)
        records = [each for p in range(note.n_new) for each in read_part(folder / str(p), "t", p)]
        found.append(sum(each.value != TICK_VALUE for each in records))
    return found


def test_an_archive_that_was_dealt_is_kept_unless_it_changed(settings: Settings) -> None:
    note, n = archive(settings)

    def again() -> Dealt:
        return deal(settings, note, decoder(settings), TOKEN, lambda _counts: None)

    first, second = again(), again()
    assert (first.again, second.again) == (False, True)
    assert second.counts == first.counts
    assert second.counts.read == n
    left = sorted(destination(settings, 1, note).glob("*/*.parquet"))
    left[0].unlink()
    next(part_dir(settings, "events", 1, 0).glob("*.parquet")).touch()  # as the rewrite of an erase does
    assert not again().again
    assert sorted(destination(settings, 1, note).glob("*/*.parquet")) == left
    discard(settings, note)
    assert not again().again


@pytest.mark.parametrize("clock", ["wall", "data"])
def test_a_second_repartition_deals_all_that_came_before(tmp_path: Path, clock: Literal["wall", "data"]) -> None:
    settings = Settings(namespace="n", home=tmp_path, clock=clock)
    for p in range(2):  # imported history
        write_part(part_dir(settings, "events", 0, p), [event(p, at, user) for at, user in enumerate(users_of(p, 2))])
    note, _ = archive(settings)
    history, first = dealt(settings, note)
    assert history == 40
    commit(settings, note)
    for p in range(3):
        own = users_of(p, 3)
        made = [event(p, at, user)._replace(append_ts_ms=T0 + 200_000 + at) for at, user in enumerate(own)]
        write_part(part_dir(settings, "events", 2, p), [*made, tick(p, len(made))])
    ends = tuple(len(users_of(p, 3)) for p in range(3))
    again = Note(
        ident="b", old=2, new=3, n_old=3, n_new=2, since_ms=T0, begins=(0,) * 3, ends=ends, clock_ms=T0 + 300_000
    )
    # What an erased user left is known in every partition: one record less where there is one partition less.
    assert dealt(settings, again) == [40, first + 40 - 1]
    commit(settings, again)
    assert generations_of(settings, "events") == [0, 2]
    for p in range(2):
        found = list(read_part(part_dir(settings, "events", 2, p), "t", p))
        clicks = [each for each in found if each.key is not None]
        assert {each.key for each in clicks} == {user.encode() for user in users_of(p, 2)}
        assert [each.append_ts_ms for each in found] == sorted(each.append_ts_ms for each in found)
        assert found[-1].append_ts_ms == T0 + 300_000
        assert any(each.value == TICK_VALUE and each.append_ts_ms == T0 + 99_000 for each in found)


def test_a_seal_ends_a_partition_only_for_its_own_repartition(settings: Settings, redis: Memory) -> None:
    sealed = record(0, 5, TICK_VALUE, (INTERNAL_HEADER, TOKEN), Seal("abc", 7).header())
    assert seal_of(sealed) == Seal("abc", 7)
    assert seal_of(tick(0, 5)) is None
    seals = Seals(redis, settings, 1, read_at=lambda _tp, offset: sealed if offset == 5 else tick(0, offset))  # type: ignore[arg-type]
    assert not seals.ends(sealed)  # no repartition is under way, or it was aborted
    assert not seals.at_end(Tp("t", 0), 5)
    write_note(redis, "n", NOTE)  # type: ignore[arg-type]
    assert seals.ends(sealed)
    assert (seals.at_end(Tp("t", 0), 4), seals.at_end(Tp("t", 0), 5)) == (False, True)
    write_note(redis, "n", replace(NOTE, ends=(6, 6)))  # type: ignore[arg-type]
    assert (seals.at_end(Tp("t", 0), 5), seals.at_end(Tp("t", 0), 6)) == (False, True)
    write_note(redis, "n", replace(NOTE, ends=(6, 6), phase="switch"))  # type: ignore[arg-type]
    assert seals.at_end(Tp("t", 0), 0)  # the archive may be dealt anew already
    write_note(redis, "n", replace(NOTE, ident="other"))  # type: ignore[arg-type]
    assert not seals.ends(sealed)
    assert not Seals(redis, settings, 2).ends(sealed)  # type: ignore[arg-type]


def test_abort_leaves_the_old_generation_as_it_was(
    settings: Settings, redis: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted: list[str] = []
    monkeypatch.setattr(streams.repartition, "connect", lambda *_, **__: redis)
    monkeypatch.setattr(streams.repartition, "delete_topics", lambda _bootstrap, topics: deleted.extend(topics))
    note, _ = archive(settings)
    write_note(redis, "n", replace(note, phase="build"))  # type: ignore[arg-type]
    kept = {"n:active": b"1", "n:{n.1.0}:u:someone": b"", "n:bandit:1:m:s:0": b"", "n:program:pinned": b"p"}
    built = ("n:{n.2.0}:u:someone", "n:{n.2.2}:i.meta", "n:bandit:2:m:s:0", "n:program:pinned:2", "n:maintenance")
    redis.data |= {**kept, **dict.fromkeys(built, b"repartition")}
    write_part(destination(settings, 1, note) / "0", [tick(0, 0)])
    assert Repartition(settings).abort()
    assert redis.data == kept
    assert deleted == ["liverank.n.events.2", "liverank.n.item-effects.2"]
    assert [path.name for path in part_dir(settings, "events", 1, 0).parent.parent.iterdir()] == ["1"]
    assert not Repartition(settings).abort()
    write_note(redis, "n", replace(note, phase="switch"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="switch to generation 2 has begun"):
        Repartition(settings).abort()
    with pytest.raises(ConfigError, match="to 3 partitions is under way"):
        Repartition(settings).run(5)
    with pytest.raises(ConfigError, match="being repartitioned"), maintenance(redis, settings, "rebuild"):  # type: ignore[arg-type]
        pass


def test_a_worker_ends_when_its_generation_is_over_or_its_seal_lifted(settings: Settings, redis: Memory) -> None:
    watch = GenerationWatch(redis, settings, 1)  # type: ignore[arg-type]
    watch.step()
    write_note(redis, "n", NOTE)  # type: ignore[arg-type]
    watch.step()
    redis.delete(note_key("n"))
    with pytest.raises(GenerationOverError, match="lifted"):
        watch.step()
    redis.set("n:active", 2)
    with pytest.raises(GenerationOverError, match="generation 2 is live"):
        GenerationWatch(redis, settings, 1).step()  # type: ignore[arg-type]


def test_a_lost_redis_does_not_go_back_a_generation(settings: Settings, redis: Memory) -> None:
    assert active_generation(redis, settings) == 1  # type: ignore[arg-type]
    set_active(redis, settings, 2)  # type: ignore[arg-type]
    redis.data.clear()
    assert active_generation(redis, settings) == 2  # type: ignore[arg-type]
    assert redis.get("n:active") == b"2"


class Follower:
    sealed = ""

    def __init__(self) -> None:
        self.followed: list[tuple[int, int]] = []

    def follow(self, generation: int, n_partitions: int) -> None:
        self.followed.append((generation, n_partitions))


def test_a_ranker_takes_no_events_until_the_switch_and_then_follows(settings: Settings, redis: Memory) -> None:
    one = Follower()
    feed = GenerationFeed(settings, redis, 1, partitions=lambda _: 3, followers=[one], takers=[one])  # type: ignore[arg-type]
    feed.step()
    assert (one.sealed, one.followed) == ("", [])
    write_note(redis, "n", NOTE)  # type: ignore[arg-type]
    feed.step()
    assert "generation 1 is sealed" in one.sealed
    redis.set("n:active", 2)
    write_note(redis, "n", replace(NOTE, phase="tidy"))  # type: ignore[arg-type]
    feed.step()
    feed.step()
    assert (one.sealed, one.followed) == ("", [(2, 3)])
    assert read_note(redis, "n") is not None  # type: ignore[arg-type]


def test_nothing_is_staged_for_erased_keys_alone(tmp_path: Path) -> None:
    assert write_staged(tmp_path / "nothing.parquet", []) == write_staged(tmp_path / "nothing.parquet", [])
