"""What a reply leaves in the log: the compact exposure, the full decision, and the snapshot that it cites."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from liverank.contract import event_key
from liverank.errors import UnavailableError
from liverank.settings import Settings
from liverank.v1 import decision_pb2, event_pb2
from ranker.columns import COLUMNS, FEATURE_SERVICE
from ranker.explore import Drawn
from ranker.inputs import Floats
from ranker.phi import SCHEMA
from ranker.quotas import SlateQuota
from ranker.registered import NOTHING, Registered
from ranker.request import RankQuery
from ranker.variants import NO_VARIANTS, Variants


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The slate of one reply, in slot order; every array has its length.

    Attributes
    ----------
    item_ids, versions
        What was shown, and the catalogue record that it was.
    propensity, pinned, explored, effective_floor
        As drawn.
    score
        Value at slot 1 plus posterior mean.
    p_shown, p_first
        Head probabilities at the slot shown, at slot 1; shape ``(k, n_heads)``.
    phi
        Bandit features, shape ``(k, d)``.
    posterior_mean, posterior_sd
        Of the residual value.
    features
        Feature rows, shape ``(k, n_columns)``.
    sources
        Who proposed each.
    n_feasible
        Candidates that might have stood in the slot.
    greedy_score
        Score of the candidate that greed would have put there.
    budgeted
        A new item that the budget paid for.
    categories
        Name of each item's first category; empty = not known.
    variants
        Chosen among variants of the items.
    """

    item_ids: Sequence[str]
    versions: NDArray[np.int64]
    propensity: NDArray[np.float64]
    pinned: NDArray[np.bool_]
    explored: NDArray[np.bool_]
    effective_floor: NDArray[np.float64]
    score: NDArray[np.float64]
    p_shown: NDArray[np.float64]
    p_first: NDArray[np.float64]
    phi: Floats
    posterior_mean: NDArray[np.float64]
    posterior_sd: NDArray[np.float64]
    features: Floats
    sources: Sequence[Sequence[str]]
    n_feasible: NDArray[np.int64]
    greedy_score: NDArray[np.float64]
    budgeted: NDArray[np.bool_]
    categories: Sequence[str] = ()
    variants: Variants = NO_VARIANTS

    def __len__(self) -> int:
        return len(self.item_ids)


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What a decision says besides its slate."""

    decided_ts_ms: int
    as_of_ms: int
    policy: str
    arm: str
    seed: int
    n_draws: int
    floor: float
    cap: float
    greedy_slots: int
    model_id: str
    heads: Sequence[str]
    head_weights: Sequence[float]
    snapshot_id: str
    feasible_ids: Sequence[str]
    rungs: Sequence[str]
    stage_ms: Mapping[str, float]
    newest_event_ts_ms: int
    drawn: bool
    space: str
    user_state: str
    feature_ages_ms: Mapping[str, int]
    k: int = 0
    config_version: int = 0
    caps: tuple[int, int] = (0, 0)
    quotas: Sequence[SlateQuota] = ()
    reserved_share: float = 0.0
    registered: Registered = NOTHING
    statistics: Sequence[event_pb2.ExtraStatistics] = ()


def exposure_event(query: RankQuery, trace: Trace, shown: Shown) -> event_pb2.Event:
    """The exposure that the fold reads: event id = request id, key = the subject."""
    exposure = event_pb2.Exposure(
        policy=trace.policy,
        arm=trace.arm,
        base_model=trace.model_id,
        schema=SCHEMA,
        drawn=trace.drawn,
        heads=trace.heads,
        statistics=trace.statistics if trace.drawn else (),
    )
    per_category = event_pb2.EXTRA_STATISTICS_ARMS in exposure.statistics
    for at in range(len(shown)):
        exposure.slots.add(
            category=shown.categories[at] if per_category else "",
            item_id=shown.item_ids[at],
            catalogue_version=int(shown.versions[at]),
            propensity=float(shown.propensity[at]),
            pinned=bool(shown.pinned[at]),
            p_shown=shown.p_shown[at].tolist(),
            p_first=shown.p_first[at].tolist(),
            phi=shown.phi[at].tolist(),
        )
    for at, variant in shown.variants.by_slot.items():
        exposure.slots[at].variant_id, exposure.slots[at].variant_propensity = variant.variant_id, variant.propensity
    event = event_pb2.Event(
        event_id=query.request_id,
        type=event_pb2.EVENT_TYPE_EXPOSURE,
        event_ts_ms=trace.decided_ts_ms,
        request_id=query.request_id,
        surface=query.surface,
        exposure=exposure,
    )
    if query.anonymous:
        event.session_id = event.anonymous_id = query.subject
    else:
        event.user_id = query.subject
    event.context.CopyFrom(query.context)
    return event


def decision(query: RankQuery, trace: Trace, shown: Shown) -> decision_pb2.Decision:
    """The full trace of a reply, without candidates (`log_candidates` adds them)."""
    out = decision_pb2.Decision(
        request_id=query.request_id,
        user_id=query.subject,
        decided_ts_ms=trace.decided_ts_ms,
        as_of_ms=trace.as_of_ms,
        surface=query.surface,
        mode=query.mode,
        context=query.context,
        policy=trace.policy,
        arm=trace.arm,
        seed=trace.seed,
        n_draws=trace.n_draws,
        floor=trace.floor,
        cap=trace.cap,
        greedy_slots=trace.greedy_slots,
        base_model=trace.model_id,
        schema=SCHEMA,
        snapshot=trace.snapshot_id,
        feature_service=FEATURE_SERVICE,
        feature_names=COLUMNS,
        heads=trace.heads,
        head_weights=trace.head_weights,
        feasible_size=len(trace.feasible_ids),
        feasible_hash=hashlib.sha256("\n".join(sorted(trace.feasible_ids)).encode()).digest(),
        rungs=trace.rungs,
        stage_ms=trace.stage_ms,
        newest_event_ts_ms=trace.newest_event_ts_ms,
        drawn=trace.drawn,
        space=trace.space,
        user_state=trace.user_state,
        feature_ages_ms=trace.feature_ages_ms,
        k=trace.k,
        config_version=trace.config_version,
        creator_cap=trace.caps[0],
        category_cap=trace.caps[1],
        reserved_share=trace.reserved_share,
        registered_names=trace.registered.names,
    )
    for quota in trace.quotas:
        out.quotas.add(name=quota.name, least=quota.least, most=quota.most)
    for at in range(len(shown)):
        out.slots.add(
            item_id=shown.item_ids[at],
            propensity=float(shown.propensity[at]),
            pinned=bool(shown.pinned[at]),
            explored=bool(shown.explored[at]),
            score=float(shown.score[at]),
            p_shown=shown.p_shown[at].tolist(),
            p_first=shown.p_first[at].tolist(),
            phi=shown.phi[at].tolist(),
            posterior_mean=float(shown.posterior_mean[at]),
            posterior_sd=float(shown.posterior_sd[at]),
            features=shown.features[at].tolist(),
            sources=shown.sources[at],
            effective_floor=float(shown.effective_floor[at]),
            catalogue_version=int(shown.versions[at]),
            n_feasible=int(shown.n_feasible[at]),
            greedy_score=float(shown.greedy_score[at]),
            budgeted=bool(shown.budgeted[at]),
            registered=trace.registered.values[at].tolist() if trace.registered.names else (),
            category_name=shown.categories[at] if shown.categories else "",
        )
    out.variant_policy = shown.variants.policy
    for at, variant in shown.variants.by_slot.items():
        out.slots[at].variant_id, out.slots[at].variant_propensity = variant.variant_id, variant.propensity
        for name, alpha, beta in zip(variant.names, variant.alpha.tolist(), variant.beta.tolist(), strict=True):
            out.slots[at].variants.add(variant_id=name, alpha=alpha, beta=beta)
    return out


def log_candidates(
    out: decision_pb2.Decision,
    item_ids: Sequence[str],
    p_first: NDArray[np.float64],
    drawn: Drawn,
) -> None:
    """Add every candidate that the policy saw, with the hard rules over them: the draw can be made again, bit by bit
    (`ranker.reproduce`).
    """
    available = drawn.rules.available
    item_looks, kind_looks = drawn.problem.item_looks, drawn.problem.kind_looks
    assert item_looks is not None
    assert kind_looks is not None  # `explore` gives both
    for at, item_id in enumerate(item_ids):
        out.candidates.add(
            item_id=item_id,
            value=float(drawn.problem.value[at]),
            phi=drawn.phi[at].tolist(),
            p_first=p_first[at].tolist(),
            creator=int(drawn.rules.creators[at]),
            category=int(drawn.rules.categories[at]),
            unavailable=not available[at],
            not_explorable=bool(drawn.not_explorable[at]),
            reserved=bool(drawn.reserved[at]),
            category_name=drawn.kinds[at],
            item_looks=float(item_looks[at]),
            kind_looks=float(kind_looks[at]),
        )
    for logged, quota in zip(out.quotas, drawn.rules.quotas, strict=True):
        logged.members.extend(np.flatnonzero(quota.members).tolist())
    if drawn.rules.near is not None:
        pairs = np.argwhere(np.triu(drawn.rules.near, 1))
        out.near.extend(pairs.ravel().tolist())


def fully_logged(request_id: str, share: float) -> bool:
    """Whether a request belongs to the fully logged share, by hash of its id."""
    digest = hashlib.blake2b(request_id.encode(), digest_size=4, person=b"full-log").digest()
    return int.from_bytes(digest, "big") < share * 2**32


class RecordProducer(Protocol):
    """What the log needs of `liverank.kafka.Producer`."""

    last_failure_s: float

    @property
    def queue_fill(self) -> float:
        """Share of the local queue in use."""
        ...

    def produce(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes,
        timestamp_ms: int | None = None,
        block_s: float = 10.0,
    ) -> None:
        """Hand a record over."""
        ...

    def poll(self, timeout_s: float = 0.0) -> int:
        """Serve delivery callbacks."""
        ...


class DecisionLog:
    """Produces exposures, decisions and snapshots without waiting for the broker. Thread-safe.

    Parameters
    ----------
    producer
        Idempotent, in order.
    settings
        Names of topics.
    generation
        Life of the events topic.
    """

    FULL = 0.8
    FAILED_FOR_S = 5.0

    def __init__(self, producer: RecordProducer, settings: Settings, generation: int) -> None:
        self._producer = producer
        self._events = settings.topic("events", generation)
        self._decisions = settings.topic("decisions")
        self._snapshots = settings.topic("policy-snapshots")
        self._data_clock = settings.clock == "data"
        self._settings = settings
        self._published: set[str] = set()
        self.lost = 0
        self.sealed = ""

    def follow(self, generation: int, n_partitions: int) -> None:
        """Expose in another generation."""
        self._events = self._settings.topic("events", generation)

    @property
    def safe(self) -> bool:
        """False while the queue is over 80 %, a delivery failed in the last 5 s, or the generation is sealed: then
        nothing is drawn.
        """
        if self.sealed:
            return False
        self._producer.poll(0.0)
        failed_lately = time.monotonic() - self._producer.last_failure_s < self.FAILED_FOR_S
        return self._producer.queue_fill <= self.FULL and not failed_lately

    def write(
        self,
        exposure: event_pb2.Event | None,
        made: decision_pb2.Decision,
        snapshot: tuple[str, bytes] | None,
    ) -> bool:
        """Queue what a reply leaves; the snapshot goes first, once per process. Into a sealed generation nothing is
        exposed: such a reply makes no label rows.

        Returns
        -------
        bool
            False where the queue took not everything (counted in `lost`).
        """
        try:
            if snapshot is not None and snapshot[0] not in self._published:
                self._put(self._snapshots, snapshot[0].encode(), snapshot[1], made.decided_ts_ms)
                if len(self._published) > 10_000:
                    self._published.clear()
                self._published.add(snapshot[0])
            if exposure is not None and not self.sealed:
                self.expose(exposure)
            self._put(self._decisions, made.request_id.encode(), made.SerializeToString(), made.decided_ts_ms)
        except UnavailableError:
            self.lost += 1
            return False
        return True

    def expose(self, exposure: event_pb2.Event) -> None:
        """Queue an exposure.

        Raises
        ------
        UnavailableError
            The queue is full.
        """
        self._put(self._events, event_key(exposure), exposure.SerializeToString(), exposure.event_ts_ms)

    def _put(self, topic: str, key: bytes, value: bytes, ts_ms: int) -> None:
        self._producer.produce(
            topic, key=key, value=value, timestamp_ms=ts_ms if self._data_clock else None, block_s=0.0
        )
