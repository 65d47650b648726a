"""Rank, Similar and Track as HTTP/JSON: proto3 JSON of the same messages, through the same calls."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Final

import uvicorn
from google.protobuf import json_format
from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from liverank.errors import ConfigError, LiverankError
from liverank.v1 import personalization_pb2 as pb
from ranker import metrics
from ranker.errors import RequestError
from ranker.grpc_server import FifoPool
from ranker.service import Service, count_error
from ranker.status import reason_of, status_of

MAX_BODY_BYTES: Final = 8 * 1024 * 1024
DEADLINE_HEADER: Final = "x-liverank-deadline-ms"


def application(service: Service, rank_pool: FifoPool, deadline_ms: int) -> Starlette:
    """The three calls and `/healthz`.

    Parameters
    ----------
    service
        What is served.
    rank_pool
        The pool that gRPC's Rank uses: both wait in one line.
    deadline_ms
        Of a Rank without the header ``x-liverank-deadline-ms``.
    """

    def ranked(request: pb.RankRequest, allowed_ms: float) -> pb.RankReply:
        waited_ms = rank_pool.waited_ms
        metrics.QUEUE_MS.observe(waited_ms)
        return pb.RankReply.FromString(service.rank(request, allowed_ms - waited_ms))

    async def rank(request: Request) -> Response:
        return await _answer("Rank", request, pb.RankRequest(), lambda m: ranked(m, _deadline(request)), rank_pool)

    async def similar(request: Request) -> Response:
        return await _answer("Similar", request, pb.SimilarRequest(), service.similar)

    async def track(request: Request) -> Response:
        return await _answer("Track", request, pb.TrackRequest(), lambda message: service.track(message, None))

    def healthz(_request: Request) -> Response:
        missing = service.not_ready()
        return JSONResponse(
            {"status": "NOT_SERVING" if missing else "SERVING", "missing": missing}, 503 if missing else 200
        )

    def _deadline(request: Request) -> float:
        given = request.headers.get(DEADLINE_HEADER, "")
        try:
            return float(given) if given else float(deadline_ms)
        except ValueError as error:
            raise RequestError("bad_value", f"header {DEADLINE_HEADER} is a number of ms, got {given!r}") from error

    return Starlette(
        routes=[
            Route("/v1/rank", rank, methods=["POST"]),
            Route("/v1/similar", similar, methods=["POST"]),
            Route("/v1/track", track, methods=["POST"]),
            Route("/healthz", healthz, methods=["GET"]),
        ]
    )


async def _answer(
    method: str,
    request: Request,
    message: Any,
    call: Callable[[Any], Message],
    pool: Executor | None = None,
) -> Response:
    """Parse, call in a thread, print; errors as ``{"reason", "detail", "status"}``."""
    try:
        body = await request.body()
        if len(body) > MAX_BODY_BYTES:
            raise RequestError("too_large", f"a body has at most {MAX_BODY_BYTES} bytes, got {len(body)}")
        try:
            json_format.Parse(body, message)
        except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
            raise RequestError("malformed", f"the body is proto3 JSON of {type(message).__name__}: {error}") from error
        if pool is None:
            reply = await run_in_threadpool(call, message)
        else:
            reply = await asyncio.wrap_future(pool.submit(call, message))
    except LiverankError as error:
        count_error(method, error)
        code, http = status_of(error)
        return JSONResponse({"reason": reason_of(error), "detail": str(error), "status": code.name}, http)
    return Response(json_format.MessageToJson(reply, indent=None), media_type="application/json")


class HttpServer:
    """Uvicorn in a thread of its own.

    Parameters
    ----------
    app
        The application.
    address
        ``host:port``; port 0 = any. Several processes may share it (SO_REUSEPORT).

    Raises
    ------
    ConfigError
        The address cannot be listened on.
    """

    def __init__(self, app: Starlette, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            self._socket.bind((host or "127.0.0.1", int(port)))
        except (OSError, ValueError, OverflowError) as error:
            self._socket.close()
            raise ConfigError(f"cannot listen on {address!r}: {error}; set ranker.http to a free address") from error
        self.port = int(self._socket.getsockname()[1])
        self._server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=5)
        )
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))

    def start(self) -> None:
        """Listen."""
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """End within `grace_s`."""
        self._server.should_exit = True
        self._thread.join(timeout=grace_s)
        self._socket.close()
