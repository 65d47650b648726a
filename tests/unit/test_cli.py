"""The command line's shell: help without the server, one clear line for every error."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError
from rich.console import Console

from liverank.cli import EXIT_ERROR, EXIT_USAGE, explain
from liverank.cli.progress import Steps
from liverank.errors import UnavailableError
from liverank.settings import Settings

WITHOUT_SERVER = """
import sys
for name in ("infra", "streams", "features", "bandits", "ranker", "evaluation"):
    sys.modules[name] = None
sys.argv = ["liverank", *sys.argv[1:]]
from liverank.cli import main
main()
"""


def run(program: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_help_works_without_the_server() -> None:
    done = run(WITHOUT_SERVER, "--help")
    assert done.returncode == 0, done.stderr
    for command in (
        "up",
        "down",
        "status",
        "doctor",
        "rank",
        "similar",
        "explain",
        "track",
        "import",
        "train",
        "enrich",
    ):
        assert f" {command} " in done.stdout, command


@pytest.mark.parametrize("command", ["up", "down", "status", "doctor"])
def test_a_command_of_the_server_says_what_is_missing(command: str) -> None:
    done = run(WITHOUT_SERVER, command)
    assert done.returncode == EXIT_ERROR
    assert done.stderr.startswith("error: this command is part of the server")
    assert "make setup" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_command_is_a_usage_error() -> None:
    done = run(WITHOUT_SERVER, "frobnicate")
    assert done.returncode == EXIT_USAGE
    assert "frobnicate" in done.stderr


def test_every_kind_of_error_is_a_sentence() -> None:
    assert explain(UnavailableError("Kafka is away; start it")) == ("Kafka is away; start it", EXIT_ERROR)
    assert explain(ModuleNotFoundError("x", name="ranker.models"))[0].startswith("this command is part of the server")
    assert "pip install 'liverank[server]'" in explain(ModuleNotFoundError("x", name="lightgbm"))[0]
    assert explain(PermissionError(13, "Permission denied", "/home/x"))[0] == "[Errno 13] Permission denied: '/home/x'"
    text, _ = explain(ZeroDivisionError("division by zero"))
    assert "This is a bug" in text
    assert "LIVERANK_TRACEBACK=1" in text


def test_a_wrong_setting_is_named_with_what_was_given() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(stack={"workers": 99})
    text, code = explain(caught.value)
    assert code == EXIT_USAGE
    assert "stack.workers" in text
    assert "got 99" in text


def test_steps_show_seconds_and_mark_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    steps = Steps(Console(width=200, no_color=True))
    with steps.step("kafka") as step:
        step.note("127.0.0.1:1")
    with pytest.raises(RuntimeError), steps.step("redis"):
        raise RuntimeError
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["+", "kafka", lines[0].split()[2], "s", "127.0.0.1:1"]
    assert lines[1].split()[:2] == ["x", "redis"]
