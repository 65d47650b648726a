"""Faust agents: near-line vectors, catalogue rows, the example sink, dead letters. Idempotent; none holds state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.agents import catalogue, dead_letters, examples, vectors
from streams.agents.services import AgentServices

if TYPE_CHECKING:
    import faust

__all__ = ["AgentServices", "register_all"]


def register_all(app: faust.App, services: AgentServices) -> None:
    """Add all agents to the worker's app."""
    for module in (vectors, catalogue, examples, dead_letters):
        module.register(app, services)
