"""Keys of states."""

from __future__ import annotations

from typing import Final

__all__ = ["SESSION", "plain_key", "session_key", "state_key"]

_ESCAPE: Final = "\x01"
SESSION: Final = "\x01s:"
"""Keys of sessions begin with it. No user's key does: after an escape comes ``#`` or another escape."""


def state_key(entity_id: str) -> str:
    """State key of a user or an item: its id, kept apart from the states of a partition, which begin with ``#``."""
    return _ESCAPE + entity_id if entity_id[:1] in ("#", _ESCAPE) else entity_id


def session_key(session_id: str) -> str:
    """State key of a session; it lies in the partition of its user."""
    return SESSION + session_id


def plain_key(key: str) -> str:
    """Inverse of `state_key` and of `session_key`."""
    if key.startswith(SESSION):
        return key.removeprefix(SESSION)
    return key[1:] if key[:1] == _ESCAPE else key
