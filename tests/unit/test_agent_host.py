"""The Faust app is started anew while Kafka is away; another error ends the worker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from types import SimpleNamespace
from typing import ClassVar

import pytest
from aiokafka.errors import KafkaConnectionError
from mode import Service
from structlog.testing import capture_logs

from liverank.settings import Settings
from streams import app as module
from streams import worker as process
from streams.app import AgentHost


class App(Service):
    """Fails at its start as often as it is told."""

    failures: ClassVar[list[Exception]] = []
    made: ClassVar[list[App]] = []

    def __init__(self) -> None:
        super().__init__()
        App.made.append(self)

    async def on_start(self) -> None:
        if App.failures:
            raise App.failures.pop(0)


def start(failures: list[Exception]) -> tuple[int, list[bool]]:
    """Start and stop a host; how many apps were made, and which of them ran at the end."""
    App.failures, App.made = failures, []

    async def run() -> tuple[int, list[bool]]:
        host = AgentHost(App)
        await asyncio.wait_for(host.start(), 20)
        running = [each.started and not each.should_stop for each in App.made]
        await host.stop()
        return len(App.made), running

    return asyncio.run(run())


def test_the_agents_wait_for_kafka(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE_S", 0.01)
    with capture_logs() as said:
        n, running = start([KafkaConnectionError("away"), KafkaConnectionError("away")])
    assert n == 3
    assert running == [False, False, True]
    assert [line["event"].partition(";")[0] for line in said] == ["the agents wait for Kafka"] * 2


class Crashing(App):
    """A part of it crashes while it starts, as Faust's consumer thread does."""

    async def on_start(self) -> None:
        if App.failures:
            error = App.failures.pop(0)
            await self.crash(error)
            if len(App.made) == 1:  # the second time nothing is raised
                raise error


def test_what_crashes_while_the_app_starts_does_not_end_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE_S", 0.01)
    App.failures, App.made = [KafkaConnectionError("away"), KafkaConnectionError("away")], []

    async def run() -> tuple[bool, bool]:
        host = AgentHost(Crashing)
        await asyncio.wait_for(host.start(), 20)
        before = host.crashed
        await App.made[-1].crash(RuntimeError("later"))
        await host.stop()
        return before, host.crashed

    assert asyncio.run(run()) == (False, True)
    assert len(App.made) == 3


class Endless(App):
    """Never stops."""

    async def stop(self) -> None:
        await asyncio.sleep(60)


def test_an_app_that_does_not_stop_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STOP_S", 0.05)
    App.failures, App.made = [], []

    async def run() -> bool:
        host = AgentHost(Endless)
        await host.start()
        await asyncio.wait_for(host.stop(), 10)
        return host.stuck

    with capture_logs() as said:
        assert asyncio.run(run())
    assert said[-1]["event"] == "the agents did not stop in time"


def test_another_error_is_not_waited_for() -> None:
    with pytest.raises(ValueError, match="bug"):
        start([ValueError("bug")])


class Stuck(Service):
    """A worker whose agents do not stop."""

    agents = SimpleNamespace(stuck=True)

    def not_ready(self) -> str:
        return ""

    async def on_started(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    async def on_stop(self) -> None:
        await asyncio.sleep(0.01)  # the loop goes on meanwhile


class Dying(Stuck):
    """One that a part of it ends."""

    async def on_started(self) -> None:
        await self.crash(RuntimeError("a fold died"))


class Hanging(Stuck):
    """One of which a part never stops."""

    async def on_stop(self) -> None:
        await asyncio.sleep(60)


@pytest.mark.parametrize(("kind", "status"), [(Stuck, 0), (Dying, 1), (Hanging, 0)])
def test_the_exit_status_says_why_a_worker_ended_and_not_how(
    kind: type[Stuck], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    monkeypatch.setattr(process, "Worker", lambda *_: kind())
    monkeypatch.setattr(process, "_LEAVE_S", 0.2)

    def leave(code: int) -> None:
        left.append(code)
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    with capture_logs(), pytest.raises(SystemExit):
        asyncio.run(process.serve(Settings(), 0))
    assert left == [status]


def test_an_app_that_ignores_being_cancelled_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf(App):
        async def stop(self) -> None:
            for _ in range(20):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.5)

    monkeypatch.setattr(module, "_STOP_S", 0.05)
    App.failures, App.made = [], []

    async def run() -> bool:
        host = AgentHost(Deaf)
        await host.start()
        await asyncio.wait_for(host.stop(), 2)
        return host.stuck

    loop = asyncio.new_event_loop()
    with capture_logs():
        assert loop.run_until_complete(run())
