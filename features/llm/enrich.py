"""The enrichment job: items -> attributes (where there is a chat model) -> vectors. Resumable, capped, no call twice.

What leaves the machine is item text and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.item_vectors import Space
from features.llm.cache import AnswerCache
from features.llm.cost import Ledger, Prices, worst_case
from features.llm.errors import ProviderAnswerError
from features.llm.provider import Prompt, Provider, Usage
from features.llm.text import ATTRIBUTES, RECIPE, attribute_faults, item_text
from liverank.v1.item_pb2 import Item

CHUNK: Final = 256
ATTEMPTS: Final = 3
_EXPECTED_OUTPUT_TOKENS: Final = 80


@dataclass(frozen=True, kw_only=True)
class Enriched:
    """What a job found out about one item: a unit vector, shape (dim,), and attributes (empty = none)."""

    item_id: str
    vector: NDArray[np.float32]
    attributes: Mapping[str, Any]


@dataclass(kw_only=True)
class Tally:
    """Counts of a job. Every item is `embedded`, `from_cache` or `without_text`."""

    items: int = 0
    embedded: int = 0
    from_cache: int = 0
    without_text: int = 0
    described: int = 0
    described_from_cache: int = 0
    quarantined: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a job would do: items, provider calls for what is not cached, tokens and cost."""

    items: int
    calls: int
    usage: Usage
    cost: float


def space_of(provider: Provider, prompt: Prompt = ATTRIBUTES) -> Space:
    """The vector space that a provider's vectors of items lie in: provider, model, length, text and prompt version."""
    recipe = RECIPE
    if provider.chat_model:
        recipe += f"+{prompt.version}.{provider.chat_model.replace('/', '_')}"
    return Space(f"{provider.name}/{provider.embedding_model}", provider.dim, recipe)


