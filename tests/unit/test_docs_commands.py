"""Every `liverank ...` that the documentation writes is a command that exists, with options that it has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from liverank.cli import build

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WRITTEN = re.compile(r"(?:`|^[$ ]*|/)liverank ([a-z]+)\b([^`\n#;|]*)", re.MULTILINE)


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """Options of each command."""
    group = typer.main.get_command(build())
    return {name: options_of(command) | {"--help", "-h"} for name, command in group.commands.items()}  # type: ignore[attr-defined]


def options_of(command: Any) -> set[str]:
    """Options of a command, or of all commands of a group."""
    found = {text for one in command.params for text in (*one.opts, *one.secondary_opts)}
    return found.union(*(options_of(one) for one in getattr(command, "commands", {}).values()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_in_the_documentation_exist(page: Path, options: dict[str, set[str]]) -> None:
    wrong = []
    # A line that says what is not there yet may name it.
    text = "\n".join(line for line in page.read_text().splitlines() if "not yet" not in line.lower())
    for command, rest in WRITTEN.findall(text):
        if command not in options:
            wrong.append(f"liverank {command}")
            continue
        used = set(re.findall(r"(?<=\s)--?[a-z][a-z\-]*", rest))
        wrong += [f"liverank {command} {option}" for option in sorted(used - options[command])]
    assert not wrong


def test_the_documentation_is_read_at_all(options: dict[str, set[str]]) -> None:
    found = {command for page in PAGES for command, _ in WRITTEN.findall(page.read_text())}
    assert {"up", "status", "doctor", "rank", "track", "import", "train", "enrich"} <= found & set(options)
