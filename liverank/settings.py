"""The one settings tree: defaults, `liverank.toml`, then environment (`LIVERANK_SECTION__NAME`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

Namespace = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,24}$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class KafkaSettings(_Section):
    """Where Kafka is. Empty `bootstrap` = the address in the endpoints file."""

    bootstrap: str = ""
    """Addresses `host:port`, comma-separated; given = Kafka is external and not started here."""
    compression: Literal["none", "gzip", "lz4", "snappy", "zstd"] = "lz4"
    """Codec of records that liverank produces."""
    replication: int = Field(default=1, ge=1, le=16)
    """Copies of each topic that `liverank up` creates; 3 on a cluster of your own."""


class RedisSettings(_Section):
    """Where Redis is. Empty `url` = the address in the endpoints file."""

    url: str = ""
    """`redis://host:port/db`; given = Redis is external and not started here."""
    password: SecretStr | None = None
    """Password of Redis; the local one asks for it too."""
    socket_timeout_s: float = Field(default=5.0, gt=0)
    """How long an answer of Redis may take."""


class FeastSettings(_Section):
    """Feature repo and registry. Empty `yaml` = the file that `liverank up` writes."""

    repo: Path = Path("features/repo")
    """Folder of the feature definitions; a relative path lies in the checkout."""
    yaml: str = ""
    """A `feature_store.yaml` of your own."""


class StreamsSettings(_Section):
    """The folds and the agents."""

    poll_records: int = Field(default=10_000, ge=1, le=10_000)
    """Most records that a fold takes at a time: the more, the fewer rows are written under a backlog."""
    session_timeout_s: int = Field(default=30 * 60, ge=1)
    """A session ends after so long without an event."""
    attribution_window_s: int = Field(default=30 * 60, ge=1)
    """An outcome belongs to an exposure that is at most so old."""
    late_outcome_s: int = Field(default=60 * 60, ge=0)
    """How long after its window an exposure can still get a correction row."""
    signal_weights: dict[str, float] = {}
    """Weights of signals in a user's history that differ from the defaults (docs/specs/state.md)."""
    linger_ms: float = Field(default=5.0, ge=0, le=1000)
    """How long a poll of a fold waits for company while much is coming; nothing is waited while little is."""
    cache_states: int = Field(default=20_000, ge=1)
    """States that each fold of a worker keeps in memory."""
    fetch_bytes: int = Field(default=32 * 1024, ge=1024)
    """Most bytes that a fold fetches from one partition at a time (small fetches interleave the partitions)."""
    group_session_timeout_ms: int = Field(default=10_000, ge=1000)
    """A worker that is silent for so long loses its partitions; a restart before that keeps them."""
    archive_flush_s: float = Field(default=10.0, gt=0)
    """The archive writes a file per partition at least this often while records come."""
    archive_records: int = Field(default=50_000, ge=1)
    """Records after which the archive writes a file."""
    seal_quiet_s: float = Field(default=60.0, ge=0.1)
    """`liverank repartition` goes on when no producer has sent an event for so long."""
    tombstone_s: int = Field(default=3600, ge=1)
    """How long the empty row of an erased user keeps late writers out; then Redis forgets its key, which is the id."""


class Quota(_Section):
    """Items of one kind have at least and at most a share of every slate."""

    name: str = Field(min_length=1)
    """Stands in decisions and messages."""
    field: str = Field(pattern=r"^(category|creator|attributes\..+)$")
    """`category` (any of an item's), `creator` or `attributes.<name>`."""
    values: tuple[str, ...] = Field(min_length=1)
    """The items are those whose field holds one of them."""
    least: float = Field(default=0.0, ge=0, le=1)
    """Share of the slots that they get at least, rounded up, while there are candidates of them."""
    most: float = Field(default=1.0, ge=0, le=1)
    """Share of the slots that they get at most, rounded down; 0 = never shown."""
    surfaces: tuple[str, ...] = ()
    """Where it holds; empty = everywhere."""

    @model_validator(mode="after")
    def _ordered(self) -> Quota:
        if self.least > self.most:
            raise ValueError(f"least ({self.least:g}) must not exceed most ({self.most:g})")
        return self


