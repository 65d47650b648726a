"""Item variants: one of each placed item, drawn with its own propensity, learned from clicks."""

from __future__ import annotations

import numpy as np
import pytest
from ranker_world import World

from bandits import Thompson
from evaluation.exploration import arms_of as reported_arms
from evaluation.exploration import verify_log
from features.hashing import id_hash
from features.item_table import ItemTable
from features.state.variants import MOST, SLACK, VariantCounts, arms_of, decode
from liverank.contract import validate_event, validate_item
from liverank.errors import ContractError
from liverank.settings import RankerSettings
from liverank.v1 import decision_pb2, event_pb2, item_pb2, stream_pb2
from liverank.v1 import personalization_pb2 as pb
from ranker.variants import belief, choose, choose_again, faults
from tests.unit.test_exploration_log import Log

NAMES = ("a", "b", "c")


def world_of(**ranker: object) -> World:
    world = World(60, ranker=RankerSettings(**ranker))  # type: ignore[arg-type]
    for row in range(0, 60, 2):
        world.table.variants[row] = NAMES
    return world


def decide(world: World, device: str = "") -> tuple[pb.RankReply, decision_pb2.Decision, event_pb2.Event]:
    request = pb.RankRequest(user_id="u1", surface="home", k=10, context=event_pb2.Context(device=device))
    reply = pb.RankReply.FromString(world.pipeline.rank(request))
    made = decision_pb2.Decision.FromString(world.producer.of("decisions")[-1][1])
    return reply, made, event_pb2.Event.FromString(world.producer.of("events")[-1][1])


def changed(made: decision_pb2.Decision, seed: int) -> decision_pb2.Decision:
    """The same decision under another seed."""
    other = decision_pb2.Decision.FromString(made.SerializeToString())
    other.seed = seed
    return other


def test_BAN_11_reply_exposure_and_decision_name_the_variant_and_its_propensity() -> None:
    world = world_of()
    met = 0
    for _ in range(10):
        reply, made, event = decide(world)
        validate_event(event, now_ms=world.now_ms)
        for item, slot, logged in zip(reply.items, event.exposure.slots, made.slots, strict=True):
            has = int(item.item_id[1:]) % 2 == 0
            assert (item.variant_id in NAMES) == has
            assert (item.variant_propensity > 0) == has
            for other in (slot, logged):
                assert (other.variant_id, other.variant_propensity) == (item.variant_id, item.variant_propensity)
            met += has
        assert made.variant_policy == "thompson(n_draws=128)"
    assert met > 20


def test_BAN_11_the_choice_can_be_made_again_from_the_log() -> None:
    world = world_of()
    world.table.variant_clicks = {row: np.full((3, 3, 2), [40.0, float(row % 7)]) for row in range(0, 60, 2)}
    for device in ("", "phone"):
        _, made, _ = decide(world, device)
        again = choose_again(made)
        assert again == {
            at: (slot.variant_id, slot.variant_propensity) for at, slot in enumerate(made.slots) if slot.variant_id
        }
        assert faults(made) == []
    assert any("the seed draws" in fault for seed in range(20) for fault in faults(changed(made, seed)))
    made.variant_policy = ""
    for slot in made.slots:
        del slot.variants[:]
    assert choose_again(made) == {}


def test_BAN_11_frequencies_stand_with_the_logged_propensities() -> None:
    world = world_of()
    counts = np.repeat([[(30.0, 3.0)], [(30.0, 2.0)], [(5.0, 0.0)]], 3, axis=1)  # device and surface are unknown
    world.table.variant_clicks[0] = counts
    drawn, expected = np.zeros(3), np.zeros(3)
    weights = []
    for seed in range(4_000):
        found = choose(world.table, [0], "", "", policy=Thompson(n_draws=64), floor=0.05, seed=seed).by_slot[0]
        at = NAMES.index(found.variant_id)
        drawn[at] += 1
        weights.append(1 / 3 / found.propensity)
        expected[at] += 1 / found.propensity  # counts over propensities: 4,000 each
    assert (drawn > 100).all()
    assert (np.abs(expected / 4_000 - 1) < 0.15).all()
    assert abs(np.mean(weights) - 1) < 3 * np.std(weights) / np.sqrt(4_000)


