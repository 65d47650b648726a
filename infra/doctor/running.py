"""Checks of the processes that the stack runs here."""

from __future__ import annotations

from infra.doctor.findings import Finding, fault, ok, warning
from infra.stack.layout import Layout
from infra.stack.stack import Stack
from infra.stack.supervisor import Supervisor
from liverank.settings import Settings

SERVICES = ("kafka", "redis")


def examine(settings: Settings) -> list[Finding]:
    """All checks of the processes; Kafka and Redis themselves are asked with the stores."""
    orphans = Supervisor(Layout.of(settings), log_max_mb=settings.stack.log_max_mb).orphans()
    if orphans:
        pids = ", ".join(str(process.pid) for process in orphans)
        return [fault("processes", f"left over without a supervisor: {pids}", "run liverank down, then liverank up")]
    status = Stack(settings).status()
    if status.endpoints is None:
        return [warning("processes", "nothing is up here", "run liverank up")]
    findings = []
    for part, found in status.faults.items():
        if part in SERVICES:
            continue
        log = next((f" and read {one.log}" for one in status.processes if one.name == part), "")
        findings.append(fault(part, found, f"run liverank up{log}") if found else ok(part, "ready"))
    return findings
