"""Models that the ranker serves: a manifest that binds everything, and the classes that load it."""

from ranker.models.errors import ManifestError, MismatchError, ModelCorruptError, ModelMissingError
from ranker.models.manifest import Manifest, Serving
from ranker.models.protocol import Model
from ranker.models.rate import RateModel, rate_manifest, smoothed_rates
from ranker.models.store import (
    activate_model,
    active_model_id,
    ensure_base_model,
    load_active_model,
    load_model,
    models_dir,
    publish_model,
    write_model,
)

__all__ = [
    "Manifest",
    "ManifestError",
    "MismatchError",
    "Model",
    "ModelCorruptError",
    "ModelMissingError",
    "RateModel",
    "Serving",
    "activate_model",
    "active_model_id",
    "ensure_base_model",
    "load_active_model",
    "load_model",
    "models_dir",
    "publish_model",
    "rate_manifest",
    "smoothed_rates",
    "write_model",
]
