"""Quotas in a ranker: what operators set is in every slate of the surface, and every draw can be made again."""

from __future__ import annotations

import numpy as np
import pytest
from test_exploration_log import Log, learned, serve

from liverank.errors import ConfigError
from liverank.hot import HotSettings
from liverank.settings import Quota, RankerSettings
from liverank.v1 import event_pb2
from ranker.reproduce import differences, redraw
from tests.ranker_world import MemoryTable, World

K = 8
QUOTAS = (
    Quota(name="small creators", field="creator", values=("creator3", "creator4"), least=0.25, surfaces=("home",)),
    Quota(name="sponsored", field="attributes.sponsored", values=("true",), most=0.125),
    Quota(name="no kind5 here", field="category", values=("kind5",), most=0.0, surfaces=("home",)),
)
TABLE = MemoryTable(240)  # as every world of 240 items has it


@pytest.fixture(scope="module")
def log() -> Log:
    ranker = RankerSettings(
        arms={"thompson": 1.0}, greedy_slots=1, full_log_share=1.0, explore_cap=0.4, floor=0.1, quotas=QUOTAS
    )
    world = World(240, ranker=ranker)
    for row in range(0, 240, 3):
        world.table.attributes[row] = {"sponsored": event_pb2.Attribute(flag=True)}
    return serve(learned(world), 60, surface=lambda at: "home" if at % 2 else "mail")


def count(log: Log, surface: str, name: str) -> list[int]:
    codes = {
        "small": lambda row: TABLE.creator_names[TABLE.creator[row]] in ("creator3", "creator4"),
        "sponsored": lambda row: row % 3 == 0,
        "kind5": lambda row: TABLE.category_names[TABLE.categories[row, 0]] == "kind5",
    }
    return [
        sum(codes[name](TABLE.rows[slot.item_id]) for slot in made.slots)
        for made in log.made
        if made.surface == surface
    ]


class TestQuotas:
    def test_RNK_5_floor_and_ceilings_hold_where_they_are_set(self, log: Log) -> None:
        assert min(count(log, "home", "small")) >= 2
        assert min(count(log, "mail", "small")) < 2, "the floor is for home alone"
        assert max(count(log, "home", "sponsored") + count(log, "mail", "sponsored")) <= 1
        assert max(count(log, "home", "kind5")) == 0
        assert max(count(log, "mail", "kind5")) > 0
        assert all(len(made.slots) == K for made in log.made)

    def test_RNK_5_draws_under_quotas_are_made_again_bit_by_bit(self, log: Log) -> None:
        assert any(slot.explored for made in log.made for slot in made.slots)
        for made in log.made:
            data = log.snapshots([made.snapshot])[made.snapshot]
            assert differences(made, redraw(made, data)) == []
        home = next(made for made in log.made if made.surface == "home")
        assert [(quota.name, quota.least, quota.most) for quota in home.quotas] == [
            ("small creators", 2, 8),
            ("sponsored", 0, 1),
            ("no kind5 here", 0, 0),
        ]

    def test_a_floor_without_candidates_yields(self) -> None:
        quota = Quota(name="nobody", field="creator", values=("creator-unknown",), least=0.5)
        log = serve(learned(World(240, ranker=RankerSettings(quotas=(quota,)))), 4)
        assert [len(made.slots) for made in log.made] == [K] * 4

    def test_popular_items_obey_them_too(self) -> None:
        world = World(240, ranker=RankerSettings(quotas=QUOTAS))
        world.serving = None
        log = serve(world, 3)
        assert [list(made.rungs) for made in log.made] == [["no_model", "popular"]] * 3
        assert max(count(log, "home", "kind5")) == 0
        assert min(count(log, "home", "small")) >= 2

    def test_quotas_are_hot_and_wrong_ones_are_refused_by_name(self) -> None:
        rule = {"name": "local", "field": "attributes.origin", "values": ["de"], "least": 0.2}
        found = HotSettings(ranker={"quotas": [rule]}).over(RankerSettings()).quotas
        assert found == (Quota(name="local", field="attributes.origin", values=("de",), least=0.2),)
        for wrong, message in (
            ({"least": 0.5, "most": 0.2}, "least"),
            ({"field": "colour"}, "field"),
            ({"values": []}, "values"),
        ):
            with pytest.raises(ConfigError, match=message):
                HotSettings(ranker={"quotas": [{**rule, **wrong}]}).over(RankerSettings())


def test_rows_of_a_field_equal_the_whole_condition() -> None:
    from liverank.v1 import personalization_pb2 as pb
    from ranker.filters import Filters

    world, filters = World(120), Filters()
    for row in range(0, 120, 4):
        world.table.attributes[row] = {"origin": event_pb2.Attribute(text="de")}
    rows = np.array([3, 4, 8, 50, 119], dtype=np.int32)
    for field, values in (("category", ["kind1", "kind2"]), ("creator", ["creator7"]), ("attributes.origin", ["de"])):
        condition = pb.Condition(field=field, operator=pb.Condition.OPERATOR_IN, values=values)
        whole = filters.condition(world.table, condition, 1)
        assert filters.having(world.table, field, values, rows, 1).tolist() == whole[rows].tolist()
