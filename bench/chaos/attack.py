"""Carries a plan out on real workers, a real broker and a real Redis, and counts what really happened."""

from __future__ import annotations

import queue
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from bench.chaos.plan import Deed, Plan
from bench.chaos.registry import declare
from bench.chaos.stores import BreakableRedis, Broker
from bench.chaos.traffic import Traffic
from bench.chaos.workers import Worker
from features.redis import connect
from liverank.errors import UnavailableError
from liverank.settings import Settings

__all__ = ["Attack"]

#: A failpoint that is not passed within so long is tried again.
_PATIENCE_S = 90.0
_TRIES = 6
_READY_S = 120.0
#: A busy machine has so much longer for the plan, s.
_SLOW_S = 600.0
_DECLARE_S = 240.0


class Attack:
    """One run of a plan.

    Attributes
    ----------
    done : Counter
        What happened, by name, and how often.
    faults : list of str
        What must not happen: a worker that ended by itself, one that did not come up or did not leave.
    """

    def __init__(
        self,
        plan: Plan,
        settings: Settings,
        workers: Sequence[Worker],
        redis: BreakableRedis,
        broker: Broker,
        traffic: Traffic,
    ) -> None:
        self.done: Counter[str] = Counter()
        self.faults: list[str] = []
        self._plan, self._settings = plan, settings
        self._workers, self._redis, self._broker, self._traffic = workers, redis, broker, traffic
        self._deeds: queue.Queue[tuple[Deed, int]] = queue.Queue()
        for deed in plan.deeds:
            self._deeds.put((deed, 0))
        self._in_work = 0
        self._lock = threading.Lock()
        self._extra = 0
        self._start_s = time.monotonic()
        self._end_s = self._start_s + 60 * plan.minutes
        self._stores_done = threading.Event()
        self._stores_busy = threading.Lock()

    def run(self) -> None:
        """Attack until the time is over and the plan is done, but at most three times as long and ten minutes."""
        threads = [threading.Thread(target=self._guarded, args=(self._worker, w), daemon=True) for w in self._workers]
        threads.append(threading.Thread(target=self._guarded, args=(self._stores,), daemon=True))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for worker in self._workers:
            worker.send(signal.SIGCONT)
            worker.kill()
        left = self._deeds.qsize()
        if left:
            self.faults.append(f"{left} deeds of the plan were not done in time: {list(self._deeds.queue)[:5]}")

    def _guarded(self, body: Callable[..., None], *args: object) -> None:
        try:
            body(*args)
        except Exception as error:  # noqa: BLE001 - a run whose attacker died must fail
            self.faults.append(f"{body.__name__} ended: {error!r}")

    def say(self, text: str) -> None:
        """Tell the person who watches."""
        sys.stderr.write(f"{time.monotonic() - self._start_s:7.1f} s  {text}\n")
        sys.stderr.flush()

    # -- workers

    def _next(self) -> tuple[Deed, int] | None:
        """The next deed; None when the run is over."""
        while True:
            now_s = time.monotonic()
            if now_s > self._start_s + 180 * self._plan.minutes + _SLOW_S:
                return None
            try:
                with self._lock:
                    found = self._deeds.get_nowait()
                    self._in_work += 1
                    return found
            except queue.Empty:
                pass
            if now_s < self._end_s:
                with self._lock:
                    self._extra += 1
                    self._in_work += 1
                    return self._plan.more(self._extra), _TRIES
            if not self._in_work:
                return None
            time.sleep(0.1)

    def _worker(self, worker: Worker) -> None:
        while (taken := self._next()) is not None:
            deed, tries = taken
            try:
                happened = getattr(self, f"_{deed.kind}")(worker, deed)
            finally:
                with self._lock:
                    self._in_work -= 1
            if happened:
                with self._lock:
                    self.done[deed.name] += 1
                self.say(f"worker {worker.number}: {deed.name}")
            elif tries + 1 < _TRIES:
                self._deeds.put((deed, tries + 1))
            elif tries < _TRIES:
                self.faults.append(f"{deed.name} did not happen in {_TRIES} tries")

    def _up(self, worker: Worker) -> bool:
        """Have a healthy worker."""
        if worker.alive and worker.ready(1.0):
            return True
        self._bury(worker)
        worker.start()
        if worker.ready(_READY_S):
            return True
        if worker.alive:
            self.faults.append(f"worker {worker.number} was not ready in {_READY_S:g} s:\n{worker.log_tail()}")
        else:
            self.faults.append(f"worker {worker.number} ended by itself with {worker.status}:\n{worker.log_tail()}")
        return False

    def _bury(self, worker: Worker) -> None:
        """Kill what runs; note one that has ended by itself."""
        if worker.status not in (None, 0, -signal.SIGKILL):
            self.faults.append(f"worker {worker.number} ended by itself with {worker.status}:\n{worker.log_tail()}")
        if worker.alive:
            worker.kill()
            self.done["kill"] += 1

    def _failpoint(self, worker: Worker, deed: Deed) -> bool:
        self._bury(worker)
        worker.start(deed.place)
        if deed.place.startswith("users.in_record"):
            self._many_due(worker)
        if not worker.ended(_PATIENCE_S):
            worker.kill()
            self.done["kill"] += 1
            return False
        if worker.status != -signal.SIGKILL:
            self._bury(worker)
            return False
        return True

    def _many_due(self, worker: Worker) -> None:
        """Windows of many users close in one tick of a partition that this worker owns."""
        if not worker.ready(_READY_S):
            return
        for partition in self._owned(worker)[:2]:
            self._traffic.burst(self._plan.many, partition)

    def _owned(self, worker: Worker) -> list[int]:
        """Partitions of this worker, as range assignment over static members gives them, then the others."""
        alive = [each for each in self._workers if each.alive]
        n = self._plan.partitions
        share, more = divmod(n, max(1, len(alive)))
        at = alive.index(worker) if worker in alive else 0
        start = at * share + min(at, more)
        own = list(range(start, start + share + (at < more)))
        return [*own, *(p for p in range(n) if p not in own)]

    def _kill(self, worker: Worker, deed: Deed) -> bool:
        if not self._up(worker):
            return False
        time.sleep(deed.after_s)
        if not worker.alive:
            return False
        worker.kill()
        return True

    def _stop(self, worker: Worker, deed: Deed) -> bool:
        """Stop an owner at a place, let others take over, wake it."""
        self._bury(worker)
        worker.start(f"{deed.place}!stop")
        if not worker.stopped(_PATIENCE_S):
            worker.kill()
            self.done["kill"] += 1
            return False
        before = self._epochs(deed.place.partition(".")[0])
        deadline_s = time.monotonic() + 120.0
        taken = 0
        while time.monotonic() < deadline_s and not taken:
            time.sleep(0.5)
            after = self._epochs(deed.place.partition(".")[0])
            taken = sum(after.get(p, 0) > epoch for p, epoch in before.items())
        time.sleep(1.0)
        worker.send(signal.SIGCONT)
        time.sleep(3.0)
        if not worker.alive:
            self._bury(worker)
        if taken:
            self.done["partitions taken from a stopped owner"] += taken
        return taken > 0

    def _epochs(self, fold: str) -> dict[int, int]:
        """Epoch of each partition."""
        ns, kind = self._settings.namespace, fold[0]
        while True:
            try:
                with connect(self._settings) as client:
                    found = {
                        p: client.hget(f"{ns}:{{{ns}.1.{p}}}:{kind}.meta", "epoch")
                        for p in range(self._plan.partitions)
                    }
                return {p: int(epoch) for p, epoch in found.items() if epoch}
            except (UnavailableError, OSError) as error:
                self.say(f"waiting for Redis: {error}")
            except Exception as error:  # noqa: BLE001 - redis-py's own errors while Redis is down on purpose
                self.say(f"waiting for Redis: {type(error).__name__}")
            time.sleep(0.5)

    def _leave(self, worker: Worker, deed: Deed) -> bool:
        """End it politely, let the group give its partitions away, and let it join again."""
        if not self._up(worker):
            return False
        time.sleep(deed.after_s)
        if not worker.leave():
            self.faults.append(f"worker {worker.number} did not leave cleanly ({worker.status}):\n{worker.log_tail()}")
            return False
        time.sleep(self._settings.streams.group_session_timeout_ms / 1000 + 1.0)
        if not self._up(worker):
            return False
        self.done["join"] += 1
        return True

    # -- stores

    def _stores(self) -> None:
        rng = random.Random(self._plan.seed + 1)
        long = self._plan.minutes >= 8
        deeds = ["roll back", "broker", "away", "roll back"] + (["roll back", "broker", "away 10 s"] if long else [])
        rng.shuffle(deeds)
        # Early: what is counted from then on must be merged with what is backfilled before.
        deeds.insert(1, "declare")
        gap_s = 60 * self._plan.minutes / (len(deeds) + 1)
        for number, deed in enumerate(deeds):
            time.sleep(max(1.0, self._start_s + gap_s * (number + rng.uniform(0.5, 1.0)) - time.monotonic()))
            if deed == "declare":
                if declare(self._settings, _DECLARE_S):
                    self.done["view declared"] += 1
                    self.say("a view was declared")
                else:
                    self.faults.append("feast apply of a new view did not work")
            elif deed == "roll back":
                lost = self._redis.roll_back()
                self.done["Redis rolled back"] += lost > 0
                self.say(f"Redis rolled back, {lost} bytes lost")
            elif deed == "broker":
                politely = rng.random() < 0.5
                self._broker.restart(politely=politely)
                self.done["broker restart"] += 1
                self.say(f"broker restarted by {'SIGTERM' if politely else 'SIGKILL'}")
            else:
                seconds = self._plan.redis_away_s if deed == "away" else 10.0
                self._redis.away(seconds)
                self.done["Redis away"] += 1
                self.say(f"Redis was away for {seconds:g} s")
