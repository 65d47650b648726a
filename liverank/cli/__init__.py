"""The command line: every module of this package that has `register(app)` adds its commands.

Modules import nothing heavy until a command runs, so that `liverank --help` is quick and works from the wheel alone.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import signal
import sys
from types import ModuleType

import typer
from rich.console import Console
from rich.text import Text

from liverank.errors import LiverankError

EXIT_ERROR, EXIT_USAGE = 1, 2
SERVER_HINT = (
    "this command is part of the server, which runs from a checkout of the project: clone it and run make setup there "
    "(an app or a producer does not need it)."
)
SERVER_PACKAGES = ("infra", "streams", "features", "bandits", "ranker", "evaluation")
TRACEBACK_VARIABLE = "LIVERANK_TRACEBACK"


def build() -> typer.Typer:
    """The app with the commands of all modules."""
    app = typer.Typer(
        name="liverank",
        help="Streaming real-time personalisation on Kafka, Feast, LightGBM and contextual bandits.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for module in _modules():
        module.register(app)
    return app


def main() -> None:
    """Run a command; an error is one line on stderr and an exit code, not a traceback. SIGTERM ends it like Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        build()()
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        line, code = explain(error)
        Console(stderr=True).print(Text.assemble(("error: ", "bold red"), line), soft_wrap=True)
        sys.exit(code)


def explain(error: Exception) -> tuple[str, int]:
    """What to tell the user about an error, and the exit code."""
    from pydantic import ValidationError

    if isinstance(error, LiverankError):
        return str(error), EXIT_ERROR
    if isinstance(error, ValidationError):
        faults = [f"{'.'.join(map(str, one['loc']))}: {one['msg']} (got {one['input']!r})" for one in error.errors()]
        return f"settings: {'; '.join(faults)}. See docs/settings.md.", EXIT_USAGE
    if isinstance(error, ModuleNotFoundError):
        if (error.name or "").partition(".")[0] in SERVER_PACKAGES:
            return SERVER_HINT, EXIT_ERROR
        return (
            f"{error.name} is not installed: pip install 'liverank[server]', or make setup in the checkout",
            EXIT_ERROR,
        )
    if isinstance(error, OSError):
        return f"{error}", EXIT_ERROR
    bug = f"set {TRACEBACK_VARIABLE}=1 and run it again to see where; please report it"
    return f"{type(error).__name__}: {error}. This is a bug: {bug}.", EXIT_ERROR


def _root() -> None:
    pass


def _modules() -> list[ModuleType]:
    """Modules of this package that add commands, by name."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return [module for module in modules if hasattr(module, "register")]
