"""A new model's bandit starts from recent slots, re-scored with the new model's own probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandits import Partial, Prior, on_phi_grid
from bandits.arms import ArmPartials
from bandits.items import WithItems
from bandits.logistic import LogisticPartial
from features.archive import part_dir, write_part
from features.examples import examples_dir, write_examples
from liverank.kafka import Record
from liverank.settings import RankerSettings, Settings
from liverank.v1.decision_pb2 import Decision, Mode
from liverank.v1.stream_pb2 import Example, Number
from ranker.columns import COLUMNS, FEATURE_SERVICE
from ranker.learned import learned_belief
from ranker.models import load_model, models_dir, rate_manifest, write_model
from ranker.models.store import START_FILE, START_FILES, start_of
from ranker.phi import DIM, SCHEMA
from ranker.posterior import believe
from ranker.serving import rulebook
from ranker.training.dataset import Dataset
from ranker.training.package import Package
from ranker.training.start import LEAST_SLOTS, best_factor, residuals_of, slots_of, summed, with_start

HEADS = ("click", "dismiss")
N_SLATES, K = 120, 5


def slots(effect: float, flips: bool = False, seed: int = 1) -> tuple[list[Example], list[Decision]]:
    """Slates whose click rate depends on phi in a way that no rate model knows; `flips`: the other way round later."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=DIM) * effect
    examples, decisions = [], []
    for at in range(N_SLATES):
        made = Decision(
            request_id=f"r{at}", mode=Mode.MODE_SERVE, drawn=True, schema=SCHEMA, feature_names=COLUMNS, heads=HEADS
        )
        for position in range(1, K + 1):
            phi = on_phi_grid(rng.normal(size=DIM) / 3)
            made.slots.add(
                item_id=f"i{position}",
                phi=phi.tolist(),
                features=rng.random(len(COLUMNS)).tolist(),
                category_name=f"kind{position % 3}" if position % 3 < 2 else "",
            )
            sign = -1 if flips and at >= N_SLATES // 2 else 1
            clicked = rng.random() < np.clip(0.3 + sign * phi @ direction, 0, 1)
            examples.append(
                Example(
                    number=Number(generation=1, offset=at, index=position), request_id=f"r{at}", position=position,
                    user_id="u", item_id=f"i{position}", exposure_ts_ms=1_000 + at, drawn=True, phi=phi.tolist(),
                    outcomes={"click": float(clicked), "dismiss": 0.0},
                )
            )  # fmt: skip
        decisions.append(made)
    return examples, decisions


def world(tmp_path: Path, examples: list[Example], decisions: list[Decision]) -> tuple[Settings, Package]:
    settings = Settings(namespace="test", home=tmp_path)
    write_examples(examples_dir(settings), 0, 0, len(examples), examples)
    records = [
        Record("decisions", 0, at, made.request_id.encode(), made.SerializeToString(), (), 1_000 + at)
        for at, made in enumerate(decisions)
    ]
    write_part(part_dir(settings, "decisions", 0, 0), records)
    n = len(examples)
    test = Dataset(
        kind="exposures",
        X=np.zeros((n, len(COLUMNS)), dtype=np.float32),
        labels={head: np.zeros(n, dtype=np.float32) for head in HEADS},
        group=np.arange(n),
        ts_ms=np.array([one.exposure_ts_ms for one in examples]),
    )
    manifest = rate_manifest(feature_service=FEATURE_SERVICE, schema=SCHEMA)
    return settings, Package(manifest=manifest, files={}, test=test, gains={}, trees={})


def test_the_start_is_a_file_of_the_manifest_and_the_same_every_time(tmp_path: Path) -> None:
    settings, package = world(tmp_path, *slots(effect=0.3))
    found = with_start(settings, package)
    again = with_start(settings, package)
    assert found.manifest.id == again.manifest.id != package.manifest.id
    assert found.manifest.parameters["start"]["slots"] == N_SLATES * K
    path = write_model(models_dir(settings), found.manifest, found.files)
    data = start_of(path)
    assert data == found.files[START_FILE]
    assert data is not None
    assert load_model(path).model_id == found.manifest.id
    start = Partial.from_bytes(data)
    belief = believe(found.manifest.id, [start], generation=1, head_weights=[1.0, -2.0], prior=Prior())
    assert belief.posterior.n_shown == start.n_shown > 0
    assert np.abs(belief.posterior.theta).max() > 0


