"""`/metrics`, `/live` and `/ready` of a process, on one small HTTP server in a thread of its own.

`/metrics` is the Prometheus text of the default registry. `/ready` answers 200, or 503 with one line that says what
the process waits for; `/live` answers 200 as long as the process can answer at all.
"""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Callable

from liverank.errors import ConfigError

PORT_VARIABLE = "LIVERANK_METRICS_PORT"

Ready = Callable[[], str]
"""Returns an empty string when ready, else what is missing."""


class MetricsServer:
    """The running server. Thread-safe."""

    def __init__(self, server: http.server.ThreadingHTTPServer) -> None:
        self._server = server

    @property
    def address(self) -> str:
        """``host:port`` it listens on."""
        host, port = self._server.server_address[:2]
        return f"{host!s}:{port}"

    def close(self) -> None:
        """Stop listening; returns when the thread has ended."""
        self._server.shutdown()
        self._server.server_close()


def serve(ready: Ready, *, port: int | None = None, host: str = "127.0.0.1") -> MetricsServer | None:
    """Serve until closed.

    Parameters
    ----------
    ready : callable
        Asked at every `/ready`, from another thread; must be quick. An exception it raises counts as not ready.
    port : int, optional
        0 = any free port; None = the environment's ``LIVERANK_METRICS_PORT``.
    host : str
        Interface to listen on.

    Returns
    -------
    MetricsServer or None
        None where neither the argument nor the environment names a port.

    Raises
    ------
    ConfigError
        The port is not a number or somebody else listens on it.
    """
    if port is None:
        text = os.environ.get(PORT_VARIABLE, "")
        if not text:
            return None
        if not text.isdecimal():
            raise ConfigError(f"{PORT_VARIABLE} must be a port number, got {text!r}.")
        port = int(text)
    try:
        server = http.server.ThreadingHTTPServer((host, port), _handler(ready))
    except OSError as error:
        raise ConfigError(f"cannot serve metrics on {host}:{port}: {error}. Set another {PORT_VARIABLE}.") from error
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="metrics", daemon=True).start()
    return MetricsServer(server)


def _handler(ready: Ready) -> type[http.server.BaseHTTPRequestHandler]:
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, generate_latest(), CONTENT_TYPE_LATEST)
            elif path == "/ready":
                missing = _ask(ready)
                self._answer(503 if missing else 200, (missing or "ready").encode() + b"\n")
            elif path == "/live":
                self._answer(200, b"alive\n")
            else:
                self._answer(404, b"there are /metrics, /ready and /live\n")

        def _answer(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: a scrape every few seconds is no news."""

    return Handler


def _ask(ready: Ready) -> str:
    try:
        return ready()
    except Exception as error:  # noqa: BLE001 - a probe that raises is an answer: not ready, and why
        return f"{type(error).__name__}: {error}"
