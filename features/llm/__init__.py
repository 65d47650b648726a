"""Item features from language models: providers behind one role, cache, cost cap and the enrichment job.

Nothing here is on the path of a Rank. Providers are given item text, never anything about users.
"""

from __future__ import annotations

from features.llm.errors import (
    CostCapError,
    LlmError,
    ProviderAnswerError,
    ProviderConfigError,
    ProviderUnavailableError,
    RecordingMissError,
)
from features.llm.local import LocalProvider
from features.llm.openai import OpenAIProvider
from features.llm.provider import Answer, Embeddings, Prompt, Provider, Usage
from features.llm.recorded import RecordedProvider, Recorder
from features.llm.stub import StubProvider
from liverank.settings import LlmSettings

__all__ = [
    "Answer",
    "CostCapError",
    "Embeddings",
    "LlmError",
    "LocalProvider",
    "OpenAIProvider",
    "Prompt",
    "Provider",
    "ProviderAnswerError",
    "ProviderConfigError",
    "ProviderUnavailableError",
    "RecordedProvider",
    "Recorder",
    "RecordingMissError",
    "StubProvider",
    "Usage",
    "provider_of",
]


def provider_of(settings: LlmSettings) -> Provider:
    """The provider that the settings name; only `openai` ever opens a connection.

    Raises
    ------
    ProviderConfigError
        What it needs is missing; the message names the setting.
    """
    if settings.provider == "openai":
        return OpenAIProvider(
            base_url=settings.base_url,
            api_key=settings.api_key.get_secret_value() if settings.api_key else "",
            embedding_model=settings.embedding_model,
            chat_model=settings.model,
            dim=settings.dimensions,
            timeout_s=settings.timeout_s,
            max_attempts=settings.max_attempts,
        )
    if settings.provider == "recorded":
        if settings.recording is None:
            raise ProviderConfigError("the recorded provider needs llm.recording, a file of a Recorder")
        return RecordedProvider(settings.recording)
    if settings.provider == "stub":
        return StubProvider(settings.dimensions)
    return LocalProvider(settings.dimensions)
