"""Checks of what is installed: every requirement of the project, and Kafka's jars."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata

from packaging.requirements import Requirement

from infra.doctor.findings import Finding, fault, ok, warning
from infra.stack import jars
from infra.stack.layout import Layout
from liverank.settings import Settings

DISTRIBUTION = "liverank"
EXTRA = "server"


def packages(requires: list[str] | None = None, version_of: Callable[[str], str] = metadata.version) -> Finding:
    """Whether every requirement of the server is installed in a version that the project allows."""
    wanted = requires if requires is not None else (metadata.requires(DISTRIBUTION) or [])
    wrong, n_checked = [], 0
    for requirement in map(Requirement, wanted):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": EXTRA}):
            continue
        n_checked += 1
        try:
            found = version_of(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found} is not {requirement.specifier}")
    if wrong:
        return fault("packages", "; ".join(wrong), "run make setup")
    return ok("packages", f"{n_checked} requirements met")


def kafka_jars(settings: Settings) -> Finding:
    """Whether Kafka's files are in the cache and are the pinned ones."""
    cache = Layout.of(settings).cache
    if settings.kafka.bootstrap:
        return ok("Kafka files", "not needed: Kafka is external")
    bad = jars.damaged(cache)
    if bad:
        names = ", ".join(jar.filename for jar in bad)
        return fault(
            "Kafka files", f"damaged in {jars.folder(cache)}: {names}", "delete these files and run liverank up"
        )
    lacking = jars.missing(cache)
    if lacking:
        todo = "liverank up fetches them (43 MB) and needs the network this once"
        return warning("Kafka files", f"{len(lacking)} of {len(jars.read_lock())} not in {jars.folder(cache)}", todo)
    return ok("Kafka files", f"Kafka {jars.KAFKA_VERSION}, {len(jars.read_lock())} files verified")


def examine(settings: Settings) -> list[Finding]:
    """All checks of what is installed."""
    return [packages(), kafka_jars(settings)]
