"""Apply the feature repo for a namespace: what `liverank up` does, and `python -m features.apply`.

Writes `<home>/<ns>/feature_store.yaml` (liverank's provider: apply, materialise, serve) and
`feature_store.client.yaml` (Feast's local provider: foreign readers), then does what `feast apply` does. An operator's
`feast -c features/repo -f <home>/<ns>/feature_store.yaml apply` is the same thing.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence, Set
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from features.deployment import CHECKOUT, namespace_folder
from features.errors import ProgramError
from features.redis import connect, translated
from liverank.settings import Settings, resolve

if TYPE_CHECKING:
    from feast import FeatureStore

    from features.program import FeatureProgram

__all__ = ["apply", "apply_here", "client_yaml", "materialize", "open_store", "render", "repo_program", "store_yaml"]

STORE: Final = "feature_store.yaml"
CLIENT: Final = "feature_store.client.yaml"
STAMP: Final = "feature_repo.applied"

_YAML: Final = """\
# Written by `liverank up` for namespace {namespace}. {purpose}
project: {project}
provider: {provider}
registry:
  registry_type: file
  path: {registry}
  cache_ttl_seconds: 10
  cache_mode: thread
online_store:
  type: {store}
  connection_string: '{redis}'
offline_store:
  type: file
entity_key_serialization_version: 3
"""


def store_yaml(settings: Settings) -> Path:
    """Path of the namespace's `feature_store.yaml`."""
    return namespace_folder(settings) / STORE


def client_yaml(settings: Settings) -> Path:
    """Path of the namespace's `feature_store.client.yaml`."""
    return namespace_folder(settings) / CLIENT


def render(settings: Settings) -> Path:
    """Write both YAML files; return the path of `feature_store.yaml`."""
    folder = namespace_folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    common = {
        "namespace": settings.namespace,
        "project": settings.feast_project,
        "registry": folder / "registry.db",
        "redis": _connection(settings),
    }
    guarded = "Rows of stream views are written by liverank's workers alone."
    foreign = "For readers that do not have liverank; do not apply or write with it."
    for name, provider, store, purpose in (
        (STORE, "features.provider.LiverankProvider", "features.online_store.LiverankRedisOnlineStore", guarded),
        (CLIENT, "local", "redis", foreign),
    ):
        _replace(folder / name, _YAML.format(provider=provider, store=store, purpose=purpose, **common))
    return folder / STORE


def apply(settings: Settings) -> str:
    """Apply the feature repo in a process of its own, unless nothing changed since the last time.

    Returns
    -------
    str
        Path of `feature_store.yaml`.

    Raises
    ------
    ProgramError
        What `feast apply` refused, with file and line.
    RedisUnavailableError
        Redis is away.
    """
    settings = resolve(settings)
    path = render(settings)
    if _is_applied(settings):
        return str(path)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "features.apply"],
        cwd=CHECKOUT,
        env={**os.environ, **settings.environment()},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines() or done.stdout.strip().splitlines() or ["no output"]
        raise ProgramError(f"applying the feature repo {_repo(settings)} failed: {reason[-1]}")
    return str(path)


def apply_here(settings: Settings) -> str:
    """`apply` in this process: changes the working directory and the environment for its duration.

    Prints what Feast prints. For processes that have imported Feast anyway and run nothing beside.
    """
    settings = resolve(settings)
    path = render(settings)
    _placeholder(settings)
    from feast.repo_config import load_repo_config
    from feast.repo_operations import apply_total

    repo = _repo(settings)
    with _inside(repo, settings):
        config = load_repo_config(repo, path)
        apply_total(config, repo, skip_source_validation=False)
    _replace(namespace_folder(settings) / STAMP, _stamp(settings))
    return str(path)


def repo_program(settings: Settings, repo: Path | None = None) -> FeatureProgram:
    """What the definitions of a repo say, without applying them; changes the working directory for its duration.

    Raises
    ------
    ProgramError
        They are wrong, with file and line.
    """
    from features.compile import compile_registry
    from features.generate import RepoLocator, stream_views

    where = _repo(settings) if repo is None else repo.resolve()
    render(settings)
    with _inside(where, settings):
        return compile_registry(stream_views(where), settings.feast_project, RepoLocator(where))


