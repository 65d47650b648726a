"""Stubs of other languages are generated from protos/."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

PROTOS = Path(__file__).parents[2] / "protos"
FILES = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))


def generate(out: Path, *options: str) -> str:
    """All files that protoc wrote, as one text."""
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", *options, *FILES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "no warning"
    return "\n".join(path.read_text() for path in sorted(out.rglob("*")) if path.is_file())


def test_USE_10_protos_stand_alone_and_name_their_packages(tmp_path: Path) -> None:
    """Any plugin gets what this holds: nothing but our own files, with the package of each language."""
    out = tmp_path / "all.pb"
    generate(tmp_path / "none", "--include_imports", f"--descriptor_set_out={out}")
    files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    assert sorted(file.name for file in files) == FILES, "an import from elsewhere would have to be shipped too"
    for file in files:
        assert file.syntax == "proto3"
        assert file.options.go_package == "liverank/v1;liverankv1"
        assert file.options.java_package == "liverank.v1"


@pytest.mark.parametrize(
    ("plugin", "options", "holds"),
    [
        ("protoc-gen-go", ["--go_out={out}"], "type RankRequest struct"),
        ("protoc-gen-go-grpc", ["--go-grpc_out={out}"], "type PersonalizationClient interface"),
        ("protoc-gen-es", ["--es_out={out}", "--es_opt=target=ts"], "export type RankRequest"),
    ],
)
def test_USE_10_go_and_typescript(plugin: str, options: list[str], holds: str, tmp_path: Path) -> None:
    found = shutil.which(plugin)
    if found is None:
        pytest.skip(f"{plugin} is not on the PATH; docs/clients.md says how to get it")
    options = [f"--plugin={found}", *(option.format(out=tmp_path) for option in options)]
    assert holds in generate(tmp_path, *options)
