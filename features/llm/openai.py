"""Any endpoint that speaks the OpenAI protocol: `/embeddings` and `/chat/completions` with a JSON schema."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx
import numpy as np
import tenacity

from features.llm.errors import ProviderAnswerError, ProviderConfigError, ProviderUnavailableError
from features.llm.provider import MAX_TEXT_BYTES, Answer, Embeddings, Prompt, Usage, unit

_MAX_BATCH = 128
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_MAX_WAIT_S = 30.0


class _RetryLaterError(Exception):
    def __init__(self, detail: str, wait_s: float | None = None) -> None:
        super().__init__(detail)
        self.wait_s = wait_s


class OpenAIProvider:
    """Vectors and attributes over HTTP.

    Rate limits (429), server errors, timeouts and broken connections are retried with growing random waits, or as
    `Retry-After` says (at most 30 s); an answer that is no JSON object is asked for once more and then an error.

    Parameters
    ----------
    base_url : str
        Up to and including the version, e.g. ``https://host/v1``.
    api_key : str
        Empty = no Authorization header.
    embedding_model, chat_model : str
        An empty `chat_model` means vectors only.
    dim : int
        Sent as `dimensions`; an answer of another length is refused.
    sleep : callable
        For tests.
    """

    name = "openai"
    network = True

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str = "",
        embedding_model: str,
        chat_model: str = "",
        dim: int = 64,
        timeout_s: float = 30.0,
        max_attempts: int = 5,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ProviderConfigError(
                f"llm.base_url must be an http(s) address such as https://host/v1, got {base_url!r}"
            )
        if not embedding_model:
            raise ProviderConfigError("the openai provider needs llm.embedding_model")
        self.embedding_model, self.chat_model, self.dim = embedding_model, chat_model, dim
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(base_url=base_url.rstrip("/"), headers=headers, timeout=timeout_s)
        self._retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(max_attempts),
            wait=_wait,
            retry=tenacity.retry_if_exception_type(_RetryLaterError),
            reraise=True,
            sleep=sleep,
        )

    def count_tokens(self, text: str) -> int:
        """Bytes / 4: the endpoint's tokenizer is not known."""
        return max(1, len(text.encode()) // 4)

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Unit vectors, at most 128 texts a call."""
        out = np.zeros((len(texts), self.dim), dtype=np.float32)
        usage = Usage()
        for start in range(0, len(texts), _MAX_BATCH):
            batch = [_cut(text) or " " for text in texts[start : start + _MAX_BATCH]]
            body = self._post(
                "/embeddings",
                {"model": self.embedding_model, "input": batch, "dimensions": self.dim, "encoding_format": "float"},
                functools.partial(self._vectors, n=len(batch)),
            )
            out[start : start + len(batch)] = body[0]
            usage += body[1]
        return Embeddings(vectors=unit(out), usage=usage)

    def _vectors(self, answer: Mapping[str, Any], n: int) -> tuple[Any, Usage]:
        rows: list[Any] = [None] * n
        for entry in answer["data"]:
            rows[entry["index"]] = entry["embedding"]
        if any(row is None or len(row) != self.dim for row in rows):
            raise ProviderAnswerError(
                f"{self.embedding_model} must give {n} vectors of length {self.dim}, got lengths "
                f"{sorted({0 if row is None else len(row) for row in rows})}; set llm.dimensions to the model's"
            )
        return np.asarray(rows, dtype=np.float32), _usage(answer)

    def describe(self, text: str, prompt: Prompt) -> Answer:
        """One chat call with the prompt's JSON schema, temperature 0."""
        if not self.chat_model:
            raise ProviderConfigError("attributes need a chat model: set llm.model")
        request = {
            "model": self.chat_model,
            "temperature": 0,
            "max_tokens": prompt.max_output_tokens,
            "messages": [{"role": "system", "content": prompt.system}, {"role": "user", "content": _cut(text)}],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "item_attributes", "strict": True, "schema": dict(prompt.schema)},
            },
        }
        body, usage = self._post("/chat/completions", request, _content)
        return Answer(body=body, usage=usage)

    def _post(self, path: str, request: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Any]) -> Any:
        def attempt() -> Any:
            try:
                response = self._http.post(path, json=request)
            except httpx.TransportError as error:
                raise _RetryLaterError(f"{type(error).__name__}: {error}") from error
            if response.status_code in _RETRIED:
                raise _RetryLaterError(f"HTTP {response.status_code}", _retry_after(response))
            if response.status_code >= 400:
                raise ProviderConfigError(
                    f"{self._http.base_url}{path} refuses with HTTP {response.status_code}: {response.text[:300]}; "
                    "check llm.base_url, llm.api_key and the models"
                )
            try:
                return read(response.json())
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise _RetryLaterError(f"answer breaks the protocol: {error!r}", 0.0) from error

        try:
            return self._retrying(attempt)
        except _RetryLaterError as error:
            attempts = self._retrying.statistics["attempt_number"]
            detail = f"{self._http.base_url}{path} failed after {attempts} attempts: {error}"
            if error.wait_s == 0.0:
                raise ProviderAnswerError(detail) from error
            raise ProviderUnavailableError(f"{detail}; run the job again later, it resumes") from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def _content(answer: Mapping[str, Any]) -> tuple[dict[str, Any], Usage]:
    body = json.loads(answer["choices"][0]["message"]["content"])
    if not isinstance(body, dict):
        raise TypeError(f"the answer must be a JSON object, got {type(body).__name__}")
    return body, _usage(answer)


def _usage(answer: Mapping[str, Any]) -> Usage:
    usage = answer.get("usage") or {}
    return Usage(
        input_tokens=int(usage.get("prompt_tokens") or 0), output_tokens=int(usage.get("completion_tokens") or 0)
    )


def _cut(text: str) -> str:
    return text.encode()[:MAX_TEXT_BYTES].decode(errors="ignore")


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return max(0.01, min(float(response.headers["retry-after"]), _MAX_WAIT_S))
    except (KeyError, ValueError):
        return None


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, _RetryLaterError) and error.wait_s is not None:
        return error.wait_s
    return float(tenacity.wait_random_exponential(multiplier=0.5, max=_MAX_WAIT_S)(state))
