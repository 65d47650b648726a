"""The default provider: token vectors distilled from LLM codebooks (wordllama), pooled here; no network.

References
----------
WordLlama (https://github.com/dleemiller/WordLlama): `l2_supercat`, 256 dimensions trained so that the first 64 or 128
are a vector of their own. Its wheel holds the weights; its own search for the tokenizer misses the folder in the wheel
and goes to the network, so that the wheel's folder is given as the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.llm.errors import ProviderConfigError
from features.llm.provider import Answer, Embeddings, Prompt, Usage, unit

CONFIG = "l2_supercat"
DIMENSIONS = (64, 128, 256)
_BATCH = 512


class LocalProvider:
    """Mean of token vectors: 20 us a short text, 0.6 s to load, 40 MB.

    Pooling is done here and not by wordllama, whose padding makes the last bits of a vector depend on the other texts
    of its batch.

    Parameters
    ----------
    dim : {64, 128, 256}

    Raises
    ------
    ProviderConfigError
        Another dim, or wordllama or its weights are not installed.
    """

    name = "local"
    embedding_model = CONFIG
    chat_model = ""
    network = False

    def __init__(self, dim: int = 64) -> None:
        if dim not in DIMENSIONS:
            raise ProviderConfigError(f"the local provider has {DIMENSIONS} dimensions, got {dim}; set llm.dimensions")
        self.dim = dim
        self._table, self._tokenizer = _load(dim)

    def count_tokens(self, text: str) -> int:
        """Exact: by the model's tokenizer."""
        return len(self._ids([text])[0])

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Unit vectors, zero for a text without tokens."""
        out = np.zeros((len(texts), self.dim), dtype=np.float32)
        n_tokens = 0
        for start in range(0, len(texts), _BATCH):
            for at, ids in enumerate(self._ids(texts[start : start + _BATCH]), start):
                n_tokens += len(ids)
                if ids:
                    out[at] = self._table[np.asarray(ids)].sum(axis=0, dtype=np.float64)
        return Embeddings(vectors=unit(out), usage=Usage(input_tokens=n_tokens))

    def describe(self, text: str, prompt: Prompt) -> Answer:
        """Not supported: there is no chat model."""
        raise ProviderConfigError("the local provider makes vectors only; for attributes set llm.provider = 'openai'")

    def close(self) -> None:
        """Nothing to give back."""


def _load(dim: int) -> tuple[NDArray[np.float32], Any]:
    try:
        import wordllama
    except ImportError as error:
        raise ProviderConfigError("the local provider needs wordllama: install the extra `server`") from error
    folder = Path(wordllama.__file__).parent
    try:
        loaded = wordllama.WordLlama.load(
            config=CONFIG, cache_dir=folder, dim=256, trunc_dim=dim if dim < 256 else None, disable_download=True
        )
    except FileNotFoundError as error:
        raise ProviderConfigError(f"wordllama's weights are not in its package: {error}; install it again") from error
    tokenizer = loaded.tokenizer
    tokenizer.no_padding()
    return np.asarray(loaded.embedding, dtype=np.float32), tokenizer