class RankerSettings(_Section):
    """The gRPC server. Empty addresses = those in the endpoints file."""

    grpc: str = ""
    """`host:port`; given = the ranker is external and not started here."""
    http: str = ""
    """`host:port` of HTTP/JSON."""
    deadline_ms: int = Field(default=200, ge=1)
    """Time for a Rank whose caller set no deadline."""
    surfaces: tuple[str, ...] = ()
    """Surfaces that may ask; empty = any."""
    reply_ttl_s: int = Field(default=30 * 60, ge=1)
    """So long a retry gets the same reply, and a slate of PREFETCH may come to be shown. Redis holds all replies of
    that time, about 1.2 KB each."""

    # Exploration.
    arms: dict[str, float] = {"thompson": 0.8, "linucb": 0.1, "epsilon_greedy": 0.1}
    """Share of users per policy; the shares sum to 1."""
    surface_arms: dict[str, dict[str, float]] = {}
    """Shares of users per policy on a surface, instead of `arms`: `{"home": {"thompson": 0.5, "linucb_hybrid": 0.5}}`;
    users are dealt out on each such surface anew."""
    experiment_salt: str = "policy-1"
    """Another salt deals the users out to the arms anew."""
    floor: float = Field(default=0.02, ge=0, lt=1)
    """Share of a drawn slot's probability that is spread evenly over the items that may stand there."""
    explore_cap: float = Field(default=0.10, ge=0, le=1)
    """Most probability that a drawn slot gives to items other than the greedy one."""
    n_draws: int = Field(default=128, ge=1, le=4096)
    """Draws of the posterior per decision."""
    greedy_slots: int = Field(default=2, ge=0, le=200)
    """First slots that are not drawn at first."""
    greedy_until_shown: int = Field(default=10_000, ge=0)
    """Shown slots in the statistics from which the first slots are drawn too."""
    prior_sd: float = Field(default=0.05, gt=0)
    """Standard deviation of the bandit's prior, in clicks."""
    noise_sd: float = Field(default=0.4, gt=0)
    """Standard deviation of a residual, in clicks."""
    arm_sd: float = Field(default=0.03, gt=0)
    """Hybrid policies: how far a category's coefficients may stand from the shared ones, in clicks (one standard
    deviation)."""
    item_sd: float = Field(default=0.2, gt=0)
    """Policies that learn items: how far an item may stand from what heads and shared coefficients expect of it, in
    clicks a look (one standard deviation)."""
    logit_sd: float = Field(default=0.5, gt=0)
    """Logistic policies: standard deviation of the prior of a coefficient, in logits."""
    statistics: list[Literal["arms", "items", "logistic"]] = []
    """Statistics that are kept beside the shared ones even while no policy acts on them: a policy that is named later
    then knows what came before."""
    full_log_share: float = Field(default=0.01, ge=0, le=1)
    """Share of requests whose every candidate is logged."""
    vw_exploration: Literal["squarecb", "cover", "bag"] = "squarecb"
    """How the policy `vowpal` explores; another value begins its model anew."""
    vw_learning_rate: float = Field(default=0.5, gt=0, le=1000)
    """Its learning rate; another value begins its model anew."""
    vw_floor: float = Field(default=0.02, ge=0, le=1)
    """Its own share of uniform; another value begins its model anew."""
    dislike_strength: float = Field(default=10.0, ge=0)
    """Looks that the expectation is worth when a young item's dismissals are judged at once, for all users; 0 = off."""
    excluded_surfaces: tuple[str, ...] = ()
    """Surfaces on which nothing is explored: every slot holds the greedy item."""
    relevance_floor: float = Field(default=0.0, ge=0, le=1)
    """Only items at or above this quantile of the shortlist's scores may be explored; 0 = all of the shortlist."""
    gate_slack: float | None = Field(default=None, ge=0)
    """Given = conservative: an item is explored only if the lower bound of its score loses at most this share of the
    greedy item's own lower bound; empty = off."""
    gate_sds: float = Field(default=1.0, ge=0)
    """Posterior standard deviations below the score at which these lower bounds lie."""
    new_item_budget: int = Field(default=0, ge=0)
    """Explored exposures that each new item gets over all rankers, and no more while it is new; 0 = no budget."""
    explore_candidates: int = Field(default=40, ge=0, le=1_000)
    """Candidates that a Thompson draw over all items' click rates proposes (source `explore`); 0 = none."""
    new_item_days: float = Field(default=7.0, gt=0)
    """An item is new for so long after its publication."""
    new_item_share: float = Field(default=0.05, ge=0, lt=1)
    """Share of a drawn slot's probability that goes to new items with budget left (within `explore_cap`)."""

    # Value, in clicks, and the soft rules (see ranker/value.py).
    head_weights: dict[str, float] = {
        "click": 1.0,
        "dwell": 1.0,
        "like": 2.0,
        "save": 2.0,
        "purchase": 5.0,
        "dismiss": -2.0,
    }
    """Worth of one outcome of each head, in clicks; changed weights act at once."""
    liking: float = Field(default=1.0, ge=0, le=1)
    """How strongly the newest likes of a kind raise its value at once, in spreads of the request's values; 0 = not."""
    aversion: float = Field(default=0.3, ge=0, le=1)
    """Share of its places in the slate that a kind loses at once with one dismissal; 0 = none."""
    nearness: float = Field(default=0.1, ge=0, le=1)
    """How strongly the user's vectors move values beside the model, in the same unit; 0 = not."""
    diversity: float = Field(default=0.25, ge=0, le=1)
    """How much less each further item of one first category is worth, in the same unit; 0 = not."""
    freshness: float = Field(default=0.0, ge=0, le=1)
    """Bonus for young items; 0 = none."""

    # Hard rules of a slate (see ranker/rules.py).
    creator_share: float = Field(default=0.3, gt=0, le=1)
    """Most of a slate that one creator may have."""
    category_share: float = Field(default=0.6, gt=0, le=1)
    """Most of a slate that one first category may have."""
    duplicate_cosine: float = Field(default=0.995, gt=0)
    """Two items at least so alike do not stand in one slate."""
    quotas: tuple[Quota, ...] = ()
    """Business rules and fairness floors, e.g. `[{"name": "local", "field": "attributes.origin", "values": ["de"],
    "least": 0.2}]`; see docs/ranking.md."""
    seen_policy: Literal["none", "consumed", "shown_n_times"] = "none"
    """What is excluded besides dismissed items: nothing, what was clicked or bought, what was shown 5 times."""

    disliked_after: int = Field(default=5, ge=0)
    """Rejections of a kind in a row (7 days, no liking in between) after which it is left out; 0 = never."""

    states: str = ""
    """JSON file with the table of user states; empty = the built-in table."""
    exact_below: int = Field(default=20_000, ge=0)
    """Catalogues with fewer vectors are searched exactly, larger ones with HNSW."""


