"""EventProducer on a real broker: nothing acknowledged is lost and the order of each user is kept."""

from __future__ import annotations

import os
import socket
import time
from collections import defaultdict
from contextlib import suppress

import psutil
import pytest

from liverank.calls import new_event
from liverank.errors import UnavailableError
from liverank.kafka import BEGINNING, LogReader, Tp, end_offsets
from liverank.producer import EventProducer
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event


def read_all(settings: Settings, topic: str) -> list[Event]:
    """Everything in a topic, in order within each partition."""
    tps = [Tp(topic, partition) for partition in range(settings.stack.partitions)]
    wanted = sum(end_offsets(settings.kafka.bootstrap, tps).values())
    reader = LogReader(settings.kafka.bootstrap, dict.fromkeys(tps, BEGINNING))
    out: list[Event] = []
    while len(out) < wanted:
        out += [Event.FromString(record.value) for record in reader.poll_batch(1000, 5.0)]
    reader.close()
    return out


def cut_connections(bootstrap: str) -> int:
    """Shut down every TCP connection that this process has to the broker, under the client's feet; returns how many."""
    port = int(bootstrap.rpartition(":")[2])
    cut = 0
    for connection in psutil.Process().net_connections(kind="tcp"):
        if connection.raddr and connection.raddr.port == port and connection.fd >= 0:
            with suppress(OSError):  # closed by the client since it was listed
                with socket.socket(fileno=os.dup(connection.fd)) as found:
                    found.shutdown(socket.SHUT_RDWR)
                cut += 1
    return cut


def test_ING_2_acknowledged_events_survive_disconnects_in_order(namespace: Settings) -> None:
    """10,000 events while the connections are cut twice, with records in flight: all there once, in order by user."""
    producer = EventProducer(namespace, linger_ms=1.0)
    cuts = 0
    for n in range(10_000):
        producer.send(new_event("click", user_id=f"u{n % 50}", item_id=f"i{n}", position=n // 50))
        if n in (3_000, 7_000):
            # The first thousands may be in the buffer before the client has connected at all.
            end_s = time.monotonic() + 30.0
            while not (cut := cut_connections(namespace.kafka.bootstrap)) and time.monotonic() < end_s:
                time.sleep(0.005)
            cuts += cut > 0
    producer.flush(60.0)
    assert cuts == 2
    assert (producer.n_delivered, producer.n_failed) == (10_000, 0)
    events = read_all(namespace, producer.events_topic)
    assert len(events) == 10_000
    assert len({event.event_id for event in events}) == 10_000
    by_user: dict[str, list[int]] = defaultdict(list)
    for event in events:
        by_user[event.user_id].append(event.position)
    assert all(positions == list(range(200)) for positions in by_user.values())


def test_ING_2_an_absent_broker_surfaces(namespace: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
    away = namespace.model_copy(update={"kafka": namespace.kafka.model_copy(update={"bootstrap": nobody})})
    producer = EventProducer(away)
    producer.send(new_event("click", user_id="u", item_id="i"))
    with pytest.raises(UnavailableError, match="1 records still wait"):
        producer.flush(0.5)
