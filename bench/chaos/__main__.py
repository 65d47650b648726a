"""`python -m bench.chaos --seed N --minutes M`: the attack on exactness; the last line is one JSON object."""

from __future__ import annotations

import argparse
import contextlib
import resource
import secrets
import signal
import sys
import tempfile
import time
from pathlib import Path

from bench.chaos.attack import Attack
from bench.chaos.plan import FAILPOINTS, Plan
from bench.chaos.registry import wait_until_served
from bench.chaos.stores import BreakableRedis, Broker
from bench.chaos.traffic import Traffic
from bench.chaos.verify import Report, settle_agents, verify
from bench.chaos.workers import Worker
from bench.report import Bound, Figure, finish, table
from infra.stack import Stack
from infra.stack.supervisor import Supervisor
from liverank.settings import RedisSettings, Settings, StackSettings, StreamsSettings, resolve
from tests.recount.namespace import settle

STREAMS = StreamsSettings(
    attribution_window_s=6, late_outcome_s=8, session_timeout_s=3, group_session_timeout_ms=6000, archive_flush_s=2.0
)
"""Short windows, so that everything that is due comes within the run."""


def attack(plan: Plan, home: Path) -> tuple[Attack, Traffic, Report | None, dict[str, Figure]]:
    """Start everything, attack it, let it settle, compare."""
    with contextlib.ExitStack() as cleanup:
        started_s = time.monotonic()
        redis = BreakableRedis(home / "redis")
        cleanup.callback(redis.kill)
        settings = Settings(
            namespace=f"chaos-{secrets.token_hex(3)}", home=home, redis=RedisSettings(url=redis.url),
            stack=StackSettings(partitions=plan.partitions), streams=STREAMS,
        )  # fmt: skip
        stack = Stack(settings, tied=True)
        cleanup.callback(stack.down)
        stack.up(("kafka", "redis", "namespace", "features"))
        settings = resolve(settings)
        broker = Broker(Supervisor(stack.layout, log_max_mb=settings.stack.log_max_mb), settings.kafka.bootstrap)
        logs = home / "worker-logs"
        logs.mkdir(exist_ok=True)
        workers = [Worker(settings, number, logs) for number in range(plan.workers)]
        for worker in workers:
            cleanup.callback(worker.kill)
        traffic = Traffic(settings, seed=plan.seed, rate=plan.rate, users=plan.users, skew=plan.skew)
        traffic.catalogue()
        for worker in workers:
            worker.start()
        run = Attack(plan, settings, workers, redis, broker, traffic)
        for worker in workers:
            if not worker.ready(180.0):
                run.faults.append(f"worker {worker.number} did not start:\n{worker.log_tail()}")
        wait_for_vectors(settings)
        figures: dict[str, Figure] = {"setup_s": round(time.monotonic() - started_s, 1)}
        traffic.start()
        attacked_s = time.monotonic()
        run.run()
        traffic.stop()
        figures["attack_s"] = round(time.monotonic() - attacked_s, 1)
        report = None
        if not run.faults or not any("ended" in fault for fault in run.faults):
            report = calm(settings, workers, traffic, run, figures)
        return run, traffic, report, figures


def wait_for_vectors(settings: Settings) -> None:
    """The items of the start have their vectors before the first event names them."""
    settle_agents(settings)


def calm(
    settings: Settings, workers: list[Worker], traffic: Traffic, run: Attack, figures: dict[str, Figure]
) -> Report:
    """Two fresh workers find what the killed ones left; nothing new comes."""
    settled_s = time.monotonic()
    for worker in workers[:2]:
        worker.start()
    for worker in workers[:2]:
        if not worker.ready(180.0):
            run.faults.append(f"worker {worker.number} was not ready after the attack:\n{worker.log_tail()}")
    streams = settings.streams
    wait_until_served(settings, 300.0)
    settle(settings, timeout_s=300.0, quiet_s=streams.attribution_window_s + streams.late_outcome_s + 4.0)
    settle(settings, timeout_s=120.0, quiet_s=1.0)
    settle_agents(settings)
    for worker in workers[:2]:
        if not worker.leave():
            run.faults.append(f"worker {worker.number} did not end cleanly:\n{worker.log_tail()}")
    figures["settle_s"] = round(time.monotonic() - settled_s, 1)
    program = wait_until_served(settings, 1.0)
    verified_s = time.monotonic()
    report = verify(settings, program, traffic.ids | traffic.many_ids)
    figures["verify_s"] = round(time.monotonic() - verified_s, 1)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=3.0, help="of attack; from 8 on a long run (see docs)")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.0, help="events a second; 0 = what the plan wants")
    parser.add_argument("--keep", action="store_true", help="keep logs and data, and say where")
    options = parser.parse_args()
    # Ended politely, it must not leave a worker or a store behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    plan = Plan.of(options.seed, options.minutes, workers=options.workers, rate=options.rate)
    with contextlib.ExitStack() as cleanup:
        if options.keep:
            home = Path(tempfile.mkdtemp(prefix="liverank-chaos-"))
            sys.stderr.write(f"home: {home}\n")
        else:
            home = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="liverank-chaos-")))
        run, traffic, report, figures = attack(plan, home)
    kills = sum(n for name, n in run.done.items() if name == "kill" or name.startswith("failpoint"))
    figures |= {
        "seed": plan.seed,
        "minutes": plan.minutes,
        "kills": kills,
        "failpoints_passed": sum(run.done[f"failpoint {place}"] > 0 for place in FAILPOINTS),
        "stops": sum(n for name, n in run.done.items() if name.startswith("stop ")),
        "joins_and_leaves": min(run.done["join"], run.done["leave"]) * 2,
        "redis_away": run.done["Redis away"],
        "redis_rolled_back": run.done["Redis rolled back"],
        "broker_restarts": run.done["broker restart"],
        "views_declared": run.done["view declared"],
        "faults_done": dict(sorted(run.done.items())),
        "sent": dict(sorted(traffic.sent.items())),
        "harness_faults": len(run.faults),
        "compared": dict(sorted(report.checked.items())) if report else {},
        "events": report.checked["events sent"] if report else 0,
        "lost": report.checked["lost"] if report else -1,
        "differences": len(report.differences) if report else -1,
        "cpu_s": round(sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) + time.process_time(), 1),
        "most_memory_mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024),
    }
    for fault in run.faults[:10]:
        sys.stderr.write(f"FAULT: {fault}\n")
    for difference in (report.differences if report else [])[:20]:
        sys.stderr.write(f"DIFFERENCE: {difference}\n")
    sys.stdout.write(table(("what was done", "times"), sorted(run.done.items())) + "\n")
    if report:
        sys.stdout.write(table(("what was compared", "number"), sorted(report.checked.items())) + "\n")
    bounds = [
        Bound("differences", "==", 0),
        Bound("lost", "==", 0),
        Bound("harness_faults", "==", 0),
        Bound("kills", ">=", 20 if plan.minutes >= 2 else 11),
        Bound("failpoints_passed", "==", len(FAILPOINTS)),
        Bound("stops", ">=", 2),
        Bound("joins_and_leaves", ">=", 5),
        Bound("redis_away", ">=", 1),
        Bound("redis_rolled_back", ">=", 1),
        Bound("broker_restarts", ">=", 1),
        Bound("views_declared", ">=", 1),
        Bound("events", ">=", 200_000 if plan.minutes >= 8 else 1_000),
    ]
    return finish("chaos", figures, bounds)


if __name__ == "__main__":
    sys.exit(main())