class StackSettings(_Section):
    """What `liverank up` starts on this machine."""

    workers: int = Field(default=2, ge=0, le=16)
    """Stream workers."""
    rankers: int = Field(default=1, ge=0, le=16)
    """Rankers, all on one address."""
    partitions: int = Field(default=8, ge=1, le=256)
    """Partitions per topic of a new namespace."""
    feast_ui: bool = False
    """Start Feast's web page too."""
    cache: Path = Path(".cache")
    """Downloads; a relative path lies in the checkout."""
    maven_url: str = ""
    """Mirror of the Maven repository that holds Kafka; empty = Maven Central."""
    kafka_heap_mb: int = Field(default=512, ge=128, le=65_536)
    """Heap of the local Kafka."""
    start_timeout_s: float = Field(default=60.0, gt=0)
    """How long a part of the stack may take until it is healthy."""
    log_max_mb: int = Field(default=20, ge=1, le=10_000)
    """A log file is rotated at this size; three older ones are kept."""


class LlmSettings(_Section):
    """Provider of item features. `local` needs no network; `openai` is any endpoint of that protocol.

    `embedding_model` makes vectors; `model` (a chat model, empty = none) makes attributes. Prices are per million
    tokens; `max_cost`, in their currency, stops a job before it is exceeded; a provider with a price and no cap is
    refused.
    """

    provider: Literal["local", "openai", "recorded", "stub"] = "local"
    """`local` needs no network, `openai` is any endpoint of that protocol, `recorded` replays a recording."""
    base_url: str = ""
    """Address of the endpoint."""
    api_key: SecretStr | None = None
    """Its key."""
    model: str = ""
    """Chat model that makes attributes; empty = none."""
    embedding_model: str = ""
    """Model that makes vectors."""
    dimensions: int = Field(default=64, ge=2, le=1024)
    """Length of the vectors."""
    recording: Path | None = None
    """File of recorded answers."""
    timeout_s: float = Field(default=30.0, gt=0)
    """How long one call may take."""
    max_attempts: int = Field(default=5, ge=1, le=20)
    """Tries per call, with growing pauses."""
    price_input: float = Field(default=0.0, ge=0)
    """Price of a million tokens in."""
    price_output: float = Field(default=0.0, ge=0)
    """Price of a million tokens out."""
    max_cost: float = Field(default=0.0, ge=0)
    """A job stops before it costs more; a provider with a price and no cap is refused."""


