"""From Feast definitions to the feature program, and back into what Feast has to store.

An operator declares a plain `StreamFeatureView` with `Aggregation`s. Stored are its tiles: `complete` gives the view
the bytes fields of its pages in place of the aggregated values, which are read through on-demand views
(`features/ondemand.py`). `compile_view` is the only reading of a view; the provider, `complete` and
`compile_registry` all use it.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable, Sequence
from datetime import timedelta
from hashlib import sha256
from typing import Any, Final

import dill
from feast import Field, StreamFeatureView
from feast.data_source import KafkaSource
from feast.feature_view_projection import FeatureViewProjection
from feast.types import Bytes, String

from features.columns import COLUMNS
from features.errors import ProgramError
from features.program import FUNCTIONS, MAX_TILES, Aggregate, Entity, FeatureProgram, ViewProgram
from features.transform import extra_columns

__all__ = [
    "FIELD_KINDS",
    "OWNED_SOURCES",
    "VIEW_TAGS",
    "Locator",
    "compile_registry",
    "compile_view",
    "complete",
    "is_owned",
]

OWNED_SOURCES: Final = ("events", "items")
"""Stream sources whose views are written by liverank alone."""

FIELD_KINDS: Final = {
    "tiles": "page of tiles (generated)",
    "last_k": "the newest k entries",
    "time_since": "time since the newest event",
    "sequence": "ordered entries",
    "session": "the open session",
    "seen": "what was shown",
    "trend": "short against long rate",
    "neighbours": "items that meet in users' histories",
    "surfaces": "seen and clicked of an item on each surface",
    "variants": "shown and clicked of an item's variants",
    "embedding": "vector in an item space",
    "catalogue": "field of the catalogue",
}
"""Field tags `liverank.<kind>`; docs/specs/feature-tags.md."""

VIEW_TAGS: Final = {
    "packed": "written by liverank: the view lies in the user's row, one group per category",
    "written_by": "part of liverank that writes the view: fold, vectors, catalogue",
}
"""View tags `liverank.<tag>`."""

PACKED_TAG: Final = "liverank.packed"
TILES_TAG: Final = "liverank.tiles"

_ENTITIES: Final[dict[frozenset[str], Entity]] = {
    frozenset({"user"}): "user",
    frozenset({"item"}): "item",
    frozenset({"user", "category"}): "user_category",
    frozenset({"session"}): "session",
}
_ID_COLUMNS: Final = frozenset({"user_id", "item_id", "session_id", "category"})
_JOIN_KEYS: Final = {"user": "user_id", "user_category": "user_id", "item": "item_id", "session": "session_id"}


class Locator:
    """Says where a definition stands, for messages. This one does not know."""

    def view(self, view: str) -> str:
        """Prefix such as `path:line: ` of a view's definition."""
        return ""

    def aggregation(self, view: str, at: int) -> str:
        """Prefix of the aggregation number `at` of a view."""
        return self.view(view)


def is_owned(view: Any) -> bool:
    """Whether only liverank may write the view's online rows."""
    source = getattr(view, "stream_source", None)
    return isinstance(view, StreamFeatureView) and isinstance(source, KafkaSource) and source.name in OWNED_SOURCES


def compile_view(view: StreamFeatureView, locator: Locator | None = None) -> ViewProgram:
    """The program of one owned view, declared or completed.

    Raises
    ------
    ProgramError
        With the place of the definition, what is wrong and what is legal.
    """
    locator = locator or Locator()
    here = f"{locator.view(view.name)}view {view.name!r}"
    _check_tags(here, view.tags, VIEW_TAGS, "view")
    entity = _entity(view, here)
    transformation, transformation_id = None, ""
    added: tuple[str, ...] = ()
    if view.udf is not None:
        if str(getattr(view.mode, "value", view.mode)) != "pandas":
            raise ProgramError(f"{here}: mode must be 'pandas' for a transformation, got {view.mode!r}")
        transformation = dill.dumps(view.udf, recurse=True)
        transformation_id = sha256(_source(view).encode()).hexdigest()[:16]
        added = extra_columns(view.udf, here)
    aggregates = tuple(
        _aggregate(aggregation, f"{locator.aggregation(view.name, at)}view {view.name!r}", (*COLUMNS, *added))
        for at, aggregation in enumerate(view.aggregations)
    )
    names = [aggregate.name for aggregate in aggregates]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ProgramError(f"{here}: aggregate names must be unique, {', '.join(repeated)} repeat")
    kinds = {}
    fields = []
    for field in view.features:
        _check_tags(f"{here}, field {field.name!r}", field.tags, FIELD_KINDS, "field")
        if TILES_TAG in field.tags or field.name in names or field.name in _ID_COLUMNS:
            continue
        fields.append(field.name)
        for tag, value in field.tags.items():
            if tag.startswith("liverank."):
                kinds[field.name] = f"{tag.removeprefix('liverank.')}={value}"
    try:
        return ViewProgram(
            name=view.name,
            entity=entity,
            aggregates=aggregates,
            kinds=kinds,
            transformation=transformation,
            transformation_id=transformation_id,
            extra_columns=added,
            fields=tuple(sorted(fields)),
        )
    except ProgramError as error:
        raise ProgramError(f"{locator.view(view.name)}{error}") from error


