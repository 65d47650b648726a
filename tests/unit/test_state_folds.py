"""The folds at their edges: what parse refuses, keys, rows, statistics."""

from __future__ import annotations

import random
from dataclasses import replace

import dill
import pytest

from features.columns import NUMERIC, event_columns
from features.program import Aggregate, FeatureProgram, ViewProgram
from features.redis import format_version
from features.wire import pack_bytes
from liverank.errors import ConfigError, ContractError
from liverank.kafka import Record
from liverank.settings import Settings, StreamsSettings
from liverank.v1.event_pb2 import Event, EventType
from streams.items import ItemFold
from streams.rows import plain_key, state_key
from streams.users import UserFold
from tests.recount.decoded import counters
from tests.recount.program import PROGRAM
from tests.recount.scenes import DAY_MS, START_MS, action, catalogue, exposure
from tests.recount.world import TOKEN, World

INTERNAL = (("liverank-internal", TOKEN),)


def _fold(**settings) -> UserFold:
    return UserFold(Settings(**settings), PROGRAM, token=TOKEN)


def _record(value: bytes, headers: tuple[tuple[str, bytes], ...] = (), append_ts_ms: int = START_MS) -> Record:
    return Record("events.1", 0, 7, b"u", value, headers, append_ts_ms)


def test_ING_1_ticks_and_control_records_need_the_token() -> None:
    fold = _fold()
    tick = Event(type=EventType.EVENT_TYPE_TICK).SerializeToString()
    assert fold.parse(_record(tick, INTERNAL)).tick
    for headers in ((), (("liverank-internal", b"wrong"),)):
        with pytest.raises(ContractError) as refused:
            fold.parse(_record(tick, headers))
        assert refused.value.reason == "not_allowed"
    control = Event(type=EventType.EVENT_TYPE_CONTROL)
    control.control.kind = "erase"
    with pytest.raises(ContractError) as refused:
        fold.parse(_record(control.SerializeToString(), INTERNAL))
    assert refused.value.reason == "bad_control"


def test_ING_1_the_future_is_refused_on_the_wall_clock_only() -> None:
    ahead = action("a", "click", START_MS + DAY_MS, 1).SerializeToString()
    with pytest.raises(ContractError) as refused:
        _fold().parse(_record(ahead))
    assert refused.value.reason == "future"
    assert _fold(clock="data").parse(_record(ahead)).keys == ("u",)


def test_ING_1_a_value_beyond_its_bound_is_refused_and_one_at_it_counts_the_same_in_both_states() -> None:
    for value in (1e303, -1e303, 1.000001e12):
        with pytest.raises(ContractError, match="1e12") as refused:
            _fold().parse(_record(action("a", "purchase", START_MS, 1, value=value).SerializeToString()))
        assert refused.value.reason == "bad_value"
    for value in (1e12, -1e12):
        event = action("a", "purchase", START_MS, 1, value=value)
        assert _fold().parse(_record(event.SerializeToString())).keys == ("u",)
        assert event_columns(event, "")[NUMERIC.index("value")] == value  # finite, and whole on the grid of sums


def test_the_key_is_the_user_else_the_session() -> None:
    event = action("a", "click", START_MS, 1)
    assert _fold().parse(_record(event.SerializeToString())).route == b"u"
    event.user_id, event.session_id = "", "s-1"
    parsed = _fold().parse(_record(event.SerializeToString()))
    assert (parsed.keys, parsed.route) == (("s-1",), b"s-1")


@pytest.mark.parametrize("name", ["plain", "#stats:m:s", "\x01odd", "#", "ü#"])
def test_a_user_cannot_be_taken_for_a_state_of_the_partition(name: str) -> None:
    key = state_key(name)
    assert plain_key(key) == name
    assert not key.startswith("#")


def test_a_user_named_like_statistics_is_a_user() -> None:
    world = World(catalogue=catalogue())
    world.send(action("a", "click", START_MS, 1, user="#stats:m:s"))
    world.flush()
    assert "#stats:m:s" in world.users.rows
    assert world.users.rows["#stats:m:s"]["user_history:page_0"]


def test_rows_hold_the_bytes_of_the_state() -> None:
    world = World(catalogue=catalogue())
    world.send(action("a", "click", START_MS, 1))
    world.flush()
    for key, runner in (("u", world.users), ("i1", world.items)):
        public = {n.decode(): page for n, page in runner.store.fields[key].items() if not n.startswith(b"_")}
        assert public
        assert runner.rows[key] == {name: pack_bytes(page) for name, page in public.items()}
    (change,) = world.items.feeds
    assert (change.item_id, change.event_ts_ms, change.number.generation) == ("i1", START_MS, 1)
    assert {name: pack_bytes(page) for name, page in change.pages.items()} == world.items.rows["i1"]


