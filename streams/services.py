"""Threads as mode services: started, watched and stopped with the worker; a thread that dies takes the worker with
it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from mode import Service

__all__ = ["ThreadService"]


class ThreadService(Service):
    """Runs a blocking function in a thread of its own.

    Parameters
    ----------
    name : str
    run : callable
        The thread's body; returning or raising before `stop` was asked for crashes the worker.
    stop : callable
        Makes `run` return soon; called from the event loop, must not block.
    """

    def __init__(self, name: str, run: Callable[[], None], stop: Callable[[], None], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.name = name
        self._run = run
        self._ask_to_stop = stop
        self._ended = asyncio.Event()
        self._error: BaseException | None = None
        self._own_loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._body, name=name, daemon=True)

    @property
    def label(self) -> str:
        """Name in logs."""
        return self.name

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _body(self) -> None:
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001 - handed to the worker, which ends with it
            self._error = error
        self._own_loop.call_soon_threadsafe(self._ended.set)

    async def on_start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @Service.task
    async def _watch(self) -> None:
        await self._ended.wait()
        if not self.should_stop:
            await self.crash(self._error or RuntimeError(f"{self.name} ended by itself"))

    async def on_stop(self) -> None:
        """Ask the thread to end and wait for it."""
        self._ask_to_stop()
        await asyncio.to_thread(self._thread.join, 30.0)
