"""What enrichment asks of a language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from features.llm.errors import ProviderAnswerError

MAX_TEXT_BYTES = 20_000


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens that calls consumed, as the provider counts them."""

    input_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens, output_tokens=self.output_tokens + other.output_tokens
        )


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Asks for the attributes of one item; `version` changes whenever a word of it changes.

    Parameters
    ----------
    version : str
        Part of the cache key and of the vector space.
    system : str
        Instructions. The item text is the user message, never part of the instructions.
    schema : mapping
        JSON schema of the answer.
    max_output_tokens : int
    """

    version: str
    system: str
    schema: Mapping[str, Any]
    max_output_tokens: int = 400


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Vectors of texts: float32, shape (n, dim), each of unit length or, for a text without a known word, zero."""

    vectors: NDArray[np.float32]
    usage: Usage


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A JSON object that a chat model gave, not yet checked against the schema."""

    body: Mapping[str, Any]
    usage: Usage


class Provider(Protocol):
    """A source of vectors and, where it has a chat model, of attributes.

    Given nothing but item text. One thread at a time. The same text gives the same vector, whatever else is in the
    call.
    """

    name: str
    """local, openai, recorded or stub."""
    embedding_model: str
    """Part of the name of the vector space."""
    chat_model: str
    """Empty: `describe` is not supported and enrichment makes vectors only."""
    dim: int
    """Length of the vectors."""
    network: bool
    """Whether calls leave the machine."""

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, for estimates; within 10 % for the provider's own tokenizer, else bytes / 4."""
        ...

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Vectors of texts, in order.

        Raises
        ------
        ProviderUnavailableError
            Away after all attempts; nothing was returned.
        ProviderConfigError, ProviderAnswerError
            Retrying does not help.
        """
        ...

    def describe(self, text: str, prompt: Prompt) -> Answer:
        """Attributes of one item.

        Raises
        ------
        ProviderConfigError
            The provider has no chat model.
        ProviderUnavailableError, ProviderAnswerError
            As `embed`.
        """
        ...

    def close(self) -> None:
        """Give back connections and files. Safe to call twice."""
        ...


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of unit length; a zero row stays zero.

    Raises
    ------
    ProviderAnswerError
        A number is not finite.
    """
    if not np.isfinite(vectors).all():
        raise ProviderAnswerError("vectors must be finite; got NaN or infinity from the provider")
    norm = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    scale = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)
    return np.ascontiguousarray(vectors * scale[:, None], dtype=np.float32)
