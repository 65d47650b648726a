"""The public names of every package, pinned: a change of the surface is a change of this file's neighbour.

``python tests/unit/test_public_surface.py`` writes tests/golden/public_surface.txt anew.
"""

from __future__ import annotations

import importlib
from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "public_surface.txt"
PACKAGES = (
    "liverank",
    "streams",
    "features",
    "features.llm",
    "bandits",
    "ranker",
    "ranker.models",
    "ranker.retrieval",
    "ranker.training",
    "evaluation",
    "evaluation.off_policy",
    "evaluation.simulator",
    "infra",
    "infra.stack",
    "infra.doctor",
)


def surface() -> str:
    lines = []
    for package in PACKAGES:
        names = getattr(importlib.import_module(package), "__all__", ())
        lines += [f"{package}: {name}" for name in sorted(names)] or [f"{package}: (nothing)"]
    return "\n".join(lines) + "\n"


def test_the_public_surface_is_the_pinned_one() -> None:
    assert surface() == GOLDEN.read_text(), "meant? then run: python tests/unit/test_public_surface.py"


if __name__ == "__main__":
    GOLDEN.write_text(surface())
