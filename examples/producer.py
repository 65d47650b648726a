"""An event producer: straight to Kafka, acknowledged, keyed by user."""

from __future__ import annotations

from liverank import EventProducer, new_event


def main() -> None:
    with EventProducer(on_error=lambda failed: print("not delivered:", failed.error)) as producer:
        for n in range(100):
            producer.send(new_event("impression", user_id="user-1", item_id=f"item-{n}", surface="home"))
        producer.send(new_event("like", user_id="user-1", item_id="item-7", surface="home"))
    # Leaving the block waits until the broker has everything, and raises if something was not delivered.
    print("delivered:", producer.n_delivered)


if __name__ == "__main__":
    main()
