"""Stream views of users: counters over windows, and what the fold keeps beside them."""

from datetime import timedelta

from entities import category, user
from feast import Aggregation, Field, StreamFeatureView
from feast.types import Array, Bytes, Float32, Float64, Int64, String
from sources import events

# Windows and their slides. Views with the same slide share tiles: a short slide costs rows, a long one freshness at
# the far end of the window only (the near end is always open up to the instant of reading).
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
WINDOWS = {"1h": (HOUR, 10 * MINUTE), "1d": (DAY, HOUR), "7d": (7 * DAY, DAY), "30d": (30 * DAY, DAY)}
CATEGORY_WINDOWS = {"1d": (DAY, 2 * HOUR), "7d": (7 * DAY, DAY), "30d": (30 * DAY, DAY)}

COUNTERS = {
    "impressions": "impression",
    "clicks": "click",
    "likes": "like",
    "saves": "save",
    "purchases": "purchase",
    "positives": "positive",
    "negatives": "negative",
    "dwell": "dwell_s",
}
CATEGORY_COUNTERS = {
    "impressions": "impression",
    "clicks": "click",
    "positives": "positive",
    "negatives": "negative",
}


def counters(columns: dict[str, str], windows: dict[str, tuple[timedelta, timedelta]]) -> list[Aggregation]:
    """Sums of columns over windows, named `<counter>_<window>`."""
    return [
        Aggregation(column=column, function="sum", time_window=window, slide_interval=slide, name=f"{name}_{label}")
        for label, (window, slide) in windows.items()
        for name, column in columns.items()
    ]


def values(aggregations: list[Aggregation]) -> list[Field]:
    """The fields of aggregations."""
    return [Field(name=aggregation.name, dtype=Float64) for aggregation in aggregations]


user_counters = counters(COUNTERS, WINDOWS)
user_activity = StreamFeatureView(
    name="user_activity",
    description="What a user did, counted over 1 h, 1 d, 7 d, 30 d; dwell in seconds.",
    entities=[user],
    source=events,
    timestamp_field="event_timestamp",
    aggregations=user_counters,
    schema=values(user_counters),
    owner="liverank",
)

category_counters = counters(CATEGORY_COUNTERS, CATEGORY_WINDOWS)
user_category_activity = StreamFeatureView(
    name="user_category_activity",
    description="What a user did in each category, counted over 1 d, 7 d, 30 d.",
    entities=[user, category],
    source=events,
    timestamp_field="event_timestamp",
    aggregations=category_counters,
    schema=values(category_counters),
    owner="liverank",
)

user_history = StreamFeatureView(
    name="user_history",
    description="The newest 128 signals of a user and a sample of those before (features/state/history.py, older.py).",
    entities=[user],
    source=events,
    timestamp_field="event_timestamp",
    schema=[
        *(Field(name=f"page_{page}", dtype=Bytes, tags={"liverank.last_k": "128"}) for page in range(3)),
        Field(name="page_3", dtype=Bytes, tags={"liverank.last_k": "16"}),
        *(Field(name=f"older_{page}", dtype=Bytes, tags={"liverank.last_k": "75"}) for page in range(9)),
    ],
    owner="liverank",
)

user_session = StreamFeatureView(
    name="user_session",
    description="The user's current or last session (features/state/session.py).",
    entities=[user],
    source=events,
    timestamp_field="event_timestamp",
    schema=[Field(name="state", dtype=Bytes, tags={"liverank.session": "1"})],
    owner="liverank",
)

user_seen = StreamFeatureView(
    name="user_seen",
    description="Items that were shown to a user or acted upon (features/state/seen.py).",
    entities=[user],
    source=events,
    timestamp_field="event_timestamp",
    schema=[
        Field(name=f"{part}_{page}", dtype=Bytes, tags={"liverank.seen": part})
        for part in ("shown", "acted")
        for page in range(4)
    ],
    owner="liverank",
)

user_vectors = StreamFeatureView(
    name="user_vectors",
    description="Vectors of a user over 1 week, 1 month and 6 months in the space of the items' vectors.",
    entities=[user],
    source=events,
    timestamp_field="event_timestamp",
    schema=[
        Field(name="vector_1w", dtype=Array(Float32), tags={"liverank.embedding": "7d"}),
        Field(name="vector_1m", dtype=Array(Float32), tags={"liverank.embedding": "30d"}),
        Field(name="vector_6m", dtype=Array(Float32), tags={"liverank.embedding": "180d"}),
        Field(name="space", dtype=String),
        Field(name="computed_ms", dtype=Int64),
    ],
    tags={"liverank.written_by": "vectors"},
    owner="liverank",
)
