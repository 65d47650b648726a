"""A provider for tests: deterministic, no model, no network."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from features.llm.errors import ProviderConfigError
from features.llm.provider import Answer, Embeddings, Prompt, Usage, unit

_WORD = re.compile(r"\w+")


class StubProvider:
    """A word is a random direction fixed by its hash, a text the sum of its words; one token a word.

    Parameters
    ----------
    dim : int
    chat_model : str
        Empty: no attributes.
    answer : callable, optional
        (text, number of the call from 0) -> the attributes; default the first words as topics. May raise.
    """

    name = "stub"
    network = False

    def __init__(
        self, dim: int = 64, chat_model: str = "stub-chat", answer: Callable[[str, int], dict[str, Any]] | None = None
    ) -> None:
        self.dim = dim
        self.embedding_model = f"stub-{dim}"
        self.chat_model = chat_model
        self._answer = answer or _words_as_topics
        self.embed_calls = 0
        self.describe_calls = 0

    def count_tokens(self, text: str) -> int:
        """Words of the text."""
        return len(_WORD.findall(text))

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Sums of word directions, unit length."""
        self.embed_calls += 1
        out = np.zeros((len(texts), self.dim), dtype=np.float32)
        for at, text in enumerate(texts):
            for word in _WORD.findall(text.lower()):
                seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
                out[at] += np.random.default_rng(seed).standard_normal(self.dim, dtype=np.float32)
        return Embeddings(vectors=unit(out), usage=Usage(input_tokens=sum(map(self.count_tokens, texts))))

    def describe(self, text: str, prompt: Prompt) -> Answer:
        """What `answer` gives."""
        if not self.chat_model:
            raise ProviderConfigError("this stub has no chat model; give it one for attributes")
        call, self.describe_calls = self.describe_calls, self.describe_calls + 1
        usage = Usage(input_tokens=self.count_tokens(prompt.system) + self.count_tokens(text), output_tokens=20)
        return Answer(body=self._answer(text, call), usage=usage)

    def close(self) -> None:
        """Nothing to give back."""


def _words_as_topics(text: str, call: int) -> dict[str, Any]:
    words = [word.lower() for word in _WORD.findall(text) if len(word) > 3]
    return {"summary": text[:120], "topics": list(dict.fromkeys(words))[:5], "mood": "neutral", "audience": "general"}
