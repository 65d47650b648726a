"""Client: retries, deadlines, translation of errors, against a real gRPC server in this process."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from concurrent import futures
from typing import Any, cast

import grpc
import pytest

from liverank.calls import Retry, event_type, new_event
from liverank.client import AsyncClient, Client
from liverank.errors import (
    ConfigError,
    ContractError,
    DeadlineExceededError,
    LiverankError,
    NotFoundError,
    UnavailableError,
)
from liverank.ids import uuid7_ms
from liverank.v1 import personalization_pb2 as pb
from liverank.v1 import personalization_pb2_grpc as rpc


class Scripted(rpc.PersonalizationServicer):
    """Fails as told, then answers; keeps what it was sent."""

    def __init__(self) -> None:
        self.failures: list[tuple[grpc.StatusCode, str]] = []
        self.seen: list[Any] = []

    def _next(self, request: object, context: grpc.ServicerContext) -> None:
        self.seen.append(request)
        if self.failures:
            context.abort(*self.failures.pop(0))

    def Rank(self, request: pb.RankRequest, context: grpc.ServicerContext) -> pb.RankReply:
        self._next(request, context)
        return pb.RankReply(request_id=request.request_id)

    def Similar(self, request: pb.SimilarRequest, context: grpc.ServicerContext) -> pb.SimilarReply:
        self._next(request, context)
        return pb.SimilarReply(items=[pb.SimilarItem(item_id="i2")])

    def Track(self, request: pb.TrackRequest, context: grpc.ServicerContext) -> pb.TrackReply:
        self._next(request, context)
        return pb.TrackReply(accepted=len(request.events))

    def TrackStream(self, request_iterator: Iterator[pb.TrackRequest], context: grpc.ServicerContext) -> pb.TrackReply:
        requests = list(request_iterator)
        self._next(requests, context)
        return pb.TrackReply(accepted=sum(len(r.events) for r in requests))

    def Explain(self, request: pb.ExplainRequest, context: grpc.ServicerContext) -> pb.ExplainReply:
        self._next(request, context)
        return pb.ExplainReply()


@pytest.fixture(name="served")
def _served() -> Iterator[tuple[Scripted, str]]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    scripted = Scripted()
    cast(Any, rpc.add_PersonalizationServicer_to_server)(scripted, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield scripted, f"127.0.0.1:{port}"
    server.stop(None).wait()


def fast() -> Retry:
    return Retry(attempts=3, base_s=0.001, most_s=0.002)


def test_USE_10_rank_is_retried_with_the_same_request_id(served: tuple[Scripted, str]) -> None:
    scripted, address = served
    scripted.failures = [(grpc.StatusCode.UNAVAILABLE, "later")] * 2
    with Client(address, retry=fast()) as client:
        reply = client.rank("u1", k=5)
    assert len(scripted.seen) == 3
    assert {r.request_id for r in scripted.seen} == {reply.request_id}
    assert uuid7_ms(reply.request_id) > 0


def test_USE_10_track_is_retried_with_the_same_event_ids(served: tuple[Scripted, str]) -> None:
    scripted, address = served
    scripted.failures = [(grpc.StatusCode.UNAVAILABLE, "later")]
    event = new_event("click", user_id="u", item_id="i")
    event.event_id = ""
    with Client(address, retry=fast()) as client:
        assert client.track([event, event]).accepted == 2
    first, second = scripted.seen
    assert first == second
    assert len({e.event_id for e in first.events}) == 2
    assert not event.event_id  # the caller's own is left alone


def test_USE_10_a_retry_ends_with_the_last_error(served: tuple[Scripted, str]) -> None:
    scripted, address = served
    scripted.failures = [(grpc.StatusCode.UNAVAILABLE, "later")] * 9
    with Client(address, retry=fast()) as client, pytest.raises(UnavailableError, match="liverank status"):
        client.similar(["i1"])
    assert len(scripted.seen) == 3


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "bad_value: k lies in 1 to 200", ContractError),
        (grpc.StatusCode.ALREADY_EXISTS, "other request", ContractError),
        (grpc.StatusCode.PERMISSION_DENIED, "no", ContractError),
        (grpc.StatusCode.NOT_FOUND, "no such request", NotFoundError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", DeadlineExceededError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "quota", UnavailableError),
        (grpc.StatusCode.FAILED_PRECONDITION, "no model", ConfigError),
        (grpc.StatusCode.INTERNAL, "bug", LiverankError),
    ],
)
def test_final_errors_are_translated_and_not_retried(
    served: tuple[Scripted, str], status: grpc.StatusCode, text: str, kind: type[LiverankError]
) -> None:
    scripted, address = served
    scripted.failures = [(status, text)]
    with Client(address, retry=fast()) as client, pytest.raises(kind) as caught:
        client.explain("x")
    assert len(scripted.seen) == 1
    if text.startswith("bad_value"):
        assert isinstance(caught.value, ContractError)
        assert caught.value.reason == "bad_value"


def test_the_deadline_covers_all_tries() -> None:
    retry = Retry(attempts=10, base_s=0.2)
    late = pytest.raises((UnavailableError, DeadlineExceededError))
    with Client("127.0.0.1:1", deadline_s=0.3, retry=retry) as client, late:
        client.rank("u")


def test_track_stream_counts_all_batches(served: tuple[Scripted, str]) -> None:
    _, address = served
    batches = [[new_event("click", user_id="u", item_id="i")] * n for n in (1, 2)]
    with Client(address) as client:
        assert client.track_stream(batches).accepted == 3


def test_USE_10_the_async_client_does_the_same(served: tuple[Scripted, str]) -> None:
    scripted, address = served
    scripted.failures = [(grpc.StatusCode.UNAVAILABLE, "later"), (grpc.StatusCode.NOT_FOUND, "gone")]

    async def talk() -> None:
        async with AsyncClient(address, retry=fast()) as client:
            with pytest.raises(NotFoundError):
                await client.explain("x")
            assert (await client.rank("u")).request_id
            assert (await client.similar(["i"])).items
            assert (await client.track([new_event("like", user_id="u", item_id="i")])).accepted == 1

    asyncio.run(talk())


def test_new_event_fills_id_and_time() -> None:
    event = new_event("dismiss", user_id="u", item_id="i", attributes={"a": "x", "b": 1.5, "c": True})
    assert uuid7_ms(event.event_id) == event.event_ts_ms
    assert event.attributes["c"].flag
    assert event_type("click") == event_type("EVENT_TYPE_CLICK")
    again = new_event("click", user_id="u", item_id="i", event_ts_ms=10**12, rng=random.Random(1))
    assert again.event_id == new_event("click", event_ts_ms=10**12, rng=random.Random(1)).event_id
    with pytest.raises(ContractError, match="dismiss"):
        event_type("poke")


@pytest.mark.parametrize("broken", [{"attempts": 0}, {"attempts": 11}, {"base_s": 0.0}, {"base_s": 2.0}])
def test_retry_is_range_checked(broken: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Retry(**broken)
