"""Value, soft rules, experiments, user states, the degrade ladder's parts, the table of statuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ranker_world import NOW_MS, MemoryTable, MemoryUser

import bandits.errors
import features.errors
import liverank.errors
import liverank.kafka
import ranker.errors
import ranker.models.errors
from features.vectors import user_vectors
from liverank.errors import LiverankError, UnavailableError
from liverank.settings import RankerSettings
from ranker.affinity import affinities
from ranker.columns import COLUMNS, INDEX, build
from ranker.degrade import Breaker, Recent, drawable
from ranker.errors import RankerConfigError
from ranker.experiments import DEFAULT, Arm, Experiment
from ranker.explore import faded
from ranker.phi import DIM, NAMES, phi
from ranker.rules import ListRules
from ranker.serving import rulebook
from ranker.status import TABLE, status_of
from ranker.user_states import DEFAULT_STATES, Router, UserState
from ranker.users import NOBODY, Users, Without
from ranker.value import ValueWeights, fading, hints, kept, repetition, soft_factors, spread, value

from liverank.v1 import event_pb2  # isort: skip


@pytest.fixture(scope="module")
def table() -> MemoryTable:
    return MemoryTable(120)


def rows_of(table: MemoryTable, user: MemoryUser) -> np.ndarray:
    every = np.arange(len(table), dtype=np.int32)
    return build(user, table, every, context=event_pb2.Context(device="phone"), as_of_ms=NOW_MS)


class TestColumns:
    def test_rows_have_every_column_and_neutral_values(self, table: MemoryTable) -> None:
        x = rows_of(table, MemoryUser([("i0", 2, 1.0)], table=table))
        assert x.shape == (120, len(COLUMNS))
        assert x.dtype == np.float32
        assert np.isfinite(x).all()
        assert (x[:, INDEX["crosses:slot"]] == 1).all()
        assert (x[:, INDEX["crosses:example_age_h"]] == 0).all()
        assert (x[:, INDEX["user_windows:clicks_1d"]] == 1).all()

    def test_only_history_strictly_before_the_instant_counts(self, table: MemoryTable) -> None:
        user = MemoryUser([("i0", 2, 1.0)], table=table, age_ms=1)
        before = affinities(user, table, NOW_MS - 1)
        after = affinities(user, table, NOW_MS)
        assert before.n_entries == 0
        assert after.n_entries == 1

    def test_negative_signal_moves_only_its_kind(self, table: MemoryTable) -> None:
        day_ms = 86_400_000
        plain, hurt = rows_of(table, MemoryUser()), rows_of(table, MemoryUser([("i0", 10, -2.0)], age_ms=day_ms))
        column = INDEX["crosses:category_aversion"]
        same = table.categories[:, 0] == table.categories[0, 0]
        assert (hurt[same, column] > plain[same, column]).all()
        assert (hurt[~same, column] == plain[~same, column]).all()

    def test_the_newest_rejection_is_for_the_hint_alone(self, table: MemoryTable) -> None:
        user = MemoryUser([("i0", 10, -2.0)])
        assert (rows_of(table, user)[:, INDEX["crosses:category_aversion"]] == 0).all()
        assert affinities(user, table, NOW_MS).newest_aversion[table.categories[0, 0]] > 0

    def test_the_newest_rejection_moves_no_cosine_an_older_one_does(self, table: MemoryTable) -> None:
        cosines = [INDEX[f"crosses:cosine_{window}"] for window in ("1w", "1m", "6m")]
        liked, rejected = ("i0", 2, 1.0), ("i1", 10, -2.0)
        vectors = table.vectors[[table.rows["i0"], table.rows["i1"]]]
        plain = rows_of(table, MemoryUser([liked], table=table))[:, cosines]
        for age_ms, same in ((1000, True), (86_400_000, False)):
            user = MemoryUser([liked, rejected], table=table, age_ms=age_ms)
            user.vectors = user_vectors(user.history, lambda _: (vectors, np.ones(2, dtype=np.bool_)), NOW_MS)
            assert np.allclose(rows_of(table, user)[:, cosines], plain, atol=1e-6) == same, age_ms

    def test_unknown_items_in_history_are_left_out(self, table: MemoryTable) -> None:
        found = affinities(MemoryUser([("gone", 2, 1.0), ("i0", 2, 1.0)]), table, NOW_MS)
        assert found.n_entries == 2
        assert found.rows.tolist() == [0]

    def test_phi_is_bounded_exact_on_its_grid_and_at_most_32(self, table: MemoryTable) -> None:
        x = rows_of(table, MemoryUser([("i0", 2, 1.0), ("i1", 10, -2.0)], table=table))
        names = [table.category_names[code] for code in table.categories[:, 0]]
        features = phi(x, names, np.zeros((120, 5), dtype=np.bool_))
        assert features.shape == (120, DIM)
        assert DIM == len(NAMES) <= 32
        assert np.abs(features).max() <= 1.0 + 1e-6
        assert (features * 4096 == np.round(features * 4096)).all()
        assert (features[:, -10:].sum(axis=1) == 1).all()


class TestValue:
    def test_STR_3_each_negative_alone_lowers_its_kind(self, table: MemoryTable) -> None:
        weights = ValueWeights(nearness=0.0)
        main = table.categories[:, 0]
        same = main == main[0]
        values = np.linspace(1.0, 0.9, len(table))
        # dismissal, thumbs-down, not-interested, skip, short dwell, abandonment
        for kind, weight in ((10, -2.0), (11, -2.0), (12, -3.0), (9, -0.5), (3, -0.5), (53, -0.25)):
            affinity = affinities(MemoryUser([("i0", kind, weight)], table=table), table, NOW_MS)
            lost = fading(values, main, kept(main, affinity, weights), np.arange(10, dtype=np.int32))
            assert lost[same].max() > 0, kind
            assert lost[same].tolist() == sorted(lost[same]), "the best item of a kind loses least"
            assert (lost[~same] == 0).all(), kind

    def test_one_dismissal_takes_a_third_of_the_places_five_take_nearly_all(self, table: MemoryTable) -> None:
        main = table.categories[:, 0]
        values = np.random.default_rng(5).normal(1.0, 0.1, len(table))
        values[main == main[0]] += 0.15  # a kind with many of the places

        def places(n: int) -> int:
            affinity = affinities(MemoryUser([("i0", 10, -2.0)] * n, table=table), table, NOW_MS)
            slate = np.argsort(-values)[:10].astype(np.int32)
            ruled = values - spread(values) * fading(values, main, kept(main, affinity, ValueWeights()), slate)
            return int((main[np.argsort(-ruled)[:10]] == main[0]).sum())

        assert places(0) >= 4
        assert 0.5 * places(0) <= places(1) < places(0)
        assert places(5) <= 1
        assert [places(n) for n in range(6)] == sorted((places(n) for n in range(6)), reverse=True)

    def test_places_are_counted_in_the_slate_that_the_hard_rules_allow(
        self, table: MemoryTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where one creator holds the best values, a kind stands in the slate without being among the best k."""
        rows = np.arange(len(table), dtype=np.int32)
        main = table.categories[:, 0]
        kind, others = np.flatnonzero(main == main[0]), np.flatnonzero(main != main[0])
        creator = np.arange(1, len(table) + 1, dtype=np.int32)
        creator[others[:20]] = 1
        monkeypatch.setattr(table, "creator", creator)
        score = np.full(len(table), 0.1)
        score[others[:20]], score[kind[:4]] = np.linspace(0.9, 0.8, 20), np.linspace(0.6, 0.5, 4)
        share = np.where(main == main[0], 0.7, 1.0)
        rules = ListRules(creator_share=0.3, category_share=1.0, duplicate_cosine=2.0)
        lost = faded(score, share, table, rows, 7, rules)
        assert (lost[kind[:2]] == 0).all(), "four of seven places: 2.8 are kept"
        assert 0 < lost[kind[2]] < lost[kind[3]]
        free = faded(score, share, table, rows, 7, ListRules(creator_share=1.0, category_share=1.0))
        assert free[kind[0]] > 0, "without the rule the kind has no place and counts as if it had one"

    def test_a_kind_without_a_place_fades_as_if_it_had_one(self) -> None:
        values, main = np.array([0.9, 0.8, 0.3, 0.2]), np.array([1, 1, 2, 2], dtype=np.int32)
        slate = np.array([0, 1], dtype=np.int32)
        lost = fading(values, main, np.array([1.0, 1.0, 0.5, 0.5]), slate)
        assert lost.tolist() == [0, 0, 4 * 0.5**2, 4 * 1.5**2]
        assert fading(np.zeros(0), np.zeros(0, dtype=np.int32), np.zeros(0), slate[:0]).tolist() == []
        assert fading(values, np.zeros(4, dtype=np.int32), np.zeros(4), slate).tolist() == [0, 0, 0, 0]

    def test_a_hint_means_the_same_under_a_flat_and_a_steep_model(self) -> None:
        hint = np.zeros(50)
        hint[49] = -2.0
        places = []
        for steepness in (0.05, 0.4):
            p = np.linspace(0.2, 0.2 + steepness, 50)[:, None]
            ranked = np.argsort(-value(p, np.array([1.0]), np.ones(50), hint))
            places.append(int(np.flatnonzero(ranked == 49)[0]))
        assert places[0] == places[1] > 20
        assert spread(np.zeros(0)) == 0.0
        assert spread(np.full(50, 0.2)) == pytest.approx(0.01)

    def test_a_kind_fades_item_by_item(self) -> None:
        values, main = np.array([0.3, 0.5, 0.4, 0.6, 0.9]), np.array([2, 1, 1, 1, 0], dtype=np.int32)
        assert repetition(values, main).tolist() == [0, 1, 2, 0, 0]
        assert repetition(np.zeros(0), np.zeros(0, dtype=np.int32)).tolist() == []
        ruled = value(values[:, None], np.array([1.0]), np.ones(5), main=main, diversity=0.5)
        assert ruled[[0, 3, 4]].tolist() == values[[0, 3, 4]].tolist()
        assert ruled[1] == pytest.approx(0.5 - 0.5 * spread(values))
        assert ruled[2] == pytest.approx(0.4 - 1.0 * spread(values))

    def test_a_click_on_the_kind_raises_it(self, table: MemoryTable) -> None:
        user = MemoryUser([("i0", 2, 1.0)], table=table)
        weights = ValueWeights(nearness=0.0)
        hint = hints(rows_of(table, user), table.categories[:, 0], affinities(user, table, NOW_MS), weights)
        assert hint[0] > 0
        assert hint[1] == 0

    def test_shown_without_click_is_damped_from_the_fifth_time(self, table: MemoryTable) -> None:
        user = MemoryUser()
        shown = np.array([0, 4, 5, 6, 50] + [0] * 115, dtype=np.int32)
        factors = soft_factors(
            rows_of(table, user),
            ValueWeights(),
            times_shown=shown,
        )
        assert factors[:5].tolist() == pytest.approx([1, 1, 0.85, 0.85**2, 0.5])

    def test_RNK_4_dismiss_weight_lowers_mean_dismissal_of_the_top(self) -> None:
        p = np.random.default_rng(3).uniform(0, 0.5, (200, 2))
        means = []
        for weight in (0.0, -1.0, -2.0, -5.0, -20.0):
            best = np.argsort(-value(p, np.array([1.0, weight]), np.ones(200)))[:10]
            means.append(p[best, 1].mean())
        assert means == sorted(means, reverse=True)
        assert means[-1] < means[0]

    def test_factor_above_one_helps_a_negative_value_too(self) -> None:
        p = np.array([[0.0, 0.5], [0.0, 0.5]])
        low, high = value(p, np.array([1.0, -2.0]), np.array([1.0, 2.0]))
        assert high > low

    @pytest.mark.parametrize("field", ["liking", "aversion", "nearness", "diversity", "freshness", "relevance"])
    def test_strength_outside_its_range_is_refused(self, field: str) -> None:
        with pytest.raises(RankerConfigError, match=field):
            ValueWeights(**{field: 1.5})


