"""Errors of the models.

ManifestError   (ConfigError)    a manifest or a model's parameters break their own rules
MismatchError   (ConfigError)    a model does not fit what serves it: columns, service, space, schema or prompt
ModelCorruptError (CorruptError) a file of a model is not what its manifest says
ModelMissingError (NotFoundError) no such model, or none is active
"""

from __future__ import annotations

from liverank.errors import ConfigError, CorruptError, NotFoundError


class ManifestError(ConfigError):
    """A manifest or a model's parameters break their own rules."""


class MismatchError(ConfigError):
    """A model does not fit what serves it."""


class ModelCorruptError(CorruptError):
    """A file of a model is not what its manifest says."""


class ModelMissingError(NotFoundError):
    """No such model, or none is active."""