def test_BAN_11_a_clicked_variant_is_chosen_more_and_on_its_device_only_where_devices_differ() -> None:
    world = world_of()
    counts = np.zeros((3, 3, 2))
    counts[:, 0] = [(400.0, 20.0), (400.0, 20.0), (400.0, 20.0)]
    counts[:, 1:] = [[(200.0, 18.0)], [(200.0, 2.0)], [(200.0, 2.0)]]  # `a` wins on this device, and loses elsewhere
    world.table.variant_clicks[0] = counts
    here = choose(world.table, [0], "tv", "home", policy=None, floor=0.05, seed=1).by_slot[0]
    assert (here.variant_id, here.propensity) == ("a", 1.0)
    counts[:, 1:] = 0.0  # another device: nothing is known of it
    counts[1, 0] = (400.0, 60.0)
    there = choose(world.table, [0], "phone", "home", policy=None, floor=0.05, seed=1).by_slot[0]
    assert there.variant_id == "b"
    alpha, beta = belief(counts)
    assert (alpha + beta).tolist() == pytest.approx([20.0] * 3)
    alpha, beta = belief(np.repeat(counts[:, :1], 3, axis=1))  # nothing is known of the request
    assert (alpha + beta).tolist() == pytest.approx([410.0] * 3)


def test_BAN_11_a_variant_that_wins_on_one_surface_is_shown_there() -> None:
    world = world_of()
    counts = np.zeros((3, 3, 2))
    counts[:, :2] = [[(400.0, 40.0)], [(400.0, 60.0)], [(400.0, 20.0)]]  # one device; `b` is the best of all
    counts[:, 2] = [(100.0, 25.0), (100.0, 5.0), (100.0, 5.0)]  # but not here
    world.table.variant_clicks[0] = counts
    here = choose(world.table, [0], "tv", "home", policy=None, floor=0.05, seed=1).by_slot[0]
    assert here.variant_id == "a"
    assert (here.alpha + here.beta).tolist() == pytest.approx([120.0] * 3)
    counts[:, 2] = 0.0  # a surface of which nothing is known: what the others say
    there = choose(world.table, [0], "tv", "search", policy=None, floor=0.05, seed=1).by_slot[0]
    assert there.variant_id == "b"
    counts[:, 2] = counts[:, 1]  # there is no other surface: as if surfaces did not exist
    alone = belief(counts)
    assert alone[0].tolist() == pytest.approx((counts[:, 0, 1] + 10.0 * 120.5 / 1210.0).tolist())


def test_BAN_10_the_kill_switch_shows_the_best_variant() -> None:
    world = world_of(excluded_surfaces=("home",))
    for row in range(0, 60, 2):
        world.table.variant_clicks[row] = np.full((3, 3, 2), [100.0, 1.0])
        world.table.variant_clicks[row][1] = (100.0, 30.0)
    for _ in range(5):
        reply, made, _ = decide(world)
        chosen = [item for item in reply.items if item.variant_id]
        assert chosen
        assert all((item.variant_id, item.variant_propensity) == ("b", 1.0) for item in chosen)
        assert made.variant_policy == "greedy()"
        assert set(choose_again(made)) == {at for at, item in enumerate(reply.items) if item.variant_id}


def test_BAN_11_slates_are_the_same_with_and_without_variants() -> None:
    plain, varied = World(60), world_of()
    first, second = ([item.item_id for item in decide(one)[0].items] for one in (plain, varied))
    assert first == second


