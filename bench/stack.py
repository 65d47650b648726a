"""A namespace of its own on a running stack, or on one that is started for the bench and stopped after it."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from infra.stack import Stack
from infra.stack.stack import Part
from liverank.settings import Endpoints, Settings, resolve

__all__ = ["namespace"]


@contextlib.contextmanager
def namespace(parts: Collection[Part], *, partitions: int = 8, **sections: object) -> Iterator[Settings]:
    """Yield resolved settings of a fresh namespace whose `parts` are up.

    `LIVERANK_HOME` with a running stack: that one is used and stays up; its namespace's processes are stopped.

    Parameters
    ----------
    sections : dict
        Settings sections, e.g. ``stack={"workers": 1}``.
    """
    home = Settings().home
    stack = {"partitions": partitions, **dict(sections.pop("stack", {}) or {})}  # type: ignore[call-overload]
    name = f"bench-{secrets.token_hex(3)}"
    with contextlib.ExitStack() as cleanup:
        running = Endpoints.read(home) is not None
        if not running:
            home = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="liverank-bench-")))
        settings = Settings(namespace=name, home=home, stack=stack, **sections)  # type: ignore[arg-type]
        local = Stack(settings, tied=True)
        cleanup.callback(local.stop_namespace if running else local.down)
        local.up(parts)
        yield resolve(settings)
