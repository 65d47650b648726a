"""A user as ranking and training read them: one online read, then pure functions of bytes.

Windows are computed at the instant asked for by the function that Feast's on-demand views hold a copy of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.category_tiles import category_windows
from features.errors import ProgramError
from features.program import FeatureProgram
from features.redis import translated
from features.state import history as _history
from features.state import seen as _seen
from features.state.session import SessionView, decode_session
from features.tiles import windows

if TYPE_CHECKING:
    from feast import FeatureStore

__all__ = ["Reading", "UserRow", "UserRowReader", "UserSchema"]

VECTORS: Final = "user_vectors"
VECTOR_FEATURES: Final = ("vector_1w", "vector_1m", "vector_6m")
_NO_NAMES: Final[Mapping[float, str]] = {}


class UserSchema:
    """What a user's row holds under one feature program.

    Parameters
    ----------
    program : FeatureProgram
        Compiled registry.
    """

    def __init__(self, program: FeatureProgram) -> None:
        self.program = program
        self.views = program.of_entity("user")
        self.packed = program.of_entity("user_category")
        self.window_names = tuple(name for view in self.views for name in view.names)
        self.category_window_names = tuple(name for view in self.packed for name in view.names)
        self.features = tuple(
            f"{view.name}:{feature}"
            for view in (*self.views, *self.packed)
            for feature in (*view.page_names, *view.fields)
        )

    def pages(self, view: str, prefix: str) -> tuple[bytes, ...]:
        """State fields of a view whose feature begins with `prefix`."""
        start = f"{view}:{prefix}"
        return tuple(name.encode() for name in self.features if name.startswith(start))

    @cached_property
    def history_fields(self) -> tuple[bytes, ...]:
        """State fields of the history."""
        return self.pages("user_history", "page_")

    @cached_property
    def shown_fields(self) -> tuple[bytes, ...]:
        """State fields of what was shown."""
        return self.pages("user_seen", "shown_")

    @cached_property
    def acted_fields(self) -> tuple[bytes, ...]:
        """State fields of what was acted upon."""
        return self.pages("user_seen", "acted_")


class UserRow:
    """One user at one reading. Decoding is lazy and kept; not thread safe, made per request.

    Parameters
    ----------
    schema : UserSchema
        Of the program that wrote the fields.
    fields : mapping of bytes to bytes
        Public state fields, `view:feature`.
    vectors : ndarray of float32, shape (3, d), optional
        User vectors of 1 week, 1 month, 6 months; None = none.
    space : str
        Vector space of `vectors`.
    event_ts_ms : mapping of str to int
        View -> event time of its newest event; absent or 0 = never written.
    category_of_hash : mapping of float to str
        Names of categories by `features.columns.text_hash` (`ItemTable.category_of_hash`).
    """

    def __init__(
        self,
        schema: UserSchema,
        fields: Mapping[bytes, bytes],
        *,
        user_id: str = "",
        vectors: NDArray[np.float32] | None = None,
        space: str = "",
        computed_ms: int = 0,
        event_ts_ms: Mapping[str, int] | None = None,
        category_of_hash: Mapping[float, str] = _NO_NAMES,
    ) -> None:
        self.user_id = user_id
        self.vectors = np.zeros((3, 0), np.float32) if vectors is None else vectors
        self.space = space
        self.computed_ms = computed_ms
        self.event_ts_ms = event_ts_ms or {}
        self._schema = schema
        self._fields = fields
        self._names = category_of_hash
        self._windows: dict[int, NDArray[np.float64]] = {}
        self._categories: dict[int, tuple[dict[str, int], NDArray[np.float64]]] = {}

    @classmethod
    def from_fields(
        cls,
        program: FeatureProgram | UserSchema,
        fields: Mapping[bytes, bytes],
        **given: Any,
    ) -> UserRow:
        """A row from state in memory, as training on imported history has it. Other arguments as for the class."""
        schema = program if isinstance(program, UserSchema) else UserSchema(program)
        return cls(schema, fields, **given)

    @property
    def window_names(self) -> tuple[str, ...]:
        """Names of the values of `windows`, e.g. `clicks_1d`."""
        return self._schema.window_names

    @property
    def category_window_names(self) -> tuple[str, ...]:
        """Names of the columns of `category_windows`."""
        return self._schema.category_window_names

    def windows(self, as_of_ms: int) -> NDArray[np.float64]:
        """Counters of the user at `as_of_ms`, shape `(len(window_names),)`. About 40 us a view; kept."""
        found = self._windows.get(as_of_ms)
        if found is None:
            parts = [windows(view, self._fields, as_of_ms) for view in self._schema.views if view.aggregates]
            found = self._windows[as_of_ms] = np.concatenate(parts) if parts else np.empty(0)
        return found

    def category_windows(self, as_of_ms: int) -> tuple[dict[str, int], NDArray[np.float64]]:
        """Category name -> row, and the counters, shape `(n_categories, len(category_window_names))`.

        Categories whose names are not known have a row, and no name. About 80 us a view; kept.
        """
        found = self._categories.get(as_of_ms)
        if found is None:
            found = self._categories[as_of_ms] = self._category_windows(as_of_ms)
        return found

    def _category_windows(self, as_of_ms: int) -> tuple[dict[str, int], NDArray[np.float64]]:
        parts = [category_windows(view, self._fields, as_of_ms) for view in self._schema.packed]
        if len(parts) == 1:
            hashes, values = parts[0]
        else:
            hashes = np.unique(np.concatenate([keys for keys, _ in parts])) if parts else np.empty(0)
            values = np.zeros((len(hashes), len(self.category_window_names)))
            start = 0
            for keys, own in parts:
                values[np.searchsorted(hashes, keys), start : start + own.shape[1]] = own
                start += own.shape[1]
        names = self._names
        return {names[key]: at for at, key in enumerate(hashes.tolist()) if key in names}, values

    @cached_property
    def history(self) -> NDArray[np.void]:
        """Newest events first: `features.state.history.HISTORY`."""
        return _history.decode(*(self._fields.get(name) for name in self._schema.history_fields))

    @cached_property
    def signals(self) -> NDArray[np.void]:
        """The history, and after it the sample of what came before, each entry of which weighs what it stands for."""
        return _history.decode_signals(*(self._fields.get(name) for name in _history.SIGNAL_FIELDS))

    @cached_property
    def seen(self) -> NDArray[np.void]:
        """What is known per item: `features.state.seen.SEEN`, by item hash."""
        get = self._fields.get
        return _seen.decode(
            [get(name) for name in self._schema.shown_fields], [get(name) for name in self._schema.acted_fields]
        )

    @cached_property
    def session(self) -> SessionView | None:
        """The newest session, None where there never was one."""
        return decode_session(self._fields.get(b"user_session:state"))

    @cached_property
    def newest_event_ts_ms(self) -> int:
        """Event time of the newest event in any of the user's rows; 0 = none."""
        return max((ts for view, ts in self.event_ts_ms.items() if view != VECTORS), default=0)

    def ages_ms(self, as_of_ms: int) -> dict[str, int]:
        """View -> time since its newest event, for views that were ever written; vectors: since they were computed."""
        ages = {view: max(0, as_of_ms - ts) for view, ts in self.event_ts_ms.items() if ts > 0 and view != VECTORS}
        if self.computed_ms:
            ages[VECTORS] = max(0, as_of_ms - self.computed_ms)
        return ages


