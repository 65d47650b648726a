"""A local HTTP server that speaks the OpenAI protocol and can misbehave: for provider tests."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from features.llm import StubProvider
from features.llm.text import ATTRIBUTES


class Endpoint:
    """What the server saw, and what it is told to answer next."""

    def __init__(self) -> None:
        self.base_url = ""
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.faults: list[tuple[int, dict[str, str], bytes] | str] = []
        self.dim: int | None = None

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """A right answer, made by the stub provider."""
        if path == "/v1/embeddings":
            stub = StubProvider(self.dim or body["dimensions"])
            vectors = (
                3.0 * stub.embed(body["input"]).vectors
            )  # endpoints need not give unit vectors, nor keep the order
            data = [{"object": "embedding", "index": i, "embedding": v.tolist()} for i, v in enumerate(vectors)]
            tokens = sum(stub.count_tokens(text) for text in body["input"])
            return {"object": "list", "data": data[::-1], "model": body["model"], "usage": {"prompt_tokens": tokens}}
        assert body["response_format"]["json_schema"]["schema"]["required"] == ATTRIBUTES.schema["required"]
        text = body["messages"][-1]["content"]
        content = json.dumps(dict(StubProvider().describe(text, ATTRIBUTES).body))
        message = {"role": "assistant", "content": content}
        return {"choices": [{"index": 0, "message": message}], "usage": {"prompt_tokens": 50, "completion_tokens": 20}}


@contextmanager
def openai_endpoint() -> Iterator[Endpoint]:
    """Serve on a free port of the loopback until the block ends."""
    endpoint = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            endpoint.requests.append({"path": self.path, **body})
            endpoint.headers.append({key.lower(): value for key, value in self.headers.items()})
            fault = endpoint.faults.pop(0) if endpoint.faults else None
            if fault == "hang up":
                self.close_connection = True
                self.connection.close()
                return
            status, headers, data = 200, {}, b""
            if isinstance(fault, tuple):
                status, headers, data = fault
            else:
                data = json.dumps(endpoint.answer(self.path, body)).encode()
            self.send_response(status)
            for key, value in {"content-length": str(len(data)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    endpoint.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
