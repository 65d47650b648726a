"""Freshness: an event is produced -> readable through Feast, -> in the user's vectors, -> visible in a Rank reply:
`python -m bench.freshness`.

A worker and a ranker of their own on the real stack. Probe users click while background traffic runs at a given rate;
the reader asks Feast (`get_online_features` of the user row: counters, or vectors computed since), or the ranker in
SHADOW mode, again and again until the probe's event is there. The time of one look is part of the figure.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.report import Figure, finish, table
from bench.stack import namespace
from bench.traffic import events, send_catalogue
from features.user_row import UserRowReader
from infra.stack.stack import Part
from liverank.client import Client
from liverank.kafka import Producer
from liverank.settings import Settings
from liverank.v1.decision_pb2 import Mode
from liverank.v1.event_pb2 import Event, EventType
from liverank.v1.personalization_pb2 import RankRequest

N_USERS, N_ITEMS, WARM = 2_000, 1_000, 3


class Background(threading.Thread):
    """Sends `rate` events a second until it is stopped."""

    def __init__(self, settings: Settings, rate: int) -> None:
        super().__init__(daemon=True)
        self._settings, self._rate = settings, rate
        self._done = threading.Event()
        self.sent = 0

    def run(self) -> None:
        """Send, in slices of 10 ms or of one event."""
        producer = Producer(self._settings.kafka.bootstrap, linger_ms=1)
        topic = self._settings.topic("events", 1)
        start_s, now_ms = time.monotonic(), int(time.time() * 1000)
        load = events(10**7, n_users=N_USERS, n_items=N_ITEMS, seed=self._rate, start_ms=now_ms, end_ms=now_ms + 1)
        while not self._done.wait(0.01):
            wanted = int((time.monotonic() - start_s) * self._rate)
            for _ in range(wanted - self.sent):
                event = next(load)
                event.event_ts_ms = int(time.time() * 1000)
                producer.produce(topic, key=event.user_id.encode(), value=event.SerializeToString())
            self.sent = max(self.sent, wanted)
        producer.flush(10.0)

    def stop(self) -> None:
        """End and wait."""
        self._done.set()
        self.join()


def probe(
    settings: Settings, look: Callable[[str], int], seconds: float, name: str, patience_s: float = 20.0
) -> list[float]:
    """Milliseconds from producing a click to seeing it, about five a second and at least one; the first three are
    warm-up.
    """
    producer = Producer(settings.kafka.bootstrap, linger_ms=0)
    found: list[float] = []
    end_s, n = time.monotonic() + seconds, 0
    rng = np.random.default_rng(5)
    while n == 0 or time.monotonic() < end_s:
        user = f"probe-{name}-{n % 50}"
        at_ms = int(time.time() * 1000)
        event = Event(
            event_id=f"{name}-{n}-{at_ms}",
            type=EventType.EVENT_TYPE_CLICK, user_id=user, item_id=f"item-{n % N_ITEMS}",
            event_ts_ms=at_ms, surface="home",
        )  # fmt: skip
        start_s = time.perf_counter()
        producer.produce(settings.topic("events", 1), key=user.encode(), value=event.SerializeToString())
        producer.poll(0)
        while look(user) < at_ms:
            if time.perf_counter() - start_s > patience_s:
                sys.exit(f"the event of {user} was not visible within {patience_s:g} s")
            time.sleep(0.0005)
        found.append(1000 * (time.perf_counter() - start_s))
        n += 1
        time.sleep(float(rng.uniform(0.1, 0.3)))
    return found[WARM:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="per rate and reader")
    parser.add_argument("--rates", type=int, nargs="+", default=[10, 1000], help="background events a second")
    parser.add_argument("--no-rank", action="store_true", help="through Feast only")
    options = parser.parse_args()
    figures: dict[str, Figure] = {}
    rows = []
    parts: list[Part] = ["kafka", "redis", "namespace", "features", "workers"]
    if not options.no_rank:
        parts += ["model", "rankers"]
    with namespace(parts, stack={"workers": 1, "rankers": 1}) as settings:
        send_catalogue(settings, N_ITEMS)
        from feast import FeatureStore

        reader = UserRowReader(FeatureStore(fs_yaml_file=Path(settings.feast.yaml)))
        readers: dict[str, Callable[[str], int]] = {
            "feast": lambda user: reader.read(user).newest_event_ts_ms,
            "vectors": lambda user: reader.read(user).computed_ms,
        }
        client = None if options.no_rank else Client(settings.ranker.grpc)
        if client is not None:
            ranker = client

            def rank(user: str) -> int:
                request = RankRequest(user_id=user, k=10, mode=Mode.MODE_SHADOW)
                return int(ranker.send_rank(request).freshness.newest_event_ts_ms)

            readers["rank"] = rank
        # The agents join their group after the folds.
        probe(settings, readers["vectors"], 0.0, "first", patience_s=120.0)
        for rate in options.rates:
            background = Background(settings, rate)
            background.start()
            time.sleep(3.0)  # the load, not a readiness
            for name, look in readers.items():
                took = np.array(probe(settings, look, options.seconds, f"{name}{rate}"))
                for q in (50, 95, 99):
                    figures[f"{name}_p{q}_ms_at_{rate}"] = float(np.percentile(took, q))
                rows.append((f"{name} at {rate}/s", len(took), *(float(np.percentile(took, q)) for q in (50, 95, 99))))
            background.stop()
        if client is not None:
            client.close()
    sys.stdout.write(table(("reader", "probes", "p50 ms", "p95 ms", "p99 ms"), rows) + "\n")
    bounds = {
        "feast_p95_ms_at_10": ("<=", 30.0),
        "feast_p95_ms_at_1000": ("<=", 60.0),
        "feast_p99_ms_at_1000": ("<=", 250.0),
        "vectors_p95_ms_at_1000": ("<=", 5_000.0),
    }
    return finish("freshness", figures, {name: bound for name, bound in bounds.items() if name in figures})


if __name__ == "__main__":
    sys.exit(main())