def test_BAN_11_counts_are_sums_in_any_order_and_bounded() -> None:
    rng = np.random.default_rng(2)
    added = [(f"v{rng.integers(8)}", float(rng.integers(1, 9)) / 8, float(rng.integers(2)), at) for at in range(200)]
    pages = []
    for order in (added, rng.permutation(np.array(added, dtype=object)).tolist()):
        counts = VariantCounts({})
        for arm, shown, clicked, ts_ms in order:
            counts.add(arm, shown, clicked, ts_ms)
        pages.append(counts.dirty())
        assert counts.dirty() == {}
    assert pages[0] == pages[1]
    (page,) = pages[0].values()
    stored = decode(page)
    assert stored[id_hash("v3")][1] == sum(clicked for arm, _, clicked, _ in added if arm == "v3")
    again = VariantCounts(pages[0])
    again.add("v3", 1.0, -1.0, 0)
    assert decode(next(iter(again.dirty().values())))[id_hash("v3")][1] == stored[id_hash("v3")][1] - 1
    many = VariantCounts({})
    for at in range(10 * MOST):
        many.add(f"v{at}", 1.0, 0.0, at)
    kept = decode(next(iter(many.dirty().values())))
    assert MOST <= len(kept) <= MOST + SLACK
    assert id_hash(f"v{10 * MOST - 1}") in kept


def test_BAN_11_the_item_table_knows_variants_and_their_counts() -> None:
    table = ItemTable()
    variants = [item_pb2.ItemVariant(variant_id=name) for name in NAMES]
    change = item_pb2.ItemChange(item_id="i1", upsert=item_pb2.Item(item_id="i1", available=True, variants=variants))
    validate_item(change)
    table.apply_change(change, 1)
    counts = VariantCounts({})
    for arm in arms_of("b", "tv", "home"):
        counts.add(arm, 2.0, 1.0, 5)
    pages = {field.decode(): page for field, page in counts.dirty().items()}
    number = stream_pb2.Number(generation=1, offset=3)
    assert table.apply_row(stream_pb2.ItemRow(item_id="i1", number=number, pages=pages))
    row = table.rows["i1"]
    assert table.variants[row] == NAMES
    nothing = [[0, 0]] * 3
    assert table.variant_counts(row, "tv", "home").tolist() == [nothing, [[2, 1]] * 3, nothing]
    assert table.variant_counts(row, "tv", "search").tolist()[1] == [[2, 1], [2, 1], [0, 0]]
    assert table.variant_counts(row, "tv", "").tolist()[1] == [[2, 1]] * 3
    assert table.variant_counts(row, "", "home").tolist()[1] == [[2, 1], [2, 1], [0, 0]]
    assert table.variant_counts(row, "", "").tolist()[1] == [[2, 1]] * 3
    del change.upsert.variants[1:]
    table.apply_change(change, 2)
    assert row not in table.variants


@pytest.mark.parametrize("names", [["a", "a"], ["a", ""], [f"v{at}" for at in range(17)], ["x" * 65]])
def test_variants_that_break_the_contract_are_refused(names: list[str]) -> None:
    item = item_pb2.Item(variants=[item_pb2.ItemVariant(variant_id=name) for name in names])
    with pytest.raises(ContractError):
        validate_item(item_pb2.ItemChange(item_id="i1", upsert=item))


def test_BAN_7_variants_are_arms_of_the_report() -> None:
    world = world_of()
    for _ in range(20):
        decide(world)
    log = Log(world)
    shown = [slot.variant_id for made in log.made for slot in made.slots if slot.variant_id]
    arms = reported_arms(log, by="variant")
    assert sum(arm.pulls for arm in arms) == len(shown) > 0
    assert {arm.arm.rpartition(": ")[2] for arm in arms} == set(shown)
    found = verify_log(log, min_rows=100)
    assert found.faults == [], found.lines()
    next(slot for made in log.made for slot in made.slots if slot.variant_id).variant_propensity += 0.01
    assert any("variant" in fault for fault in verify_log(log, min_rows=100).faults)
