"""liverank: real-time personalisation over Kafka, Feast, LightGBM and contextual bandits.

This package is what apps and event producers import; the server's parts lie beside it in the checkout.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from liverank.calls import Retry, new_event
    from liverank.client import AsyncClient, Client
    from liverank.errors import (
        ConfigError,
        ContractError,
        DeadlineExceededError,
        LiverankError,
        NotFoundError,
        UnavailableError,
    )
    from liverank.producer import EventProducer
    from liverank.settings import Settings, resolve

__version__ = "0.1.0"

# Imported at first use: `import liverank` in a worker must not pay for grpc, nor in an app for confluent-kafka.
_HOMES = {
    "AsyncClient": "liverank.client",
    "Client": "liverank.client",
    "ConfigError": "liverank.errors",
    "ContractError": "liverank.errors",
    "DeadlineExceededError": "liverank.errors",
    "EventProducer": "liverank.producer",
    "LiverankError": "liverank.errors",
    "NotFoundError": "liverank.errors",
    "Retry": "liverank.calls",
    "Settings": "liverank.settings",
    "UnavailableError": "liverank.errors",
    "new_event": "liverank.calls",
    "resolve": "liverank.settings",
}

__all__ = [
    "AsyncClient",
    "Client",
    "ConfigError",
    "ContractError",
    "DeadlineExceededError",
    "EventProducer",
    "LiverankError",
    "NotFoundError",
    "Retry",
    "Settings",
    "UnavailableError",
    "new_event",
    "resolve",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'liverank' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
