"""Checks of this machine: Python, compiler, cores, memory, disk, ports."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import psutil

from infra.doctor.findings import Finding, fault, ok, warning
from infra.stack.layout import Layout
from infra.stack.ports import FIRST, LAST, is_free
from liverank.settings import Settings

PYTHON_FROM, PYTHON_BELOW = (3, 11), (3, 14)
COMPILERS = ("c++", "g++", "clang++")
DISK_NEEDED_GB, DISK_WISHED_GB = 1.0, 5.0
MEMORY_NEEDED_GB, MEMORY_WISHED_GB = 2.0, 4.0
GB = 1e9
PORT_SAMPLE = 200


def python(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    """The running interpreter's version."""
    text = ".".join(map(str, version))
    if PYTHON_FROM <= version[:2] < PYTHON_BELOW:
        return ok("python", text)
    return fault("python", f"{text}, supported are 3.11 to 3.13", "install one of them and run make setup again")


def compiler(path: str | None = None) -> Finding:
    """A C++ compiler: hnswlib has no wheels, and compiled boosters need one when a model is published."""
    for name in COMPILERS:
        found = shutil.which(name, path=path)
        if found:
            return ok("C++ compiler", found)
    return fault("C++ compiler", f"none of {', '.join(COMPILERS)} found", "install one, e.g. apt install g++")


def cores(count: int | None = None) -> Finding:
    """Processor cores that this process may use."""
    n_cores = count or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    if n_cores >= 2:
        return ok("cores", str(n_cores))
    return warning("cores", str(n_cores), "works, but the figures in the README need two")


def memory(available_bytes: int | None = None) -> Finding:
    """Memory that is free or can be freed."""
    gigabytes = (available_bytes if available_bytes is not None else psutil.virtual_memory().available) / GB
    text = f"{gigabytes:.1f} GB available"
    if gigabytes >= MEMORY_WISHED_GB:
        return ok("memory", text)
    if gigabytes >= MEMORY_NEEDED_GB:
        return warning(
            "memory", text, f"{MEMORY_WISHED_GB:g} GB are better: Kafka takes 0.4, each process of ours 0.2-0.5"
        )
    return fault("memory", text, f"free {MEMORY_NEEDED_GB:g} GB, or use a Kafka elsewhere (LIVERANK_KAFKA__BOOTSTRAP)")


def disk(home: Path, free_bytes: int | None = None) -> Finding:
    """Free space where the stack keeps its data."""
    folder = next(path for path in (home, *home.parents) if path.exists())
    if not os.access(folder, os.W_OK):
        return fault("disk", f"{folder} cannot be written", "set LIVERANK_HOME to a folder of yours")
    gigabytes = (free_bytes if free_bytes is not None else shutil.disk_usage(folder).free) / GB
    text = f"{gigabytes:.1f} GB free at {folder}"
    if gigabytes >= DISK_WISHED_GB:
        return ok("disk", text)
    if gigabytes >= DISK_NEEDED_GB:
        return warning("disk", text, "Kafka keeps events for 7 days; give it more room, or set LIVERANK_HOME elsewhere")
    return fault("disk", text, f"free {DISK_NEEDED_GB:g} GB, or set LIVERANK_HOME to another disk")


def ports() -> Finding:
    """Whether the loopback has free ports in the range that the stack uses."""
    sample = range(FIRST, LAST, (LAST - FIRST) // PORT_SAMPLE)
    n_free = sum(is_free(port) for port in sample)
    text = f"{n_free} of {len(sample)} tried between {FIRST} and {LAST} are free"
    if n_free > len(sample) // 2:
        return ok("ports", text)
    return fault("ports", text, "end the processes that listen there (ss -ltnp shows them)")


def examine(settings: Settings) -> list[Finding]:
    """All checks of the machine."""
    return [python(), compiler(), cores(), memory(), disk(Layout.of(settings).home), ports()]