def _variable(value: object) -> str | None:
    """A setting as the text of its variable; None where nothing is set."""
    if value is None:
        return None
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, str | Path):
        return str(value)
    return json.dumps(value).replace("'", "\\u0027")  # the same JSON, without a quote that a shell or supervisord reads


class Settings(BaseSettings):
    """Everything a process of liverank can be told. Read once at the entry point and passed down."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="LIVERANK_",
        env_nested_delimiter="__",
        toml_file="liverank.toml",
        use_attribute_docstrings=True,
    )

    namespace: Namespace = "live"
    """Set of topics, keys and files; one stack can run several."""
    clock: Literal["wall", "data"] = "wall"
    """`data` for a replay of recorded time."""
    home: Path = Path(".liverank")
    """Folder of everything that changes; a relative path lies in the working directory."""
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

    def environment(self) -> dict[str, str]:
        """All settings as variables: a child process that gets them reads the same settings. Holds the secrets."""
        found = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if not isinstance(value, _Section):
                found[f"LIVERANK_{name.upper()}"] = _variable(value)
                continue
            for key in type(value).model_fields:
                found[f"LIVERANK_{name.upper()}__{key.upper()}"] = _variable(getattr(value, key))
        return {name: text for name, text in found.items() if text is not None}

    def group(self, name: str, generation: int) -> str:
        """Consumer group of readers of a generation's topics.

        Each generation has its own: the broker gives a static member that comes back its old partitions, even where it
        asks for another topic.
        """
        return f"liverank.{self.namespace}.{name}" + (f".{generation}" if generation > 1 else "")

    @property
    def feast_project(self) -> str:
        """Feast's project of this namespace (Feast allows no `-`)."""
        return "liverank_" + self.namespace.replace("-", "_")


class NamespaceEndpoints(BaseModel):
    """Addresses of one namespace's processes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    grpc: str = ""
    http: str = ""
    feast_yaml: str = ""
    metrics: dict[str, str] = {}
    """Process name -> address of its `/metrics` and `/ready`."""
    generation: int = 1


class Endpoints(BaseModel):
    """Addresses that `liverank up` chose: `<home>/endpoints.json`. Everything reads it.

    The fields of a single namespace (`grpc` to `generation`) are those of `namespace`, the first that was started;
    `namespaces` holds all of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kafka: str
    redis: str
    grpc: str = ""
    http: str = ""
    feast_yaml: str = ""
    metrics: dict[str, str] = {}
    namespace: str = "live"
    generation: int = 1
    namespaces: dict[str, NamespaceEndpoints] = {}

    def of(self, namespace: str) -> NamespaceEndpoints:
        """Addresses of a namespace; all empty where none of its processes is up."""
        return self.namespaces.get(namespace, NamespaceEndpoints())

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
    own = found.of(settings.namespace)
    return settings.model_copy(
        update={
            "kafka": settings.kafka.model_copy(update={"bootstrap": settings.kafka.bootstrap or found.kafka}),
            "redis": settings.redis.model_copy(update={"url": settings.redis.url or found.redis}),
            "feast": settings.feast.model_copy(update={"yaml": settings.feast.yaml or own.feast_yaml}),
            "ranker": settings.ranker.model_copy(
                update={"grpc": settings.ranker.grpc or own.grpc, "http": settings.ranker.http or own.http}
            ),
        }
    )
