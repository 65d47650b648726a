"""Replay of recorded calls, and the recorder: a provider's answers in a file, for tests and reviews without network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from features.llm.errors import ProviderAnswerError, ProviderConfigError, RecordingMissError
from features.llm.provider import Answer, Embeddings, Prompt, Provider, Usage


def _call(kind: str, *parts: str) -> str:
    return hashlib.sha256("\x00".join((kind, *parts)).encode()).hexdigest()


class RecordedProvider:
    """Answers from a recording (JSON lines); a call that it does not hold is an error, never a guess.

    Parameters
    ----------
    path : Path
        Written by `Recorder`.

    Raises
    ------
    ProviderConfigError
        No such file, or not a recording.
    """

    name = "recorded"
    network = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self._calls: dict[str, dict[str, Any]] = {}
        try:
            lines = path.read_text().splitlines()
            head = json.loads(lines[0])
            self.embedding_model: str = head["embedding_model"]
            self.chat_model: str = head["chat_model"]
            self.dim: int = head["dim"]
            for line in lines[1:]:
                entry = json.loads(line)
                self._calls[entry["call"]] = entry
        except FileNotFoundError as error:
            raise ProviderConfigError(f"no recording at {path}; set llm.recording to a file of a Recorder") from error
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ProviderConfigError(f"{path} is not a recording: {error}; record it again") from error

    def _find(self, call: str, what: str) -> dict[str, Any]:
        try:
            return self._calls[call]
        except KeyError:
            raise RecordingMissError(f"{self._path} holds no {what}; record it with a live provider") from None

    def count_tokens(self, text: str) -> int:
        """Bytes / 4."""
        return max(1, len(text.encode()) // 4)

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Vectors of texts that were recorded, in any order."""
        out = np.zeros((len(texts), self.dim), dtype=np.float32)
        tokens = 0
        for at, text in enumerate(texts):
            entry = self._find(_call("embed", self.embedding_model, text), f"vector of {text[:60]!r}")
            vector = np.frombuffer(base64.b64decode(entry["vector"]), dtype="<f4")
            if vector.shape != (self.dim,):
                raise ProviderAnswerError(f"{self._path}: a vector of length {vector.size}, allowed is {self.dim}")
            out[at] = vector
            tokens += entry["input_tokens"]
        return Embeddings(vectors=out, usage=Usage(input_tokens=tokens))

    def describe(self, text: str, prompt: Prompt) -> Answer:
        """The recorded answer for this text and prompt version."""
        if not self.chat_model:
            raise ProviderConfigError("the recorded provider had no chat model")
        entry = self._find(_call("describe", self.chat_model, prompt.version, text), f"answer about {text[:60]!r}")
        usage = Usage(input_tokens=entry["input_tokens"], output_tokens=entry["output_tokens"])
        return Answer(body=entry["body"], usage=usage)

    def close(self) -> None:
        """Nothing to give back."""


class Recorder:
    """Passes calls on to a provider and appends what it answers; looks like that provider."""

    def __init__(self, provider: Provider, path: Path) -> None:
        self._provider = provider
        self.name, self.network = provider.name, provider.network
        self.embedding_model, self.chat_model, self.dim = provider.embedding_model, provider.chat_model, provider.dim
        self._file = path.open("w")
        self._write({"embedding_model": self.embedding_model, "chat_model": self.chat_model, "dim": self.dim})

    def _write(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry, sort_keys=True) + "\n")
        self._file.flush()

    def count_tokens(self, text: str) -> int:
        """As the provider."""
        return self._provider.count_tokens(text)

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """As the provider; one line a text."""
        answer = self._provider.embed(texts)
        share = answer.usage.input_tokens // max(1, len(texts))
        for text, vector in zip(texts, answer.vectors, strict=True):
            body = base64.b64encode(vector.astype("<f4").tobytes()).decode()
            self._write({"call": _call("embed", self.embedding_model, text), "vector": body, "input_tokens": share})
        return answer

    def describe(self, text: str, prompt: Prompt) -> Answer:
        """As the provider; one line."""
        answer = self._provider.describe(text, prompt)
        self._write(
            {
                "call": _call("describe", self.chat_model, prompt.version, text),
                "body": dict(answer.body),
                "input_tokens": answer.usage.input_tokens,
                "output_tokens": answer.usage.output_tokens,
            }
        )
        return answer

    def close(self) -> None:
        """Close the file and the provider."""
        self._file.close()
        self._provider.close()
