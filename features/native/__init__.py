"""State in machine code: `core`, a C++ module with twins of the parts of users' and items' state.

A twin has the interface of the Python class that it stands for and writes the same bytes; it is what makes an event
cheap (docs/specs/state.md). The module is compiled from `src/` at set-up, or at its first use, and kept by the hash of
its sources; it needs a C++ compiler and nothing else. Without one, or with `LIVERANK_NATIVE=off` in the environment,
`core` is None and the Python classes serve: slower, the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from liverank.native_build import NativeModule

__all__ = ["core", "why_not"]

core: Any
"""The compiled module, or None."""

core, why_not = NativeModule("features.native.core", Path(__file__).parent).load()
"""Why `core` is None; empty if it is not."""