class Reading(NamedTuple):
    """A way to read users."""

    store: FeatureStore
    wanted: list[str]
    schema: UserSchema


class UserRowReader:
    """Reads users through Feast: one `get_online_features`, one round trip to Redis.

    Thread safe. About 0.5 ms for 37 features of 7 views with both sides on one machine.

    Parameters
    ----------
    store : FeatureStore
        Of `features.apply.open_store`.
    category_of_hash : mapping of float to str
        Names of categories; may grow after the reader was made.
    """

    def __init__(self, store: FeatureStore, *, category_of_hash: Mapping[float, str] = _NO_NAMES) -> None:
        self._names = category_of_hash
        self._reading = self.prepare(store)

    @property
    def schema(self) -> UserSchema:
        """Schema of the program that is read."""
        return self._reading.schema

    @classmethod
    def reading(cls, store: FeatureStore, program: FeatureProgram) -> Reading | None:
        """How to read by `program`; None where the registry does not hold all of it. Errors as `prepare`."""
        held = {f"{view.name}:{field.name}" for view in store.list_stream_feature_views() for field in view.features}
        return cls.prepare(store, program) if held.issuperset(UserSchema(program).features) else None

    def refresh(self) -> None:
        """Follow the registry: later reads use its program. Call it in the background; errors as `prepare`."""
        self.swap(self.prepare(self._reading.store))

    def swap(self, reading: Reading) -> None:
        """Read in another way from now on; a read under way ends as it began."""
        self._reading = reading

    @staticmethod
    def prepare(store: FeatureStore, program: FeatureProgram | None = None) -> Reading:
        """How to read by `program` (None = the registry's own) through `store`.

        Raises
        ------
        ProgramError
            The registry holds no program for users; the old one stays.
        """
        from features.compile import compile_registry

        if program is None:
            program = compile_registry(store.list_stream_feature_views(), store.project)
        schema = UserSchema(program)
        if not schema.features:
            raise ProgramError(
                f"the registry of {store.project} has no stream view of users; run `liverank up` or `feast apply`"
            )
        wanted = list(schema.features)
        for feature in (*VECTOR_FEATURES, "space", "computed_ms"):
            if f"{VECTORS}:{feature}" not in wanted:
                raise ProgramError(f"the registry has no feature {VECTORS}:{feature}; apply features/repo")
        return Reading(store, wanted, schema)

    def read(self, user_id: str) -> UserRow:
        """The user's row; an unknown user has an empty one.

        Raises
        ------
        RedisUnavailableError
            Redis is away or too slow.
        """
        store, wanted, schema = self._reading
        with translated("reading a user's features"):
            response = store.get_online_features(wanted, [{"user_id": user_id}], full_feature_names=True)
        return _row(schema, user_id, response.proto, self._names)


