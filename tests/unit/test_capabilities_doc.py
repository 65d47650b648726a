"""docs/capabilities.md names checks that exist and hold their row's id."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "capabilities.md").read_text()
ROWS = {
    row: re.findall(r"`([^`]+)`", checks)
    for row, checks in re.findall(r"^\| ([A-Z]{3}-\d+) \| [^|]* \| ([^|]*) \|", TEXT, re.MULTILINE)
}
#: The rows of the first form.
EXPECTED = {
    *(f"ING-{n}" for n in (1, 2, 3, 4, 7, 8)), *(f"STR-{n}" for n in (1, 2, 3)), *(f"FEA-{n}" for n in (1, 2, 6)),
    *(f"EMB-{n}" for n in (1, 2, 4)), "LLM-1", "LLM-3", "RET-1", "RET-6", *(f"RNK-{n}" for n in (1, 2, 5, 7, 9, 11)),
    *(f"BAN-{n}" for n in (1, 2, 4, 5, 6)), "TRN-1", "TRN-5", "OPS-1", *(f"USE-{n}" for n in (2, 9, 10, 16)),
}  # fmt: skip


def test_names(path: Path) -> set[str]:
    """Names of the tests of a file, those in classes too."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


test_names.__test__ = False  # type: ignore[attr-defined]


def test_every_row_of_the_first_form_is_there() -> None:
    assert set(ROWS) >= EXPECTED


@pytest.mark.parametrize("row", sorted(ROWS))
def test_the_checks_of_a_row_exist(row: str) -> None:
    assert ROWS[row], "no check is named"
    mark = re.compile(rf"_{row.replace('-', '_')}(_|$)")
    for check in ROWS[row]:
        if check.startswith("bench."):
            name = check.removeprefix("bench.")
            assert (ROOT / "bench" / f"{name}.py").is_file() or (ROOT / "bench" / name / "__main__.py").is_file(), check
            continue
        path = ROOT / check
        assert path.is_file(), check
        assert any(mark.search(name) for name in test_names(path)), f"no test of {check} holds {row}"


def test_other_files_that_the_page_names_exist() -> None:
    named = re.findall(r"`(tests/[^`]+\.py)`", TEXT)
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_every_bench_is_documented() -> None:
    guide = (ROOT / "bench" / "README.md").read_text()
    benches = {
        path.stem
        for path in (ROOT / "bench").glob("*.py")
        if '__name__ == "__main__"' in path.read_text() or "__name__ == '__main__'" in path.read_text()
    }
    benches |= {path.parent.name for path in (ROOT / "bench").glob("*/__main__.py")}
    documented = set(re.findall(r"^\| `([a-z_]+)` \|", guide, re.MULTILINE))
    assert benches == documented