def materialize(settings: Settings, views: Sequence[str], *, days: int = 3650) -> None:
    """Read batch views from their files into Redis: `feast materialize` of these views.

    Parameters
    ----------
    views : sequence of str
        Names, e.g. `["item_semantic"]`.
    days : int
        How far back rows are taken.

    Raises
    ------
    ProgramError
        A view is unknown.
    """
    from feast.errors import FeatureViewNotFoundException

    store = open_store(settings, timeout_s=30.0)
    end = datetime.now(UTC) + timedelta(minutes=5)
    try:
        store.materialize(start_date=end - timedelta(days=days), end_date=end, feature_views=list(views))
    except FeatureViewNotFoundException as error:
        raise ProgramError(f"{error}; views are applied by `liverank up` or `feast apply`") from error


def open_store(settings: Settings, *, timeout_s: float = 0.5, frozen: bool = False) -> FeatureStore:
    """Feast store of the namespace, registry loaded.

    Parameters
    ----------
    settings : Settings
        Resolved.
    timeout_s : float
        How long a call waits for Redis; nothing is repeated, so that a request can fall back in time.
    frozen : bool
        Keep the registry as it is now. Otherwise Feast reads it anew every 10 s.

    Raises
    ------
    ProgramError
        Nothing was applied yet.
    """
    from feast import FeatureStore
    from feast.repo_config import load_repo_config

    path = store_yaml(settings)
    if not path.exists():
        raise ProgramError(f"there is no {path}; run `liverank up`")
    config = load_repo_config(path.parent, path)
    if frozen:
        config.registry.cache_ttl_seconds = 0  # Feast's word for ever
    store = FeatureStore(repo_path=str(path.parent), config=config)
    store.registry.refresh(store.project)
    # Feast's own client repeats timed out calls for seconds.
    online: Any = store.provider.online_store
    online._client = connect(settings, timeout_s=timeout_s)
    return store


def _repo(settings: Settings) -> Path:
    repo = settings.feast.repo
    return repo.resolve() if repo.is_absolute() else CHECKOUT / repo


def _connection(settings: Settings) -> str:
    url = settings.redis.url
    parts = urlsplit(url if "://" in url else f"redis://{url}")
    text = f"{parts.hostname}:{parts.port or 6379},db={parts.path.strip('/') or 0}"
    password = settings.redis.password.get_secret_value() if settings.redis.password else parts.password
    if password:
        text += f",password={json.dumps(password)}"  # Feast reads values as JSON: a number would not be a text
    if parts.scheme == "rediss":
        text += ",ssl=true"
    return text


def _replace(path: Path, text: str) -> None:
    if path.exists() and path.read_text() == text:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.chmod(0o600)  # may hold the password of Redis
    temporary.replace(path)


def _placeholder(settings: Settings) -> None:
    """An empty file where the batch enrichment has not run yet: Feast wants its sources to exist."""
    path = namespace_folder(settings) / "item_semantic.parquet"
    if path.exists():
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    stamp = pa.timestamp("us", tz="UTC")
    schema = pa.schema(
        [
            ("item_id", pa.string()),
            ("event_timestamp", stamp),
            ("created", stamp),
            ("vector", pa.list_(pa.float32())),
            ("space", pa.string()),
            ("attributes", pa.string()),
        ]
    )
    pq.write_table(schema.empty_table(), path)


def _stamp(settings: Settings) -> str:
    digest = sha256(store_yaml(settings).read_bytes())
    for path in sorted([*_repo(settings).rglob("*.py"), *(CHECKOUT / "features").glob("*.py")]):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _is_applied(settings: Settings) -> bool:
    folder = namespace_folder(settings)
    stamp = folder / STAMP
    if not ((folder / "registry.db").exists() and stamp.exists() and stamp.read_text() == _stamp(settings)):
        return False
    with translated("reading the feature program"):
        return bool(connect(settings).exists(f"{settings.namespace}:program"))


@contextlib.contextmanager
def _inside(repo: Path, settings: Settings) -> Iterator[None]:
    """The surroundings of the feast CLI: working directory and import path at the repo, settings in the environment."""
    names = {".".join(path.relative_to(repo).with_suffix("").parts) for path in repo.rglob("*.py")}
    environment, path = dict(os.environ), list(sys.path)
    os.environ.update(settings.environment())
    sys.path.insert(0, str(repo))  # before other repos that this process has read
    _forget(names)
    try:
        with contextlib.chdir(repo):
            yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:] = path
        _forget(names)


def _forget(names: Set[str]) -> None:
    """Definitions of one repo must not be taken for those of another that has files of the same names."""
    for name in names & sys.modules.keys():
        del sys.modules[name]


def main() -> int:
    """Apply for the namespace of the environment; 0 where it went well."""
    from liverank.errors import LiverankError

    try:
        apply_here(Settings())
    except LiverankError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
