"""The dataset of a log: rows built with the state that everything strictly earlier had left.

For logs with exposures: the slots of each sampled slate, with the labels that the join gives. For logs that hold only
what users chose (ratings, purchases): the candidates that retrieval proposes at each sampled moment, the chosen one
marked; a choice that was not retrieved is skipped, never injected.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import numpy as np
from numpy.typing import NDArray

from liverank.v1.event_pb2 import Context, Event, EventType
from liverank.v1.stream_pb2 import Example
from ranker.affinity import affinities
from ranker.columns import build
from ranker.retrieval import Query, Source, co_occurrence, retrieve
from ranker.seen import SeenPolicy, seen_items
from ranker.training.dataset import Dataset, with_shown
from ranker.training.errors import LeakageError, TooLittleDataError
from ranker.training.memory import Memory
from ranker.user_states import DEFAULT_STATES, UserState

_EXPOSURE: Final = int(EventType.EVENT_TYPE_EXPOSURE)
_CHOICES: Final = frozenset(
    int(kind)
    for kind in (
        EventType.EVENT_TYPE_CLICK,
        EventType.EVENT_TYPE_LIKE,
        EventType.EVENT_TYPE_SAVE,
        EventType.EVENT_TYPE_RATING,
        EventType.EVENT_TYPE_PURCHASE,
    )
)
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How much of a log becomes rows.

    Parameters
    ----------
    warm_up : float
        First share of the log (by time of its events' order) that only fills the state.
    slates : int
        Slates, or choices, at most; taken by a hash of their id, so that the same log gives the same sample.
    candidates : int
        Candidates of a choice: a third the most taken within a day, a third the most met with what the user took, the
        rest drawn from what else was retrieved.
    retrieved : int
        Candidates that retrieval proposes, before that.
    seed : int
    """

    warm_up: float = 0.25
    slates: int = 6_000
    candidates: int = 200
    retrieved: int = 1_000
    seed: int = 17

    def __post_init__(self) -> None:
        if not (0 <= self.warm_up < 1 and self.slates >= 1 and 2 <= self.candidates <= self.retrieved):
            raise ValueError(f"warm_up lies in [0, 1), slates >= 1 and 2 <= candidates <= retrieved, got {self}")


def in_order(events: Iterable[Event]) -> list[Event]:
    """Events by time; of one time slates first, then by id, so that a row sees strictly earlier events only."""
    return sorted(events, key=lambda event: (event.event_ts_ms, event.type != _EXPOSURE, event.event_id))


def chosen(ids: Sequence[str], n: int) -> set[str]:
    """The n ids of the smallest hash."""
    return set(sorted(ids, key=lambda each: (hashlib.blake2b(each.encode(), digest_size=8).digest(), each))[:n])


def exposure_dataset(
    memory_of: Callable[[Callable[[Example], None]], Memory],
    events: Sequence[Event],
    heads: tuple[str, ...],
    sampling: Sampling,
    on_progress: Progress = lambda _done, _all: None,
) -> Dataset:
    """Rows of sampled slates.

    Parameters
    ----------
    memory_of : callable
        on_example -> an empty `Memory`.
    events : sequence of Event
        `in_order`.
    heads : tuple of str
    sampling : Sampling

    Raises
    ------
    TooLittleDataError
        No slate of the log was drawn by a policy.
    LeakageError
        A user's row held an event that is not earlier than the slate: a bug.
    """
    start = int(sampling.warm_up * len(events))
    drawn = [e.event_id for e in events[start:] if e.type == _EXPOSURE and e.exposure.drawn]
    if not drawn:
        raise TooLittleDataError("the log holds no slate that a policy drew")
    wanted = chosen(drawn, sampling.slates)
    rows: dict[tuple[str, int], NDArray[np.float32]] = {}
    labels: dict[tuple[str, int], Example] = {}

    def label(example: Example) -> None:
        key = (example.request_id, example.position)
        if key in rows:
            labels[key] = example

    memory = memory_of(label)
    for done, event in enumerate(events):
        if event.type == _EXPOSURE and event.event_id in wanted:
            memory.advance(event.event_ts_ms)
            for slot, x in enumerate(_slate(memory, event), 1):
                rows[event.event_id, slot] = x
        memory.observe(event)
        if done % 1_000 == 0:
            on_progress(done, len(events))
    memory.close()
    keys = [key for key in rows if key in labels]
    counts = {**memory.counts, "slates": len(wanted), "without_label": len(rows) - len(keys)}
    return _assembled(keys, rows, labels, heads, counts)


def _slate(memory: Memory, event: Event) -> NDArray[np.float32]:
    table, as_of_ms = memory.refresh(), event.event_ts_ms
    user = memory.user(event.user_id or event.session_id, as_of_ms)
    _check_time(user.history, as_of_ms)
    affinity = affinities(user, table, as_of_ms)
    rows = np.array([table.row_of(slot.item_id) for slot in event.exposure.slots], dtype=np.int32)
    scores = co_occurrence(affinity, table).of(rows)
    return build(user, table, rows, context=event.context, as_of_ms=as_of_ms, scores=scores, affinity=affinity)


def _check_time(history: NDArray[np.void], as_of_ms: int) -> None:
    if len(history) and int(history["event_ts_ms"].max()) > as_of_ms:
        raise LeakageError(f"a row for {as_of_ms} read an event of {int(history['event_ts_ms'].max())}; report it")


