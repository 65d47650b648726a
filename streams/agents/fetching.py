"""How the agents' consumer fetches: little and late, since nothing they do is urgent.

Faust takes a message through its event loop one by one, and its driver fetches as soon as one byte is there: at 1,000
events a second that was a third of a worker's time, which the folds beside it need.
"""

from __future__ import annotations

from typing import Any, Final

from faust.transport.drivers import aiokafka as driver

__all__ = ["FETCH_BYTES", "FETCH_WAIT_MS", "LazyConsumer"]

FETCH_BYTES: Final = 64 * 1024
"""A fetch waits for so much."""
FETCH_WAIT_MS: Final = 250
"""Or so long."""


class _Thread(driver.AIOKafkaConsumerThread):
    """Makes aiokafka's consumer; the driver has no setting for these two."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        if not hasattr(consumer, "_fetch_min_bytes") or not hasattr(consumer, "_fetch_max_wait_ms"):
            raise AttributeError("this aiokafka keeps its fetch sizes elsewhere; use the one in requirements.lock")
        consumer._fetch_min_bytes, consumer._fetch_max_wait_ms = FETCH_BYTES, FETCH_WAIT_MS
        return consumer


class LazyConsumer(driver.Consumer):
    """Faust's consumer with lazy fetches."""

    def _new_consumer_thread(self) -> _Thread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)
