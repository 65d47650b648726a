"""Memory of a process that folds: Python's cycle collector, and what is freed.

States hold no cycles, so what a fold drops is freed at once; a full collection would only walk over all cached states,
again and again: a fifth of the fold's time at 3,000 users. What exists when a fold starts is set aside, young objects
are looked at rarely, and old ones when many times as many have come.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from features import native

__all__ = ["quiet", "still"]

#: Containers made (less those freed) before the youngest are looked at; then how many times per older generation.
_THRESHOLDS: Final = (100_000, 50, 100)


def quiet() -> None:
    """Make the collector quiet in this process, and keep what is freed; may be called again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    if native.core is not None:
        native.core.keep_memory()


@contextmanager
def still() -> Iterator[None]:
    """Keep the collector still: for a while in which much is kept and no cycles are made."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
