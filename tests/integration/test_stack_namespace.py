"""The fixtures themselves: a namespace has its topics, its generation and its token."""

from __future__ import annotations

from features.redis import connect
from liverank.kafka import partition_counts
from liverank.settings import Settings
from liverank.topics import topic_specs


def test_a_namespace_has_topics_generation_and_token(namespace: Settings) -> None:
    wanted = topic_specs(namespace, 1)
    assert partition_counts(namespace.kafka.bootstrap, list(wanted)) == {
        name: n_partitions for name, (n_partitions, _) in wanted.items()
    }
    with connect(namespace) as client:
        assert client.get(f"{namespace.namespace}:active") == b"1"
        assert len(client.get(f"{namespace.namespace}:token")) == 32
