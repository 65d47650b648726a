"""Kafka's jars: pinned by SHA-256 in ``kafka.lock``, fetched once into the cache of the checkout.

A start with a full cache needs no network: a jar lies in ``<cache>/kafka/<version>`` only after it was verified.
``python -m infra.stack.jars`` resolves the coordinates anew and prints a new lock file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import ChecksumError, MissingDownloadError

if TYPE_CHECKING:
    from jgo.maven import MavenContext

KAFKA_VERSION = "4.1.1"
# Resolved apart, so that the managed versions of the logging library do not move those of Kafka.
COORDINATES = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}:jar:compile",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3:jar:compile",
)
LOCK = Path(__file__).with_name("kafka.lock")
FETCH_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class Jar:
    """One pinned jar."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        """File name in the cache and on the class path."""
        return f"{self.artifact}-{self.version}.jar"

    @property
    def line(self) -> str:
        """The jar's line of the lock file."""
        return f"{self.sha256}  {self.group}:{self.artifact}:{self.version}"


def read_lock(path: Path = LOCK) -> tuple[Jar, ...]:
    """Jars of the lock file, in its order (which is the order of the class path)."""
    jars = []
    for line in path.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        sha256, coordinate = line.split()
        group, artifact, version = coordinate.split(":")
        jars.append(Jar(group=group, artifact=artifact, version=version, sha256=sha256))
    return tuple(jars)


def folder(cache: Path) -> Path:
    """Where the verified jars of this Kafka version lie."""
    return cache / "kafka" / KAFKA_VERSION


def missing(cache: Path) -> tuple[Jar, ...]:
    """Pinned jars that the cache lacks."""
    return tuple(jar for jar in read_lock() if not (folder(cache) / jar.filename).is_file())


def damaged(cache: Path) -> tuple[Jar, ...]:
    """Pinned jars in the cache whose bytes are not the pinned ones. Reads 45 MB."""
    found = [jar for jar in read_lock() if (folder(cache) / jar.filename).is_file()]
    return tuple(jar for jar in found if _sha256(folder(cache) / jar.filename) != jar.sha256)


def ensure(cache: Path, *, maven_url: str = "") -> tuple[Path, ...]:
    """Return the class path of Kafka, fetching what the cache lacks.

    Safe to run twice at once: jars are fetched into a private folder and moved in whole.

    Parameters
    ----------
    cache : Path
        Cache folder of the checkout.
    maven_url : str
        A mirror of the Maven repository; empty = Maven Central.

    Raises
    ------
    MissingDownloadError
        A jar could not be fetched (no network?).
    ChecksumError
        A fetched jar is not the pinned one; nothing of it is kept.
    """
    target = folder(cache)
    wanted = missing(cache)
    if wanted:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as work:
            context = _context(Path(work) / "m2", maven_url)
            with ThreadPoolExecutor(FETCH_THREADS) as pool:
                list(pool.map(lambda jar: _fetch(jar, context, target), wanted))
    return tuple(target / jar.filename for jar in read_lock())


def _fetch(jar: Jar, context: MavenContext, target: Path) -> None:
    artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact()
    try:
        path = artifact.resolve()
    except (OSError, RuntimeError) as error:  # requests' errors are OSErrors; jgo raises RuntimeError for "not found"
        raise MissingDownloadError(
            f"cannot fetch {jar.filename}: {error}. Kafka {KAFKA_VERSION} is not in the cache {target}; connect once, "
            "set LIVERANK_STACK__MAVEN_URL to a mirror, or set LIVERANK_KAFKA__BOOTSTRAP to a Kafka that is up."
        ) from error
    got = _sha256(path)
    if got != jar.sha256:
        raise ChecksumError(
            f"{jar.filename}: sha256 {got}, pinned {jar.sha256} in {LOCK.name}. The file was not kept; try "
            "again, and if it differs again, do not trust the network between you and the Maven repository."
        )
    os.replace(path, target / jar.filename)


def _context(repo_cache: Path, maven_url: str) -> MavenContext:
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext

    logging.getLogger("jgo").setLevel(logging.ERROR)
    return MavenContext(repo_cache=repo_cache, remote_repos={"central": maven_url or MAVEN_CENTRAL_URL}, timeout=60)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resolve(maven_url: str = "") -> tuple[Jar, ...]:
    """Resolve `COORDINATES` with their transitive dependencies and hash every jar (15 s)."""
    with tempfile.TemporaryDirectory() as work:
        context = _context(Path(work), maven_url)
        found: dict[tuple[str, str], Jar] = {}
        for coordinate in COORDINATES:
            inputs, transitive = context.resolver.resolve([context.create_dependency(coordinate)])
            for dependency in [*inputs, *(one for one in transitive if one.scope in ("compile", "runtime"))]:
                group, name, version = dependency.groupId, dependency.artifactId, dependency.version
                if (group, name) not in found:
                    path = context.project(group, name).at_version(version).artifact().resolve()
                    found[group, name] = Jar(group=group, artifact=name, version=version, sha256=_sha256(path))
        return tuple(found.values())


def main() -> None:
    """Print a new lock file."""
    sys.stdout.write(
        f"# Jars of Kafka {KAFKA_VERSION}: sha256, group:artifact:version. Written by python -m infra.stack.jars\n"
    )
    sys.stdout.writelines(f"{jar.line}\n" for jar in resolve())


if __name__ == "__main__":
    main()
