"""Features of a namespace with their states, their lineage, and what a `feast apply` of the repo would change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from features.apply import open_store, repo_program
from features.compile import is_owned
from features.errors import ProgramError
from features.ondemand import VIEW_NAMES
from features.program import FeatureProgram, ViewProgram
from features.redis import Redis, connect, translated
from liverank.kafka import partition_counts
from liverank.settings import Settings
from ranker.models import Manifest, active_model_id, load_model, models_dir
from streams.activation import Partitions, read_partitions
from streams.program import pinned_program, published_program

__all__ = ["Feature", "declared_here", "differences", "inventory", "lineage"]

DECLARED: Final = "declared"
WARMING: Final = "warming"
SERVED: Final = "served"


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A feature as readers name it.

    Attributes
    ----------
    name : str
        ``view:feature``.
    source : str
        Stream or batch view that holds it; its own view where it is computed when it is read.
    state : str
        declared (no partition or not every one counts it), warming (counted, its past is not merged yet), served.
    model : str
        Id of the active model, if it reads the feature; else empty.
    """

    name: str
    source: str
    state: str
    model: str


class Registry:
    """Everything that is asked of one namespace, read once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.client: Redis = connect(settings, retries=3)
        self.store: Any = open_store(settings, timeout_s=10.0)
        program = published_program(self.client, settings.namespace)
        if program is None:
            raise ProgramError(f"nothing is published for {settings.namespace} yet; run `liverank up` or `feast apply`")
        self.program = program
        self.manifest = _manifest(self.client, settings)
        self.partitions = _partitions(self.client, settings)

    def state(self, view: ViewProgram) -> str:
        """State of a stream view's aggregates."""
        if self.partitions is None:
            return DECLARED
        if self.partitions.served(view):
            return SERVED
        return WARMING if self.partitions.counted(view) else DECLARED

    def model_of(self, feature: str) -> str:
        """The active model, if it reads the feature."""
        return self.manifest.id if self.manifest is not None and feature in self.manifest.feature_names else ""


def _manifest(client: Redis, settings: Settings) -> Manifest | None:
    active = active_model_id(client, settings)
    if active is None:
        return None
    return load_model(models_dir(settings) / active).manifest


def _partitions(client: Redis, settings: Settings) -> Partitions | None:
    """What the partitions count; None before a worker has ever run."""
    with translated("reading the active generation"):
        generation = int(client.get(f"{settings.namespace}:active") or 1)
        if not client.exists(f"{settings.namespace}:program:pinned"):
            return None
    topic = settings.topic("events", generation)
    n = partition_counts(settings.kafka.bootstrap, [topic]).get(topic)
    if n is None:
        return None
    base = pinned_program(client, settings.namespace)
    return read_partitions(client, settings, base, generation=generation, n_partitions=n)


def inventory(settings: Settings) -> list[Feature]:
    """All features of the registry, by name.

    Raises
    ------
    ProgramError
        Nothing was applied yet.
    UnavailableError
        Redis or Kafka is away.
    """
    registry = Registry(settings)
    found = [
        *_windows(registry),
        *_stored(registry),
        *_computed(registry),
        *_batch(registry),
    ]
    return sorted(found, key=lambda feature: feature.name)


def _windows(registry: Registry) -> Iterator[Feature]:
    for view in registry.program.views:
        state = registry.state(view)
        for name in view.names:
            full = f"{VIEW_NAMES[view.entity]}:{name}"
            yield Feature(name=full, source=view.name, state=state, model=registry.model_of(full))


def _stored(registry: Registry) -> Iterator[Feature]:
    """Fields that liverank's own parts write: the folds and the agents."""
    state = SERVED if registry.partitions is not None else DECLARED
    for view in registry.program.views:
        for name in view.fields:
            full = f"{view.name}:{name}"
            yield Feature(name=full, source=view.name, state=state, model=registry.model_of(full))


def _computed(registry: Registry) -> Iterator[Feature]:
    """Other on-demand views: computed when they are read."""
    for view in registry.store.list_on_demand_feature_views():
        if view.name not in VIEW_NAMES.values():
            for field in view.features:
                full = f"{view.name}:{field.name}"
                yield Feature(name=full, source=view.name, state=SERVED, model=registry.model_of(full))


def _batch(registry: Registry) -> Iterator[Feature]:
    for view in registry.store.list_batch_feature_views():
        if is_owned(view):
            continue
        keys = {column.name for column in view.entity_columns}
        state = SERVED if view.materialization_intervals else DECLARED
        for field in view.features:
            if field.name not in keys:
                full = f"{view.name}:{field.name}"
                yield Feature(name=full, source=view.name, state=state, model=registry.model_of(full))


def declared_here(settings: Settings, repo: Path | None = None) -> FeatureProgram:
    """What the definitions in a repo (default: that of the settings) say now, applied or not.

    Raises
    ------
    ProgramError
        They are wrong, with file and line.
    """
    return repo_program(settings, repo)


