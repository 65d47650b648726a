"""Replies kept for retries: Redis `<ns>:reply:<request_id>`, set if absent, for `ranker.reply_ttl_s`.

A retry with the same request id gets the same reply bytes and causes one exposure. An exposure of PREFETCH waits here
until the first impression comes through Track, at any replica.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from features.redis import translated
from liverank.v1 import stream_pb2
from ranker.degrade import Breaker, Recent
from ranker.errors import RequestConflictError

if TYPE_CHECKING:
    from features.redis import Redis


class ReplyStore:
    """Thread-safe. Without Redis nothing is found and nothing kept; the caller is told by `UnavailableError`.

    Parameters
    ----------
    redis
        Shared by all replicas.
    namespace
        Key prefix.
    ttl_s
        How long a reply is kept, s.
    """

    def __init__(self, redis: Redis, namespace: str, ttl_s: int) -> None:
        self._redis: Any = redis
        self._namespace = namespace
        self._ttl_s = ttl_s
        self._settled: Recent[bool] = Recent(50_000, ttl_s)
        self.breaker = Breaker()

    def _key(self, request_id: str) -> str:
        return f"{self._namespace}:reply:{request_id}"

    def find(self, request_id: str, request_hash: bytes) -> bytes | None:
        """Reply bytes of an earlier request with this id; None where there was none.

        Raises
        ------
        RequestConflictError
            The id was used for another request.
        UnavailableError
            Redis is away.
        """
        with translated("looking for an earlier reply"):
            data = self._redis.get(self._key(request_id))
        return self._same(data, request_id, request_hash) if data is not None else None

    def keep(self, request_id: str, stored: stream_pb2.StoredReply) -> bytes | None:
        """Keep a reply; where another replica was first, its reply bytes.

        Raises
        ------
        RequestConflictError
            The id was used for another request meanwhile.
        UnavailableError
            Redis is away.
        """
        with translated("keeping a reply"):
            if self._redis.set(self._key(request_id), stored.SerializeToString(), nx=True, ex=self._ttl_s):
                return None
            data = self._redis.get(self._key(request_id))
        return self._same(data, request_id, stored.request_hash) if data is not None else None

    def _same(self, data: bytes, request_id: str, request_hash: bytes) -> bytes:
        stored = _read(data)
        if stored is None or stored.request_hash != request_hash:
            raise RequestConflictError(
                "conflict", f"request id {request_id} was used for another request; a new request needs a new id"
            )
        return bytes(stored.reply)

    def waiting_exposures(self, request_ids: Iterable[str]) -> dict[str, bytes]:
        """Exposures that wait for an impression, by request id; ids already settled here are not looked up.

        Raises
        ------
        UnavailableError
            Redis is away.
        """
        wanted = [request_id for request_id in set(request_ids) if self._settled.get(request_id) is None]
        if not wanted:
            return {}
        with translated("looking for exposures that wait"):
            found = self._redis.mget([self._key(request_id) for request_id in wanted])
        waiting = {}
        for request_id, data in zip(wanted, found, strict=True):
            stored = _read(data) if data is not None else None
            if stored is not None and stored.exposure:
                waiting[request_id] = bytes(stored.exposure)
            else:
                self._settled.put(request_id, True)
        return waiting

    def settled(self, request_id: str) -> None:
        """The exposure of this request was produced: do not look again. Produced twice it is deduplicated by its id."""
        self._settled.put(request_id, True)


def _read(data: bytes) -> stream_pb2.StoredReply | None:
    try:
        return stream_pb2.StoredReply.FromString(data)
    except DecodeError:
        return None
