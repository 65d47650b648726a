"""The clients of the Personalization service: `Client` for threads, `AsyncClient` for asyncio.

Every call has a deadline that covers all its tries. Only calls that a repeat cannot harm are retried: reads, Rank (its
request_id is made by the client: the server answers a repeat with the same reply and writes one exposure) and Track
(its events have ids).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, cast

import grpc
import grpc.aio

from liverank.calls import SYSTEM_RNG, Retry, rank_request, track_request, translate
from liverank.errors import ConfigError
from liverank.settings import Settings, resolve
from liverank.v1 import personalization_pb2 as pb
from liverank.v1 import personalization_pb2_grpc as rpc
from liverank.v1.event_pb2 import Event

_OPTIONS = (("grpc.max_receive_message_length", 16 * 1024 * 1024), ("grpc.enable_retries", 0))


def find_address(settings: Settings | None = None) -> str:
    """Address of the ranker: from settings, else from the endpoints file of the local stack.

    Raises
    ------
    ConfigError
        Neither has one.
    """
    found = resolve(settings or Settings())
    if not found.ranker.grpc:
        raise ConfigError(
            f"no ranker address: none is set and {found.home}/endpoints.json has none; "
            "run `liverank up`, set LIVERANK_RANKER__GRPC or pass an address"
        )
    return found.ranker.grpc


class Client:
    """Calls the ranker. Safe to share between threads; close it or use it in a `with`.

    Parameters
    ----------
    address : str
        `host:port`; found by `find_address` where empty.
    deadline_s : float
        For each call, all tries together; a method's `deadline_s` wins.
    retry : Retry
        See `Retry`.
    channel : grpc.Channel, optional
        An own channel (TLS, interceptors); it is not closed by the client.

    Examples
    --------
    >>> with Client("localhost:50051") as client:           # doctest: +SKIP
    ...     reply = client.rank("u1", k=10)
    ...     client.track([new_event("click", user_id="u1", item_id=reply.items[0].item_id,
    ...                             request_id=reply.request_id, position=1)])
    """

    def __init__(
        self,
        address: str = "",
        *,
        deadline_s: float = 2.0,
        retry: Retry | None = None,
        channel: grpc.Channel | None = None,
        rng: random.Random = SYSTEM_RNG,
    ) -> None:
        self.address = address or ("the given channel" if channel else find_address())
        self._deadline_s = deadline_s
        self._retry = retry or Retry()
        self._rng = rng
        self._owns_channel = channel is None
        self._channel = channel or grpc.insecure_channel(self.address, options=_OPTIONS)
        self._stub = cast(Any, rpc.PersonalizationStub)(self._channel)

    def rank(self, user_id: str = "", *, deadline_s: float | None = None, **options: Any) -> pb.RankReply:
        """A personalised slate. Options are those of `rank_request`: k, surface, context, mode, candidates, ..."""
        return self.send_rank(rank_request(user_id, rng=self._rng, **options), deadline_s=deadline_s)

    def send_rank(self, request: pb.RankRequest, *, deadline_s: float | None = None) -> pb.RankReply:
        """A ready Rank request; without a request_id it is not retried."""
        tries = self._retry if request.request_id else Retry(attempts=1)
        return cast(pb.RankReply, self._call("Rank", self._stub.Rank, request, deadline_s, tries))

    def similar(
        self, item_ids: Sequence[str], *, k: int = 10, filter: pb.Filter | None = None, deadline_s: float | None = None
    ) -> pb.SimilarReply:
        """Items near the given ones."""
        request = pb.SimilarRequest(item_ids=item_ids, k=k, filter=filter)
        return cast(pb.SimilarReply, self._call("Similar", self._stub.Similar, request, deadline_s, self._retry))

    def track(
        self, events: Sequence[Event], *, idempotency_key: str = "", deadline_s: float | None = None
    ) -> pb.TrackReply:
        """Send events (1 to 1,000); returns once the broker has them. Refused ones are in the reply, with reasons."""
        request = track_request(events, rng=self._rng, idempotency_key=idempotency_key)
        return cast(pb.TrackReply, self._call("Track", self._stub.Track, request, deadline_s, self._retry))

    def track_stream(self, batches: Iterable[Sequence[Event]], *, deadline_s: float = 60.0) -> pb.TrackReply:
        """Send batches over one stream. Not retried; events have ids, so a caller's own repeat is harmless."""
        requests = (track_request(batch, rng=self._rng) for batch in batches)
        try:
            return cast(pb.TrackReply, self._stub.TrackStream(requests, timeout=deadline_s))
        except grpc.RpcError as error:
            raise translate(error, "TrackStream", self.address) from error

    def explain(self, request_id: str, *, deadline_s: float | None = 15.0) -> pb.ExplainReply:
        """Why a slate looked as it did, from the decision log of the last 7 days."""
        request = pb.ExplainRequest(request_id=request_id)
        return cast(pb.ExplainReply, self._call("Explain", self._stub.Explain, request, deadline_s, self._retry))

    def close(self) -> None:
        """Close the channel, if the client made it."""
        if self._owns_channel:
            self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, traceback: TracebackType | None) -> None:
        self.close()

    def _call(
        self, method: str, call: Callable[..., object], request: object, deadline_s: float | None, retry: Retry
    ) -> object:
        end_s = time.monotonic() + (self._deadline_s if deadline_s is None else deadline_s)
        attempt = 0
        while True:
            try:
                return call(request, timeout=max(end_s - time.monotonic(), 0.001))
            except grpc.RpcError as error:
                wait_s = retry.wait_s(error, attempt, end_s - time.monotonic(), self._rng)
                if wait_s is None:
                    raise translate(error, method, self.address) from error
            time.sleep(wait_s)
            attempt += 1


