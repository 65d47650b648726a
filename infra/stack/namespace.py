"""What a namespace needs before its processes start: topics, generation, token, features, a base model.

All of it is safe to repeat.
"""

from __future__ import annotations

import shutil
from typing import Any

from liverank.settings import Settings

FIRST_GENERATION = 1


def create(settings: Settings) -> int:
    """Create the topics that are missing, and the keys that name the namespace's generation and its token.

    Parameters
    ----------
    settings : Settings
        Resolved.

    Returns
    -------
    int
        The active generation.
    """
    from features.generation import active_generation
    from features.redis import connect, namespace_token, translated
    from liverank.kafka import create_topics

    with connect(settings) as client, translated("creating the namespace"):
        generation = active_generation(client, settings)
        client.set(f"{settings.namespace}:active", FIRST_GENERATION, nx=True)
        namespace_token(client, settings.namespace)
    create_topics(settings.kafka.bootstrap, settings, generation, replication=settings.kafka.replication)
    return generation


def partitions(settings: Settings, generation: int) -> int:
    """Return the number of partitions of a generation, as the broker has them."""
    from liverank.kafka import partition_counts

    topic = settings.topic("events", generation)
    return partition_counts(settings.kafka.bootstrap, [topic]).get(topic, settings.stack.partitions)


def apply_features(settings: Settings) -> str:
    """Register the feature views with Feast and publish the compiled program; quick where nothing changed.

    Returns
    -------
    str
        Path of the namespace's `feature_store.yaml`.
    """
    from features.apply import apply

    return apply(settings)


def base_model(settings: Settings) -> str:
    """Make sure that the ranker has a model: the smoothed rate by slot until training has made a better one."""
    from ranker.models import ensure_base_model

    return str(ensure_base_model(settings))


def remove(settings: Settings) -> None:
    """Delete everything of a namespace whose processes are down: topics, state, features, archive, models.

    Parameters
    ----------
    settings : Settings
        Resolved.
    """
    from features.generation import active_generation
    from features.redis import connect, translated
    from liverank.kafka import delete_topics
    from liverank.topics import topic_specs

    with connect(settings) as client:
        newest = active_generation(client, settings) + 1  # and one that was being built
    topics = {name for generation in range(FIRST_GENERATION, newest + 1) for name in topic_specs(settings, generation)}
    delete_topics(settings.kafka.bootstrap, sorted(topics))
    with connect(settings) as client, translated("removing the namespace"):
        # Feast's keys end in the project.
        for pattern in (f"{settings.namespace}:*", f"*{settings.feast_project}"):
            pipe: Any = client.pipeline(transaction=False)
            for key in client.scan_iter(match=pattern, count=5000):
                pipe.unlink(key)
                if len(pipe) >= 5000:
                    pipe.execute()
            pipe.execute()
    for folder in (settings.home / settings.namespace, settings.home / "archive" / settings.namespace):
        shutil.rmtree(folder, ignore_errors=True)