def complete(view: StreamFeatureView, locator: Locator | None = None) -> ViewProgram:
    """Give an owned view the fields that are stored: pages of tiles instead of aggregated values. Idempotent.

    A (user, category) view becomes a view of the user, whose row holds it.
    """
    if view.udf is not None:
        # As Feast's decorator does: pickled by value, because readers and workers do not have the operator's file.
        view.udf.__module__ = "__main__"
        view.udf_string = _source(view)
    program = compile_view(view, locator)
    if program.layout.n_pages:
        kept = [field for field in view.features if field.name in program.fields]
        view.features = [*kept, *(Field(name=name, dtype=Bytes, tags={TILES_TAG: "1"}) for name in program.page_names)]
    if program.entity == "user_category":
        view.tags = {**view.tags, PACKED_TAG: "category"}
        view.entities = ["user"]
    view.features = [field for field in view.features if field.name not in _ID_COLUMNS]
    view.projection = FeatureViewProjection.from_feature_view_definition(view)
    # A stream view that comes back from the registry has its join keys among its features, a plain text as mode and
    # None for a missing udf_string; unless this one is alike, every `feast apply` stores another version of it.
    view.mode = str(getattr(view.mode, "value", view.mode))
    view.udf_string = view.udf_string or None
    keys = [Field(name=_JOIN_KEYS[program.entity], dtype=String)]
    view.entity_columns, view.features = keys, [*view.features, *keys]
    return program


def compile_registry(views: Iterable[Any], project: str, locator: Locator | None = None) -> FeatureProgram:
    """The program of all owned views among `views`, in the order of their names.

    Parameters
    ----------
    views : iterable
        E.g. `store.list_stream_feature_views()`.
    project : str
        Feast project of the rows.

    Raises
    ------
    ProgramError
        If a view is wrong, or two views of an entity share a name of an aggregate.
    """
    owned = sorted((view for view in views if is_owned(view)), key=lambda view: str(view.name))
    program = FeatureProgram(project=project, views=tuple(compile_view(view, locator) for view in owned))
    holders: dict[tuple[str, str], str] = {}
    for view in program.views:
        for name in view.names:
            first = holders.setdefault((view.entity, name), view.name)
            if first != view.name:
                raise ProgramError(
                    f"{(locator or Locator()).view(view.name)}view {view.name!r}: view {first!r} of the same entity "
                    f"already has an aggregate {name!r}; give one of them another name"
                )
    return program


def _source(view: StreamFeatureView) -> str:
    """Source text of a view's transformation, stripped; what Feast shows of it."""
    text, udf = view.udf_string or "", view.udf
    if not text and udf is not None:
        try:
            text = inspect.getsource(udf)
        except (OSError, TypeError):
            text = udf.__code__.co_code.hex() + repr(udf.__code__.co_consts)
    return textwrap.dedent(text).strip()


def _entity(view: StreamFeatureView, here: str) -> Entity:
    if PACKED_TAG in view.tags:
        return "user_category"
    entity = _ENTITIES.get(frozenset(view.entities))
    if entity is None:
        legal = "; ".join("[" + ", ".join(sorted(names, reverse=True)) + "]" for names in _ENTITIES)
        raise ProgramError(f"{here}: entities must be one of {legal}, got [{', '.join(view.entities)}]")
    return entity


def _aggregate(aggregation: Any, here: str, columns: Sequence[str]) -> Aggregate:
    window = aggregation.time_window
    name = aggregation.resolved_name(window)
    if aggregation.function not in FUNCTIONS:
        raise ProgramError(
            f"{here}, aggregate {name!r}: function must be one of {', '.join(FUNCTIONS)}, got {aggregation.function!r}"
        )
    if aggregation.column not in columns:
        raise ProgramError(
            f"{here}, aggregate {name!r}: no column {aggregation.column!r}; columns are {', '.join(columns)}"
        )
    if window is None:
        raise ProgramError(f"{here}, aggregate {name!r}: time_window is required, e.g. time_window=timedelta(days=7)")
    window_ms, slide_ms = _ms(window), _ms(aggregation.slide_interval or window)
    if slide_ms < 1000 or slide_ms > window_ms or window_ms % slide_ms or window_ms // slide_ms > MAX_TILES:
        raise ProgramError(
            f"{here}, aggregate {name!r}: slide_interval must divide time_window ({_text(window_ms)}) into 1 to "
            f"{MAX_TILES} whole slides of at least 1 s, got {_text(slide_ms)}; "
            f"the smallest legal slide is {_text(_smallest_slide(window_ms))}, the largest {_text(window_ms)}; "
            f"nearest to yours: {_text(_nearest_slide(window_ms, slide_ms))}"
        )
    return Aggregate(
        name=name, column=aggregation.column, function=aggregation.function, window_ms=window_ms, slide_ms=slide_ms
    )


def _smallest_slide(window_ms: int) -> int:
    return min(_legal_slides(window_ms))


def _nearest_slide(window_ms: int, slide_ms: int) -> int:
    return min(_legal_slides(window_ms), key=lambda legal: (abs(legal - slide_ms), -legal))


def _legal_slides(window_ms: int) -> list[int]:
    legal = [window_ms // n for n in range(1, MAX_TILES + 1) if window_ms % n == 0 and window_ms // n >= 1000]
    whole = [slide for slide in legal if slide % 1000 == 0]
    return whole or legal or [max(window_ms, 1000)]


def _ms(span: timedelta) -> int:
    return round(span.total_seconds() * 1000)


def _text(ms: int) -> str:
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)):
        if ms % size == 0 and ms:
            return f"{ms // size} {unit}"
    return f"{ms} ms"


def _check_tags(here: str, tags: dict[str, str] | None, legal: dict[str, str], what: str) -> None:
    for tag in tags or {}:
        if tag.startswith("liverank.") and tag.removeprefix("liverank.") not in legal:
            raise ProgramError(
                f"{here}: unknown {what} tag {tag!r}; {what} tags are {', '.join('liverank.' + name for name in legal)}"
            )
