"""Counting votes in machine code: `core`, a C++ module with twins of `bandits.votes`, which says what they mean.

Compiled at set-up or at its first use (3 s) and kept by the hash of its sources, as `features.native` is; without a
compiler, or with `LIVERANK_NATIVE=off` in the environment, `core` is None and numpy counts: slower, the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from liverank.native_build import NativeModule

__all__ = ["core", "why_not"]

core: Any
"""The compiled module, or None."""

core, why_not = NativeModule("bandits.native.core", Path(__file__).parent).load()
"""Why `core` is None; empty if it is not."""
