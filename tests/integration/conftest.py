"""A real Kafka and a real Redis for the tests, started once per run; a namespace of its own for every test.

`LIVERANK_TEST_HOME=<home>` makes the tests use a stack that is up already, and leave it up. A service that is missing
makes a test fail, not skip.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from workers import Folds

from infra.stack import Stack
from infra.stack import namespace as namespaces
from liverank.settings import Endpoints, Settings, resolve

MakeNamespace = Callable[..., Settings]
N_PARTITIONS = 4


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    """Addresses of a running Kafka and Redis; ends what it started."""
    given = os.environ.get("LIVERANK_TEST_HOME")
    if given:
        found = Endpoints.read(Path(given))
        if found is None:
            pytest.fail(f"LIVERANK_TEST_HOME={given}: no stack is up there", pytrace=False)
        yield found
        return
    local = Stack(Settings(home=tmp_path_factory.mktemp("stack"), namespace="tests"), tied=True)
    try:
        yield local.up(("kafka", "redis"))
    finally:
        local.down()


@pytest.fixture
def make_namespace(stack: Endpoints, tmp_path: Path) -> Iterator[MakeNamespace]:
    """A function that creates a namespace: `make_namespace(clock="data", partitions=8)` returns its resolved settings.

    Topics exist, the generation is 1; topics, keys and files of the namespace are removed after the test.
    """
    made: list[Settings] = []

    def make(*, clock: str = "wall", partitions: int = N_PARTITIONS, **sections: object) -> Settings:
        settings = Settings(
            namespace=f"t{secrets.token_hex(4)}",
            clock=clock,
            home=tmp_path,
            kafka={"bootstrap": stack.kafka},
            redis={"url": stack.redis},
            **{"stack": {"partitions": partitions}, **sections},
        )
        made.append(settings)
        namespaces.create(settings)
        return resolve(settings)

    yield make
    for settings in made:
        namespaces.remove(settings)


@pytest.fixture
def namespace(make_namespace: MakeNamespace) -> Settings:
    """Resolved settings of a fresh namespace on the wall clock."""
    return make_namespace()


@pytest.fixture
def make_running(make_namespace: MakeNamespace, tmp_path: Path) -> Iterator[MakeNamespace]:
    """A function that creates a namespace and starts its processes: `make_running(workers=1, rankers=1)`.

    Takes what `make_namespace` takes besides. Features are applied, a base model is there, every process is ready; the
    settings returned hold all addresses. The processes end with the test; their logs lie in `<home>/logs`.
    """
    started: list[Stack] = []

    def make(*, workers: int = 1, rankers: int = 1, **sections: object) -> Settings:
        if started:
            pytest.fail("make_running serves one namespace per test: a home has one supervisor", pytrace=False)
        settings = make_namespace(**sections)
        numbers = {"workers": workers, "rankers": rankers}
        settings = settings.model_copy(update={"stack": settings.stack.model_copy(update=numbers)})
        local = Stack(settings, tied=True)
        started.append(local)
        parts = [part for part, count in (("workers", workers), ("rankers", rankers)) if count]
        local.up(("features", "model", *parts))
        return resolve(settings)

    yield make
    for local in started:
        local.down()


@pytest.fixture
def folds() -> Iterator[Callable[..., Folds]]:
    """A function that starts a worker with the real folds; what still runs is killed after the test."""
    made: list[Folds] = []

    def make(*args: Any, **kwargs: Any) -> Folds:
        made.append(Folds(*args, **kwargs))
        return made[-1]

    yield make
    for worker in made:
        if worker.process.poll() is None:
            worker.process.kill()
        worker.process.communicate()


@pytest.fixture
def applied(namespace: Settings) -> Settings:
    """A namespace whose feature repo is applied."""
    from features.apply import apply_here

    apply_here(namespace)
    return namespace
