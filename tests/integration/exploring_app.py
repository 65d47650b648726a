"""An application with connections to every ranker, and an operator's view of their processes."""

from __future__ import annotations

import random
import re
import secrets
import time
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import numpy as np
import pytest
from typer.testing import CliRunner

from evaluation.exploration import LogReader
from features.hot_settings import HotStore
from features.redis import connect
from infra.stack import Stack
from liverank.cli import build
from liverank.ids import uuid7
from liverank.kafka import Producer
from liverank.settings import (
    Endpoints,
    Settings,
)
from liverank.v1 import decision_pb2, event_pb2, item_pb2
from liverank.v1 import personalization_pb2 as pb
from liverank.v1.personalization_pb2_grpc import PersonalizationStub
from ranker.reproduce import redraw, slot_laws

N_ITEMS, N_KINDS, N_USERS, K = 240, 8, 60, 8
SHADOW = decision_pb2.MODE_SHADOW


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def eventually(check: Callable[[], Any], timeout_s: float = 40.0, every_s: float = 0.1) -> Any:
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        answer = check()
        if answer:
            return answer
        time.sleep(every_s)
    pytest.fail(f"nothing in {timeout_s:g} s")


class App:
    """An application with connections to every ranker, and an operator's view of the processes."""

    def __init__(self, settings: Settings, stack: Stack) -> None:
        self.settings, self.stack = settings, stack
        self.rng = random.Random(7)
        self.producer = Producer(settings.kafka.bootstrap)
        self.hot = HotStore(connect(settings), settings.namespace)
        self._channels: list[grpc.Channel] = []
        self.connect()

    def connect(self) -> None:
        """Rankers share an address: the kernel spreads connections over them."""
        for channel in self._channels:
            channel.close()
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.insecure_channel(self.settings.ranker.grpc, options) for _ in range(12)]
        self.stubs = [PersonalizationStub(channel) for channel in self._channels]

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    def rank(self, user: str, **fields: Any) -> pb.RankReply:
        """A Rank that is tried again, as an app would, with the same request id."""
        request = pb.RankRequest(**{"user_id": user, "k": K, "request_id": uuid7(now_ms(), self.rng), **fields})
        for attempt in range(600):
            try:
                return self.rng.choice(self.stubs).Rank(request, timeout=10, wait_for_ready=False)
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise
                time.sleep(0.1)
                if attempt % 10 == 9:
                    self.connect()
        pytest.fail("no ranker answers")

    def send(self, kind: str, user: str, item: str, request_id: str = "") -> None:
        event = event_pb2.Event(
            event_id=secrets.token_hex(8),
            type=event_pb2.EventType.Value(f"EVENT_TYPE_{kind.upper()}"),
            user_id=user,
            item_id=item,
            event_ts_ms=now_ms(),
            request_id=request_id,
            surface="home",
        )
        topic = self.settings.topic("events", 1)
        self.producer.produce(topic, key=user.encode(), value=event.SerializeToString())

    def publish(self, *items: tuple[str, int, int]) -> None:
        """Items as (id, number, age in hours)."""
        for item_id, number, age_h in items:
            item = item_pb2.Item(
                item_id=item_id,
                title=f"Item {number}",
                available=True,
                creator=f"creator{number % 40}",
                categories=[f"kind{number % N_KINDS}"],
                published_ts_ms=now_ms() - age_h * 3_600_000,
            )
            change = item_pb2.ItemChange(item_id=item_id, upsert=item)
            self.producer.produce(self.settings.topic("items"), key=item_id.encode(), value=change.SerializeToString())
        assert self.producer.flush(10.0) == 0

    def serve(self, n: int, users: Sequence[str] = ()) -> list[pb.RankReply]:
        """Slates that are shown, and what users do with them."""
        replies = []
        for at in range(n):
            user = users[at % len(users)] if users else f"u{at % N_USERS}"
            reply = self.rank(user, surface="home")
            replies.append(reply)
            for item in reply.items:
                draw = self.rng.random()
                if draw < 0.08:
                    self.send("click", user, item.item_id, reply.request_id)
                elif draw < 0.1:
                    self.send("dismiss", user, item.item_id, reply.request_id)
        assert self.producer.flush(10.0) == 0
        return replies

    def settled(self) -> None:
        """Return when the posteriors of all rankers have been one and the same for a second."""
        same: list[tuple[float, ...]] = []

        def quiet() -> bool:
            same.append(tuple(self.gauges("liverank_posterior_hash")))
            return len(same) > 4 and len(set(same[-5:])) == 1 and len(set(same[-1])) == 1

        eventually(quiet, every_s=0.25)

    def set(self, **changes: Any) -> float:
        """Change hot settings as `liverank config` does; returns when it was done."""
        version, hot = self.hot.read()
        ranker = {**hot.ranker, **changes.pop("ranker", {})}
        self.hot.write(hot.model_copy(update={**changes, "ranker": ranker}), over=version, who="test")
        return time.monotonic()

    def processes(self, role: str) -> dict[str, int]:
        found = self.stack.status().processes
        return {one.name: one.pid for one in found if f"-{role}-" in one.name and one.pid}

    def cli(self, *words: str) -> str:
        """Run a command as an operator does; it must succeed."""
        done = CliRunner().invoke(build(), list(words), env={**self.settings.environment(), "COLUMNS": "250"})
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output

    def back(self, doomed: dict[str, int]) -> bool:
        """Whether killed processes run anew and every process is ready."""
        found = self.stack.status()
        pids = {one.name: one.pid for one in found.processes}
        ours = {name: fault for name, fault in found.faults.items() if self.settings.namespace in name}
        return all(pids.get(name, old) not in (0, old) for name, old in doomed.items()) and not any(ours.values())

    def gauges(self, name: str) -> list[float]:
        """A metric of every ranker."""
        endpoints = Endpoints.read(self.settings.home)
        assert endpoints is not None
        found = []
        for process, address in endpoints.of(self.settings.namespace).metrics.items():
            if "-ranker-" in process:
                with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
                    text = answer.read().decode()
                matched = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
                found.append(float(matched.group(1)) if matched else float("nan"))
        return found

    def decision(self, request_id: str) -> decision_pb2.Decision:
        return self.stubs[0].Explain(pb.ExplainRequest(request_id=request_id), timeout=20).decision

    def rates(
        self, users: Sequence[str], n: int, groups: dict[str, Callable[[str], bool]]
    ) -> dict[str, tuple[float, float]]:
        """Expected share of a slot that each group of items gets, from the laws of SHADOW decisions; standard error."""
        found: dict[str, list[float]] = {name: [] for name in groups}
        for user in users:
            for _ in range(n):
                reply = self.rank(user, mode=SHADOW, surface="home")
                made = self.decision(reply.request_id)
                data = LogReader(self.settings).snapshots([made.snapshot])[made.snapshot]
                laws = slot_laws(redraw(made, data), made.seed)
                for name, belongs in groups.items():
                    mine = [at for at, one in enumerate(made.candidates) if belongs(one.item_id)]
                    found[name].append(float(np.mean([law[mine].sum() for law in laws])))
        return {name: (float(np.mean(v)), float(np.std(v) / np.sqrt(len(v)))) for name, v in found.items()}
