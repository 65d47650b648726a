"""Errors of the LLM providers and of enrichment.

LlmError
├── ProviderConfigError (ConfigError)            provider settings are wrong, or it refuses the request for good
├── ProviderUnavailableError (UnavailableError)  away, too slow or over its rate limit after all attempts
├── ProviderAnswerError (CorruptError)           an answer breaks the protocol or its schema
├── RecordingMissError (NotFoundError)           the recording holds no such call
└── CostCapError (ConfigError)                   the next call could exceed the cap
"""

from __future__ import annotations

from liverank.errors import ConfigError, CorruptError, LiverankError, NotFoundError, UnavailableError


class LlmError(LiverankError):
    """Root of the errors of `features.llm`."""


class ProviderConfigError(LlmError, ConfigError):
    """Provider settings are wrong, or the provider refuses the request for good."""


class ProviderUnavailableError(LlmError, UnavailableError):
    """The provider is away, too slow or over its rate limit, after all attempts."""


class ProviderAnswerError(LlmError, CorruptError):
    """An answer breaks the protocol or its schema."""


class RecordingMissError(LlmError, NotFoundError):
    """The recording holds no such call."""


class CostCapError(LlmError, ConfigError):
    """The next call could exceed the cap; what was done is kept."""
