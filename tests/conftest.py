"""Fixtures and rules for all tests."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEST_VARIABLES = ("LIVERANK_DATA", "LIVERANK_TEST_HOME")

with warnings.catch_warnings():
    # Feast and what it draws in warn while they are imported: which test does so first must not matter.
    warnings.simplefilter("ignore")
    for _name in ("features", "feast"):
        importlib.import_module(_name)

# A developer's settings must not leak into tests: every test gives the settings it needs.
for _name in [name for name in os.environ if name.startswith("LIVERANK_") and name not in TEST_VARIABLES]:
    del os.environ[_name]


def data_folder() -> Path:
    """Where the public data sets lie: `LIVERANK_DATA`, else `../shared/data` beside the checkout."""
    return Path(os.environ.get("LIVERANK_DATA") or ROOT.parent / "shared" / "data")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of public data sets, for tests marked `data`."""
    return data_folder()


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """A command run in this process may set variables for the rest of its life; the next test has none of them."""
    before = {name: value for name, value in os.environ.items() if name.startswith("LIVERANK_")}
    yield
    for name in [name for name in os.environ if name.startswith("LIVERANK_") and name not in before]:
        del os.environ[name]
    os.environ.update(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything under tests/integration needs the stack."""
    for item in items:
        if ROOT / "tests" / "integration" in item.path.parents:
            item.add_marker(pytest.mark.integration)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked `data` is skipped where the data sets are missing, with the reason; on CI it fails."""
    if item.get_closest_marker("data") is None or data_folder().is_dir():
        return
    reason = f"no public data sets in {data_folder()}; set LIVERANK_DATA to their folder"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
