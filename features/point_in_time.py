"""Feast's `get_historical_features` for views that a fold owns: their rows as they were, from the archive's replay.

A row sees what was appended strictly before its event timestamp. Views of other sources come from the offline store
that Feast is configured with, by the same rule. On-demand views are computed over both, at `as_of_ms` (0 = the row's
timestamp).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureView, OnDemandFeatureView
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.protos.feast.types.Value_pb2 import Value
from feast.saved_dataset import SavedDatasetStorage
from feast.types import Bytes, FeastType, Float32, Float64, from_feast_to_pyarrow_type
from numpy.typing import NDArray

from features.compile import compile_view
from features.deployment import CHECKOUT
from features.errors import PointInTimeError
from features.hashing import item_hash
from features.item_vectors import VIEW as SEMANTIC
from features.item_vectors import ItemVectors, active_space, read_vectors
from features.near_line import VIEW as VECTORS
from features.online import join_key_of
from features.redis import connect
from features.state.history import SIGNAL_FIELDS, decode_signals
from features.vectors import NAMES, user_vectors
from features.wire import pack_floats, pack_int64, pack_string, unpack_bytes
from liverank.settings import Settings

__all__ = ["EVENT_TIMESTAMP", "PointInTimeJob", "Question"]

EVENT_TIMESTAMP: Final = "event_timestamp"
CATALOGUE: Final = "item_catalogue"
_AS_OF: Final = "as_of_ms"
_CATEGORY: Final = "category"
_ROW: Final = "__liverank_row"
_JUST_BEFORE: Final = pd.Timedelta(1, "us")

Rows = dict[int, dict[str, bytes]]


class Question(NamedTuple):
    """What is asked for.

    Attributes
    ----------
    owned, others : sequence of feature view
        Views that a fold owns, and those that it does not.
    on_demand : sequence of OnDemandFeatureView
    refs : sequence of str
        ``view:feature``, stored and on demand.
    entity_df : DataFrame
        Entity keys, `event_timestamp` and request data.
    full_feature_names : bool
    """

    owned: Sequence[FeatureView]
    others: Sequence[FeatureView]
    on_demand: Sequence[OnDemandFeatureView]
    refs: Sequence[str]
    entity_df: pd.DataFrame
    full_feature_names: bool


class PointInTimeJob(RetrievalJob):
    """A historical retrieval over the archive's replay; runs when its result is asked for.

    Parameters
    ----------
    settings : Settings
        Of the namespace.
    question : Question
    ask_others : callable
        (views, refs, entity_df) -> the offline store's job, for views that no fold owns.
    """

    def __init__(
        self,
        settings: Settings,
        question: Question,
        ask_others: Callable[[Sequence[FeatureView], list[str], pd.DataFrame], RetrievalJob],
    ) -> None:
        self._settings, self._question, self._ask_others = settings, question, ask_others
        self._timestamps = _timestamps(question.entity_df)
        self._items: dict[str, NDArray[np.float32]] | None = None
        self._space = ""

    @property
    def full_feature_names(self) -> bool:
        """See Feast."""
        return self._question.full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """See Feast."""
        return list(self._question.on_demand)

    @property
    def metadata(self) -> RetrievalMetadata:
        """See Feast."""
        ts, df = self._timestamps, self._question.entity_df
        return RetrievalMetadata(
            features=list(self._question.refs),
            keys=[name for name in df.columns if name != EVENT_TIMESTAMP],
            min_event_timestamp=ts.min().to_pydatetime() if len(ts) else None,
            max_event_timestamp=ts.max().to_pydatetime() if len(ts) else None,
        )

    def to_arrow(self, validation_reference: Any = None, timeout: int | None = None) -> pa.Table:
        """The rows asked for, in their order, with all features; see Feast."""
        if validation_reference is not None:
            raise PointInTimeError("validation references are not supported; validate the table that comes back")
        table = self._to_arrow_internal(timeout)
        stored = _with_categories(table)
        for view in self._question.on_demand:
            wanted = self._features_of(_called(view))
            for name, values in _transformed(view, stored).items():
                if name in wanted:
                    table = _with(table, _name(view, name, self.full_feature_names), values)
        return table

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        found: pd.DataFrame = self._to_arrow_internal(timeout).to_pandas()
        return found

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        asked = self._question
        df = asked.entity_df.reset_index(drop=True)
        if _AS_OF in df.columns:
            own_ms = _floor_ms(self._timestamps)
            given = df[_AS_OF].fillna(0).astype("int64")
            df = df.assign(**{_AS_OF: given.where(given != 0, own_ms)})
        table = pa.Table.from_pandas(df, preserve_index=False)
        for view, columns in self._owned_columns(df).items():
            for name, column in columns.items():
                table = _with(table, f"{view}__{name}" if asked.full_feature_names else name, column)
        if asked.others:
            table = self._join_others(table, df)
        return table

    def persist(
        self, storage: SavedDatasetStorage, allow_overwrite: bool | None = False, timeout: int | None = None
    ) -> None:
        """Write the rows as Parquet; only files are supported."""
        path = Path(str(getattr(getattr(storage, "file_options", None), "uri", "")))
        if path.suffix != ".parquet":
            raise PointInTimeError(f"rows are stored as a .parquet file, got {storage!r}")
        if path.exists() and not allow_overwrite:
            raise PointInTimeError(f"{path} exists; allow_overwrite=True replaces it")
        pq.write_table(self.to_arrow(), path)

    # -- views of the folds

    def _owned_columns(self, df: pd.DataFrame) -> dict[str, dict[str, pa.Array]]:
        """Arrow columns of the owned views, by name of the view in the result."""
        keys_of: dict[str, tuple[str, str, FeatureView]] = {}
        for view in self._question.owned:
            entity = compile_view(view).entity  # type: ignore[arg-type]
            key = view.projection.join_key_map.get(join_key_of(entity), join_key_of(entity))
            if key not in df.columns:
                raise PointInTimeError(
                    f"view {view.name!r} needs the column {key!r} of entity keys; the rows have {', '.join(df.columns)}"
                )
            keys_of[_called(view)] = ("user" if entity == "user_category" else entity, key, view)
        before_ms = _ceil_ms(self._timestamps)
        numbers = {pair: self._numbers(df, *pair, before_ms) for pair in {(e, k) for e, k, _ in keys_of.values()}}
        fields = sorted({f"{view.name}:{f}" for name, (_, _, view) in keys_of.items() for f in self._features_of(name)})
        of_vectors = [name for name in fields if name.startswith(f"{VECTORS}:")]
        asked = set(fields).difference(of_vectors)
        if of_vectors:
            asked.update(name.decode() for name in SIGNAL_FIELDS)
        moments: dict[tuple[str, str, int], int] = {}
        rows_of: dict[tuple[str, str], list[int]] = {}
        for pair, own in numbers.items():
            rows_of[pair] = [moments.setdefault(moment, len(moments)) for moment in own]
        found = _replayed(self._settings, moments, sorted(asked))
        if of_vectors:
            self._add_vectors(found, moments)
        return {
            name: {
                f: _column(view, f, f"{view.name}:{f}", rows_of[entity, key], found) for f in self._features_of(name)
            }
            for name, (entity, key, view) in keys_of.items()
        }

    def _features_of(self, view: str) -> list[str]:
        own = (ref.split(":", 1) for ref in self._question.refs)
        return [feature for name, feature in own if name == view]

    @staticmethod
    def _numbers(df: pd.DataFrame, entity: str, key: str, before_ms: pd.Series[int]) -> list[tuple[str, str, int]]:
        return [(entity, str(value), int(ts)) for value, ts in zip(df[key], before_ms, strict=True)]

    def _add_vectors(self, found: Rows, moments: Mapping[tuple[str, str, int], int]) -> None:
        """Vectors of users, in today's space of items, from the histories that were replayed."""
        from features.llm.catalogue import items_of_topic

        names = {item_hash(item_id): item_id for item_id in items_of_topic(self._settings)}
        items = ItemVectors(connect(self._settings, retries=3), self._settings, names.get, capacity=1_000_000)
        pages = [name.decode() for name in SIGNAL_FIELDS]
        for (entity, _, ts_ms), row in moments.items():
            values = found.get(row, {})
            if entity != "user" or not any(page in values for page in pages):
                continue
            history = decode_signals(*(unpack_bytes(values.get(page)) for page in pages))
            space = items.refresh(history["item_hash"].tolist())
            vectors = user_vectors(history, items.lookup, ts_ms)
            values |= {f"{VECTORS}:{name}": pack_floats(vector) for name, vector in zip(NAMES, vectors, strict=True)}
            values[f"{VECTORS}:space"] = pack_string(str(space) if space else "")
            values[f"{VECTORS}:computed_ms"] = pack_int64(ts_ms)

    # -- views of other sources

    def _join_others(self, table: pa.Table, df: pd.DataFrame) -> pa.Table:
        """Columns of the offline store's views."""
        asked = self._question
        keys = []
        for view in asked.others:
            keys += [view.projection.join_key_map.get(c.name, c.name) for c in view.entity_columns]
        keys = [key for key in dict.fromkeys(keys) if key in df.columns]
        rows = df[keys].assign(**{EVENT_TIMESTAMP: self._timestamps - _JUST_BEFORE})
        unique = rows.drop_duplicates(ignore_index=True)
        unique = unique.assign(**{_ROW: np.arange(len(unique))})
        place = rows.merge(unique, on=[*keys, EVENT_TIMESTAMP], how="left")[_ROW].to_numpy()
        names = {_called(view) for view in asked.others}
        refs = [ref for ref in asked.refs if ref.split(":", 1)[0] in names]
        found = self._ask_others(asked.others, refs, unique).to_df().set_index(_ROW)
        for view in asked.others:
            types = {field.name: _arrow(field.dtype) for field in view.features}
            for feature in self._features_of(_called(view)):
                name = _name(view, feature, asked.full_feature_names)
                values = found[name].reindex(place).tolist()
                values = [None if not isinstance(v, list | np.ndarray) and pd.isna(v) else v for v in values]
                if view.name == SEMANTIC and feature in ("vector", "space"):
                    values = self._with_vectors(values, feature, df, view)
                table = _with(table, name, pa.array(values, type=types[feature]))
        return table

    def _with_vectors(self, values: list[Any], feature: str, df: pd.DataFrame, view: FeatureView) -> list[Any]:
        """Vectors that no file held at the time, from Redis: the catalogue agent embeds new items without a file."""
        key = view.projection.join_key_map.get("item_id", "item_id")
        ids = [str(each) for each in df[key]]
        if self._items is None:
            client = connect(self._settings, retries=3)
            space = active_space(client, self._settings)
            self._items = {} if space is None else read_vectors(client, self._settings, sorted(set(ids)), space)
            self._space = str(space or "")
        known = self._items
        if feature == "space":
            return [self._space if v is None and item in known else v for v, item in zip(values, ids, strict=True)]
        return [known.get(item) if v is None else v for v, item in zip(values, ids, strict=True)]


