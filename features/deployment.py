"""Where the namespace's files and topics are, for Feast definitions: `feast` runs in the repo's folder, not in ours."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from liverank.settings import Settings

__all__ = ["CHECKOUT", "Deployment", "deployment", "namespace_folder"]

CHECKOUT: Final = Path(__file__).resolve().parents[1]
"""Folder that relative paths in settings count from when `feast` changed the working directory."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One namespace as Feast definitions see it."""

    namespace: str
    folder: Path
    kafka: str

    def topic(self, name: str) -> str:
        """Full name of a topic, without its generation."""
        return f"liverank.{self.namespace}.{name}"

    def file(self, name: str) -> str:
        """Absolute path of a file of the namespace."""
        return str(self.folder / name)


def namespace_folder(settings: Settings) -> Path:
    """Absolute `<home>/<namespace>`."""
    home = settings.home if settings.home.is_absolute() else CHECKOUT / settings.home
    return home / settings.namespace


def deployment() -> Deployment:
    """The namespace that the settings name (`LIVERANK_NAMESPACE`, `liverank.toml` of the checkout)."""
    with contextlib.chdir(CHECKOUT):
        settings = Settings()
    return Deployment(
        namespace=settings.namespace,
        folder=namespace_folder(settings),
        kafka=settings.kafka.bootstrap or "see endpoints.json",
    )
