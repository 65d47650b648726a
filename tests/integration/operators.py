"""What an operator writes to add a feature: one plain Feast file."""

SAVES = """
from datetime import timedelta
from entities import category, user
from feast import Aggregation, Field, StreamFeatureView
from feast.types import Float64
from sources import events

user_category_saves = StreamFeatureView(
    name="user_category_saves",
    entities=[user, category],
    source=events,
    timestamp_field="event_timestamp",
    schema=[Field(name="saves_6h", dtype=Float64)],
    aggregations=[
        Aggregation(
            column="save", function="sum", name="saves_6h",
            time_window=timedelta(hours=6), slide_interval=timedelta(minutes=5),
        )
    ],
)
"""
