"""Sources: Kafka topics that the folds read, and files of the batch jobs."""

from datetime import timedelta

from feast import FileSource, KafkaSource
from feast.data_format import JsonFormat

from features.columns import NUMERIC, TEXT
from features.deployment import deployment

here = deployment()

columns = ["event_timestamp timestamp", *(f"{name} double" for name in NUMERIC), *(f"{name} string" for name in TEXT)]

events = KafkaSource(
    name="events",
    description="What users do, as columns (features/columns.py); the wire format is protobuf liverank.v1.Event.",
    kafka_bootstrap_servers=here.kafka,
    topic=here.topic("events"),
    timestamp_field="event_timestamp",
    message_format=JsonFormat(schema_json=", ".join(columns)),
    watermark_delay_threshold=timedelta(days=7),
    batch_source=FileSource(name="events_archive", path=here.file("archive/events"), timestamp_field="event_timestamp"),
    owner="liverank",
)

items = KafkaSource(
    name="items",
    description="The catalogue: protobuf liverank.v1.ItemChange.",
    kafka_bootstrap_servers=here.kafka,
    topic=here.topic("items"),
    timestamp_field="event_timestamp",
    message_format=JsonFormat(schema_json="event_timestamp timestamp, item_id string, item string"),
    batch_source=FileSource(name="items_archive", path=here.file("archive/items"), timestamp_field="event_timestamp"),
    owner="liverank",
)

semantic_file = FileSource(
    name="item_semantic_file",
    description="What `liverank enrich` made of the catalogue's text.",
    path=here.file("item_semantic.parquet"),
    timestamp_field="event_timestamp",
    created_timestamp_column="created",
    owner="liverank",
)