class TestExperiments:
    def test_assignment_is_sticky_and_follows_shares(self) -> None:
        arms = [DEFAULT.assign(f"user-{at}").name for at in range(20_000)]
        assert arms == [DEFAULT.assign(f"user-{at}").name for at in range(20_000)]
        share = arms.count("thompson") / len(arms)
        assert abs(share - 0.8) < 2.576 * np.sqrt(0.8 * 0.2 / 20_000)

    def test_another_salt_is_independent(self) -> None:
        other = Experiment(salt="other", arms=DEFAULT.arms)
        both = sum(
            DEFAULT.assign(f"u{at}").name == "linucb" and other.assign(f"u{at}").name == "linucb"
            for at in range(20_000)
        )
        assert abs(both / 20_000 - 0.01) < 0.003

    def test_shares_must_sum_to_one(self) -> None:
        with pytest.raises(RankerConfigError, match="sum to 1"):
            Experiment(salt="s", arms=(Arm(name="a", policy="thompson", share=0.5),))

    def test_unknown_policy_is_refused(self) -> None:
        with pytest.raises(RankerConfigError, match="is not one of"):
            Arm(name="a", policy="magic", share=1.0)


class TestUserStates:
    @pytest.mark.parametrize(
        ("count", "name"),
        [
            (0, "cold"),
            (5, "cold"),
            (6, "warming"),
            (50, "warming"),
            (51, "mature"),
            (99, "mature"),
            (100, "warm"),
            (128, "warm"),
        ],
    )
    def test_RNK_9_every_boundary(self, count: int, name: str) -> None:
        assert Router().route("u", count).name == name

    def test_RNK_9_hysteresis_keeps_a_user_near_the_boundary(self) -> None:
        router = Router()
        assert router.route("u", 100).name == "warm"
        assert router.route("u", 95).name == "warm"
        assert router.route("u", 89).name == "mature"
        assert router.route("u", 99).name == "mature"
        assert router.route("u", 100).name == "warm"
        assert router.route("u", 3).name == "cold"
        assert router.route("other", 95).name == "mature"

    def test_RNK_9_most_of_a_typical_load_needs_no_llm(self) -> None:
        rng = np.random.default_rng(1)
        users = np.minimum(rng.pareto(0.9, 5_000) * 12, 128).astype(int)
        requests = rng.choice(5_000, 20_000, p=(users + 1) / (users + 1).sum())
        router = Router()
        bypass = np.mean([not router.route(str(u), int(users[u])).llm for u in requests])
        assert bypass >= 0.7

    def test_table_is_data(self, tmp_path: Path) -> None:
        rows = [
            {"name": "new", "at_least": 0, "quotas": {"popular": 10}},
            {"name": "old", "at_least": 3, "quotas": {"vector": 10}},
        ]
        file = tmp_path / "states.json"
        file.write_text(json.dumps(rows))
        book = rulebook(RankerSettings(states=str(file)))
        assert Router(book.states).route("u", 3).name == "old"

    def test_bad_tables_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(RankerConfigError, match="begin at 0 and rise"):
            Router((UserState(name="a", at_least=1, quotas={}),))
        with pytest.raises(RankerConfigError, match="cannot be read"):
            rulebook(RankerSettings(states=str(tmp_path / "none.json")))
        assert DEFAULT_STATES[0].at_least == 0


