"""Counts of items per surface: through both folds, in the item table, and as Beta arms of the source `explore`."""

from __future__ import annotations

import random

import numpy as np
import pytest
from ranker_world import NOW_MS, MemoryTable, MemoryUser

from bandits.beta import BetaPosterior, of_surface
from features.errors import StateFormatError
from features.hashing import id_hash
from features.item_table import ItemTable
from features.state.surfaces import FIELD, HALF_LIFE_MS, MOST, SurfaceCounts
from liverank.v1 import stream_pb2
from ranker.affinity import affinities
from ranker.retrieval import Explore, Query
from ranker.retrieval.explore import MOST_SURFACES, Arms
from tests.recount.expected import Logged
from tests.recount.scenes import MINUTE_MS, START_MS, action, differences, exposure, play

NOTHING = np.zeros((0, 0))


@pytest.mark.parametrize("seed", range(3))
def test_BAN_1_counts_per_surface_equal_a_recount_in_any_order_and_through_crashes(seed: int) -> None:
    rng = random.Random(seed)
    events = []
    for at in range(40):
        ts_ms, surface = START_MS + at * 20_000, rng.choice(["", "home", "search", "mail"])
        items = rng.sample(range(1, 9), 4)
        slate = exposure(f"r{at}", ts_ms, items)
        slate.surface = surface
        events.append(slate)
        for place, item in enumerate(items, start=1):
            if rng.random() < 0.3:
                click = action(f"c{at}-{place}", "click", ts_ms + 1_000 + place, item, request_id=f"r{at}")
                click.surface = surface
                events.append(click)
    rng.shuffle(events)
    arrived_ms = START_MS + 20 * MINUTE_MS
    log = [Logged(event, arrived_ms + at) for at, event in enumerate(events)]
    log.append(Logged(None, arrived_ms + 70 * MINUTE_MS))
    world = play(log, crash_rate=0.2, seed=seed)
    assert differences(world, log, log[-1].append_ts_ms) == []
    pages = [fields[FIELD] for fields in world.items.store.fields.values() if FIELD in fields]
    assert max(map(len, pages)) == 1 + 3 * 24  # an event without a surface counts on none


def test_BAN_1_of_many_surfaces_the_same_are_kept_in_any_order() -> None:
    rng = random.Random(3)
    added = [(f"s{rng.randrange(60)}", START_MS + at, 0.5, float(rng.randrange(2))) for at in range(400)]
    kept = sorted({id_hash(surface) for surface, *_ in added})[:MOST]
    for order in (added, added[::-1], rng.sample(added, 400)):
        counts = SurfaceCounts({})
        for each in order:
            counts.add(*each)
        table = ItemTable()
        assert table.apply_row(row_of(counts))
        for surface in {each[0] for each in added}:
            wanted = [2.0 ** ((ts_ms - START_MS) / HALF_LIFE_MS) for name, ts_ms, *_ in added if name == surface]
            found = table.examined(START_MS, surface)[0, 0]
            assert found == pytest.approx(0.5 * sum(wanted) if id_hash(surface) in kept else 0.0)


def row_of(counts: SurfaceCounts, item_id: str = "i1", offset: int = 3) -> stream_pb2.ItemRow:
    pages = {field.decode(): page for field, page in counts.dirty().items()}
    return stream_pb2.ItemRow(item_id=item_id, number=stream_pb2.Number(generation=1, offset=offset), pages=pages)


def test_the_item_table_reads_counts_of_a_surface_as_of_an_instant() -> None:
    table = ItemTable()
    for item_id, surface, clicks in (("i1", "home", 3.0), ("i2", "search", 1.0), ("i3", "home", 2.0)):
        counts = SurfaceCounts({})
        counts.add(surface, START_MS, 8.0, clicks)
        assert table.apply_row(row_of(counts, item_id))
    assert table.examined(START_MS, "home").tolist() == pytest.approx(np.array([[8, 3], [0, 0], [8, 2]]))
    later = table.examined(START_MS + HALF_LIFE_MS, "home")
    assert later.tolist() == pytest.approx(np.array([[4, 1.5], [0, 0], [4, 1]]))
    assert not table.examined(START_MS, "mail").any()
    assert not ItemTable().examined(START_MS, "home").any()
    broken = stream_pb2.ItemRow(
        item_id="i1", number=stream_pb2.Number(generation=1, offset=9), pages={FIELD.decode(): b"\x07" + bytes(24)}
    )
    with pytest.raises(StateFormatError, match="liverank rebuild"):
        table.apply_row(broken)