def _row(schema: UserSchema, user_id: str, proto: Any, names: Mapping[float, str]) -> UserRow:
    fields: dict[bytes, bytes] = {}
    event_ts_ms: dict[str, int] = {}
    other: dict[str, Any] = {}
    for name, result in zip(proto.metadata.feature_names.val, proto.results, strict=True):
        view, split, feature = name.partition("__")
        if not split:
            continue
        if view not in event_ts_ms:
            stamp = result.event_timestamps[0]
            event_ts_ms[view] = stamp.seconds * 1000 + stamp.nanos // 1_000_000
        value = result.values[0]
        if view == VECTORS:
            other[feature] = value
        elif value.HasField("bytes_val"):
            fields[f"{view}:{feature}".encode()] = value.bytes_val
    return UserRow(
        schema,
        fields,
        user_id=user_id,
        vectors=_vectors(other[name] for name in VECTOR_FEATURES),
        space=other["space"].string_val,
        computed_ms=other["computed_ms"].int64_val,
        event_ts_ms=event_ts_ms,
        category_of_hash=names,
    )


def _vectors(values: Iterable[Any]) -> NDArray[np.float32] | None:
    rows = [np.array(value.float_list_val.val, dtype=np.float32) for value in values]
    dim = max(row.size for row in rows)
    if not dim:
        return None
    return np.stack([row if row.size == dim else np.zeros(dim, np.float32) for row in rows])