def test_an_unknown_item_counts_without_a_category() -> None:
    world = World(catalogue=catalogue())
    world.send(action("a", "click", START_MS, "nobody-knows-it"))
    world.flush()
    assert world.dead_letters() == []
    assert world.item_fields("nobody-knows-it")


def test_statistics_that_do_not_fit_are_a_dead_letter_and_harm_nothing() -> None:
    """A second slate of the same model and schema with another length of phi is left out of the sums only."""
    world = World(catalogue=catalogue())
    world.send(exposure("r1", START_MS, [1, 2]))
    odd = exposure("r2", START_MS + 1, [3, 4])
    for slot in odd.exposure.slots:
        slot.phi.append(0.5)
    world.send(odd)
    world.send(action("a", "click", START_MS + 2, 3, request_id="r2"))
    world.tick(START_MS + DAY_MS)
    world.flush()
    assert [letter.reason for letter in world.dead_letters()] == ["bad_exposure"]
    assert [(row.request_id, row.outcomes["click"]) for row in world.examples()] == [
        ("r1", 0.0),
        ("r1", 0.0),
        ("r2", 1.0),
        ("r2", 0.0),
    ]


def test_corrupt_effects_are_refused() -> None:
    with pytest.raises(ContractError) as refused:
        ItemFold(Settings(), PROGRAM).parse(_record(b"\xff\xff\xff"))
    assert refused.value.reason == "corrupt_effects"


def test_a_weight_that_no_signal_has_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="clickk"):
        _fold(streams=StreamsSettings(signal_weights={"clickk": 1.0}))
    with pytest.raises(ConfigError, match="dismiss"):
        _fold(streams=StreamsSettings(signal_weights={"dismiss": -99.0}))


def test_effects_are_folded_once() -> None:
    world = World(catalogue=catalogue())
    world.send(action("a", "click", START_MS, 1))
    world.flush()
    before = dict(world.item_fields("i1"))
    for output in world.users.outputs:
        if output.topic == "item-effects":
            world.items.feed(Record("item-effects.1", 0, 99, None, output.value, (), 0))
    world.items.write()
    assert world.item_fields("i1") == before
    assert format_version(1, 0, 0)


def _program(function) -> FeatureProgram:
    view = ViewProgram(
        name="mobile_clicks",
        entity="user",
        aggregates=(
            Aggregate(name="doubled_1d", column="doubled", function="sum", window_ms=DAY_MS, slide_ms=3_600_000),
        ),
        transformation=dill.dumps(function, recurse=True),
        extra_columns=("doubled",),
    )
    return replace(PROGRAM, views=(*PROGRAM.views, view))


def test_a_transformation_filters_and_adds_columns() -> None:
    program = _program(lambda frame: frame.assign(doubled=2.0 * frame["click"])[frame["category"] == "c1"])
    world = World(catalogue=catalogue(), program=program)
    for at in range(8):
        world.send(action(f"e{at}", "click", START_MS + at, at))
    world.flush()
    assert counters(program, "user", world.fields("u"), START_MS + 10)["doubled_1d"] == 4.0  # i1 and i5 are of c1


def test_STR_1_counters_of_a_context_are_a_view_with_a_transformation() -> None:
    """Clicks on one surface alone, slid by themselves, against a recount of the list."""
    program = _program(lambda frame: frame.assign(doubled=frame["click"] * (frame["surface"] == "mail")))
    world, rng = World(catalogue=catalogue(), program=program), random.Random(4)
    sent = []
    for at in range(300):
        ts_ms = START_MS + rng.randrange(3 * DAY_MS)
        surface = rng.choice(["home", "mail"])
        event = action(f"e{at}", "click", ts_ms, at % 8)
        event.surface = surface
        world.send(event)
        sent.append((ts_ms, surface))
    world.flush()
    for as_of_ms in (START_MS + 3 * DAY_MS, START_MS + 3 * DAY_MS + 10 * 3_600_000, START_MS + 9 * DAY_MS):
        edge = as_of_ms // 3_600_000 * 3_600_000  # the slide is an hour
        found = counters(program, "user", world.fields("u"), as_of_ms)["doubled_1d"]
        low = edge - DAY_MS
        expected = sum(low <= ts_ms <= as_of_ms and surface == "mail" for ts_ms, surface in sent)
        assert found == expected, as_of_ms


def test_a_transformation_that_raises_stops_its_view_only() -> None:
    def broken(frame):
        raise ValueError("no such thing")

    program = _program(broken)
    world = World(catalogue=catalogue(), program=program)
    world.send(action("a", "click", START_MS, 1))
    world.flush()
    (letter,) = world.dead_letters()
    assert letter.reason == "transformation_failed"
    assert "mobile_clicks" in letter.detail
    assert "no such thing" in letter.detail
    values = counters(program, "user", world.fields("u"), START_MS)
    assert (values["clicks_1h"], values["doubled_1d"]) == (1.0, 0.0)
