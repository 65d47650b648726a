"""Feature definitions, their program and state, Feast's registry and stores."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__: list[str] = []


def _unchecked(target: Any = None, **_options: Any) -> Any:
    """`typeguard.typechecked`, without its checks."""

    def same(decorated: Callable[..., Any]) -> Callable[..., Any]:
        return decorated

    return same if target is None else target


if "feast" not in sys.modules:
    # Feast has typeguard rewrite its classes while it is imported: 2.6 of the 3.4 s of CPU that its import takes, in
    # every ranker and command. What it would check are arguments that our own types and `features.compile` check.
    with suppress(ImportError):  # it is Feast's dependency, not ours
        import typeguard

        typeguard.typechecked = _unchecked
