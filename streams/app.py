"""The Faust app of a worker: it hosts the agents; folds and archive run beside it as mode services."""

from __future__ import annotations

from pathlib import Path

import faust

from liverank.settings import Settings
from streams.agents import AgentServices, register_all

__all__ = ["build_app"]


def build_app(settings: Settings, member: str, services: AgentServices) -> faust.App:
    """Return the app with all agents registered.

    Its settings are what was measured (docs/operations/workers.md): a static member id makes a restart 2 s instead of
    59 s, offsets are hints because agents are idempotent, and nothing is declared: `liverank up` creates the topics
    with their policies.

    Parameters
    ----------
    member : str
        Static member id, stable over restarts.
    """
    app = faust.App(
        f"liverank.{settings.namespace}.agents",
        broker=[f"kafka://{address}" for address in settings.kafka.bootstrap.split(",")],
        store="memory://",
        datadir=str((settings.home / settings.namespace / "faust" / member).absolute()),
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        topic_partitions=settings.stack.partitions,
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=member,
        broker_session_timeout=20,
        broker_heartbeat_interval=3,
        broker_rebalance_timeout=20,
        broker_commit_interval=1.0,
        stream_buffer_maxsize=4096,
        # Codecs of aiokafka: an lz4 producer would crash a worker without cramjam.
        producer_compression_type=None,
        logging_config=None,
    )
    register_all(app, services)
    Path(str(app.conf.datadir)).mkdir(parents=True, exist_ok=True)
    return app
