"""Training without stores: metrics, calibration, blocks, the join with decisions, determinism."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from features.examples import schema, table_of
from liverank.kafka import Record
from liverank.v1.decision_pb2 import Decision, DecisionSlot, Mode
from liverank.v1.event_pb2 import Event, EventType
from liverank.v1.stream_pb2 import Example
from ranker.columns import COLUMNS, INDEX, SLOT_COLUMN
from ranker.models import MismatchError, Serving, load_model, write_model
from ranker.models.booster import BoosterModel
from ranker.models.calibration import Isotonic, Platt, sigmoid
from ranker.phi import SCHEMA
from ranker.training import calibrate, metrics
from ranker.training.dataset import AGE_COLUMN, Dataset, with_shown
from ranker.training.errors import JoinError, TooLittleDataError
from ranker.training.heads import RANKED, RISING, BoosterParameters
from ranker.training.package import build
from ranker.training.report import report
from ranker.training.served import join, without_imported

WEIGHTS = {"click": 1.0, "dismiss": -2.0}
QUICK = BoosterParameters(n_trees=25, n_leaves=8, learning_rate=0.2, light_trees=10, min_leaf_rows=20)


INFORMED = ("cosine_1m", "category_aversion", "co_occurrence", "log_popularity", "trend")


def rows(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    """Noise in a few columns; the others are zero, so that a booster is quick."""
    X = np.zeros((n, len(COLUMNS)), dtype=np.float32)
    X[:, [INDEX[f"crosses:{name}"] for name in INFORMED]] = rng.normal(size=(n, len(INFORMED)))
    return X


def exposures(n_groups: int = 300, seed: int = 1) -> Dataset:
    """Slates of 10 in which the cosine and the slot decide clicks, and aversion dismissals."""
    rng = np.random.default_rng(seed)
    n = 10 * n_groups
    X = rows(rng, n)
    slot = np.tile(np.arange(1, 11), n_groups)
    X[:, INDEX[SLOT_COLUMN]] = slot
    X[:, INDEX[AGE_COLUMN]] = np.repeat(np.arange(n_groups)[::-1], 10)
    z = 1.5 * X[:, INDEX["crosses:cosine_1m"]] - 0.25 * slot
    click = rng.random(n) < sigmoid(z)
    dismiss = rng.random(n) < sigmoid(2 * X[:, INDEX["crosses:category_aversion"]] - 3)
    ts = 1_700_000_000_000 + 60_000 * np.repeat(np.arange(n_groups), 10)
    labels = {"click": click.astype(np.float32), "dismiss": dismiss.astype(np.float32)}
    return Dataset(kind="exposures", X=X, labels=labels, group=np.repeat(np.arange(n_groups), 10), ts_ms=ts)


def positives(n_groups: int = 300, size: int = 20, seed: int = 2) -> Dataset:
    rng = np.random.default_rng(seed)
    n = n_groups * size
    X = rows(rng, n)
    score = 3 * X[:, INDEX["crosses:co_occurrence"]] + rng.gumbel(size=n)
    y = np.zeros(n, dtype=np.float32)
    y[score.reshape(n_groups, size).argmax(axis=1) + size * np.arange(n_groups)] = 1
    group = np.repeat(np.arange(n_groups), size)
    return Dataset(kind="positives", X=X, labels={"click": y}, group=group, ts_ms=1_700_000_000_000 + group)


def test_metrics_match_hand_computed_values() -> None:
    y = np.array([0, 0, 1, 1])
    assert metrics.auc(y, np.array([0.1, 0.4, 0.35, 0.8])) == 0.75
    assert metrics.auc(y, np.zeros(4)) == 0.5
    assert np.isnan(metrics.auc(np.zeros(3), np.zeros(3)))
    assert metrics.log_loss(y, np.full(4, 0.5)) == pytest.approx(np.log(2))
    assert metrics.ece(np.array([0, 1, 0, 1]), np.full(4, 0.5), n_bins=1) == 0.0
    assert metrics.ece(np.array([0, 0, 1, 1]), np.array([0.1, 0.1, 0.6, 0.6]), n_bins=2) == pytest.approx(0.25)
    group = np.array([0, 0, 0, 1, 1, 1])
    assert metrics.hit_rate(np.array([0, 0, 1, 1, 0, 0]), np.array([1, 2, 3, 1, 2, 3]), group, k=1) == 0.5
    assert metrics.hit_rate(np.array([1, 0, 0]), np.ones(3), np.zeros(3, dtype=np.int64), k=2) == 0.0


@pytest.mark.parametrize("n", [400, 60_000])
def test_calibration_recovers_a_known_distortion(n: int) -> None:
    rng = np.random.default_rng(7)
    raw = rng.normal(size=n) * 1.5
    y = (rng.random(n) < sigmoid(0.6 * raw - 2)).astype(np.float32)
    found = calibrate.fit(raw, y)
    assert isinstance(found, Platt if n == 400 else Isotonic)
    held = rng.normal(size=40_000) * 1.5
    truth = sigmoid(0.6 * held - 2)
    assert np.abs(found.apply(held) - truth).mean() < (0.05 if n == 400 else 0.006)
    assert (np.diff(found.apply(np.linspace(-9, 9, 999))) > 0).all()


def test_calibration_without_signal_keeps_the_order_and_says_the_base_rate() -> None:
    rng = np.random.default_rng(8)
    raw = rng.normal(size=2_000)
    y = (rng.random(2_000) < sigmoid(-raw - 3)).astype(np.float32)  # worse than nothing
    found = calibrate.fit(raw, y)
    p = found.apply(raw)
    assert p.mean() == pytest.approx(y.mean(), rel=0.05)
    assert (np.diff(found.apply(np.sort(raw))) >= 0).all()


def test_blocks_are_one_after_the_other_and_cut_no_slate() -> None:
    data = exposures(100)
    blocks = data.blocks()
    assert [len(block) for block in blocks.values()] == [700, 100, 100, 100]
    ends = [(block.ts_ms.min(), block.ts_ms.max()) for block in blocks.values()]
    assert all(before[1] < after[0] for before, after in pairwise(ends))
    with pytest.raises(TooLittleDataError, match="at least 40"):
        exposures(39).blocks()


def test_a_dataset_checks_itself() -> None:
    data = exposures(50)
    with pytest.raises(ValueError, match="float32"):
        Dataset(kind="exposures", X=data.X.astype(np.float64), labels={}, group=data.group, ts_ms=data.ts_ms)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="as long as"):
        Dataset(kind="exposures", X=data.X, labels={}, group=data.group[1:], ts_ms=data.ts_ms)
    with pytest.raises(ValueError, match="together"):
        Dataset(kind="exposures", X=data.X, labels={}, group=data.group[::-1], ts_ms=data.ts_ms)
    assert data.digest() == exposures(50).digest() != exposures(50, seed=2).digest()


@pytest.mark.parametrize("data", [exposures(), positives()], ids=["exposures", "positives"])
def test_TRN_1_the_same_data_give_the_same_artefact(data: Dataset) -> None:
    one = build(data, weights=WEIGHTS, space="local/x/64/t1", parameters=QUICK)
    two = build(data, weights=WEIGHTS, space="local/x/64/t1", parameters=QUICK)
    assert one.manifest.id == two.manifest.id
    assert one.files == two.files
    other = exposures(seed=3) if data.kind == "exposures" else positives(seed=3)
    assert build(other, weights=WEIGHTS, space="local/x/64/t1", parameters=QUICK).manifest.id != one.manifest.id


def test_heads_learn_are_calibrated_and_neutral_to_example_age(tmp_path: Path) -> None:
    data = exposures(1_000)
    package = build(data, weights=WEIGHTS, space="", parameters=QUICK)
    model = load_model(write_model(tmp_path, package.manifest, package.files))
    found = report(model, package.test, package.gains)
    click, dismiss = found["heads"]["click"], found["heads"]["dismiss"]
    assert click["auc"] > 0.75 > click["auc_popularity"]
    assert click["log_loss"] < click["log_loss_base"]
    assert click["ece"] < 0.06
    assert dismiss["auc"] > 0.8
    assert click["worth"][0]["feature"] == "crosses:cosine_1m"
    assert click["worth"][0]["auc_lost"] > 0.1
    X = package.test.X
    older = X.copy()
    older[:, INDEX[AGE_COLUMN]] = 9_999
    first, last = np.ones(len(X), dtype=np.int32), np.full(len(X), 10, dtype=np.int32)
    np.testing.assert_array_equal(model.predict(X, first), model.predict(older, first))
    assert model.predict(X, first)[:, 0].mean() > 1.5 * model.predict(X, last)[:, 0].mean()
    assert np.corrcoef(model.light(X), X[:, INDEX["crosses:cosine_1m"]])[0, 1] > 0.5


def test_positive_only_logs_give_a_ranking_head_with_probabilities(tmp_path: Path) -> None:
    data = positives(800)
    package = build(data, weights=WEIGHTS, space="", parameters=QUICK)
    model = load_model(write_model(tmp_path, package.manifest, package.files))
    found = report(model, package.test, package.gains)["heads"]["click"]
    assert found["hit_10"] > 0.8 > found["hit_10_popularity"]
    assert found["mean_p"] == pytest.approx(found["rate"], rel=0.15)
    p = model.predict(package.test.X, np.ones(len(package.test), dtype=np.int32))
    assert np.ptp(p[:, 1]) == 0
    assert 0 < p[0, 1] < 0.02
    gains = dict(zip(COLUMNS, package.gains["click"].tolist(), strict=True))
    assert {name for name, gain in gains.items() if gain > 0} <= RANKED
    more = package.test.X.copy()
    for name in RISING:
        more[:, INDEX[name]] += 1
    assert (
        model.raw(more, np.ones(len(more), np.int32)) >= model.raw(package.test.X, np.ones(len(more), np.int32))
    ).all()
    shap = model.contributions(package.test.X[:5], np.ones(5, dtype=np.int32), head=1)
    assert not shap[:, :-1].any()


def test_too_few_outcomes_are_refused_or_become_a_constant(tmp_path: Path) -> None:
    data = exposures()
    rare = {"click": data.labels["click"], "dismiss": np.zeros(len(data), dtype=np.float32)}
    package = build(
        Dataset(kind="exposures", X=data.X, labels=rare, group=data.group, ts_ms=data.ts_ms),
        weights=WEIGHTS,
        space="",
        parameters=QUICK,
    )
    assert "dismiss" in package.manifest.parameters["constants"]
    model = load_model(write_model(tmp_path, package.manifest, package.files))
    assert model.predict(data.X[:3], np.ones(3, dtype=np.int32))[:, 1].max() < 0.01
    none = {head: np.zeros(len(data), dtype=np.float32) for head in WEIGHTS}
    with pytest.raises(TooLittleDataError, match="positive rows"):
        build(
            Dataset(kind="exposures", X=data.X, labels=none, group=data.group, ts_ms=data.ts_ms),
            weights=WEIGHTS,
            space="",
        )


def test_TRN_5_a_trained_model_is_refused_where_it_does_not_fit() -> None:
    manifest = build(exposures(), weights=WEIGHTS, space="local/x/64/t1", parameters=QUICK).manifest
    fits = Serving(feature_service="ranker_v1", columns=COLUMNS, schema=SCHEMA, space="local/x/64/t1")
    manifest.check(fits)
    for wrong in (
        Serving(feature_service="ranker_v1", columns=COLUMNS, schema=SCHEMA, space="local/x/128/t1"),
        Serving(feature_service="ranker_v1", columns=COLUMNS[::-1], schema=SCHEMA, space="local/x/64/t1"),
        Serving(feature_service="ranker_v2", columns=COLUMNS, schema=SCHEMA, space="local/x/64/t1"),
        Serving(feature_service="ranker_v1", columns=COLUMNS, schema="other", space="local/x/64/t1"),
    ):
        with pytest.raises(MismatchError):
            manifest.check(wrong)


def example(request: str, position: int, ts_ms: int, *, click: float = 0.0, drawn: bool = True) -> Example:
    return Example(
        request_id=request,
        position=position,
        exposure_ts_ms=ts_ms,
        drawn=drawn,
        outcomes={"click": click, "dismiss": 0.0, "dwell": 0.0},
    )


def features(value: float) -> NDArray[np.float32]:
    return np.full(len(COLUMNS), value, dtype=np.float32)


def decision(request: str, n: int = 2, **fields: object) -> Decision:
    slots = [DecisionSlot(item_id=f"i{i}", features=features(i + 0.5)) for i in range(n)]
    return Decision(request_id=request, feature_names=COLUMNS, slots=slots, mode=Mode.MODE_SERVE, **fields)  # type: ignore[arg-type]


def test_FEA_6_rows_are_the_served_ones_with_slot_and_age() -> None:
    hour = 3_600_000
    labels = table_of(
        [
            example("a", 1, 0, click=1.0),
            example("a", 2, 0),
            example("b", 1, 5 * hour),
            example("b", 2, 5 * hour, click=1),
        ]
    )
    found = join(labels, [decision("b"), decision("other"), decision("a"), decision("a")], ("click", "dismiss"))
    assert found.labels["click"].tolist() == [1, 0, 0, 1]
    assert found.labels["dismiss"].tolist() == [0, 0, 0, 0]
    assert found.group.tolist() == [0, 0, 1, 1]
    assert found.X[:, INDEX[SLOT_COLUMN]].tolist() == [1, 2, 1, 2]
    assert found.X[:, INDEX[AGE_COLUMN]].tolist() == [5, 5, 0, 0]
    plain = [i for name, i in INDEX.items() if name not in (SLOT_COLUMN, AGE_COLUMN)]
    np.testing.assert_array_equal(found.X[1, plain], features(1.5)[plain])


def test_slates_of_the_imported_past_that_live_traffic_closed_are_left_out() -> None:
    labels = table_of([example("past", 1, 10), example("live", 1, 20)])
    past = Event(event_id="past", type=EventType.EVENT_TYPE_EXPOSURE).SerializeToString()
    click = Event(event_id="live", type=EventType.EVENT_TYPE_CLICK).SerializeToString()
    records = [Record("events", 0, at, None, value, (), 10 + at) for at, value in enumerate((past, click))]
    assert without_imported(labels, records)["request_id"].to_pylist() == ["live"]
    assert without_imported(labels, [])["request_id"].to_pylist() == ["past", "live"]


def test_what_cannot_be_learned_from_is_left_out_and_counted() -> None:
    labels = table_of([example(r, 1, 0, drawn=r != "d") for r in "abcd"])
    decisions = [
        decision("a"),
        decision("b", rungs=["stale"]),
        Decision(request_id="c", feature_names=["old"], slots=[DecisionSlot(features=[1.0])]),
        decision("d"),
    ]
    found = join(labels, decisions, ("click",))
    assert len(found) == 1
    assert found.counts == {
        "rows": 4,
        "not_drawn": 1,
        "without_decision": 0,
        "degraded_or_shadow": 1,
        "other_columns": 1,
    }
    with pytest.raises(TooLittleDataError, match="no label row can be learned"):
        join(labels.slice(3), [decision("d")], ("click",))
    with pytest.raises(TooLittleDataError, match="window closes"):
        join(schema().empty_table(), [], ("click",))


@pytest.mark.parametrize(("n_missing", "refused"), [(1, False), (2, True)])
def test_missing_decisions_above_one_in_a_thousand_refuse_to_train(n_missing: int, refused: bool) -> None:
    labels = table_of([example(f"r{i:04d}", 1, i) for i in range(1_500)])
    decisions = [decision(f"r{i:04d}", 1) for i in range(n_missing, 1_500)]
    if refused:
        with pytest.raises(JoinError, match="2 of 1500"):
            join(labels, decisions, ("click",))
    else:
        assert join(labels, decisions, ("click",)).counts["without_decision"] == 1


def test_booster_parameters_are_checked() -> None:
    with pytest.raises(ValueError, match="trees"):
        BoosterParameters(n_trees=0)
    with pytest.raises(ValueError, match="learning_rate"):
        BoosterParameters(learning_rate=0)


@pytest.mark.parametrize("seed", [11, 12])
def test_FEA_7_example_age_lets_new_items_rise_as_fast_as_they_came_to_be_liked(seed: int) -> None:
    """Drift: in the past what is new was liked less, now it is liked more. Served age is 0: now, not the average."""
    rng = np.random.default_rng(seed)
    n_slates, now_ms = 3_000, 1_700_000_000_000
    days_ago = np.repeat(np.sort(rng.uniform(0, 60, n_slates))[::-1], 10)
    n = len(days_ago)
    X = rows(rng, n)
    slot = np.tile(np.arange(1, 11), n_slates)
    age_days = np.where(rng.random(n) < 0.3, rng.uniform(0, 1, n), rng.uniform(1, 30, n)).astype(np.float32)
    X[:, INDEX["crosses:item_age_days"]] = age_days

    def odds(
        x: NDArray[np.float32], item_age_days: NDArray[np.float32], ago: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        drift = 1.5 - 3.0 * ago / 60  # from -1.5 sixty days ago to +1.5 now
        return np.asarray(x[:, INDEX["crosses:cosine_1m"]] - 1.0 + drift * (item_age_days < 1))

    click = rng.random(n) < sigmoid(odds(X, age_days, days_ago) - 0.1 * slot)
    ts_ms = now_ms - (days_ago * 86_400_000).astype(np.int64)
    group = np.repeat(np.arange(n_slates), 10)
    labels = {"click": click.astype(np.float32), "dismiss": np.zeros(n, np.float32)}
    shown = with_shown(X, slot.astype(np.int32), ts_ms, now_ms)
    ageless = shown.copy()
    ageless[:, INDEX[AGE_COLUMN]] = 0.0

    asked = rows(rng, 4_000)
    asked_age = np.where(rng.random(4_000) < 0.3, rng.uniform(0, 1, 4_000), rng.uniform(1, 30, 4_000))
    asked[:, INDEX["crosses:item_age_days"]] = asked_age
    truth = odds(asked, asked_age.astype(np.float32), np.zeros(4_000))

    def mean_rank(scores: NDArray[np.float64]) -> float:
        """Of items younger than a day, among 100 candidates; 1 is the top."""
        ranks = 1 + (-scores.reshape(40, 100)).argsort(axis=1).argsort(axis=1)
        return float(ranks[asked_age.reshape(40, 100) < 1].mean())

    found = {}
    for name, data in (("with", shown), ("without", ageless)):
        package = build(
            Dataset(kind="exposures", X=data, labels=labels, group=group, ts_ms=ts_ms),
            weights=WEIGHTS,
            space="",
            parameters=BoosterParameters(light_trees=5),
        )
        model = BoosterModel(package.manifest, package.files, Path("nothing-compiled"))
        assert model.manifest.neutral == {AGE_COLUMN: 0.0}
        found[name] = mean_rank(model.predict(asked, np.ones(len(asked), np.int32))[:, 0])
    best = mean_rank(truth)
    # The newest block is kept for calibration and test, so the model's "now" is some days old: not all the way.
    assert best + 10 < found["with"] < found["without"] - 4
