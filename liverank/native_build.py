"""Compile a C++ module of Python: once per source, compiler flags and Python version."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from liverank.errors import ConfigError

__all__ = ["NativeBuildError", "NativeModule"]

# Without contraction a sum of a product is rounded twice, as in Python, on every machine.
_FLAGS: Final = ("-std=c++20", "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall",
                 "-Wextra", "-Wno-missing-field-initializers", "-Wno-cast-function-type")  # fmt: skip
_TIMEOUT_S: Final = 300.0
_OFF: Final = ("off", "0", "no", "false")


class NativeBuildError(ConfigError):
    """Native code cannot be compiled here: no compiler, no place to write to, or sources that do not compile."""


@dataclass(frozen=True)
class NativeModule:
    """A module that is made of the sources in one folder.

    Attributes
    ----------
    name : str
        Full name of the module, e.g. ``features.native.core``.
    folder : Path
        Holds `src/` with ``core.cpp``; the library is kept in `build/`, by the hash of the sources.
    """

    name: str
    folder: Path

    @cached_property
    def path(self) -> Path:
        """Where the library of these sources lies."""
        digest = hashlib.sha256(" ".join(_FLAGS).encode())
        for path in sorted((self.folder / "src").iterdir()):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
        suffix = sysconfig.get_config_var("EXT_SUFFIX") or ".so"
        return self.folder / "build" / f"core-{digest.hexdigest()[:16]}{suffix}"

    def build(self) -> Path:
        """Compile the module if it is not there yet. Several processes may ask at once.

        Returns
        -------
        Path
            The library.

        Raises
        ------
        NativeBuildError
            There is no compiler, no place to write to, or the sources do not compile.
        """
        path, built = self.path, self.folder / "build"
        if path.exists():
            return path
        failed = path.with_suffix(".failed")
        if failed.exists():
            raise NativeBuildError(f"{failed} says why an earlier build failed; delete it to try again")
        try:
            built.mkdir(exist_ok=True)
            with (built / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not path.exists():
                    self._compile(path, failed)
        except OSError as error:
            raise NativeBuildError(f"{built} cannot be written ({error}); run `make setup` as its owner") from error
        return path

    def load(self) -> tuple[Any, str]:
        """The module, compiled if it must be, or None and why not; `LIVERANK_NATIVE=off` in the environment is why."""
        if os.environ.get("LIVERANK_NATIVE", "").lower() in _OFF:
            return None, "LIVERANK_NATIVE=off"
        try:
            path = str(self.build())
            loader = importlib.machinery.ExtensionFileLoader(self.name, path)
            spec = importlib.util.spec_from_file_location(self.name, path, loader=loader)
            if spec is None:
                raise ImportError(f"{path} is not an extension module")
            module = importlib.util.module_from_spec(spec)
            loader.exec_module(module)
        except (NativeBuildError, ImportError) as error:
            return None, str(error)
        sys.modules[self.name] = module
        return module, ""

    def _compile(self, path: Path, failed: Path) -> None:
        compiler = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
        if compiler is None:
            raise NativeBuildError(
                "no C++ compiler (c++, g++ or clang++) is on the path; install one, e.g. apt install g++"
            )
        include = sysconfig.get_paths()["include"]
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / "core.so"
            source = self.folder / "src" / "core.cpp"
            command = [compiler, *_FLAGS, f"-I{include}", str(source), "-o", str(made)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
            except subprocess.TimeoutExpired as error:
                raise NativeBuildError(f"{compiler} took more than {_TIMEOUT_S:.0f} s") from error
            if done.returncode:
                failed.write_text(done.stderr)
                raise NativeBuildError(f"{compiler} failed: {done.stderr.strip()[:500]}")
            os.replace(made, path)
        for old in path.parent.glob("core-*"):
            if old.name.split(".")[0] != path.name.split(".")[0]:
                old.unlink(missing_ok=True)