def test_BAN_1_with_one_surface_arms_are_what_they_are_without_bit_by_bit() -> None:
    rng = np.random.default_rng(1)
    shown = rng.uniform(0.0, 300.0, 50)
    everywhere = np.stack([shown, 0.1 * shown], axis=1)
    prior = rng.uniform(0.02, 0.2, 50)
    for here in (everywhere, everywhere * (1.0 + 1e-13)):  # summed in another order
        found = of_surface(everywhere, here, prior, 10.0)
        plain = BetaPosterior.of_counts(everywhere[:, 0], everywhere[:, 1], prior, 10.0)
        assert (found.alpha == plain.alpha).all()
        assert (found.beta == plain.beta).all()


def test_BAN_1_where_a_surface_has_few_counts_an_arm_is_what_it_is_elsewhere() -> None:
    everywhere = np.array([[1_000.0, 200.0], [1_000.0, 50.0], [1_000.0, 60.0], [0.0, 0.0]])
    here = np.zeros((4, 2))
    nobody = of_surface(everywhere, here, np.full(4, 0.1), 10.0)
    assert nobody.mean(NOTHING)[:3] == pytest.approx([0.2, 0.05, 0.06], rel=0.02)  # the order of the others
    assert (nobody.alpha + nobody.beta).tolist() == pytest.approx([20.0, 20.0, 20.0, 10.0])
    here[1] = (500.0, 45.0)  # most of what it earned, it earned here
    known = of_surface(everywhere, here, np.full(4, 0.1), 10.0)
    assert known.mean(NOTHING)[1] == pytest.approx(0.09, rel=0.05)
    assert known.sd(NOTHING)[1] < 0.5 * known.sd(NOTHING)[2]


def test_BAN_1_what_a_surface_earns_less_than_the_others_says_nothing_of_one_arm() -> None:
    everywhere = np.tile([2_000.0, 220.0], (20, 1))
    here = np.tile([1_000.0, 20.0], (20, 1))  # 2 % here, 20 % elsewhere
    here[10:] = 0.0
    everywhere[10:] = (1_000.0, 200.0)
    rates = of_surface(everywhere, here, np.full(20, 0.1), 10.0).mean(NOTHING)
    assert rates.tolist() == pytest.approx([0.02] * 20, rel=0.1)  # nobody saw the second half here


class Counted(MemoryTable):
    """Items with the counts that a test gives: everywhere (empty), and on surfaces."""

    def __init__(self, **counts: np.ndarray) -> None:
        super().__init__(len(counts["home"]), n_categories=1)
        self.counts = counts

    def examined(self, as_of_ms: int, surface: str = "") -> np.ndarray:
        none = np.zeros((len(self), 2))
        return self.counts.get(surface, none) if surface else sum(self.counts.values(), none)


def query_of(table: MemoryTable, surface: str, seed: int = 7) -> Query:
    user = MemoryUser()
    return Query(
        user=user, affinity=affinities(user, table, NOW_MS), table=table, as_of_ms=NOW_MS, allowed=table.available,
        seed=seed, surface=surface,
    )  # fmt: skip


def test_BAN_1_arms_are_proposed_by_what_they_earn_on_the_surface() -> None:
    rows = np.arange(200)
    home = np.stack([np.full(200, 500.0), np.where(rows < 20, 100.0, 10.0)], axis=1)
    search = np.stack([np.full(200, 500.0), np.where(rows >= 180, 100.0, 10.0)], axis=1)
    source = Explore()
    table = Counted(home=home, search=search)
    assert set(source.propose(query_of(table, "home"), 20).rows.tolist()) == set(range(20))
    assert set(source.propose(query_of(table, "search"), 20).rows.tolist()) == set(range(180, 200))
    elsewhere = set(source.propose(query_of(table, "mail"), 40).rows.tolist())  # what the others say: 8 by chance
    assert len(elsewhere & {*range(20), *range(180, 200)}) > 15


def test_arms_of_so_many_surfaces_are_kept_and_no_more() -> None:
    table = Counted(home=np.tile([50.0, 5.0], (100, 1)))
    source = Explore(keep_s=3600.0)
    for at in range(3 * MOST_SURFACES):
        assert len(source.propose(query_of(table, f"s{at}"), 10)) == 10
    assert len(source._kept) <= MOST_SURFACES + 1
    pooled = Arms(table, NOW_MS)
    last = source._arms(table, NOW_MS, "one more")
    assert (last.posterior.alpha == pooled.posterior.alpha).all()
