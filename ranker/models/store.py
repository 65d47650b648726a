"""Where models lie and which is active: `<home>/<namespace>/models/<id>/` and Redis `<namespace>:model`."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from features.redis import Redis, connect, translated
from liverank.settings import Settings
from ranker.models.compiled import compile_boosters
from ranker.models.errors import ManifestError, ModelCorruptError, ModelMissingError
from ranker.models.manifest import Manifest
from ranker.models.protocol import Model
from ranker.models.rate import RateModel, rate_manifest

MANIFEST_FILE = "manifest.json"
START_FILE = "start.partial"
"""Bandit statistics that a model starts from (`bandits.Partial` bytes); rankers add them to what the fold counted."""
START_ARMS_FILE = "start.arms"
"""The same per category (`bandits.arms.ArmPartials` bytes)."""
START_LOGISTIC_FILE = "start.logistic"
"""The same for the logistic posterior (`bandits.logistic.LogisticPartial` bytes)."""
START_ITEMS_FILE = "start.items"
"""The same per item, of all slots of 30 days (`bandits.items.WithItems` bytes)."""
START_FILES = (START_FILE, START_ARMS_FILE, START_LOGISTIC_FILE, START_ITEMS_FILE)


def models_dir(settings: Settings) -> Path:
    """Folder of a namespace's models."""
    return settings.home / settings.namespace / "models"


def model_key(settings: Settings) -> str:
    """Redis key of the active model's id."""
    return f"{settings.namespace}:model"


def file_hash(data: bytes) -> str:
    """SHA-256 (hex) of a file of a model."""
    return hashlib.sha256(data).hexdigest()


def write_model(folder: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Path:
    """Write a model so that it is there whole or not at all; the same model twice is written once.

    Parameters
    ----------
    folder : Path
        `models_dir(settings)`.
    manifest : Manifest
        Names each file with its hash.
    files : mapping of file name to bytes

    Returns
    -------
    Path
        `<folder>/<id>`.

    Raises
    ------
    ManifestError
        The files are not those of the manifest.
    """
    hashes = {name: file_hash(data) for name, data in files.items()}
    if hashes != manifest.files:
        raise ManifestError(f"files {sorted(files)} are not those of the manifest {sorted(manifest.files)}, or differ")
    target = folder / manifest.id
    if (target / MANIFEST_FILE).exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=folder))
    try:
        for name, data in files.items():
            _write(staging / name, data)
        _write(staging / MANIFEST_FILE, manifest.to_json().encode())
        staging.chmod(0o755)
        staging.rename(target)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)
        if not (target / MANIFEST_FILE).exists():  # another process published the same model first: that is fine
            raise
    return target


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def start_of(path: Path, name: str = START_FILE) -> bytes | None:
    """A model's starting statistics; None where it has none. Call after `load_model` has checked the files."""
    try:
        return (path / name).read_bytes()
    except FileNotFoundError:
        return None


def load_model(path: Path) -> Model:
    """Load a model from its folder, each file checked against its hash. Compiles nothing.

    Raises
    ------
    ModelMissingError
        No manifest there.
    ModelCorruptError
        The manifest or a file was changed.
    ManifestError
        The manifest breaks its rules.
    """
    try:
        manifest = Manifest.from_json((path / MANIFEST_FILE).read_bytes())
    except FileNotFoundError as error:
        raise ModelMissingError(
            f"no model at {path}: run `liverank train`, or `liverank up` for the base model"
        ) from error
    files = {}
    for name, expected in manifest.files.items():
        try:
            data = (path / name).read_bytes()
        except FileNotFoundError as error:
            raise ModelCorruptError(f"model {manifest.id[:12]} has no file {name}: publish it again") from error
        if file_hash(data) != expected:
            raise ModelCorruptError(f"file {name} of model {manifest.id[:12]} was changed: publish it again")
        files[name] = data
    if manifest.kind == "rate":
        return RateModel(manifest)
    from ranker.models.booster import BoosterModel

    return BoosterModel(manifest, files, path)


def publish_model(settings: Settings, manifest: Manifest, files: Mapping[str, bytes]) -> Path:
    """Write a model, prove that it loads, and make it the active one. Rankers take it at their next poll.

    Raises
    ------
    UnavailableError
        Redis is away: the model is written but not active; publish again.
    """
    path = write_model(models_dir(settings), manifest, files)
    if manifest.kind == "booster":
        compile_boosters(path, sorted(name for name in manifest.files if name not in START_FILES))
    load_model(path)
    activate_model(settings, manifest.id)
    return path


def activate_model(settings: Settings, model_id: str) -> None:
    """Make a model that lies in the namespace's folder the active one (also the way back)."""
    if not (models_dir(settings) / model_id / MANIFEST_FILE).exists():
        raise ModelMissingError(f"no model {model_id} in {models_dir(settings)}; allowed are the folders there")
    with translated(f"activating model {model_id[:12]}"):
        connect(settings).set(model_key(settings), model_id)


def active_model_id(redis: Redis, settings: Settings) -> str | None:
    """Id of the active model, or None before the first was published."""
    with translated("reading the active model's id"):
        found = redis.get(model_key(settings))
    return found.decode() if isinstance(found, bytes) else None


def load_active_model(redis: Redis, settings: Settings) -> Model:
    """The active model.

    Raises
    ------
    ModelMissingError
        None is active, or its folder is not here.
    """
    model_id = active_model_id(redis, settings)
    if model_id is None:
        raise ModelMissingError(
            f"no active model in namespace {settings.namespace!r}: run `liverank up` or `liverank train`"
        )
    return load_model(models_dir(settings) / model_id)


def ensure_base_model(settings: Settings) -> str:
    """Publish the day-one rate model unless a model is active. Safe to run twice and from two processes.

    Returns
    -------
    str
        Id of the active model.
    """
    from ranker.columns import FEATURE_SERVICE
    from ranker.phi import SCHEMA

    redis = connect(settings)
    active = active_model_id(redis, settings)
    if active is not None and (models_dir(settings) / active / MANIFEST_FILE).exists():
        return active
    manifest = rate_manifest(feature_service=FEATURE_SERVICE, schema=SCHEMA)
    write_model(models_dir(settings), manifest, {})
    with translated("activating the base model"):
        redis.set(model_key(settings), manifest.id, nx=active is None)
    return active_model_id(redis, settings) or manifest.id
