"""The demo's own steps: a world's files, its live traffic, and the proof. `liverank demo` puts them in order."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from evaluation.errors import ProofError
from evaluation.progress import Progress
from evaluation.proof import ProofPlan, Report, prove
from evaluation.proof.meter import Kinds, Meter
from evaluation.simulator import World, WorldParams, history
from evaluation.simulator.catalogue import DAY_MS
from evaluation.traffic import SURFACE, Traffic, TrafficReport
from features.apply import open_store
from features.columns import text_hash
from features.item_vectors import active_space, read_vectors
from features.redis import Redis, connect, translated
from features.user_row import UserRowReader
from liverank.client import Client
from liverank.files import write_events, write_items
from liverank.kafka import partition_counts
from liverank.producer import EventProducer
from liverank.settings import Settings
from liverank.v1.event_pb2 import EventType
from ranker.posterior import Belief, BeliefReader
from ranker.serving import rulebook

PROBE_EVERY: Final = 5
N_PROBES: Final = 72
POPULAR_HALF_LIFE_DAYS: Final = 7.0
QUIET_MS: Final = 45 * 60_000
"""The history ends so long before the demo: every session is closed by then."""


@dataclass(frozen=True, kw_only=True)
class DemoPlan:
    """Size of the demo.

    Parameters
    ----------
    days : float
        Length of the simulated past.
    requests : int
        Live slates.
    rate : float
        Live slates a second.
    control_s : float
        See `ProofPlan`.
    params : WorldParams
    """

    days: float = 60.0
    requests: int = 600
    rate: float = 25.0
    control_s: float = 15.0
    params: WorldParams = field(default_factory=WorldParams)


@dataclass(frozen=True)
class HistoryFiles:
    """The simulated past on disk, in the documented format.

    Attributes
    ----------
    active : tuple of str
        Users who clicked in it, most clicks first.
    popular : tuple of str
        Items by clicks in it, each worth half after `POPULAR_HALF_LIFE_DAYS`.
    """

    events: Path
    items: Path
    n_events: int
    n_items: int
    active: tuple[str, ...]
    popular: tuple[str, ...]


def build_world(plan: DemoPlan, now_ms: int) -> World:
    """The world whose past ends just before now."""
    start_ms = now_ms - QUIET_MS - int(plan.days * DAY_MS)
    return World.build(plan.params, start_ms)


def write_history(world: World, plan: DemoPlan, folder: Path) -> HistoryFiles:
    """Simulate the past and write it as Parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    events = list(history(world, days=plan.days))
    clicked = [event for event in events if event.type == EventType.EVENT_TYPE_CLICK]
    clicks = Counter(event.user_id for event in clicked)
    popular: defaultdict[str, float] = defaultdict(float)
    for event in clicked:
        popular[event.item_id] += 2.0 ** ((event.event_ts_ms - world.start_ms) / DAY_MS / POPULAR_HALF_LIFE_DAYS)
    files = HistoryFiles(
        folder / "history.parquet",
        folder / "items.parquet",
        write_events(folder / "history.parquet", events),
        write_items(folder / "items.parquet", world.catalogue.changes()),
        tuple(user for user, _ in sorted(clicks.items(), key=lambda pair: (-pair[1], pair[0]))),
        tuple(item for item, _ in sorted(popular.items(), key=lambda pair: (-pair[1], pair[0]))),
    )
    if not files.active:
        raise ProofError("nobody clicked in the simulated past; use more days or users")
    return files


def is_probe(user_id: str) -> bool:
    """Whether a user is kept out of live traffic for the proof."""
    return int(user_id.removeprefix("user-")) % PROBE_EVERY == 0


def live_traffic(settings: Settings, world: World, files: HistoryFiles, plan: DemoPlan) -> TrafficReport:
    """Let users come for a while."""
    users = [user for user in world.population.users if not is_probe(user.user_id)]
    with Client(settings.ranker.grpc, deadline_s=5.0) as client, EventProducer(settings) as producer:
        traffic = Traffic(world, world.behaviour(pace=0.001), client, producer, users, files.popular)
        return traffic.run(n_requests=plan.requests, rate=plan.rate)


def kinds_of(settings: Settings, redis: Redis, of_item: Mapping[str, str]) -> Kinds:
    """The catalogue by kind, with the vectors of the active space.

    Raises
    ------
    ProofError
        No item has a vector.
    """
    space = active_space(redis, settings)
    vectors = read_vectors(redis, settings, sorted(of_item), space) if space is not None else {}
    if not vectors:
        raise ProofError("no item has a vector in the active space; run `liverank enrich`")
    units = {item: v.astype(np.float64) / max(float(np.linalg.norm(v)), 1e-12) for item, v in vectors.items()}
    return Kinds(of_item, units)


def run_proof(settings: Settings, world: World, files: HistoryFiles, plan: DemoPlan) -> Report:
    """The proof, with users that live traffic has left alone."""
    of_item = {item.item_id: item.categories[0] for item in world.catalogue.items}
    probes = [user for user in files.active if is_probe(user)]
    users = probes[:N_PROBES]
    with connect(settings) as redis, Client(settings.ranker.grpc, deadline_s=5.0) as client:
        kinds = kinds_of(settings, redis, of_item)
        reader = UserRowReader(
            open_store(settings), category_of_hash={text_hash(kind): kind for kind in world.catalogue.kinds}
        )
        meter = Meter(client, reader, _BeliefOf(settings, redis), kinds, surface=SURFACE)
        return prove(
            ProofPlan(users=users, kinds=world.catalogue.kinds, surface=SURFACE, control_s=plan.control_s),
            meter=meter,
            client=client,
            progress=Progress(settings, redis, generation=generation_of(settings, redis)),
        )


def generation_of(settings: Settings, redis: Redis) -> int:
    """Active generation of the namespace."""
    with translated("reading the active generation"):
        return int(redis.get(f"{settings.namespace}:active") or 1)


class _BeliefOf:
    """The bandit's statistics of a model, as they are in Redis now."""

    def __init__(self, settings: Settings, redis: Redis) -> None:
        book = rulebook(settings.ranker)
        self._generation = generation_of(settings, redis)
        topic = settings.topic("events", self._generation)
        n = partition_counts(settings.kafka.bootstrap, [topic]).get(topic, settings.stack.partitions)
        self._reader = BeliefReader(redis, settings.namespace, n, book.prior)
        self._weights = book.weights
        self._heads: Sequence[str] = ("click", "dismiss")
        self._last: Belief | None = None

    def __call__(self, model: str) -> Belief:
        self._last = self._reader.read(model, self._generation, self._weights.of(self._heads).tolist(), self._last)
        return self._last
