"""Is a service up? Asked in its own protocol, over a plain socket.

An open port is not an answer, and no client library is needed to ask.
Every probe returns the fault as text, or an empty string where the service is healthy.
"""

from __future__ import annotations

import http.client
import socket
import struct
import time
from collections.abc import Callable
from urllib.parse import urlsplit

PROBE_TIMEOUT_S = 2.0
POLL_S = 0.05
METADATA_KEY, METADATA_VERSION = 3, 4
CLIENT_ID = b"liverank-health"

Probe = Callable[[], str]


def wait(probe: Probe, *, timeout_s: float, alive: Callable[[], str] | None = None) -> str:
    """Ask until healthy.

    Parameters
    ----------
    probe : callable
        The question.
    timeout_s : float
        How long to ask.
    alive : callable, optional
        Returns why waiting is in vain (the process has ended for good), or an empty string.

    Returns
    -------
    str
        Empty where healthy, else the last fault.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        fault = probe()
        if not fault:
            return ""
        dead = alive() if alive is not None else ""
        if dead:
            return dead
        if time.monotonic() > deadline:
            return f"not healthy within {timeout_s:g} s: {fault}"
        time.sleep(POLL_S)


def kafka(bootstrap: str) -> str:
    """Ask the first reachable broker for the cluster's brokers (Metadata v4); one that is still fenced names none."""
    fault = f"no address in {bootstrap!r}"
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            n_brokers = _n_brokers(host, int(port))
        except (OSError, ValueError, struct.error) as error:
            fault = f"Kafka at {address}: {error}"
            continue
        if n_brokers > 0:
            return ""
        fault = f"Kafka at {address}: no broker is ready"
    return fault


def _n_brokers(host: str, port: int) -> int:
    header = struct.pack(">hhih", METADATA_KEY, METADATA_VERSION, 1, len(CLIENT_ID)) + CLIENT_ID
    body = header + struct.pack(">i?", 0, False)  # no topics; create none
    with socket.create_connection((host, port), timeout=PROBE_TIMEOUT_S) as connection:
        connection.sendall(struct.pack(">i", len(body)) + body)
        size = struct.unpack(">i", _read(connection, 4))[0]
        reply = _read(connection, size)
    _correlation, _throttle_ms, n_brokers = struct.unpack(">iii", reply[:12])
    return int(n_brokers)


def _read(connection: socket.socket, n_bytes: int) -> bytes:
    data = b""
    while len(data) < n_bytes:
        chunk = connection.recv(n_bytes - len(data))
        if not chunk:
            raise ConnectionError("connection closed in the middle of a reply")
        data += chunk
    return data


def redis(url: str, password: str = "") -> str:
    """PING; while Redis still loads its file it answers with an error and is not healthy."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 6379
    secret = password or parts.password or ""
    commands = ([(b"AUTH", secret.encode())] if secret else []) + [(b"PING",)]
    try:
        with (
            socket.create_connection((host, port), timeout=PROBE_TIMEOUT_S) as connection,
            connection.makefile("rb") as replies,
        ):
            for command in commands:
                connection.sendall(
                    b"*%d\r\n" % len(command) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in command)
                )
                reply = replies.readline().strip()
                if not reply.startswith(b"+"):
                    return f"Redis at {host}:{port} answers {reply.decode(errors='replace') or 'nothing'}"
    except OSError as error:
        return f"Redis at {host}:{port}: {error}"
    return ""


def ready(address: str) -> str:
    """GET /ready on a process' metrics port; the body of a refusal says what it waits for."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/ready")
        reply = connection.getresponse()
        body = reply.read(4096).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return f"{address}: {error}"
    finally:
        connection.close()
    return "" if reply.status == http.HTTPStatus.OK else body or f"{address}: HTTP {reply.status}"


def grpc(address: str) -> str:
    """The standard gRPC health check of the whole server."""
    import grpc as grpc_
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc_.insecure_channel(address) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PROBE_TIMEOUT_S)
        except grpc_.RpcError as error:
            return f"ranker at {address}: {error.code().name}"
    serving = health_pb2.HealthCheckResponse.SERVING
    return (
        ""
        if reply.status == serving
        else f"ranker at {address}: {health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)}"
    )
