"""Events at a steady rate from a process of their own: `python -m bench.feeder`; `bench.ingest --minutes` runs it.

Encoding an event costs more than folding one may, so a pool is encoded once; ids and times are then put into its bytes.
"""

from __future__ import annotations

import argparse
import sys
import time

from bench.traffic import events
from liverank.kafka import Producer

_POOL = 40_000
_ID = "e" + 15 * "0"
_EVENT_TS_TAG = b"\x30"


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def pool(n_users: int, n_items: int, seed: int, at_ms: int) -> list[tuple[bytes, list[bytes]]]:
    """Keys and values of events, each value cut where its id stands."""
    made = []
    load = events(_POOL, n_users=n_users, n_items=n_items, seed=seed, start_ms=at_ms, end_ms=at_ms)
    for event in load:
        event.event_id = _ID
        if event.request_id:
            event.request_id = _ID
        made.append((event.user_id.encode(), event.SerializeToString().split(_ID.encode())))
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bootstrap")
    parser.add_argument("topic")
    parser.add_argument("--rate", type=int, required=True, help="events a second")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    made_ms = int(time.time() * 1000)
    made = pool(options.users, options.items, options.seed, made_ms)
    made_ts = _EVENT_TS_TAG + varint(made_ms)
    # Few and large requests: the broker's work for whom sends is not the worker's.
    producer = Producer(options.bootstrap, linger_ms=50)
    sent, start_s, start_cpu_s = 0, time.monotonic(), time.process_time()
    while (elapsed_s := time.monotonic() - start_s) < options.seconds:
        now_ts = _EVENT_TS_TAG + varint(int(time.time() * 1000))
        upto = int(elapsed_s * options.rate)
        while sent < upto:
            many = range(sent, min(upto, sent + 1000))
            drawn = ((at, *made[at % _POOL]) for at in many)
            producer.produce_many(
                options.topic,
                None,
                [(key, (b"f%015d" % at).join(parts).replace(made_ts, now_ts, 1)) for at, key, parts in drawn],
            )
            sent = many.stop
        time.sleep(0.02)
    if left := producer.flush(60.0):
        sys.exit(f"{left} events were not taken by the broker")
    cpu_us = (time.process_time() - start_cpu_s) / max(1, sent) * 1e6
    sys.stdout.write(f"feeder: {sent} events, {cpu_us:.1f} us of CPU each, apart from the pool\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
