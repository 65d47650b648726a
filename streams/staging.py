"""Files of a backfill: what a job is, what it staged, and which partitions an interrupted run had finished."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from features.program import ViewProgram
from liverank.settings import Settings
from streams.control import write_staged

__all__ = ["Job", "Manifest", "Pages", "Part", "Staged", "manifest_of", "write", "write_json"]

Pages = dict[bytes, bytes]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to count, and up to where.

    Attributes
    ----------
    views : tuple of (activation, view)
    offsets : mapping of int to int
        By partition of `events`: offset of the last record to count, that of the activation.
    """

    generation: int
    project: str
    views: tuple[tuple[str, ViewProgram], ...]
    offsets: Mapping[int, int]

    def to_json(self) -> str:
        """Canonical JSON: equal jobs give equal text."""
        body = {
            "generation": self.generation,
            "project": self.project,
            "views": [[activation, view.to_dict()] for activation, view in sorted(self.views, key=lambda v: v[0])],
            "offsets": {str(partition): offset for partition, offset in sorted(self.offsets.items())},
        }
        return json.dumps(body, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Inverse of `to_json`."""
        body = json.loads(text)
        return cls(
            generation=body["generation"],
            project=body["project"],
            views=tuple((activation, ViewProgram.from_dict(view)) for activation, view in body["views"]),
            offsets={int(partition): offset for partition, offset in body["offsets"].items()},
        )

    @property
    def job_id(self) -> str:
        """Hash of what the job says, 16 hex digits."""
        return sha256(self.to_json().encode()).hexdigest()[:16]

    def folder(self, settings: Settings) -> Path:
        """Where its files lie, relative to `settings.home`."""
        return Path("archive") / settings.namespace / "backfill" / self.job_id


@dataclass(frozen=True, kw_only=True)
class Staged:
    """A staging file: path relative to `settings.home`, hash, number of keys."""

    path: str
    sha256: str
    keys: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a job staged: files by (kind of fold, partition)."""

    events: int
    seconds: float
    files: Mapping[tuple[str, int], Staged]


def manifest_of(settings: Settings, job: Job) -> Manifest | None:
    """Return what a finished job staged; None = it is not done."""
    try:
        body = json.loads((settings.home / job.folder(settings) / "manifest.json").read_text())
        files = {
            (kind, int(partition)): Staged(**staged)
            for kind, parts in body["files"].items()
            for partition, staged in parts.items()
        }
        return Manifest(events=body["events"], seconds=body["seconds"], files=files)
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True, kw_only=True)
class Part:
    """What the past of one partition staged: its users' pages, and what its users did to items."""

    events: int
    users: Staged | None
    items: Staged | None

    @staticmethod
    def path(settings: Settings, job: Job, partition: int) -> Path:
        """The file that says that a partition is done."""
        return settings.home / job.folder(settings) / f"part-{partition}.json"

    @classmethod
    def done(cls, settings: Settings, job: Job, partition: int) -> Part | None:
        """What an interrupted run of the job left of a partition that it had finished; None = begin it."""
        try:
            body = json.loads(cls.path(settings, job, partition).read_text())
            users, items = (Staged(**body[name]) if body[name] else None for name in ("users", "items"))
            whole = all(_hash(settings, each) == each.sha256 for each in (users, items) if each is not None)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return cls(events=body["events"], users=users, items=items) if whole else None

    def note(self, settings: Settings, job: Job, partition: int) -> None:
        """Say that the partition is done."""
        write_json(self.path(settings, job, partition), asdict(self))


def _hash(settings: Settings, found: Staged) -> str:
    return sha256((settings.home / found.path).read_bytes()).hexdigest()


def write_json(path: Path, body: object) -> None:
    """Write a file of JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(body))
    temporary.rename(path)


def write(settings: Settings, job: Job, name: str, rows: Sequence[tuple[str, Pages]]) -> Staged:
    """Write a staging file."""
    path = job.folder(settings) / f"{name}.parquet"
    return Staged(path=str(path), sha256=write_staged(settings.home / path, rows), keys=len(rows))
