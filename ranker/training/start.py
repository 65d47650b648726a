"""Where a new model's bandit starts: the statistics of recent slots, re-scored with the new model's own probabilities.

Of all sums but those per item only slots of the newest block are used: the model has not learned from them, so their
residuals are what it will leave in service. They are discounted by a factor chosen on the later half of that block. An
item is shown too seldom for that: its sums are of all slots of 30 days. The model has learned from most of them, but
trees that tell items apart by features leave most of what one item alone earns. Written as files of the model; every
ranker adds them to what the fold has counted. Fold state is not touched.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from bandits import Partial, Prior
from bandits.arms import ArmPartials
from bandits.fit import fit_discount
from bandits.items import WithItems, item_features, looks_at
from bandits.logistic import LogisticPartial
from features.archive import read_archive
from features.examples import examples_dir, read_examples
from liverank.settings import Settings
from liverank.v1.decision_pb2 import Decision, Mode
from ranker.columns import COLUMNS
from ranker.models import Model, load_model, write_model
from ranker.models.store import START_ARMS_FILE, START_FILE, START_ITEMS_FILE, START_LOGISTIC_FILE, file_hash
from ranker.phi import DIM, SCHEMA
from ranker.training.package import Package

if TYPE_CHECKING:
    import pyarrow as pa

LEAST_SLOTS: Final = 400
"""Fewer slots in the newest block, and the bandit starts from the prior alone (items: fewer slots in all)."""
ITEM_DAYS: Final = 30.0
DAY_MS: Final = 86_400_000


@dataclass(frozen=True, kw_only=True)
class Slots:
    """Shown slots in order of time.

    Attributes
    ----------
    x
        Feature rows as served, float32, shape ``(n, len(COLUMNS))``.
    phi
        Bandit features as logged, shape ``(n, DIM)``.
    position
        From 1, shape ``(n,)``.
    ts_ms
        When shown, shape ``(n,)``.
    outcomes
        By head, 0 or 1; shape ``(n, n_heads)``.
    categories
        Name of each item's first category; empty = not known. Length ``n``.
    items
        Id of each item. Length ``n``.
    """

    x: NDArray[np.float32]
    phi: NDArray[np.float64]
    position: NDArray[np.int32]
    ts_ms: NDArray[np.int64]
    outcomes: NDArray[np.float64]
    categories: Sequence[str] = ()
    items: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.ts_ms)

    def take(self, rows: NDArray[np.int64]) -> Slots:
        """Some of the slots."""
        return Slots(
            x=self.x[rows],
            phi=self.phi[rows],
            position=self.position[rows],
            ts_ms=self.ts_ms[rows],
            outcomes=self.outcomes[rows],
            categories=[self.categories[row] for row in rows],
            items=[self.items[row] for row in rows],
        )


def with_start(settings: Settings, package: Package) -> Package:
    """The package with its starting statistics as files: shared, per category, per item, logistic; unchanged where too
    little was served.

    The same archive and examples give the same bytes, hence the same model id.
    """
    if package.manifest.schema_id != SCHEMA or not len(package.test.ts_ms):
        return package
    since_ms, newest_ms = int(package.test.ts_ms.min()), int(package.test.ts_ms.max())
    earliest_ms = min(since_ms, newest_ms - int(ITEM_DAYS * DAY_MS))
    labels = read_examples(examples_dir(settings), since_ms=earliest_ms, until_ms=newest_ms + 1)
    if labels.num_rows < LEAST_SLOTS:
        return package
    decisions = (Decision.FromString(record.value) for record in read_archive(settings, "decisions"))
    slots = slots_of(labels, decisions, package.manifest.heads)
    if len(slots) < LEAST_SLOTS:
        return package
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(write_model(Path(folder), package.manifest, package.files))
        residuals = residuals_of(model, slots)
    files = {START_ITEMS_FILE: summed_per_item(slots, residuals).to_bytes()}
    described: dict[str, float] = {"item_slots": len(slots)}
    newest = np.flatnonzero(slots.ts_ms >= since_ms)
    slots, residuals = slots.take(newest), residuals[newest]
    weights = [settings.ranker.head_weights.get(head, 0.0) for head in package.manifest.heads]
    prior = Prior(sd=settings.ranker.prior_sd, noise_sd=settings.ranker.noise_sd)
    factor = best_factor(slots, residuals, weights, prior) if len(slots) >= LEAST_SLOTS else 0.0
    if factor > 0.0:
        described |= {"slots": len(slots), "factor": factor}
        files |= {
            START_FILE: summed(slots, residuals).scaled(factor).to_bytes(),
            START_LOGISTIC_FILE: summed_in_logits(slots, residuals).scaled(factor).to_bytes(),
        }
        per_category = summed_per_category(slots, residuals)
        if len(per_category):
            files[START_ARMS_FILE] = per_category.scaled(factor).to_bytes()
    manifest = package.manifest.model_copy(
        update={
            "files": {**package.manifest.files, **{name: file_hash(data) for name, data in files.items()}},
            "parameters": {**package.manifest.parameters, "start": described},
        }
    )
    return replace(package, manifest=manifest, files={**package.files, **files})


def slots_of(labels: pa.Table, decisions: Iterable[Decision], heads: Sequence[str]) -> Slots:
    """Join label rows with decisions by (request id, position): drawn, shown, full service, these columns."""
    wanted: dict[str, list[int]] = {}
    requests = labels["request_id"].to_pylist()
    for row, (request, drawn) in enumerate(zip(requests, labels["drawn"].to_pylist(), strict=True)):
        if drawn:
            wanted.setdefault(request, []).append(row)
    positions, times = labels["position"].to_pylist(), labels["exposure_ts_ms"].to_pylist()
    outcomes: Mapping[str, list[float | None]] = {head: labels[f"outcome_{head}"].to_pylist() for head in heads}
    found: dict[int, tuple[Sequence[float], Sequence[float], str, str]] = {}
    for made in decisions:
        rows = wanted.get(made.request_id)
        served = made.mode != Mode.MODE_SHADOW and made.drawn and not made.rungs
        if rows is None or not served or made.schema != SCHEMA or tuple(made.feature_names) != COLUMNS:
            continue
        for row in rows:
            if 1 <= positions[row] <= len(made.slots):
                slot = made.slots[positions[row] - 1]
                if len(slot.features) == len(COLUMNS) and len(slot.phi) == DIM:
                    found[row] = (slot.features, slot.phi, slot.category_name, slot.item_id)
    chosen = sorted(found)
    return Slots(
        x=np.array([found[row][0] for row in chosen], dtype=np.float32).reshape(-1, len(COLUMNS)),
        phi=np.array([found[row][1] for row in chosen], dtype=np.float64).reshape(-1, DIM),
        position=np.array([positions[row] for row in chosen], dtype=np.int32),
        ts_ms=np.array([times[row] for row in chosen], dtype=np.int64),
        outcomes=np.array([[outcomes[head][row] or 0.0 for head in heads] for row in chosen]).reshape(-1, len(heads)),
        categories=[found[row][2] for row in chosen],
        items=[found[row][3] for row in chosen],
    )


def residuals_of(model: Model, slots: Slots) -> NDArray[np.float64]:
    """Outcome minus the model's probability at the slot shown, shape ``(n, n_heads)``."""
    residuals: NDArray[np.float64] = slots.outcomes - model.predict(slots.x, slots.position)
    return residuals


