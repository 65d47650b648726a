"""Compile `features.native.core`: once per source, compiler flags and Python version."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sysconfig
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

from features.errors import NativeBuildError

__all__ = ["build", "library_path"]

_SOURCES: Final = Path(__file__).parent / "src"
_BUILT: Final = Path(__file__).parent / "build"
# Without contraction a sum of a product is rounded twice, as in Python, on every machine.
_FLAGS: Final = ("-std=c++20", "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall",
                 "-Wextra", "-Wno-missing-field-initializers", "-Wno-cast-function-type")  # fmt: skip
_TIMEOUT_S: Final = 300.0


@cache
def library_path() -> Path:
    """Where the library of these sources lies."""
    digest = hashlib.sha256(" ".join(_FLAGS).encode())
    for path in sorted(_SOURCES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    suffix = sysconfig.get_config_var("EXT_SUFFIX") or ".so"
    return _BUILT / f"core-{digest.hexdigest()[:16]}{suffix}"


def build() -> Path:
    """Compile the module if it is not there yet; about 15 s. Several processes may ask at once.

    Returns
    -------
    Path
        The library.

    Raises
    ------
    NativeBuildError
        There is no compiler, no place to write to, or the sources do not compile.
    """
    path = library_path()
    if path.exists():
        return path
    failed = path.with_suffix(".failed")
    if failed.exists():
        raise NativeBuildError(f"{failed} says why an earlier build failed; delete it to try again")
    try:
        _BUILT.mkdir(exist_ok=True)
        with (_BUILT / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _compile(path, failed)
    except OSError as error:
        raise NativeBuildError(f"{_BUILT} cannot be written ({error}); run `make setup` as its owner") from error
    return path


def _compile(path: Path, failed: Path) -> None:
    compiler = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    if compiler is None:
        raise NativeBuildError(
            "no C++ compiler (c++, g++ or clang++) is on the path; install one, e.g. apt install g++"
        )
    include = sysconfig.get_paths()["include"]
    with tempfile.TemporaryDirectory(dir=_BUILT) as folder:
        made = Path(folder) / "core.so"
        command = [compiler, *_FLAGS, f"-I{include}", str(_SOURCES / "core.cpp"), "-o", str(made)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise NativeBuildError(f"{compiler} took more than {_TIMEOUT_S:.0f} s") from error
        if done.returncode:
            failed.write_text(done.stderr)
            raise NativeBuildError(f"{compiler} failed: {done.stderr.strip()[:500]}")
        os.replace(made, path)
    for old in _BUILT.glob("core-*"):
        if old.name.split(".")[0] != path.name.split(".")[0]:
            old.unlink(missing_ok=True)