class Enrichment:
    """Runs items through a provider.

    Each answer is in the cache before the next call is made: a killed job that is started again repeats no call. An
    answer that breaks the schema three times is quarantined: its item gets a vector without attributes, and is not
    asked for again until the quarantine is cleared.

    Parameters
    ----------
    provider : Provider
    cache : AnswerCache
    ledger : Ledger
        Charged for each call; asked before it.
    prompt : Prompt
    """

    def __init__(self, provider: Provider, cache: AnswerCache, ledger: Ledger, prompt: Prompt = ATTRIBUTES) -> None:
        self._provider, self._cache, self._ledger, self._prompt = provider, cache, ledger, prompt
        self.space = space_of(provider, prompt)
        self.tally = Tally()

    def run(self, items: Iterable[Item], on_progress: Callable[[Tally], None] | None = None) -> Iterator[Enriched]:
        """Enriched items, in order; those without any text are counted and left out.

        Raises
        ------
        CostCapError
            The next call could pass the cap.
        ProviderUnavailableError, ProviderConfigError, ProviderAnswerError
            What was done is cached; run the job again.
        """
        source = iter(items)
        while chunk := list(islice(source, CHUNK)):
            yield from self._chunk(chunk)
            if on_progress:
                on_progress(self.tally)

    def _chunk(self, items: Sequence[Item]) -> Iterator[Enriched]:
        self.tally.items += len(items)
        attributes = self._attributes(items) if self._provider.chat_model else [{}] * len(items)
        texts = [item_text(item, attributes=found) for item, found in zip(items, attributes, strict=True)]
        vectors = self._vectors(texts)
        for item, found, text in zip(items, attributes, texts, strict=True):
            vector = vectors.get(text)
            if vector is None:
                self.tally.without_text += 1
                continue
            yield Enriched(item_id=item.item_id, vector=vector, attributes=found)

    def _vectors(self, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        provider = self._provider
        keys = {text: self._vector_key(text) for text in texts if text}
        cached = self._cache.vectors(list(keys.values()), provider.dim)
        vectors = {text: cached[key] for text, key in keys.items() if key in cached}
        if missing := [text for text in keys if text not in vectors]:
            self._ledger.reserve(worst_case(sum(len(text.encode()) for text in missing)))
            answer = provider.embed(missing)
            self._ledger.charge(answer.usage)
            fresh = dict(zip(missing, answer.vectors, strict=True))
            self._cache.put_vectors({keys[text]: vector for text, vector in fresh.items()})
            vectors.update(fresh)
        self.tally.embedded += sum(text in keys and keys[text] not in cached for text in texts)
        self.tally.from_cache += sum(text in keys and keys[text] in cached for text in texts)
        return {text: vector for text, vector in vectors.items() if np.any(vector)}

    def _vector_key(self, text: str) -> str:
        provider = self._provider
        return AnswerCache.key("vector", provider.name, provider.embedding_model, str(provider.dim), text)

    def _describe_key(self, text: str) -> str:
        return AnswerCache.key("attributes", self._provider.name, self._provider.chat_model, self._prompt.version, text)

    def _attributes(self, items: Sequence[Item]) -> list[Mapping[str, Any]]:
        texts = [item_text(item) for item in items]
        keys = [self._describe_key(text) for text in texts]
        cached = self._cache.objects(keys)
        failed = self._cache.quarantined(keys)
        out: list[Mapping[str, Any]] = []
        for item, text, key in zip(items, texts, keys, strict=True):
            if key in cached:
                self.tally.described_from_cache += 1
            elif text and key not in failed:
                found = self._describe(item.item_id, text, key)
                if found is None:
                    failed.add(key)
                else:
                    cached[key] = found
            out.append(cached.get(key, {}))
        return out

    def _describe(self, item_id: str, text: str, key: str) -> dict[str, Any] | None:
        faults: list[str] = []
        for _ in range(ATTEMPTS):
            size = len(text.encode()) + len(self._prompt.system.encode())
            self._ledger.reserve(worst_case(size, self._prompt.max_output_tokens))
            try:
                answer = self._provider.describe(text, self._prompt)
            except ProviderAnswerError as error:
                faults = [str(error)]
                continue
            self._ledger.charge(answer.usage)
            faults = attribute_faults(answer.body, self._prompt.schema)
            if not faults:
                body = dict(answer.body)
                self._cache.put_object(key, body)
                self.tally.described += 1
                return body
        self._cache.quarantine(key, item_id, "; ".join(faults))
        self.tally.quarantined.append(item_id)
        return None

    def estimate(self, items: Iterable[Item], prices: Prices) -> Estimate:
        """What `run` would cost now; makes no call."""
        provider, usage, n, calls = self._provider, Usage(), 0, 0
        system_tokens = provider.count_tokens(self._prompt.system) if provider.chat_model else 0
        source = iter(items)
        while chunk := list(islice(source, CHUNK)):
            n += len(chunk)
            texts = [item_text(item) for item in chunk]
            added = 0
            if provider.chat_model:
                keys = [self._describe_key(text) for text in texts]
                done = self._cache.objects(keys).keys() | self._cache.quarantined(keys)
                todo = [text for text, key in zip(texts, keys, strict=True) if key not in done and text]
                calls += len(todo)
                tokens = sum(map(provider.count_tokens, todo)) + system_tokens * len(todo)
                usage += Usage(input_tokens=tokens, output_tokens=_EXPECTED_OUTPUT_TOKENS * len(todo))
                added = len(todo) * _EXPECTED_OUTPUT_TOKENS  # the answers are embedded too
            keys = [self._vector_key(text) for text in texts]
            known = self._cache.vectors(keys, provider.dim)
            todo = [text for text, key in zip(texts, keys, strict=True) if key not in known and text]
            calls += bool(todo)
            usage += Usage(input_tokens=sum(map(provider.count_tokens, todo)) + added)
        return Estimate(items=n, calls=calls, usage=usage, cost=prices.cost(usage))
