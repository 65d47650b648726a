"""Logs as JSON lines on stderr: one object a line, `ts`, `level`, `process`, `event`, then what the caller adds.

`configure` is called once at an entry point of the server; the SDK logs nothing on its own. Records of libraries that
use the standard library's logging appear in the same form, from WARNING on.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

LEVEL_VARIABLE = "LIVERANK_LOG"
LEVELS = ("debug", "info", "warning", "error")


def configure(process: str, *, level: str = "") -> None:
    """Send all logs of this process to stderr as JSON lines.

    Parameters
    ----------
    process : str
        Name in every line, e.g. ``live-worker-0``.
    level : str
        One of `LEVELS`; empty = the environment's ``LIVERANK_LOG``, else ``info``. Libraries keep to warnings except
        at ``debug``.
    """
    import structlog

    wanted = (level or os.environ.get(LEVEL_VARIABLE, "") or "info").lower()
    if wanted not in LEVELS:
        wanted = "info"
    number = logging.getLevelNamesMapping()[wanted.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        _ProcessName(process),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, _first("ts", "level", "process", "module", "event"), structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_module_name, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _first("ts", "level", "process", "module", "event"),
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number if wanted == "debug" else max(number, logging.WARNING))
    logging.captureWarnings(True)


def get(name: str = "") -> Any:
    """A logger: `log.get(__name__).info("fold started", partition=3)`. May be called before `configure`."""
    import structlog

    return structlog.get_logger(module=name) if name else structlog.get_logger()


class _ProcessName:
    def __init__(self, process: str) -> None:
        self._process = process

    def __call__(self, _logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        event["process"] = self._process
        return event


def _module_name(_logger: Any, _method: str, event: Any) -> Any:
    """The name of a library's logger, under the key that ours use."""
    event["module"] = event["_record"].name
    return event


def _first(*names: str) -> Any:
    def order(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        return {**{name: event[name] for name in names if name in event}, **event}

    return order
