"""What a producer without liverank sets: key, partitioner, header. Here with confluent-kafka and JSON."""

from __future__ import annotations

import json
import os
import time
import uuid

from confluent_kafka import Producer

producer = Producer(
    {
        "bootstrap.servers": os.environ["LIVERANK_KAFKA__BOOTSTRAP"],
        "enable.idempotence": True,
        # librdkafka's default would put a user's events on two partitions; they would be forwarded, at a cost.
        "partitioner": "murmur2_random",
    }
)
event = {
    "event_id": str(uuid.uuid4()),
    "type": "EVENT_TYPE_CLICK",
    "user_id": "user-1",
    "item_id": "item-7",
    "event_ts_ms": time.time_ns() // 1_000_000,
}
producer.produce(
    f"liverank.{os.environ.get('LIVERANK_NAMESPACE', 'live')}.events.1",
    key=event["user_id"].encode(),  # user_id, else session_id, as UTF-8
    value=json.dumps(event).encode(),
    headers={"content-type": b"application/json"},  # without it the value is read as protobuf
    on_delivery=lambda error, message: print("failed:" if error else "delivered", error or message.offset()),
)
producer.flush(10)