def test_BAN_9_per_category_and_logistic_starts_are_the_same_slots(tmp_path: Path) -> None:
    settings, package = world(tmp_path, *slots(effect=0.3))
    found = with_start(settings, package)
    path = write_model(models_dir(settings), found.manifest, found.files)
    factor = found.manifest.parameters["start"]["factor"]
    shared, arms, logistic, items = (start_of(path, name) for name in START_FILES)
    assert shared is not None
    assert arms is not None
    assert logistic is not None
    assert items is not None
    per_item = WithItems.from_bytes(items)
    _, sums = per_item.items.arrays()
    assert per_item.n_shown == 0  # under this model
    assert per_item.items.n_shown == N_SLATES * K
    assert len(per_item.items) == len({slot.item_id for made in slots(effect=0.3)[1] for slot in made.slots})
    assert (sums[:, 0] > 0).all()
    start, per_category = Partial.from_bytes(shared), ArmPartials.from_bytes(arms)
    in_logits = LogisticPartial.from_bytes(logistic)
    kinds = per_category.statistics()
    assert set(kinds) == {"kind0", "kind1"}  # the items of kind2 say no category
    assert {arm: one.n_shown for arm, one in kinds.items()} == {
        "kind0": round(120 * factor),
        "kind1": round(240 * factor),
    }
    assert in_logits.n_shown == start.n_shown
    assert np.allclose(in_logits.slope(), start.statistics().b, atol=1e-9)
    total = sum(one.a for one in kinds.values())
    assert np.all(np.diag(total) <= np.diag(start.statistics().a) + 1e-9)
    prior = rulebook(RankerSettings(arms={"linucb_hybrid": 1.0})).priors["hybrid"]
    belief = learned_belief("m", "hybrid", per_category, generation=1, prior=prior, head_weights=[1.0, -2.0])
    mean = belief.under([1.0, -2.0]).bind(["kind0", "new"], np.full((2, 2), 0.1)).mean(np.eye(DIM)[:2])
    assert np.abs(mean).max() > 0


def test_it_holds_the_new_models_own_residuals(tmp_path: Path) -> None:
    examples, decisions = slots(effect=0.3)
    _, package = world(tmp_path, examples, decisions)
    from features.examples import table_of

    joined = slots_of(table_of(examples), decisions, HEADS)
    model = load_model(write_model(tmp_path / "models", package.manifest, {}))
    residuals = residuals_of(model, joined)
    first = decisions[0].slots[0]
    p = model.predict(np.array([first.features], dtype=np.float32), np.array([1], dtype=np.int32))[0]
    assert residuals[0] == pytest.approx(np.array([examples[0].outcomes["click"], 0.0]) - p)
    whole = summed(joined, residuals)
    assert whole.n_shown == N_SLATES * K
    b = whole.statistics().b
    assert np.allclose(b, residuals.T @ joined.phi, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "least", "most"), [({"effect": 0.6}, 0.25, 1.0), ({"effect": 0.6, "flips": True}, 0.0, 0.1)]
)
def test_the_discount_is_what_the_later_half_says(change: Mapping[str, Any], least: float, most: float) -> None:
    from features.examples import table_of

    examples, decisions = slots(**change)
    joined = slots_of(table_of(examples), decisions, HEADS)
    residuals = joined.outcomes - [0.3, 0.0]
    assert least <= best_factor(joined, residuals, [1.0, -2.0], Prior(sd=0.3, noise_sd=0.45)) <= most


def test_little_or_degraded_traffic_starts_from_the_prior(tmp_path: Path) -> None:
    examples, decisions = slots(effect=0.3)
    few = LEAST_SLOTS // K - 1
    settings, package = world(tmp_path / "few", examples[: few * K], decisions[:few])
    assert with_start(settings, package) is package
    for made in decisions:
        made.rungs.append("stale")
    settings, package = world(tmp_path / "stale", examples, decisions)
    assert with_start(settings, package) is package
