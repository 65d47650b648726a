"""State in machine code: `core`, a C++ module with twins of the parts of users' and items' state.

A twin has the interface of the Python class that it stands for and writes the same bytes; it is what makes an event
cheap (docs/specs/state.md). The module is compiled from `src/` at set-up, or at its first use, and kept by the hash of
its sources; it needs a C++ compiler and nothing else. Without one, or with `LIVERANK_NATIVE=off` in the environment,
`core` is None and the Python classes serve: slower, the same.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from typing import Any, Final

from features.errors import NativeBuildError
from features.native.build import build

__all__ = ["core", "why_not"]

_NAME: Final = "features.native.core"
_OFF: Final = ("off", "0", "no", "false")


def _load() -> tuple[Any, str]:
    if os.environ.get("LIVERANK_NATIVE", "").lower() in _OFF:
        return None, "LIVERANK_NATIVE=off"
    try:
        path = str(build())
        loader = importlib.machinery.ExtensionFileLoader(_NAME, path)
        spec = importlib.util.spec_from_file_location(_NAME, path, loader=loader)
        if spec is None:
            raise ImportError(f"{path} is not an extension module")
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
    except (NativeBuildError, ImportError) as error:
        return None, str(error)
    sys.modules[_NAME] = module
    return module, ""


core: Any
"""The compiled module, or None."""

core, why_not = _load()
"""Why `core` is None; empty if it is not."""