class TestDegrade:
    def test_users_fall_to_stale_then_to_nobody(self) -> None:
        known = MemoryUser([("i0", 2, 1.0)])
        down = False

        def read(user_id: str) -> MemoryUser:
            if down:
                raise UnavailableError("redis is away")
            return known

        users = Users(read)
        assert users.get("u") == (known, None)
        down = True
        assert users.get("u") == (known, "stale")
        assert users.get("stranger") == (NOBODY, "no_user_features")

    def test_breaker_stays_away_for_a_while(self) -> None:
        breaker = Breaker(pause_s=60.0)
        assert not breaker.open
        breaker.failed()
        assert breaker.open
        breaker.worked()
        assert not breaker.open

    def test_recent_is_bounded(self) -> None:
        kept: Recent[int] = Recent(2, 60.0)
        for at in range(3):
            kept.put(str(at), at)
        assert [kept.get(str(at)) for at in range(3)] == [None, 1, 2]
        assert Recent[int](2, -1.0).get("x") is None

    def test_source_rungs_do_not_stop_the_draw(self) -> None:
        assert drawable(["source:trending", "small_model"])
        assert not drawable(["stale"])

    def test_without_hides_layers(self, table: MemoryTable) -> None:
        user = MemoryUser([("i0", 2, 1.0)], table=table)
        no_features = Without(user, features=False, vectors=True)
        assert len(no_features.history) == 0
        assert no_features.vectors.shape[1] == 8
        no_vectors = Without(user, features=True, vectors=False)
        assert len(no_vectors.history) == 1
        assert no_vectors.vectors.size == 0


def subclasses(kind: type[LiverankError]) -> set[type[LiverankError]]:
    found = {kind}
    for each in kind.__subclasses__():
        found |= subclasses(each)
    return found


def test_every_error_has_a_status() -> None:
    modules = (bandits.errors, features.errors, liverank.errors, liverank.kafka, ranker.errors, ranker.models.errors)
    assert all(modules)
    kinds = tuple(kind for kind, _, _ in TABLE)
    roots = {LiverankError, bandits.errors.BanditsError}
    for error in subclasses(LiverankError) - roots:
        if not issubclass(error, kinds):
            assert error.__subclasses__(), f"{error.__name__} is of no kind and has no gRPC status"
    assert status_of(ranker.errors.RequestConflictError("conflict", "x"))[1] == 409
    assert status_of(ranker.errors.NotReadyError("x"))[0].name == "UNAVAILABLE"