def summed(slots: Slots, residuals: NDArray[np.float64], chosen: slice = slice(None)) -> Partial:
    """The sums of some slots."""
    partial = Partial(slots.phi.shape[1], residuals.shape[1])
    if len(slots.ts_ms[chosen]):
        partial.shown(slots.phi[chosen], residuals[chosen], int(slots.ts_ms[chosen].max()))
    return partial


def summed_per_category(slots: Slots, residuals: NDArray[np.float64]) -> ArmPartials:
    """The sums of slots whose item has a known category, per category."""
    table = ArmPartials(slots.phi.shape[1], residuals.shape[1])
    rows: dict[str, list[int]] = {}
    for row, category in enumerate(slots.categories):
        if category:
            rows.setdefault(category, []).append(row)
    for category, chosen in rows.items():
        table.shown(category, slots.phi[chosen], residuals[chosen], int(slots.ts_ms[chosen].max()))
    return table


def summed_per_item(slots: Slots, residuals: NDArray[np.float64]) -> WithItems:
    """The sums of all slots per item, as a prior: their bandit features are left out (0), since those coefficients are
    learned in service, and no slot counts as shown under this model.
    """
    sums = WithItems.none(slots.phi.shape[1], residuals.shape[1])
    newest_ms = int(slots.ts_ms.max(initial=0))
    p_click = np.clip(slots.outcomes - residuals, 0.0, 1.0)[:, 0]
    x = item_features(np.zeros_like(slots.phi), p_click)
    sums.shared.shown(x, residuals, newest_ms)
    sums.shared.n_shown = 0
    sums.items.shown(slots.items, looks_at(slots.position), x, residuals, newest_ms)
    return sums


def summed_in_logits(slots: Slots, residuals: NDArray[np.float64]) -> LogisticPartial:
    """The sums of all slots for the logistic posterior."""
    partial = LogisticPartial(slots.phi.shape[1], residuals.shape[1])
    p = np.clip(slots.outcomes - residuals, 0.0, 1.0)
    partial.shown(slots.phi, p, int(slots.ts_ms.max()), residuals=residuals)
    return partial


def best_factor(slots: Slots, residuals: NDArray[np.float64], weights: Sequence[float], prior: Prior) -> float:
    """The discount under which the later half's residuals are likeliest, given the earlier half; 0 where the past does
    not help.
    """
    half = len(slots) // 2
    earlier = summed(slots, residuals, slice(0, half))
    return fit_discount(earlier, slots.phi[half:], residuals[half:], weights, prior)