class AsyncClient:
    """The same for asyncio. Safe to share between tasks of one loop."""

    def __init__(
        self,
        address: str = "",
        *,
        deadline_s: float = 2.0,
        retry: Retry | None = None,
        channel: grpc.aio.Channel | None = None,
        rng: random.Random = SYSTEM_RNG,
    ) -> None:
        self.address = address or ("the given channel" if channel else find_address())
        self._deadline_s = deadline_s
        self._retry = retry or Retry()
        self._rng = rng
        self._owns_channel = channel is None
        self._channel = channel or grpc.aio.insecure_channel(self.address, options=_OPTIONS)
        self._stub = cast(Any, rpc.PersonalizationStub)(self._channel)

    async def rank(self, user_id: str = "", *, deadline_s: float | None = None, **options: Any) -> pb.RankReply:
        """See `Client.rank`."""
        request = rank_request(user_id, rng=self._rng, **options)
        return cast(pb.RankReply, await self._call("Rank", self._stub.Rank, request, deadline_s))

    async def similar(
        self, item_ids: Sequence[str], *, k: int = 10, filter: pb.Filter | None = None, deadline_s: float | None = None
    ) -> pb.SimilarReply:
        """See `Client.similar`."""
        request = pb.SimilarRequest(item_ids=item_ids, k=k, filter=filter)
        return cast(pb.SimilarReply, await self._call("Similar", self._stub.Similar, request, deadline_s))

    async def track(
        self, events: Sequence[Event], *, idempotency_key: str = "", deadline_s: float | None = None
    ) -> pb.TrackReply:
        """See `Client.track`."""
        request = track_request(events, rng=self._rng, idempotency_key=idempotency_key)
        return cast(pb.TrackReply, await self._call("Track", self._stub.Track, request, deadline_s))

    async def track_stream(self, batches: AsyncIterable[Sequence[Event]], *, deadline_s: float = 60.0) -> pb.TrackReply:
        """See `Client.track_stream`."""
        requests = (track_request(batch, rng=self._rng) async for batch in batches)
        try:
            return cast(pb.TrackReply, await self._stub.TrackStream(requests, timeout=deadline_s))
        except grpc.RpcError as error:
            raise translate(error, "TrackStream", self.address) from error

    async def explain(self, request_id: str, *, deadline_s: float | None = 15.0) -> pb.ExplainReply:
        """See `Client.explain`."""
        request = pb.ExplainRequest(request_id=request_id)
        return cast(pb.ExplainReply, await self._call("Explain", self._stub.Explain, request, deadline_s))

    async def close(self) -> None:
        """Close the channel, if the client made it."""
        if self._owns_channel:
            await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: object, traceback: TracebackType | None) -> None:
        await self.close()

    async def _call(
        self, method: str, call: Callable[..., Awaitable[object]], request: object, deadline_s: float | None
    ) -> object:
        end_s = time.monotonic() + (self._deadline_s if deadline_s is None else deadline_s)
        attempt = 0
        while True:
            try:
                return await call(request, timeout=max(end_s - time.monotonic(), 0.001))
            except grpc.RpcError as error:
                wait_s = self._retry.wait_s(error, attempt, end_s - time.monotonic(), self._rng)
                if wait_s is None:
                    raise translate(error, method, self.address) from error
            await asyncio.sleep(wait_s)
            attempt += 1
