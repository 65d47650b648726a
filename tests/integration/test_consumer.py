"""What a consumer of the folds does that only a real broker shows."""

from __future__ import annotations

import time

from conftest import MakeNamespace

from liverank.kafka import BEGINNING, BatchConsumer, Producer, Tp


def test_a_partition_paused_when_the_group_takes_it_is_read_when_it_comes_again(make_namespace: MakeNamespace) -> None:
    settings = make_namespace(partitions=2)
    topic = settings.topic("events", 1)
    producer = Producer(settings.kafka.bootstrap)
    for n in range(10):
        producer.produce(topic, key=None, value=b"x", partition=n % 2)
    assert producer.flush(10.0) == 0

    consumer = BatchConsumer(settings.kafka.bootstrap, group="liverank.test.pause")
    try:
        positions = {Tp(topic, p): BEGINNING for p in range(2)}
        consumer.assign(positions)
        assert _read(consumer) == 10
        consumer.pause_all()
        consumer.assign({})
        consumer.assign(positions)
        assert _read(consumer) == 10
    finally:
        consumer.close()


def _read(consumer: BatchConsumer) -> int:
    """Records that come until ten are there, or for 30 s."""
    n, end_s = 0, time.monotonic() + 30.0
    while n < 10 and time.monotonic() < end_s:
        n += len(consumer.poll_batch(100, 0.2))
    return n