def differences(before: FeatureProgram | None, after: FeatureProgram) -> list[str]:
    """What a step from one program to another changes, a line each; empty = nothing."""
    old = {} if before is None else {view.name: view for view in before.views}
    new = {view.name: view for view in after.views}
    lines = []
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            lines.append(f"+ {name} ({new[name].entity}): {', '.join(_said(new[name]).values()) or 'no aggregates'}")
        elif name not in new:
            lines.append(f"- {name}: its features go, its state is freed")
        elif old[name].to_dict() | {"transformation": None} != new[name].to_dict() | {"transformation": None}:
            lines.append(f"~ {name}: {_effect(old[name], new[name])}")
            lines += [f"    {line}" for line in _changed(old[name], new[name])]
    return lines


def _effect(old: ViewProgram, new: ViewProgram) -> str:
    if old.tiles_id == new.tiles_id or not new.aggregates:
        return "the same tiles, served at once"
    return "other tiles: backfilled from the archive, the old ones are served until then"


def _said(view: ViewProgram) -> dict[str, str]:
    return {
        a.name: f"{a.name} = {a.function}({a.column}) over {_span(a.window_ms)} by {_span(a.slide_ms)}"
        for a in view.aggregates
    }


def _changed(old: ViewProgram, new: ViewProgram) -> list[str]:
    before, after = _said(old), _said(new)
    lines = [f"- {before[name]}" for name in before if name not in after]
    lines += [f"+ {after[name]}" for name in after if name not in before]
    lines += [f"~ {before[name]} -> {after[name]}" for name in before if after.get(name, before[name]) != before[name]]
    if old.transformation_id != new.transformation_id:
        lines.append("~ transformation")
    if old.fields != new.fields or old.kinds != new.kinds:
        lines.append(
            "~ fields: " + ", ".join(sorted({*old.fields} ^ {*new.fields})) if old.fields != new.fields else "~ tags"
        )
    return lines


def _span(ms: int) -> str:
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)):
        if ms % size == 0:
            return f"{ms // size} {unit}"
    return f"{ms} ms"


def lineage(settings: Settings, name: str) -> list[tuple[str, str]]:
    """Where a feature comes from and who reads it: (what, which), from the source to the model.

    Raises
    ------
    ProgramError
        There is no such feature; the message names similar ones.
    """
    registry = Registry(settings)
    view_name, _, feature = name.partition(":")
    steps = _window_lineage(registry, view_name, feature) or _view_lineage(registry, view_name, feature)
    if not steps:
        import difflib

        known = [each.name for each in inventory(settings)]
        near = (
            difflib.get_close_matches(name, known, n=5) or [each for each in known if feature and feature in each][:5]
        )
        raise ProgramError(f"no feature {name!r}; near: {', '.join(near) or 'see `liverank features list`'}")
    for service in registry.store.list_feature_services():
        for projection in service.feature_view_projections:
            if projection.name == view_name and feature in {field.name for field in projection.features}:
                steps.append(("feature service", service.name))
    if model := registry.model_of(name):
        steps.append(("model", model))
    return steps


def _source(view: Any) -> tuple[str, str]:
    stream = getattr(view, "stream_source", None)
    if stream is not None:
        return "source", f"{stream.name} (topic {stream.kafka_options.topic})"
    return "source", str(getattr(view.batch_source, "path", "") or view.batch_source.name)


def _window_lineage(registry: Registry, view_name: str, feature: str) -> list[tuple[str, str]]:
    for view in registry.program.views:
        if VIEW_NAMES[view.entity] == view_name and feature in view.names:
            stored = registry.store.get_stream_feature_view(view.name)
            steps = [_source(stored)]
            aggregate = view.aggregates[view.names.index(feature)]
            if view.transformation is not None:
                steps.append(("transformation", (stored.udf_string or "").splitlines()[0]))
            steps.append(("column", aggregate.column))
            steps.append(("stream view", f"{view.name} of {view.entity}: {_said(view)[feature]}"))
            steps.append(("tiles", f"{view.tiles_id}, {view.layout.n_pages} pages, {registry.state(view)}"))
            steps.append(("on-demand view", view_name))
            return steps
    return []


def _view_lineage(registry: Registry, view_name: str, feature: str) -> list[tuple[str, str]]:
    views: Mapping[str, Any] = {
        view.name: view
        for view in (
            *registry.store.list_stream_feature_views(),
            *registry.store.list_batch_feature_views(),
            *registry.store.list_on_demand_feature_views(),
        )
    }
    view = views.get(view_name)
    if view is None or feature not in {field.name for field in view.features}:
        return []
    projections = getattr(view, "source_feature_view_projections", None)
    if projections is None:
        writer = (view.tags or {}).get("liverank.written_by", "fold" if is_owned(view) else "")
        return [_source(view), ("view", view_name), *([("written by", writer)] if writer else [])]
    steps = [("view", projection.name) for projection in projections.values()]
    steps += [("request", source.name) for source in view.source_request_sources.values()]
    return [*steps, ("on-demand view", view_name)]
