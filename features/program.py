"""The compiled feature program: what the registry declares, as plain data that workers run without Feast.

`features/compile.py` makes it from a Feast registry; the provider publishes it at `<ns>:program`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any, Final, Literal, get_args

from features.columns import COLUMNS, N_NUMERIC
from features.errors import ProgramError
from features.layout import Layout, compile_layout

__all__ = ["FUNCTIONS", "MAX_TILES", "Aggregate", "Entity", "FeatureProgram", "Function", "ViewProgram"]

Function = Literal["sum", "count", "mean", "min", "max", "count_distinct"]
Entity = Literal["user", "item", "session", "user_category"]

FUNCTIONS: Final[tuple[str, ...]] = get_args(Function)
ENTITIES: Final[tuple[str, ...]] = get_args(Entity)
MAX_TILES: Final = 192
"""Largest window / slide."""

FORMAT: Final = 2


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """One aggregate: `function` of `column` over `[floor(t / slide) * slide - window, t]`.

    Parameters
    ----------
    name : str
        Name of the feature.
    column : str
        A column of `features.columns.COLUMNS`, or one that the view's transformation adds.
    function : str
        One of `FUNCTIONS`.
    window_ms, slide_ms : int
        Whole multiples: `window_ms % slide_ms == 0`, at most `MAX_TILES` slides a window.
    """

    name: str
    column: str
    function: Function
    window_ms: int
    slide_ms: int

    def __post_init__(self) -> None:
        if self.function not in FUNCTIONS:
            raise ProgramError(
                f"aggregate {self.name!r}: function must be one of {', '.join(FUNCTIONS)}, got {self.function!r}"
            )
        if self.slide_ms < 1000 or self.window_ms < self.slide_ms:
            raise ProgramError(
                f"aggregate {self.name!r}: slide must be between 1 s and the window, "
                f"got slide {self.slide_ms} ms, window {self.window_ms} ms"
            )
        if self.window_ms % self.slide_ms:
            raise ProgramError(
                f"aggregate {self.name!r}: the window ({self.window_ms} ms) must be a whole multiple of the slide "
                f"({self.slide_ms} ms)"
            )
        if self.n_tiles > MAX_TILES:
            raise ProgramError(
                f"aggregate {self.name!r}: window / slide is {self.n_tiles}, at most {MAX_TILES}; "
                f"choose a slide of at least {-(-self.window_ms // MAX_TILES)} ms"
            )

    @property
    def n_tiles(self) -> int:
        """Whole tiles in the window."""
        return self.window_ms // self.slide_ms


@dataclass(frozen=True, kw_only=True)
class ViewProgram:
    """One stream feature view.

    Parameters
    ----------
    name : str
        Name of the view.
    entity : {"user", "item", "session", "user_category"}
        Whose state holds it; (user, category) views lie inside the user's state.
    aggregates : tuple of Aggregate
        In the order of declaration.
    kinds : mapping of str to str
        Field name -> value of its tag `liverank.<kind>`, as `"<kind>=<argument>"`.
    transformation : bytes or None
        The view's pandas function (dill), run over the columns before they are aggregated.
    extra_columns : tuple of str
        Columns that the transformation adds, after `COLUMNS` in a row.
    fields : tuple of str
        Stored fields that are not pages of tiles, in order of their names.
    transformation_id : str
        Hash of the transformation's source text: the pickle differs from run to run, this does not.
    """

    name: str
    entity: Entity
    aggregates: tuple[Aggregate, ...] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    transformation: bytes | None = None
    transformation_id: str = ""
    extra_columns: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.entity not in ENTITIES:
            raise ProgramError(f"view {self.name!r}: entity must be one of {', '.join(ENTITIES)}, got {self.entity!r}")
        for aggregate in self.aggregates:
            if aggregate.column not in self.columns:
                raise ProgramError(
                    f"view {self.name!r}, aggregate {aggregate.name!r}: no column {aggregate.column!r}; "
                    f"columns are {', '.join(self.columns)}"
                )
            if self.entity == "user_category" and aggregate.function == "count_distinct":
                raise ProgramError(
                    f"view {self.name!r}, aggregate {aggregate.name!r}: count_distinct is not available per "
                    "(user, category); declare it per user or per item"
                )

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Columns of a row of this view, in order."""
        return COLUMNS + self.extra_columns

    @cached_property
    def layout(self) -> Layout:
        """Where its tiles lie."""
        return compile_layout(self.aggregates, self.columns, packed=self.entity == "user_category")

    @cached_property
    def tile_definition(self) -> str:
        """What the bytes of the tiles depend on, as JSON; names of aggregates and windows that share a ring do not."""
        layout, columns = self.layout, self.columns
        rings = [[r.slide_ms, r.n_tiles, [[op, columns[column]] for op, column in r.cells]] for r in layout.rings]
        distincts = [[d.slide_ms, d.n_tiles, columns[d.column]] for d in layout.distincts]
        return json.dumps([self.entity, rings, distincts, self.transformation_id], separators=(",", ":"))

    @cached_property
    def digest(self) -> str:
        """Six hex digits of `tile_definition`: a view whose tiles change their meaning gets pages of its own."""
        return sha256(self.tile_definition.encode()).hexdigest()[:6]

    @cached_property
    def tiles_id(self) -> str:
        """Name of its tiles, `<view>_<digest>`: the same for every declaration whose tiles mean the same."""
        return f"{self.name}_{self.digest}"

    @cached_property
    def page_names(self) -> tuple[str, ...]:
        """Feature names of its pages, `<view>_<digest>_pNN`.

        Unique over views, because on-demand views see bare names, and over definitions of a view, so that an old and a
        new one can be counted side by side.
        """
        return tuple(f"{self.tiles_id}_p{page:02d}" for page in range(self.layout.n_pages))

    @cached_property
    def page_fields(self) -> tuple[bytes, ...]:
        """State fields of its pages, `view:feature`, by number."""
        return tuple(f"{self.name}:{page}".encode() for page in self.page_names)

    @cached_property
    def tile_ms(self) -> tuple[int, ...]:
        """Tile sizes, one ring of tiles each, ascending."""
        return tuple(sorted({aggregate.slide_ms for aggregate in self.aggregates}))

    @property
    def needs_text(self) -> bool:
        """Whether rows must hold the hashed text columns."""
        return any(self.columns.index(aggregate.column) >= N_NUMERIC for aggregate in self.aggregates)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the aggregates, in the order of `features.tiles.windows`."""
        return tuple(aggregate.name for aggregate in self.aggregates)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON form."""
        return {
            "name": self.name,
            "entity": self.entity,
            "aggregates": [[a.name, a.column, a.function, a.window_ms, a.slide_ms] for a in self.aggregates],
            "kinds": dict(sorted(self.kinds.items())),
            "transformation": None if self.transformation is None else base64.b64encode(self.transformation).decode(),
            "transformation_id": self.transformation_id,
            "extra_columns": list(self.extra_columns),
            "fields": list(self.fields),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ViewProgram:
        """Inverse of `to_dict`."""
        packed = data["transformation"]
        return cls(
            name=data["name"],
            entity=data["entity"],
            aggregates=tuple(
                Aggregate(name=n, column=c, function=f, window_ms=w, slide_ms=s) for n, c, f, w, s in data["aggregates"]
            ),
            kinds=dict(data["kinds"]),
            transformation=None if packed is None else base64.b64decode(packed),
            transformation_id=data["transformation_id"],
            extra_columns=tuple(data["extra_columns"]),
            fields=tuple(data["fields"]),
        )


@dataclass(frozen=True, kw_only=True)
class FeatureProgram:
    """All stream feature views of one namespace, and which Feast project their rows belong to."""

    project: str
    views: tuple[ViewProgram, ...] = ()

    def view(self, name: str) -> ViewProgram:
        """The view of that name.

        Raises
        ------
        ProgramError
            If the program has none.
        """
        for view in self.views:
            if view.name == name:
                return view
        known = ", ".join(view.name for view in self.views) or "none"
        raise ProgramError(f"the feature program has no view {name!r}; it has {known}; run `feast apply`")

    def of_entity(self, *entities: Entity) -> tuple[ViewProgram, ...]:
        """Views of these entities, in order."""
        return tuple(view for view in self.views if view.entity in entities)

    @cached_property
    def needs_text(self) -> bool:
        """Whether any view needs the hashed text columns."""
        return any(view.needs_text for view in self.views)

    def to_json(self) -> str:
        """Canonical JSON: equal programs give equal text."""
        body = {"format": FORMAT, "project": self.project, "views": [view.to_dict() for view in self.views]}
        return json.dumps(body, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> FeatureProgram:
        """Inverse of `to_json`.

        Raises
        ------
        ProgramError
            If the text is not a program of this format.
        """
        try:
            body = json.loads(text)
            if body["format"] != FORMAT:
                raise ProgramError(
                    f"feature program has format {body['format']}, this build reads {FORMAT}; run `feast apply` again"
                )
            return cls(project=body["project"], views=tuple(ViewProgram.from_dict(view) for view in body["views"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ProgramError(f"feature program cannot be read ({error}); run `feast apply` again") from error

    @cached_property
    def hash(self) -> str:
        """SHA-256 of what the program says, 16 hex digits; a transformation counts by its source text."""
        views = [{**view.to_dict(), "transformation": None} for view in self.views]
        body = json.dumps([FORMAT, self.project, views], sort_keys=True, separators=(",", ":"))
        return sha256(body.encode()).hexdigest()[:16]