def _replayed(settings: Settings, moments: Mapping[tuple[str, str, int], int], fields: Sequence[str]) -> Rows:
    """Ask the replay, in a process of its own: the folds' process has no Feast, and Feast's has no folds.

    Raises
    ------
    PointInTimeError
        With what the replay said.
    """
    if not moments or not fields:
        return {}
    with tempfile.TemporaryDirectory(prefix="liverank-asof-") as folder:
        asked, out, job = (Path(folder) / name for name in ("moments.parquet", "rows.parquet", "job.json"))
        entities, keys, times = zip(*moments, strict=True)
        columns = {"row": list(moments.values()), "entity": entities, "key": keys, "ts_ms": times}
        pq.write_table(pa.table(columns), asked)
        job.write_text(json.dumps({"moments": str(asked), "out": str(out), "fields": list(fields)}))
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "streams.asof", str(job)],
            cwd=CHECKOUT,
            env={**os.environ, **settings.environment(), "LIVERANK_HOME": str(settings.home.resolve())},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            reason = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            raise PointInTimeError(f"the archive could not be replayed: {reason[-1]}")
        table = pq.read_table(out)
    found: Rows = {}
    for row, name, value in zip(*(table[c].to_pylist() for c in ("row", "field", "value")), strict=True):
        found.setdefault(row, {})[name] = value
    return found


