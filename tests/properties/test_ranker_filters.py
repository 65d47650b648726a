"""Filters over ten thousand requests: nothing forbidden is ever shown, and k is met where it exists."""

from __future__ import annotations

import numpy as np
from ranker_world import MemoryUser, World

from liverank.settings import RankerSettings
from liverank.v1 import decision_pb2, event_pb2
from liverank.v1 import personalization_pb2 as pb

N = 400
REGIONS = ("", "fr", "de")


def test_RET_6_no_violation_in_ten_thousand_requests_and_k_met_at_one_percent() -> None:
    # No limits within a slate: they, not the filter, would then decide how many fit.
    rules = RankerSettings(creator_share=1.0, category_share=1.0, duplicate_cosine=2.0, n_draws=8, full_log_share=0.0)
    world = World(N, ranker=rules)
    table, rng = world.table, np.random.default_rng(4)
    table.available[rng.choice(N, 60, replace=False)] = False
    table.regions[rng.choice(N, 180, replace=False)] = 1  # germany only
    rare = rng.choice(np.flatnonzero(table.available), N // 100, replace=False)
    for row in rare:
        table.attributes[row] = {"certified": event_pb2.Attribute(flag=True)}
    dismissed = [f"i{at}" for at in range(0, 60, 3)]
    excluded = ["i1", "i2"]
    world.users["u"] = MemoryUser([("i4", 2, 1.0)], table=table, dismissed=dismissed)
    forbidden = np.zeros(N, dtype=np.bool_)
    forbidden[[table.rows[item] for item in (*dismissed, *excluded)]] = True
    filters = (
        {"field": "attributes.certified", "operator": pb.Condition.OPERATOR_IN, "values": ["true"]},
        {"field": "price", "operator": pb.Condition.OPERATOR_AT_MOST, "number": 50.0},
        {"field": "category", "operator": pb.Condition.OPERATOR_NOT_IN, "values": ["kind1", "kind2"]},
        {"field": "creator", "operator": pb.Condition.OPERATOR_IN, "values": ["creator3", "creator4"]},
    )
    certified = np.zeros(N, dtype=np.bool_)
    certified[rare] = True
    passes = (
        certified,
        table.price <= 50,
        ~np.isin(table.categories[:, 0], [table.category_code(name) for name in ("kind1", "kind2")]),
        np.isin(table.creator, [table.creator_code(name) for name in ("creator3", "creator4")]),
    )
    rarest = 0
    for at in range(10_000):
        which, region, k = at % 4, REGIONS[at % 3], 1 + at % 10
        request = pb.RankRequest(
            user_id="u",
            k=k,
            mode=decision_pb2.MODE_SHADOW,
            shadow=pb.ShadowOptions(seed=at + 1),
            context=event_pb2.Context(region=region),
            exclude_item_ids=excluded,
            filter=pb.Filter(conditions=[pb.Condition(**filters[which])]),
        )
        reply = pb.RankReply.FromString(world.pipeline.rank(request, remaining_ms=1e6))
        may = table.available & ~forbidden & passes[which]
        if region == "fr":
            may &= table.regions != 1
        rows = [table.rows[item.item_id] for item in reply.items]
        assert may[rows].all(), request
        assert len(set(rows)) == len(rows) == min(k, int(may.sum())), request
        rarest += which == 0 and len(rows) > 0
        if at % 1000 == 0:
            world.producer.records.clear()
    assert rarest > 0