def _assembled(
    keys: list[tuple[str, int]],
    rows: dict[tuple[str, int], NDArray[np.float32]],
    labels: dict[tuple[str, int], Example],
    heads: tuple[str, ...],
    counts: dict[str, int],
) -> Dataset:
    if not keys:
        raise TooLittleDataError(f"no slate of the log has a label: {counts}")
    ts_ms = np.array([labels[key].exposure_ts_ms for key in keys], dtype=np.int64)
    slot = np.array([position for _, position in keys], dtype=np.int32)
    requests = [request for request, _ in keys]
    group = np.cumsum([False, *(a != b for a, b in zip(requests[1:], requests, strict=False))]).astype(np.int64)
    X = with_shown(np.stack([rows[key] for key in keys]), slot, ts_ms, int(ts_ms.max()))
    outcomes = {head: np.array([labels[key].outcomes[head] for key in keys], dtype=np.float32) for head in heads}
    return Dataset(kind="exposures", X=X, labels=outcomes, group=group, ts_ms=ts_ms, counts=counts)


def choice_dataset(
    memory: Memory,
    events: Sequence[Event],
    head: str,
    sampling: Sampling,
    sources: Sequence[Source],
    *,
    seen_policy: SeenPolicy = "none",
    states: Sequence[UserState] = DEFAULT_STATES,
    on_progress: Progress = lambda _done, _all: None,
) -> Dataset:
    """Candidates of sampled choices, as retrieval proposes them with what was known before.

    Parameters
    ----------
    memory : Memory
        Empty.
    events : sequence of Event
        `in_order`.
    head : str
        The outcome that a choice counts as.
    sources : sequence of Source
        Those of serving, over the table of `memory`.
    seen_policy, states
        Those of serving.

    Raises
    ------
    TooLittleDataError
        No choice of the sample was retrieved.
    """
    start = int(sampling.warm_up * len(events))
    wanted = chosen([e.event_id for e in events[start:] if e.type in _CHOICES], sampling.slates)
    rng = np.random.default_rng(sampling.seed)
    parts: list[NDArray[np.float32]] = []
    truths: list[NDArray[np.float32]] = []
    times: list[int] = []
    counts: Counter[str] = Counter(choices=len(wanted))
    done = 0
    for ts_ms, together in groupby(events, key=lambda event: event.event_ts_ms):
        moment = list(together)
        for event in moment:  # all rows of one millisecond before any of its events is known
            if event.event_id in wanted:
                memory.advance(ts_ms)
                found = _choice(memory, event, sampling, sources, seen_policy, states, rng)
                if found is None:
                    counts["not_retrieved"] += 1
                else:
                    parts.append(found[0])
                    truths.append(found[1])
                    times.append(ts_ms)
        for event in moment:
            memory.observe(event)
            done += 1
            if done % 1_000 == 0:
                on_progress(done, len(events))
    if not parts:
        raise TooLittleDataError(f"no choice of the log could be retrieved: {dict(counts)}")
    sizes = [len(part) for part in parts]
    return Dataset(
        kind="positives",
        X=np.concatenate(parts),
        labels={head: np.concatenate(truths)},
        group=np.repeat(np.arange(len(parts), dtype=np.int64), sizes),
        ts_ms=np.repeat(np.array(times, dtype=np.int64), sizes),
        counts={**memory.counts, **counts},
    )


def _choice(
    memory: Memory,
    event: Event,
    sampling: Sampling,
    sources: Sequence[Source],
    seen_policy: SeenPolicy,
    states: Sequence[UserState],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    table, as_of_ms = memory.refresh(), event.event_ts_ms
    truth = table.rows.get(event.item_id)
    if truth is None:
        return None
    user = memory.user(event.user_id or event.session_id, as_of_ms)
    _check_time(user.history, as_of_ms)
    affinity = affinities(user, table, as_of_ms)
    allowed = table.available[: len(table)].copy()
    allowed[seen_items(user, table).excluded(seen_policy)] = False
    state = next(found for found in reversed(states) if affinity.n_entries >= found.at_least)
    share = sampling.retrieved / sum(state.quotas.values())
    quotas = {name: max(1, round(share * quota)) for name, quota in state.quotas.items()}
    query = Query(user=user, affinity=affinity, table=table, as_of_ms=as_of_ms, allowed=allowed)
    found = retrieve(sources, query, quotas, sampling.retrieved)
    if truth not in found.rows:
        return None
    rows = _thinned(
        found.rows,
        (table.demand(found.rows, as_of_ms)[:, 1], query.met.of(found.rows)["met_share"]),
        truth,
        sampling.candidates,
        rng,
    )
    scores = query.met.of(rows)
    context = event.context if event.HasField("context") else Context()
    x = build(user, table, rows, context=context, as_of_ms=as_of_ms, scores=scores, affinity=affinity)
    return x, (rows == truth).astype(np.float32)


def _thinned(
    rows: NDArray[np.int32],
    orders: tuple[NDArray[np.float32], ...],
    truth: int,
    n: int,
    rng: np.random.Generator,
) -> NDArray[np.int32]:
    """The hardest by each order, some drawn from the rest, and the truth; by row, so that place tells nothing."""
    each = n // (len(orders) + 1)
    hard = np.unique(np.concatenate([np.argsort(-scores, kind="stable")[:each] for scores in orders]))
    rest = np.setdiff1d(np.arange(len(rows)), hard)
    drawn = rng.choice(rest, min(max(n - len(hard), 0), len(rest)), replace=False)
    return np.union1d(rows[np.concatenate([hard, drawn])], np.array([truth])).astype(np.int32)
