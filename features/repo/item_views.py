"""Views of items: counters, trend, counts per surface, neighbours, catalogue and what the batch enrichment found."""

from datetime import timedelta

from entities import item
from feast import FeatureView, Field, StreamFeatureView
from feast.types import Array, Bytes, Float32, Float64, Int64, String
from sources import events, items, semantic_file
from user_views import WINDOWS, counters, values

COUNTERS = {
    "impressions": "impression",
    "expected": "expected",
    "clicks": "click",
    "likes": "like",
    "saves": "save",
    "purchases": "purchase",
    "positives": "positive",
    "negatives": "negative",
}

item_counters = counters(COUNTERS, WINDOWS)
item_activity = StreamFeatureView(
    name="item_activity",
    description="What users did with an item, counted over 1 h, 1 d, 7 d, 30 d; `expected` = examination by position.",
    entities=[item],
    source=events,
    timestamp_field="event_timestamp",
    aggregations=item_counters,
    schema=values(item_counters),
    owner="liverank",
)

item_trend = StreamFeatureView(
    name="item_trend",
    description="Decayed sums of an item over several half-lives (features/state/trend.py).",
    entities=[item],
    source=events,
    timestamp_field="event_timestamp",
    schema=[Field(name="decayed", dtype=Bytes, tags={"liverank.trend": "1"})],
    owner="liverank",
)

item_surfaces = StreamFeatureView(
    name="item_surfaces",
    description="How often an item was seen and clicked on each surface, decayed (features/state/surfaces.py).",
    entities=[item],
    source=events,
    timestamp_field="event_timestamp",
    schema=[Field(name="counts", dtype=Bytes, tags={"liverank.surfaces": "16"})],
    owner="liverank",
)

item_neighbours = StreamFeatureView(
    name="item_neighbours",
    description="Items that meet in users' histories, with decayed weights (features/state/neighbours.py).",
    entities=[item],
    source=events,
    timestamp_field="event_timestamp",
    schema=[Field(name=f"page_{page}", dtype=Bytes, tags={"liverank.neighbours": "512"}) for page in range(8)],
    owner="liverank",
)

item_variants = StreamFeatureView(
    name="item_variants",
    description="How often each variant of an item was shown and clicked (features/state/variants.py).",
    entities=[item],
    source=events,
    timestamp_field="event_timestamp",
    schema=[Field(name="counts", dtype=Bytes, tags={"liverank.variants": "256"})],
    owner="liverank",
)

item_catalogue = StreamFeatureView(
    name="item_catalogue",
    description="Fields of the catalogue, newest version.",
    entities=[item],
    source=items,
    timestamp_field="event_timestamp",
    schema=[
        Field(name="title", dtype=String, tags={"liverank.catalogue": "title"}),
        Field(name="price", dtype=Float64, tags={"liverank.catalogue": "price"}),
        Field(name="available", dtype=Int64, tags={"liverank.catalogue": "available"}),
        Field(name="creator", dtype=String, tags={"liverank.catalogue": "creator"}),
        Field(name="categories", dtype=Array(String), tags={"liverank.catalogue": "categories"}),
        Field(name="published_ts_ms", dtype=Int64, tags={"liverank.catalogue": "published_ts_ms"}),
        Field(name="version", dtype=Int64, tags={"liverank.catalogue": "version"}),
    ],
    tags={"liverank.written_by": "catalogue"},
    owner="liverank",
)

item_semantic = FeatureView(
    name="item_semantic",
    description="Vector and attributes of an item's text, from `liverank enrich`, by `feast materialize`.",
    entities=[item],
    ttl=timedelta(0),
    source=semantic_file,
    schema=[
        Field(name="item_id", dtype=String),
        Field(name="vector", dtype=Array(Float32), tags={"liverank.embedding": "item"}),
        Field(name="space", dtype=String),
        Field(name="attributes", dtype=String),
    ],
    tags={"liverank.written_by": "enrich"},
    owner="liverank",
)