def _column(view: FeatureView, feature: str, name: str, rows: Sequence[int], found: Rows) -> pa.Array:
    types = {field.name: _arrow(field.dtype) for field in view.features}
    kept: dict[int, Any] = {row: _value(found.get(row, {}).get(name)) for row in set(rows)}
    return pa.array([kept[row] for row in rows], type=types[feature])


def _value(data: bytes | None) -> Any:
    if not data:
        return None
    value = Value.FromString(data)
    kind = value.WhichOneof("val")
    if kind is None:
        return None
    found = getattr(value, kind)
    return list(found.val) if kind.endswith("_list_val") else found


def _with_categories(table: pa.Table) -> pa.Table:
    """An empty request for a category means the item's main one of that time."""
    known = next((name for name in (f"{CATALOGUE}__categories", "categories") if name in table.column_names), None)
    if _CATEGORY not in table.column_names or known is None:
        return table
    pairs = zip(table[_CATEGORY].to_pylist(), table[known].to_pylist(), strict=True)
    filled = pa.array([given or (own[0] if own else "") for given, own in pairs], type=pa.string())
    return table.set_column(table.column_names.index(_CATEGORY), _CATEGORY, filled)


def _transformed(view: OnDemandFeatureView, table: pa.Table) -> dict[str, pa.Array]:
    """Features of an on-demand view over stored ones, by their short names."""
    names = [feature.name for feature in view.features]
    if str(getattr(view.mode, "value", view.mode)) != "python":
        short = view.transform_arrow(table, False)
        return {name: short[name] for name in names}
    inputs = table.to_pydict()
    for projection in view.source_feature_view_projections.values():
        for feature in projection.features:
            # Both names, as Feast gives them; the full one wins, because short names repeat over entities.
            full = f"{_projected(projection)}__{feature.name}"
            known = inputs[full] if full in inputs else inputs[feature.name]
            inputs[full] = inputs[feature.name] = known
    for source in view.source_request_sources.values():
        for field in source.schema:
            if field.dtype in (Float32, Float64):  # Arrow took NaN for null
                inputs[field.name] = [np.nan if value is None else value for value in inputs[field.name]]
    transformation: Any = view.feature_transformation
    if view.singleton:
        rows = [transformation.udf({name: values[at] for name, values in inputs.items()}) for at in range(len(table))]
        out: Mapping[str, Any] = {name: [row[name] for row in rows] for name in names}
    else:
        out = transformation.udf(inputs)
    return {feature.name: pa.array(out[feature.name], type=_arrow(feature.dtype)) for feature in view.features}


