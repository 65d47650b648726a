"""The service over gRPC: synchronous, one Rank at a time in order of arrival, a small pool for everything else.

On one core threads only interleave: two Ranks at once would both be late. So Rank has a pool of one thread, whose
queue is the order of arrival, and Track, Similar, Explain and Health never wait behind it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from liverank.errors import ConfigError, LiverankError
from liverank.v1 import personalization_pb2 as pb
from ranker import metrics
from ranker.errors import RequestError
from ranker.service import Service, count_error
from ranker.status import reason_of, status_of

NAME: Final = "liverank.v1.Personalization"
MAX_MESSAGE_BYTES: Final = 8 * 1024 * 1024
T = TypeVar("T")


class FifoPool(ThreadPoolExecutor):
    """One thread; tasks run in order of arrival and can ask how long they waited."""

    def __init__(self) -> None:
        super().__init__(max_workers=1, thread_name_prefix="rank")
        self._local = threading.local()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See `ThreadPoolExecutor.submit`."""
        arrived_s = time.perf_counter()

        def run() -> Any:
            self._local.arrived_s = arrived_s
            return fn(*args, **kwargs)

        return super().submit(run)

    @property
    def waited_ms(self) -> float:
        """How long ago the running task arrived; call from the task."""
        return (time.perf_counter() - getattr(self._local, "arrived_s", time.perf_counter())) * 1000


class GrpcServer:
    """The running server.

    Parameters
    ----------
    service
        What is served.
    address
        ``host:port``; port 0 = any. Several processes may share it (SO_REUSEPORT).
    deadline_ms
        Of a Rank without one.

    Raises
    ------
    ConfigError
        The address cannot be listened on.
    """

    def __init__(self, service: Service, address: str, deadline_ms: int, *, pool: FifoPool | None = None) -> None:
        self._service, self._deadline_ms = service, deadline_ms
        self.rank_pool = pool or FifoPool()
        self._pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="grpc")
        self._server = grpc.server(
            self._pool,
            options=(
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", 4 * MAX_MESSAGE_BYTES),
            ),
        )
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, self._handlers()),))
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        self.serving(False)
        try:
            self.port = int(self._server.add_insecure_port(address))
        except RuntimeError as error:
            raise ConfigError(f"cannot listen on {address}: {error}; set ranker.grpc to a free address") from error

    def _handlers(self) -> dict[str, Any]:
        def rank(request: pb.RankRequest, context: grpc.ServicerContext) -> bytes:
            return self._call("Rank", context, lambda: self._rank(request, context))

        # gRPC runs a behaviour that has this attribute in that pool.
        rank.experimental_thread_pool = self.rank_pool  # type: ignore[attr-defined]

        def similar(request: pb.SimilarRequest, context: grpc.ServicerContext) -> pb.SimilarReply:
            return self._call("Similar", context, lambda: self._service.similar(request))

        def track(request: pb.TrackRequest, context: grpc.ServicerContext) -> pb.TrackReply:
            return self._call("Track", context, lambda: self._service.track(request, context.time_remaining()))

        def track_stream(requests: Iterator[pb.TrackRequest], context: grpc.ServicerContext) -> pb.TrackReply:
            return self._call("TrackStream", context, lambda: self._track_all(requests, context))

        def explain(request: pb.ExplainRequest, context: grpc.ServicerContext) -> pb.ExplainReply:
            return self._call("Explain", context, lambda: self._service.explain(request, context.time_remaining()))

        unary = grpc.unary_unary_rpc_method_handler
        return {
            # Rank answers bytes: a retry gets the very same ones.
            "Rank": unary(rank, pb.RankRequest.FromString, bytes),
            "Similar": unary(similar, pb.SimilarRequest.FromString, pb.SimilarReply.SerializeToString),
            "Track": unary(track, pb.TrackRequest.FromString, pb.TrackReply.SerializeToString),
            "TrackStream": grpc.stream_unary_rpc_method_handler(
                track_stream, pb.TrackRequest.FromString, pb.TrackReply.SerializeToString
            ),
            "Explain": unary(explain, pb.ExplainRequest.FromString, pb.ExplainReply.SerializeToString),
        }

    def _rank(self, request: pb.RankRequest, context: grpc.ServicerContext) -> bytes:
        waited_ms = self.rank_pool.waited_ms
        metrics.QUEUE_MS.observe(waited_ms)
        left_s = context.time_remaining()
        left_ms = self._deadline_ms - waited_ms if left_s is None else left_s * 1000
        return self._service.rank(request, left_ms)

    def _track_all(self, requests: Iterator[pb.TrackRequest], context: grpc.ServicerContext) -> pb.TrackReply:
        """Batches one after another; indexes of rejections count over the whole stream."""
        total = pb.TrackReply()
        seen = 0
        for request in requests:
            reply = self._service.track(request, context.time_remaining())
            total.accepted += reply.accepted
            for rejected in reply.rejected:
                total.rejected.add(index=seen + rejected.index, reason=rejected.reason, detail=rejected.detail)
            seen += len(request.events)
        if seen == 0:
            raise RequestError("bad_value", "a stream has at least one event, got none")
        return total

    def _call(self, method: str, context: grpc.ServicerContext, work: Callable[[], T]) -> T:
        """Run a call; errors of ours become their status, with the reason in the trailing metadata."""
        try:
            return work()
        except LiverankError as error:
            count_error(method, error)
            context.set_trailing_metadata((("liverank-reason", reason_of(error)),))
            context.abort(status_of(error)[0], str(error))  # raises

    def serving(self, ready: bool) -> None:
        """What the health service says."""
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", NAME):
            self._health.set(name, status)

    def start(self) -> None:
        """Listen."""
        self._server.start()

    def stop(self, grace_s: float) -> None:
        """Refuse new calls, let running ones end within `grace_s`."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace_s).wait(grace_s + 1)
        self.rank_pool.shutdown(wait=False, cancel_futures=True)
        self._pool.shutdown(wait=False, cancel_futures=True)
