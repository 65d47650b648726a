"""Examples in docstrings and in docs/bandits.md run."""

from __future__ import annotations

import doctest
import importlib
import json
import pkgutil
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bandits
import bench.report

MODULES = ["bench.report", *(f"bandits.{module.name}" for module in pkgutil.iter_modules(bandits.__path__))]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.failed == 0


def test_examples_of_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    p = np.full(2_000, 0.5)
    pd.DataFrame({"click": np.arange(2_000) % 2, "p": p, "q": p}).to_parquet("log.parquet")
    text = (Path(bandits.__file__).parents[1] / "docs" / "bandits.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "docs/bandits.md", "exec"), {})


def test_reports_pass_only_where_every_bound_holds(capsys: pytest.CaptureFixture[str]) -> None:
    figures: dict[str, bench.report.Figure] = {"p50_us": 5.0, "inner": {"share": 0.2}, "flag": True}
    good = {"p50_us": ("<=", 5.0), "inner.share": (">=", 0.1), "flag": ("==", True)}
    assert bench.report.finish("x", figures, good) == 0
    for key, bound in (
        ("p50_us", ("<=", 4.0)),
        ("inner.missing", (">=", 0.0)),
        ("missing", (">=", 0.0)),
        ("flag", ("==", False)),
    ):
        assert bench.report.finish("x", figures, {key: bound}) == 1
    assert bench.report.finish("x", {"nan": float("nan")}, {"nan": ("<=", 1.0)}) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["pass"] for line in lines] == [True, False, False, False, False, False]
    assert json.loads(lines[-1])["figures"] == {"nan": None}
    assert bench.report.table(["a", "b"], [["x", 1.23456]]).splitlines()[2].split() == ["x", "1.235"]
