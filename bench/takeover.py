"""Kill -9 of a worker -> its partitions go on: `python -m bench.takeover`.

Two workers fold a steady load; one after the other is killed, and the local stack starts it again, as `liverank up`
does. A fold's position moves only with state that is written, so the time from the kill until the position of every
partition of both folds has moved again is how long the slowest stood still. Redis is asked some fifty times a second.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time

import numpy as np

from bench.freshness import Background
from bench.report import finish, table
from bench.stack import namespace
from bench.traffic import send_catalogue
from features.redis import connect
from infra.stack import Stack
from infra.stack.stack import Part
from liverank.settings import Settings

N_ITEMS = 400
LOOK_S = 0.02
SETTLED_S = 15.0
"""Between kills: the worker is back and its partitions with it."""
PATIENCE_S = 60.0
LIMIT_S = 5.0

Positions = dict[str, bytes | None]


class Watch:
    """Positions of both folds in all partitions."""

    def __init__(self, settings: Settings) -> None:
        self._client = connect(settings)
        name = settings.namespace
        self._keys = [f"{name}:{{{name}.1.{p}}}:{fold}.meta" for fold in "ui" for p in range(settings.stack.partitions)]

    def look(self) -> Positions:
        """Position by key; None where nothing was folded yet."""
        with self._client.pipeline(transaction=False) as batch:
            for key in self._keys:
                batch.hget(key, "position")
            return dict(zip(self._keys, batch.execute(), strict=True))

    def until_moved(self, since: Positions) -> dict[str, float]:
        """Seconds from now until each position has moved; without those that never did."""
        start_s, found = time.monotonic(), dict[str, float]()
        while len(found) < len(since) and (passed_s := time.monotonic() - start_s) < PATIENCE_S:
            for key, position in self.look().items():
                if key not in found and position != since[key]:
                    found[key] = passed_s
            time.sleep(LOOK_S)
        return found


def kill(settings: Settings, name: str) -> None:
    """End a process of the stack by SIGKILL, and return when it is gone."""
    (pid,) = [state.pid for state in Stack(settings).status().processes if state.name == name]
    if not pid:
        raise SystemExit(f"{name} is not running")
    os.kill(pid, signal.SIGKILL)
    while any(state.name == name and state.pid == pid for state in Stack(settings).status().processes):
        time.sleep(0.01)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--rate", type=int, default=400, help="events a second")
    options = parser.parse_args()
    parts: list[Part] = ["kafka", "redis", "namespace", "features", "workers"]
    rows, slowest = [], []
    with namespace(parts, stack={"workers": 2}) as settings:
        send_catalogue(settings, N_ITEMS)
        background = Background(settings, options.rate)
        background.start()
        watch = Watch(settings)
        if len(watch.until_moved(watch.look())) < 2 * settings.stack.partitions:
            raise SystemExit(f"not every partition is folded within {PATIENCE_S:g} s")
        for number in range(options.kills):
            time.sleep(SETTLED_S)
            name = f"{settings.namespace}-worker-{number % 2}"
            start_s = time.monotonic()
            kill(settings, name)
            noticed_s = time.monotonic() - start_s
            moved = watch.until_moved(watch.look())
            stood = [s + noticed_s for s in moved.values()]
            stood += [PATIENCE_S] * (2 * settings.stack.partitions - len(moved))
            slowest.append(max(stood))
            rows.append((name, sum(s > 0.5 for s in stood), max(stood)))
        background.stop()
    sys.stdout.write(table(("killed", "partitions that stood still > .5 s", "slowest, s"), rows) + "\n")
    figures = {
        "kills": options.kills,
        "events_per_s": options.rate,
        "first_progress_s_median": round(float(np.median(slowest)), 2),
        "first_progress_s_max": round(max(slowest), 2),
    }
    return finish("takeover", figures, {"first_progress_s_max": ("<=", LIMIT_S)})


if __name__ == "__main__":
    sys.exit(main())
