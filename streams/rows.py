"""From changed fields of a state to what readers see of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from features.online import Row
from features.wire import pack_bytes

__all__ = ["plain_key", "rows_of", "state_key"]

_ESCAPE: Final = "\x01"


def state_key(entity_id: str) -> str:
    """State key of a user or an item: its id, kept apart from the states of a partition, which begin with ``#``."""
    return _ESCAPE + entity_id if entity_id[:1] in ("#", _ESCAPE) else entity_id


def plain_key(key: str) -> str:
    """Inverse of `state_key`."""
    return key[1:] if key[:1] == _ESCAPE else key


@lru_cache(maxsize=4096)
def _names(field: bytes) -> tuple[str, str]:
    view, _, feature = field.decode().partition(":")
    return view, feature


def rows_of(
    join_key: str, entity_id: str, fields: Mapping[bytes, bytes], event_ts_ms: int, version: bytes
) -> list[Row]:
    """Feast rows of changed public fields, one a view; the field ``view:feature`` holds that feature, empty = null."""
    values: dict[str, dict[str, bytes]] = {}
    for field, page in fields.items():
        view, feature = _names(field)
        values.setdefault(view, {})[feature] = pack_bytes(page) if page else b""
    return [Row(view, join_key, entity_id, features, event_ts_ms, version) for view, features in values.items()]
