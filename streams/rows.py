"""Keys of states."""

from __future__ import annotations

from typing import Final

__all__ = ["plain_key", "state_key"]

_ESCAPE: Final = "\x01"


def state_key(entity_id: str) -> str:
    """State key of a user or an item: its id, kept apart from the states of a partition, which begin with ``#``."""
    return _ESCAPE + entity_id if entity_id[:1] in ("#", _ESCAPE) else entity_id


def plain_key(key: str) -> str:
    """Inverse of `state_key`."""
    return key[1:] if key[:1] == _ESCAPE else key
