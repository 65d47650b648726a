"""The one settings tree: defaults, `liverank.toml`, then environment (`LIVERANK_SECTION__NAME`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

Namespace = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,24}$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KafkaSettings(_Section):
    """Where Kafka is. Empty `bootstrap` = the address in the endpoints file."""

    bootstrap: str = ""
    compression: Literal["none", "gzip", "lz4", "snappy", "zstd"] = "lz4"


class RedisSettings(_Section):
    """Where Redis is. Empty `url` = the address in the endpoints file."""

    url: str = ""
    password: SecretStr | None = None
    socket_timeout_s: float = Field(default=5.0, gt=0)


class FeastSettings(_Section):
    """Feature repo and registry. Empty `yaml` = the file that `liverank up` writes."""

    repo: Path = Path("features/repo")
    yaml: str = ""


class StreamsSettings(_Section):
    """The folds and the agents."""

    poll_records: int = Field(default=1000, ge=1, le=10_000)
    session_timeout_s: int = Field(default=30 * 60, ge=1)
    attribution_window_s: int = Field(default=30 * 60, ge=1)


class RankerSettings(_Section):
    """The gRPC server. Empty addresses = those in the endpoints file."""

    grpc: str = ""
    http: str = ""
    deadline_ms: int = Field(default=200, ge=1)


class StackSettings(_Section):
    """What `liverank up` starts on this machine."""

    workers: int = Field(default=2, ge=0, le=16)
    rankers: int = Field(default=1, ge=0, le=16)
    partitions: int = Field(default=8, ge=1, le=256)
    feast_ui: bool = False


class LlmSettings(_Section):
    """Provider of item features. `local` needs no network."""

    provider: Literal["local", "openai", "recorded", "stub"] = "local"
    base_url: str = ""
    api_key: SecretStr | None = None
    model: str = ""
    max_cost: float = Field(default=0.0, ge=0)


class Settings(BaseSettings):
    """Everything a process of liverank can be told. Read once at the entry point and passed down."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="LIVERANK_", env_nested_delimiter="__", toml_file="liverank.toml"
    )

    namespace: Namespace = "live"
    clock: Literal["wall", "data"] = "wall"
    home: Path = Path(".liverank")
    kafka: KafkaSettings = KafkaSettings()
    redis: RedisSettings = RedisSettings()
    feast: FeastSettings = FeastSettings()
    streams: StreamsSettings = StreamsSettings()
    ranker: RankerSettings = RankerSettings()
    stack: StackSettings = StackSettings()
    llm: LlmSettings = LlmSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls), file_secret_settings

    def topic(self, name: str, generation: int | None = None) -> str:
        """Full topic name, e.g. `liverank.live.events.1`."""
        suffix = f".{generation}" if generation is not None else ""
        return f"liverank.{self.namespace}.{name}{suffix}"

    @property
    def feast_project(self) -> str:
        """Feast's project of this namespace (Feast allows no `-`)."""
        return "liverank_" + self.namespace.replace("-", "_")


class Endpoints(BaseModel):
    """Addresses that `liverank up` chose: `<home>/endpoints.json`. Everything reads it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kafka: str
    redis: str
    grpc: str = ""
    http: str = ""
    feast_yaml: str = ""
    metrics: dict[str, str] = {}
    namespace: str = "live"
    generation: int = 1

    @classmethod
    def read(cls, home: Path) -> Endpoints | None:
        """The endpoints of the stack under `home`, or None where none is up."""
        path = home / "endpoints.json"
        if not path.exists():
            return None
        return cls(**json.loads(path.read_text()))


def resolve(settings: Settings) -> Settings:
    """Fill addresses that are not set from the endpoints file, so that external addresses always win."""
    found = Endpoints.read(settings.home)
    if found is None:
        return settings
    return settings.model_copy(
        update={
            "kafka": settings.kafka.model_copy(update={"bootstrap": settings.kafka.bootstrap or found.kafka}),
            "redis": settings.redis.model_copy(update={"url": settings.redis.url or found.redis}),
            "feast": settings.feast.model_copy(update={"yaml": settings.feast.yaml or found.feast_yaml}),
            "ranker": settings.ranker.model_copy(
                update={"grpc": settings.ranker.grpc or found.grpc, "http": settings.ranker.http or found.http}
            ),
        }
    )
