"""Rows from logs: only strictly earlier events count, labels are the join's, choices must have been retrieved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from features.llm import StubProvider
from features.program import FeatureProgram, ViewProgram
from features.state.params import StateParams
from liverank.v1.event_pb2 import Event, EventType, Exposure, ExposureSlot
from liverank.v1.item_pb2 import Item
from liverank.v1.stream_pb2 import Example
from ranker.columns import COLUMNS, INDEX, SLOT_COLUMN
from ranker.retrieval import IndexSettings, VectorIndex, standard_sources
from ranker.training.dataset import AGE_COLUMN, Dataset, joined
from ranker.training.errors import TooLittleDataError
from ranker.training.history import Sampling, choice_dataset, chosen, exposure_dataset, in_order
from ranker.training.memory import Memory
from tests.recount.program import PROGRAM

START = 1_700_000_000_000
MINUTE = 60_000
KINDS = ("horror", "romance", "western", "comedy")
ITEMS = {
    f"i{i}": Item(
        item_id=f"i{i}", title=f"{KINDS[i % 4]} {KINDS[i % 4]} story {i}", categories=[KINDS[i % 4]], available=True
    )
    for i in range(80)
}
VECTORS = dict(zip(ITEMS, StubProvider(32).embed([item.title for item in ITEMS.values()]).vectors, strict=True))
PROGRAM_OF_USERS = FeatureProgram(
    project=PROGRAM.project,
    views=(
        *PROGRAM.views,
        ViewProgram(name="user_history", entity="user", fields=tuple(f"page_{i}" for i in range(4))),
        ViewProgram(
            name="user_seen", entity="user", fields=tuple(f"{k}_{i}" for k in ("acted", "shown") for i in range(4))
        ),
        ViewProgram(name="user_session", entity="user", fields=("state",)),
    ),
)
ALL = Sampling(warm_up=0.0, slates=10_000, candidates=40, retrieved=60)


def memory(on_example: Callable[[Example], None] = lambda _: None) -> Memory:
    return Memory(
        program=PROGRAM_OF_USERS,
        params=StateParams(),
        items=ITEMS,
        vectors=VECTORS,
        space="s/32/t1",
        on_example=on_example,
    )


def event(kind: str, item_id: str, ts_ms: int, *, user: str = "u", **fields: Any) -> Event:
    number = EventType.Value(f"EVENT_TYPE_{kind}")
    fields.setdefault("event_id", f"{kind}-{user}-{item_id}-{ts_ms}")
    return Event(type=number, item_id=item_id, user_id=user, event_ts_ms=ts_ms, **fields)


def slate(request: str, items: Sequence[str], ts_ms: int, *, user: str = "u", drawn: bool = True) -> Event:
    slots = [ExposureSlot(item_id=item, propensity=0.1) for item in items]
    exposure = Exposure(policy="log", drawn=drawn, slots=slots)
    return Event(
        type=EventType.EVENT_TYPE_EXPOSURE, event_id=request, user_id=user, event_ts_ms=ts_ms, exposure=exposure
    )


def log(n: int = 60, seed: int = 1) -> list[Event]:
    """Users who click what is of their kind, one slate of four kinds every ten minutes."""
    rng = np.random.default_rng(seed)
    events = []
    for at in range(n):
        user, ts_ms = f"u{at % 6}", START + at * 10 * MINUTE
        shown = [f"i{4 * int(rng.integers(20)) + kind}" for kind in rng.permutation(4)]
        events.append(slate(f"r{at:03d}", shown, ts_ms, user=user))
        for slot, item in enumerate(shown, 1):
            if int(item[1:]) % 4 == at % 3:
                events.append(
                    event("CLICK", item, ts_ms + slot * 1_000, user=user, request_id=f"r{at:03d}", position=slot)
                )
            elif int(item[1:]) % 4 == 3 and rng.random() < 0.3:
                events.append(
                    event("DISMISS", item, ts_ms + slot * 1_000, user=user, request_id=f"r{at:03d}", position=slot)
                )
    return in_order(events)


def rows_of(events: Sequence[Event]) -> Dataset:
    return exposure_dataset(memory, in_order(events), ("click", "dismiss"), ALL)


def columns(data: Dataset, *names: str) -> Any:
    return data.X[:, [INDEX[name] for name in names]]


def test_every_slot_becomes_a_row_with_the_labels_of_the_join() -> None:
    events = log()
    data = rows_of(events)
    assert len(data) == 4 * 60
    clicks = {(e.request_id, e.position) for e in events if e.type == EventType.EVENT_TYPE_CLICK}
    expected = [float((f"r{at:03d}", slot) in clicks) for at in range(60) for slot in range(1, 5)]
    assert data.labels["click"].tolist() == expected
    assert data.labels["dismiss"].sum() > 0
    assert columns(data, SLOT_COLUMN)[:8, 0].tolist() == [1, 2, 3, 4, 1, 2, 3, 4]
    assert data.group.tolist() == sorted([*range(60)] * 4)
    assert data.counts["without_label"] == 0
    learned = columns(data, "crosses:category_affinity", "crosses:cosine_1w", "item_windows:clicks_30d")
    assert (np.abs(learned[-40:]).max(axis=0) > 0).all()
    assert not learned[:4].any()


def test_FEA_3_later_events_never_change_an_earlier_row() -> None:
    events = log()
    cut = 30
    short = [e for e in events if e.event_ts_ms < START + cut * 10 * MINUTE]
    planted = [event("PURCHASE", f"i{i}", START + (cut * 10 + 1) * MINUTE, user=f"u{i % 6}") for i in range(80)]
    plain, full = rows_of(short), rows_of([*events, *planted])
    others = [at for name, at in INDEX.items() if name != AGE_COLUMN]
    np.testing.assert_array_equal(full.X[: 4 * cut][:, others], plain.X[:, others])
    assert (full.X[4 * (cut + 6) :, INDEX["item_windows:purchases_30d"]] > 0).all()


def test_events_of_the_same_millisecond_are_not_known_yet() -> None:
    before = [event("CLICK", "i0", START - 5 * MINUTE)]
    same = [event("LIKE", "i4", START, event_id=f"a{i}") for i in range(3)]
    with_same = rows_of([*before, *same, slate("z", ["i0", "i4", "i8"], START)])
    without = rows_of([*before, slate("z", ["i0", "i4", "i8"], START)])
    np.testing.assert_array_equal(with_same.X, without.X)


def test_a_dataset_of_a_log_is_the_same_twice_and_sampled_by_hash() -> None:
    events = log()
    assert rows_of(events).digest() == rows_of(list(reversed(events))).digest()
    some = exposure_dataset(memory, events, ("click",), Sampling(warm_up=0.5, slates=7, candidates=40, retrieved=60))
    assert len(some.group_sizes()) == 7
    assert some.ts_ms.min() >= events[len(events) // 2].event_ts_ms
    assert chosen(["a", "b", "c"], 2) == chosen(["c", "b", "a"], 2)
    assert len(chosen(["a", "b"], 5)) == 2


def test_slates_that_nothing_drew_are_no_rows() -> None:
    with pytest.raises(TooLittleDataError, match="a policy drew"):
        rows_of([slate("z", ["i0"], START, drawn=False)])


def choices(n: int = 160) -> list[Event]:
    """Six users who rate film after film of their kind."""
    rng = np.random.default_rng(3)
    return in_order(
        event("RATING", f"i{4 * int(rng.integers(20)) + at % 3}", START + at * MINUTE, user=f"u{at % 6}", value=8.0)
        for at in range(n)
    )


def choice_rows(events: Sequence[Event], sampling: Sampling = ALL) -> Dataset:
    index = VectorIndex(IndexSettings(exact_below=1 << 31))
    return choice_dataset(memory(), events, "click", sampling, standard_sources(index, keep=False))


def test_choices_are_marked_among_what_retrieval_proposed() -> None:
    data = choice_rows(choices())
    sizes = data.group_sizes()
    assert sizes.max() <= ALL.candidates + 1
    marked = np.add.reduceat(data.labels["click"], np.r_[0, np.cumsum(sizes)[:-1]])
    assert (marked == 1).all()
    assert len(sizes) + data.counts.get("not_retrieved", 0) == 160
    affinity = columns(data, "crosses:category_affinity")[:, 0]
    late = data.group > 60
    assert affinity[late & (data.labels["click"] > 0)].mean() > 2 * affinity[late & (data.labels["click"] == 0)].mean()
    assert data.digest() == choice_rows(choices()).digest()


def test_a_choice_that_was_not_retrieved_is_skipped_never_injected() -> None:
    events = [*choices(40), event("RATING", "unheard-of", START + 100 * MINUTE, user="u1", value=9.0)]
    data = choice_rows(in_order(events), Sampling(warm_up=0.0, slates=1_000, candidates=5, retrieved=5))
    assert data.counts["not_retrieved"] > 1
    assert len(data.group_sizes()) == 41 - data.counts["not_retrieved"]
    with pytest.raises(TooLittleDataError, match="retrieved"):
        choice_rows([event("RATING", "unheard-of", START, value=9.0)])


def test_a_choice_never_sees_itself_nor_its_millisecond() -> None:
    first = choices(60)
    truth = event("RATING", "i79", START + 61 * MINUTE, user="u0", value=9.0)
    twins = [event("RATING", "i79", START + 61 * MINUTE, user=f"v{i}", value=9.0) for i in range(20)]
    sampling = Sampling(warm_up=0.0, slates=1_000, candidates=60, retrieved=80)
    alone, crowd = (
        choice_rows(in_order([*first, truth]), sampling),
        choice_rows(in_order([*first, truth, *twins]), sampling),
    )
    rows = [d.X[(d.labels["click"] > 0) & (d.ts_ms == truth.event_ts_ms)][0] for d in (alone, crowd)]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert rows[0][INDEX["crosses:log_popularity"]] == 0


def test_two_datasets_become_one_in_order_of_time() -> None:
    events = log()
    half = START + 300 * MINUTE
    early = rows_of([e for e in events if e.event_ts_ms < half])
    late = rows_of([e for e in events if e.event_ts_ms >= half])
    both = joined(late, early)
    assert len(both) == len(early) + len(late)
    assert (np.diff(both.ts_ms) >= 0).all()
    assert len(both.group_sizes()) == 60
    assert both.X[-1, INDEX[AGE_COLUMN]] == 0
    assert both.X[0, INDEX[AGE_COLUMN]] == pytest.approx((both.ts_ms[-1] - both.ts_ms[0]) / 3_600_000)
    np.testing.assert_array_equal(both.X[: len(early), : INDEX[SLOT_COLUMN]], early.X[:, : INDEX[SLOT_COLUMN]])


def test_sampling_is_checked() -> None:
    for wrong in ({"warm_up": 1.0}, {"slates": 0}, {"candidates": 1_001}):
        with pytest.raises(ValueError, match="warm_up"):
            Sampling(**wrong)  # type: ignore[arg-type]
    assert len(COLUMNS) == len(INDEX)
