"""Feast's Redis store, under a name of ours: the module that every Feast process of a namespace imports.

Feast 0.67's `feast feature-views list` asks for the sources of on-demand views as plain feature views and stops at the
first that is a stream view, although a stream view is one (`StreamFeatureView` is a `FeatureView`). Here the question
is answered: where no plain view has the name, the stream view does. Nothing else of Feast is changed; see the test
`test_feast_commands.py`, which fails once Feast does so itself.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from feast import FeatureStore
from feast.errors import FeatureViewNotFoundException
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig

__all__ = ["TYPE", "LiverankRedisOnlineStore", "LiverankRedisOnlineStoreConfig"]

TYPE: Final = "features.online_store.LiverankRedisOnlineStore"
"""`online_store.type` in feature_store.yaml."""


class LiverankRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    """Options of Feast's Redis store."""

    type: Literal["features.online_store.LiverankRedisOnlineStore"] = TYPE  # type: ignore[assignment]


class LiverankRedisOnlineStore(RedisOnlineStore):
    """Feast's Redis store, unchanged."""


_plain_view: Final = FeatureStore.get_feature_view


def _any_view(self: FeatureStore, name: str, allow_registry_cache: bool = False) -> Any:
    """The feature view of that name, be it plain or a stream view."""
    try:
        return _plain_view(self, name, allow_registry_cache)
    except FeatureViewNotFoundException:
        return self.get_stream_feature_view(name, allow_registry_cache)


FeatureStore.get_feature_view = _any_view  # type: ignore[method-assign]
