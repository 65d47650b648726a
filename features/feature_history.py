"""Values of a feature service for rows of entity keys and timestamps, as they were: training sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from features.errors import PointInTimeError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from feast import FeatureStore

__all__ = ["feature_history", "read_rows"]

_TIMESTAMP: Final = "event_timestamp"
_AS_OF: Final = "as_of_ms"


def read_rows(path: Path) -> pd.DataFrame:
    """Entity rows of a Parquet file or of JSON lines; `event_timestamp` may be milliseconds since the UTC epoch.

    Raises
    ------
    PointInTimeError
        The file is of another kind, or has no timestamps.
    """
    import pandas as pd

    if path.suffix == ".parquet":
        rows = pd.read_parquet(path)
    elif path.suffix == ".jsonl":
        rows = pd.read_json(path, lines=True, convert_dates=False, dtype=False)
    else:
        raise PointInTimeError(f"entity rows are a .parquet or .jsonl file, got {path.name}")
    if _TIMESTAMP not in rows.columns:
        raise PointInTimeError(f"{path} needs a column {_TIMESTAMP!r}; it has {', '.join(map(str, rows.columns))}")
    unit: Any = {"unit": "ms"} if pd.api.types.is_numeric_dtype(rows[_TIMESTAMP]) else {}
    rows[_TIMESTAMP] = pd.to_datetime(rows[_TIMESTAMP], utc=True, **unit)
    return rows


def feature_history(store: FeatureStore, service: str, rows: pd.DataFrame, *, extra: Sequence[str] = ()) -> pa.Table:
    """Rows with the features of a service, as they were strictly before each row's timestamp.

    Request data that the rows lack is filled in: `as_of_ms` with the timestamp, `category` with the item's main one of
    that time, other numbers with NaN, whole numbers with 0, texts with an empty one.

    Parameters
    ----------
    store : FeatureStore
        Of `features.apply.open_store`.
    service : str
        Name of a feature service of the registry.
    rows : DataFrame
        Columns `event_timestamp`, the join keys of the service's views, and request data.
    extra : sequence of str
        More stored features, ``view:feature``.

    Returns
    -------
    pyarrow.Table
        The given columns, then the features, named ``view__feature``.

    Raises
    ------
    PointInTimeError
        The service is unknown, or a join key is missing.
    """
    from feast.errors import FeatureServiceNotFoundException
    from feast.types import Float32, Float64, String

    try:
        found = store.get_feature_service(service)
    except FeatureServiceNotFoundException as error:
        have = ", ".join(sorted(each.name for each in store.list_feature_services()))
        raise PointInTimeError(f"there is no feature service {service!r}; the registry has {have}") from error
    refs = [
        f"{projection.name_alias or projection.name}:{feature.name}"
        for projection in found.feature_view_projections
        for feature in projection.features
    ]
    wanted = [ref.replace(":", "__", 1) for ref in (*refs, *extra)]
    views = {projection.name for projection in found.feature_view_projections}
    rows = rows.copy()
    for view in store.list_on_demand_feature_views():
        if view.name not in views:
            continue
        for source in view.source_request_sources.values():
            for field in source.schema:
                if field.name in rows.columns:
                    continue
                if field.name == _AS_OF:
                    rows[_AS_OF] = rows[_TIMESTAMP].astype("datetime64[ms, UTC]").astype("int64")
                else:
                    rows[field.name] = (
                        float("nan") if field.dtype in (Float32, Float64) else "" if field.dtype == String else 0
                    )
    asked: Any = [*refs, *extra] if extra else found
    table: pa.Table = store.get_historical_features(rows, asked, full_feature_names=True).to_arrow()
    return table.select([*rows.columns, *dict.fromkeys(wanted)])
