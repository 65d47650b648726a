"""A model's manifest: everything that must fit together, under one hash (docs/specs/manifest.md)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from ranker.models.errors import ManifestError, MismatchError, ModelCorruptError

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What a ranker has; a model must fit it.

    Parameters
    ----------
    feature_service : str
        Feast feature service whose columns are built.
    columns : tuple of str
        Columns of the matrix that `predict` is given, in order.
    schema : str
        Bandit feature schema.
    space : str
        Active vector space; empty = none is active yet.
    prompt : str
        Version of the prompt that made the item features; empty = none.
    """

    feature_service: str
    columns: tuple[str, ...]
    schema: str
    space: str = ""
    prompt: str = ""


class Manifest(BaseModel):
    """What a model is, what it reads and from what it was made.

    `id` is the SHA-256 of the canonical JSON of all other fields (keys sorted, no blanks), file hashes included: the
    same data and the same code give the same id, and no byte of a model can change without another id.

    Parameters
    ----------
    kind : {"rate", "booster"}
        Which class loads it.
    heads : tuple of str
        Heads in order; the first is the one that explanations are about.
    feature_service, feature_names, space, schema_id, prompt
        What the ranker must have; see `Serving`. An empty `space` or `prompt` means that the model reads none.
    slot_column : str
        Feature that holds the slot, written by `predict`; empty where the model has none.
    neutral : mapping of str to float
        Features that serving sets to one value (example age).
    calibration : mapping of head to parameters
        See `ranker.models.calibration`.
    parameters : mapping
        Of the class: a rate table, training parameters.
    files : mapping of file name to SHA-256
        Files beside the manifest.
    created_from : mapping of str to str
        Data and settings that it was made from. No clock, no host: they would change the id.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Literal[1] = 1
    kind: Literal["rate", "booster"]
    heads: tuple[str, ...] = Field(min_length=1)
    feature_service: str
    feature_names: tuple[str, ...] = ()
    slot_column: str = ""
    neutral: dict[str, float] = {}
    space: str = ""
    prompt: str = ""
    schema_id: str
    calibration: dict[str, dict[str, Any]] = {}
    parameters: dict[str, Any] = {}
    files: dict[FileName, Sha256] = {}
    created_from: dict[str, str] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if len(set(self.heads)) != len(self.heads) or len(set(self.feature_names)) != len(self.feature_names):
            raise ValueError("heads and feature_names must not repeat a name")
        named = {*self.neutral, *([self.slot_column] if self.slot_column else [])}
        if unknown := named - set(self.feature_names):
            raise ValueError(f"slot_column and neutral must name features of the model, got {sorted(unknown)}")
        if unknown := set(self.calibration) - set(self.heads):
            raise ValueError(f"calibration must be of heads of the model, got {sorted(unknown)}")
        return self

    @property
    def id(self) -> str:
        """SHA-256 (hex) of the canonical content."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json"))).hexdigest()

    def to_json(self) -> str:
        """The manifest file: all fields and `id`, indented for people."""
        return json.dumps({"id": self.id, **self.model_dump(mode="json")}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Read a manifest file and check that its id is that of its content.

        Raises
        ------
        ModelCorruptError
            Not JSON, or the content does not hash to the id.
        ManifestError
            Valid JSON that breaks a rule of manifests.
        """
        try:
            body = json.loads(text)
        except ValueError as error:
            raise ModelCorruptError(f"manifest is not JSON: {error}; publish the model again") from error
        if not isinstance(body, dict):
            raise ModelCorruptError(
                f"manifest must be a JSON object, got {type(body).__name__}; publish the model again"
            )
        declared = body.pop("id", None)
        try:
            manifest = cls.model_validate(body)
        except ValidationError as error:
            raise ManifestError(f"manifest breaks its rules: {error}") from error
        if declared != manifest.id:
            raise ModelCorruptError(
                f"manifest says id {declared}, its content hashes to {manifest.id}: it was edited; publish it again"
            )
        return manifest

    def check(self, serving: Serving) -> None:
        """Refuse to serve where anything that the model was made for differs.

        Raises
        ------
        MismatchError
            Names every difference: what the model was made for and what the ranker has.
        """
        faults = []
        if self.feature_service != serving.feature_service:
            faults.append(f"feature service {self.feature_service!r}, the ranker has {serving.feature_service!r}")
        if self.feature_names and self.feature_names != serving.columns:
            faults.append(_column_fault(self.feature_names, serving.columns))
        if self.schema_id != serving.schema:
            faults.append(f"bandit schema {self.schema_id!r}, the ranker has {serving.schema!r}")
        if self.space and self.space != serving.space:
            faults.append(f"vector space {self.space!r}, active is {serving.space!r}")
        if self.prompt and self.prompt != serving.prompt:
            faults.append(f"prompt {self.prompt!r}, active is {serving.prompt!r}")
        if faults:
            raise MismatchError(
                f"model {self.id[:12]} was made for " + "; ".join(faults) + ". Train or activate another model."
            )


def _column_fault(wanted: tuple[str, ...], have: tuple[str, ...]) -> str:
    missing, extra = sorted(set(wanted) - set(have)), sorted(set(have) - set(wanted))
    if missing or extra:
        return f"{len(wanted)} columns, the ranker has {len(have)} (missing {missing[:5]}, new {extra[:5]})"
    place = next(i for i, (a, b) in enumerate(zip(wanted, have, strict=True)) if a != b)
    return f"column {place} = {wanted[place]!r}, the ranker has {have[place]!r} there"


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """The one JSON text of a value: keys sorted, no blanks, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