def _arrow(dtype: FeastType) -> pa.DataType:
    """Arrow's type of a field; Feast's own table lacks bytes."""
    return pa.binary() if dtype == Bytes else from_feast_to_pyarrow_type(dtype)


def _called(view: Any) -> str:
    """Name of a view in the result: its alias, if it has one."""
    return _projected(view.projection)


def _projected(projection: Any) -> str:
    return str(projection.name_to_use())


def _name(view: Any, feature: str, full: bool) -> str:
    return f"{_called(view)}__{feature}" if full else feature


def _with(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    if name in table.column_names:
        raise PointInTimeError(
            f"two of the features, or a feature and a column of the rows, are named {name!r}; ask with "
            "full_feature_names=True"
        )
    return table.append_column(name, column)


def _timestamps(df: pd.DataFrame) -> pd.Series[pd.Timestamp]:
    if EVENT_TIMESTAMP not in df.columns:
        raise PointInTimeError(f"the rows need a column {EVENT_TIMESTAMP!r}; they have {', '.join(map(str, df))}")
    found = pd.to_datetime(df[EVENT_TIMESTAMP], utc=True).reset_index(drop=True)
    if found.isna().any():
        raise PointInTimeError(f"row {int(np.flatnonzero(found.isna())[0])} has no {EVENT_TIMESTAMP}")
    return found.astype("datetime64[us, UTC]")


def _floor_ms(times: pd.Series[pd.Timestamp]) -> pd.Series[int]:
    return times.astype("int64") // 1000


def _ceil_ms(times: pd.Series[pd.Timestamp]) -> pd.Series[int]:
    return -(-times.astype("int64") // 1000)
