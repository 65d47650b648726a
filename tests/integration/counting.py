"""Two small folds for tests of the engine: they count, emit, pass effects on, and have due actions.

Run as a program it is a worker: ``python counting.py SETTINGS_JSON MEMBER [users] [items]``; it ends on SIGTERM.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from features.online import Row
from features.redis import VersionedValue, connect, namespace_token
from features.wire import pack_int64
from liverank import log
from liverank.contract import INTERNAL_HEADER, decode_event, event_key, header, validate_event
from liverank.errors import ContractError
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType
from liverank.v1.stream_pb2 import Example, ItemEffect, ItemEffects, ItemEvent
from streams.engine import FoldEngine, FoldSetup
from streams.fold import Context, KeyState, Number, Parsed, Record

DUE_AFTER_MS = 1500


class CountState:
    """Ids seen, events, closed windows, and when the open window closes."""

    def __init__(self, doc: dict[str, Any]) -> None:
        self.doc = doc
        self._changed = False

    def touch(self) -> None:
        self._changed = True

    def dirty(self) -> dict[bytes, bytes]:
        if not self._changed:
            return {}
        self._changed = False
        return {b"_doc": json.dumps(self.doc, sort_keys=True).encode(), b"counts:n": str(self.doc["n"]).encode()}

    def due_ms(self) -> int | None:
        due = self.doc.get("due")
        return None if due is None else int(due)


class _Fold:
    name = "users"
    kind = "u"

    def for_partition(self, program: Mapping[bytes, bytes]) -> _Fold:
        return self

    def new(self, key: str) -> KeyState:
        return CountState({"n": 0, "closed": 0, "ids": [], "ts": 0})

    def load(self, key: str, fields: Mapping[bytes, bytes]) -> KeyState:
        return CountState(json.loads(fields[b"_doc"]))

    def usual(self, ctx: Context) -> None:
        return

    def rows(
        self, key: str, fields: Mapping[bytes, bytes], state: KeyState, version: bytes
    ) -> Sequence[Row | VersionedValue]:
        assert isinstance(state, CountState)
        if key.startswith("#"):
            return [VersionedValue(f"{self.namespace}:{key}", {"n": str(state.doc["n"]).encode()}, version)]
        join = "user_id" if self.kind == "u" else "item_id"
        value = pack_int64(int(fields[b"counts:n"]))
        return [Row("counts", join, key, {"n": value}, int(state.doc["ts"]), version)]

    def __init__(self, namespace: str, token: bytes) -> None:
        self.namespace = namespace
        self.token = token


class CountingUsers(_Fold):
    """Counts events per user; each has an effect on its item; a window closes `DUE_AFTER_MS` after the last."""

    def parse(self, record: Record) -> Parsed:
        event = decode_event(record.value, record.headers)
        internal = header(record.headers, INTERNAL_HEADER) == self.token
        validate_event(event, now_ms=record.append_ts_ms, internal=internal)
        if event.type == EventType.EVENT_TYPE_TICK:
            return Parsed((), None, tick=True)
        key = event_key(event)
        return Parsed((key.decode(), f"#total:{record.partition}"), event, route=key)

    def apply(self, record: Record, body: object, ctx: Context) -> None:
        assert isinstance(body, Event)
        state = ctx.state(body.user_id)
        total = ctx.state(f"#total:{ctx.partition}")
        assert isinstance(state, CountState)
        assert isinstance(total, CountState)
        if body.event_id in state.doc["ids"]:
            raise ContractError("beyond_dedup_horizon", "repeat")
        state.doc["ids"].append(body.event_id)
        state.doc["n"] += 1
        state.doc["ts"] = max(state.doc["ts"], body.event_ts_ms)
        state.doc["due"] = ctx.clock_ms + DUE_AFTER_MS
        state.touch()
        total.doc["n"] += 1
        total.touch()
        ctx.emit("examples", Example(request_id=body.event_id, user_id=body.user_id), key=body.user_id.encode())
        effect = ItemEvent(item_id=body.item_id, type=body.type, event_ts_ms=body.event_ts_ms, value=1.0, sign=1.0)
        ctx.effect(body.item_id, ItemEffect(event=effect))

    def on_due(self, key: str, due_ms: int, ctx: Context) -> None:
        state = ctx.state(key)
        assert isinstance(state, CountState)
        state.doc["closed"] += 1
        state.doc["due"] = None
        state.touch()
        ctx.emit("user-changes", Example(request_id=f"{key}:{due_ms}", user_id=key), key=key.encode())


class CountingItems(_Fold):
    """Counts effects per item."""

    name = "items"
    kind = "i"

    def parse(self, record: Record) -> Parsed:
        effects = ItemEffects.FromString(record.value)
        return Parsed(tuple({e.event.item_id for e in effects.effects if e.HasField("event")}), effects)

    def apply(self, record: Record, body: object, ctx: Context) -> None:
        assert isinstance(body, ItemEffects)
        for effect in body.effects:
            number = Number(body.generation, effect.offset, effect.step, effect.index)
            if not ctx.take(body.source_partition, number):
                continue
            if effect.HasField("clock_ms"):
                ctx.source_clock(body.source_partition, effect.clock_ms)
                continue
            state = ctx.state(effect.event.item_id)
            assert isinstance(state, CountState)
            state.doc["n"] += 1
            state.doc["ts"] = max(state.doc["ts"], effect.event.event_ts_ms)
            state.touch()

    def on_due(self, key: str, due_ms: int, ctx: Context) -> None:
        raise AssertionError("items have no due actions here")


def engines(settings: Settings, member: str, names: Sequence[str] = ("users", "items")) -> list[FoldEngine]:
    """Return the engines of a counting worker."""
    with connect(settings) as client:
        token = namespace_token(client, settings.namespace)
    n = settings.stack.partitions
    setups = {
        "users": FoldSetup(
            fold=CountingUsers(settings.namespace, token), topic=settings.topic("events", 1), n_partitions=n,
            generation=1, member=member, ticks=settings.clock == "wall", token=token,
        ),
        "items": FoldSetup(
            fold=CountingItems(settings.namespace, token), topic=settings.topic("item-effects", 1), n_partitions=n,
            generation=1, member=member, numbered_input=True,
        ),
    }  # fmt: skip
    return [FoldEngine(setups[name], settings) for name in names]


def main() -> None:
    log.configure(f"counting-{sys.argv[2]}")
    settings = Settings.model_validate_json(sys.argv[1])
    running = engines(settings, sys.argv[2], sys.argv[3:] or ("users", "items"))
    failed = threading.Event()

    def guarded(engine: FoldEngine) -> None:
        try:
            engine.run()
        except BaseException:
            failed.set()
            raise

    threads = [threading.Thread(target=guarded, args=(engine,)) for engine in running]
    signal.signal(signal.SIGTERM, lambda *_: [engine.stop() for engine in running])
    for thread in threads:
        thread.start()
    for engine in running:
        engine.ready.wait()
    print("ready", flush=True)
    while any(thread.is_alive() for thread in threads):
        for thread in threads:
            thread.join(0.1)
        if failed.is_set():
            for engine in running:
                engine.stop()
    sys.exit(1 if failed.is_set() else 0)


if __name__ == "__main__":
    main()
