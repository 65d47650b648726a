"""Boosters: one binary head per outcome, or one ranking head where only choices are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ranker.columns import CATEGORY_WINDOWS, COLUMNS, INDEX
from ranker.models.calibration import Calibration, logit
from ranker.training import calibrate
from ranker.training.dataset import Dataset, as_served
from ranker.training.errors import TooLittleDataError

CONSTANT_BELOW: Final = 50
"""A head with fewer positives to learn from is its smoothed base rate."""
LEAST_POSITIVES: Final = 100
"""The first head needs as many, else nothing is trained."""
_NAMES: Final = [name.replace(":", "__") for name in COLUMNS]  # LightGBM refuses colons
MONOTONE: Final[Mapping[str, int]] = {
    **{f"crosses:cosine_{window}": 1 for window in ("1w", "1m", "6m")},
    **{f"user_category_windows:{name}": 1 for name in CATEGORY_WINDOWS if not name.startswith("impressions")},
    **{
        f"crosses:{name}": 1
        for name in ("category_affinity", "category_ctr", "recent_category_share", "creator_affinity", "co_occurrence")
    },
    "crosses:category_aversion": -1,
    "crosses:category_negatives": -1,
}
"""Columns in which good heads may only rise (1) or fall (-1), and dismissals the other way round. Signals of one
user are rare: without this a few rows decide that people who dismiss a kind want more of it."""
RISING: Final = frozenset(
    f"crosses:{name}"
    for name in (
        "co_occurrence", "met_share", "met_last", "met_lift", "log_popularity",
        "demand_1h", "demand_1d", "demand_7d", "demand_30d", "own_times",
    )
)  # fmt: skip
"""Columns in which a ranking head may only rise: what is taken more, or met more with what the user took."""
RANKED: Final = RISING | frozenset(
    f"crosses:{name}"
    for name in (
        "cosine_1w", "cosine_1m", "cosine_6m", "caller_score", "category_affinity", "creator_affinity",
        "recent_category_share", "trend", "item_age_days", "usual_demand", "hours_since_own", "log_price",
        "price_ratio", "history_length", "hours_since_event",
    )
)  # fmt: skip
"""Columns that a ranking head learns from. Counters of windows and the hour are left to heads on exposures: where only
choices are known, they tell when a row was made rather than which item is taken, and cost more than they give."""
_PRIOR_ROWS: Final = 100.0
_PRIOR_RATE: Final = 0.01


@dataclass(frozen=True, kw_only=True)
class BoosterParameters:
    """Parameters of the boosters.

    Parameters
    ----------
    n_trees : int
        At most; early stopping takes fewer.
    n_leaves, learning_rate, min_leaf_rows, feature_share, l2
        LightGBM's `num_leaves`, `learning_rate`, `min_data_in_leaf`, `feature_fraction`, `lambda_l2`.
    patience : int
        Trees without gain on the stopping block before the end.
    light_trees : int
        Trees of the booster that thins many candidates.
    seed : int
    """

    n_trees: int = 150
    n_leaves: int = 15
    learning_rate: float = 0.08
    min_leaf_rows: int = 100
    feature_share: float = 0.8
    l2: float = 10.0
    patience: int = 20
    light_trees: int = 60
    seed: int = 20_240_501

    def __post_init__(self) -> None:
        if not (1 <= self.n_trees <= 2_000 and 1 <= self.light_trees <= 2_000 and 2 <= self.n_leaves <= 512):
            raise ValueError(f"trees must be 1 to 2,000 and leaves 2 to 512, got {self}")
        if not (0 < self.learning_rate <= 1 and 0 < self.feature_share <= 1 and self.l2 >= 0 and self.patience >= 1):
            raise ValueError(f"learning_rate and feature_share must lie in (0, 1], l2 >= 0, patience >= 1, got {self}")

    @classmethod
    def for_ranking(cls) -> BoosterParameters:
        """For choices: one positive among a hundred candidates wants smaller, more cautious trees."""
        return cls(
            n_trees=400, n_leaves=15, learning_rate=0.05, min_leaf_rows=200, feature_share=0.6, l2=20.0, patience=50
        )

    def lightgbm(self, objective: str, **more: Any) -> dict[str, Any]:
        """For LightGBM, such that the same data give the same bytes.

        One thread: beside other work on the same cores two are ten times slower (they spin while they wait).
        """
        return {
            "objective": objective,
            "num_leaves": self.n_leaves,
            "learning_rate": self.learning_rate,
            "min_data_in_leaf": self.min_leaf_rows,
            "feature_fraction": self.feature_share,
            "lambda_l2": self.l2,
            "max_bin": 255,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "seed": self.seed,
            "verbosity": -1,
            **more,
        }

    def described(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training gives: booster files, constant heads (log-odds), calibrations, rounds."""

    files: Mapping[str, bytes]
    constants: Mapping[str, float]
    calibration: Mapping[str, Calibration]
    trees: Mapping[str, int]


def train_heads(
    blocks: Mapping[str, Dataset], heads: tuple[str, ...], weights: Mapping[str, float], parameters: BoosterParameters
) -> Trained:
    """Binary heads on shown slots, each calibrated on the later block as it is served.

    Parameters
    ----------
    blocks : mapping
        `Dataset.blocks()` of a dataset of kind "exposures".
    heads : tuple of str
    weights : mapping of head to float
        Of the value; the light booster learns their sum.
    parameters : BoosterParameters

    Raises
    ------
    TooLittleDataError
        The first head has fewer than 100 positives.
    """
    train, stop, held = blocks["train"], blocks["stop"], blocks["calibrate"]
    n_first = int(train.labels[heads[0]].sum())
    if n_first < LEAST_POSITIVES:
        raise TooLittleDataError(
            f"head {heads[0]!r} needs {LEAST_POSITIVES} positive rows, got {n_first}: let traffic run"
        )
    files, constants, calibration, trees = {}, {}, {}, {}
    binned = _Binned(train.X, stop.X, parameters.lightgbm("binary"))
    for head in heads:
        y = train.labels[head]
        if int(y.sum()) < CONSTANT_BELOW:
            constants[head] = _base_log_odds(np.concatenate([block.labels[head] for block in (train, stop, held)]))
            continue
        booster = binned.boost(
            parameters.lightgbm(
                "binary", metric="binary_logloss", monotone_constraints_method="intermediate",
                monotone_constraints=_monotone(-1 if head == "dismiss" else 1),
            ),
            (y, stop.labels[head]), parameters.n_trees, parameters.patience,
        )  # fmt: skip
        files[f"{head}.txt"], trees[head] = _bytes(booster)
        raw = np.asarray(booster.predict(as_served(held.X), raw_score=True), dtype=np.float64)
        calibration[head] = calibrate.fit(raw, held.labels[head])

    def value(block: Dataset) -> NDArray[np.float32]:
        return np.asarray(sum(weights.get(head, 0.0) * block.labels[head] for head in heads), dtype=np.float32)

    light = binned.boost(
        parameters.lightgbm("regression", metric="l2"),
        (value(train), value(stop)),
        parameters.light_trees,
        parameters.patience,
    )
    files["light.txt"], trees["light"] = _bytes(light)
    return Trained(files=files, constants=constants, calibration=calibration, trees=trees)


def train_ranking(blocks: Mapping[str, Dataset], heads: tuple[str, ...], parameters: BoosterParameters) -> Trained:
    """One ranking head (cross-entropy NDCG) over each moment's candidates.

    Its score becomes P(chosen | candidate) on the next block.

    The other heads have no outcomes in such logs and are constants.

    Raises
    ------
    TooLittleDataError
        Fewer than 100 choices.
    """
    train, stop, held = blocks["train"], blocks["stop"], blocks["calibrate"]
    head = heads[0]
    n_groups = len(train.group_sizes())
    if n_groups < LEAST_POSITIVES:
        raise TooLittleDataError(f"ranking needs {LEAST_POSITIVES} choices, got {n_groups}: import more history")
    files, trees = {}, {}
    binned = _Binned(
        _ranked(train.X), _ranked(stop.X), parameters.lightgbm("rank_xendcg"), (train.group_sizes(), stop.group_sizes())
    )
    for name, n_trees in ((head, parameters.n_trees), ("light", parameters.light_trees)):
        booster = binned.boost(
            parameters.lightgbm(
                "rank_xendcg", metric="ndcg", eval_at=[10], label_gain=[0, 1], objective_seed=parameters.seed,
                monotone_constraints_method="basic",
                monotone_constraints=[int(column in RISING) for column in COLUMNS],
            ),
            (train.labels[head], stop.labels[head]), n_trees, parameters.patience,
        )  # fmt: skip
        files[f"{name}.txt"], trees[name] = _bytes(booster)
        if name == head:
            raw = np.asarray(booster.predict(as_served(held.X), raw_score=True), dtype=np.float64)
            found = calibrate.fit(raw, held.labels[head])
    constants = {other: _base_log_odds(np.zeros(0)) for other in heads[1:]}
    return Trained(files=files, constants=constants, calibration={head: found}, trees=trees)


class _Binned:
    """Columns of the training and stopping blocks, binned once for all boosters that learn from them.

    Parameters
    ----------
    train, stop : float array, shape (n_rows, n_columns)
    settings : dict
        Of any of the boosters: how columns are binned.
    groups : pair of int arrays, optional
        Rows of each group of both blocks, in order.
    """

    def __init__(
        self,
        train: NDArray[np.float32],
        stop: NDArray[np.float32],
        settings: dict[str, Any],
        groups: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
    ) -> None:
        import lightgbm

        bins = {"max_bin": settings["max_bin"], "verbosity": -1, "num_threads": settings["num_threads"]}
        self._train = lightgbm.Dataset(
            train, np.zeros(len(train)), group=groups[0] if groups else None, feature_name=_NAMES, params=bins
        )
        self._stop = lightgbm.Dataset(
            stop, np.zeros(len(stop)), group=groups[1] if groups else None, reference=self._train, params=bins
        )

    def boost(
        self,
        settings: dict[str, Any],
        labels: tuple[NDArray[np.float32], NDArray[np.float32]],
        n_trees: int,
        patience: int,
    ) -> Any:
        """A booster of the labels of both blocks."""
        import lightgbm

        self._train.set_label(labels[0])
        self._stop.set_label(labels[1])
        quiet: list[Callable[..., Any]] = [lightgbm.early_stopping(patience, verbose=False)]
        booster = lightgbm.train(settings, self._train, n_trees, valid_sets=[self._stop], callbacks=quiet)
        return lightgbm.Booster(model_str=booster.model_to_string(num_iteration=booster.best_iteration))


def _ranked(X: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows with zeros in all but the columns of `RANKED`: what never varies is never split on."""
    out = np.zeros_like(X)
    kept = [INDEX[name] for name in sorted(RANKED)]
    out[:, kept] = X[:, kept]
    return out


def _monotone(sign: int) -> list[int]:
    """Constraint of each column, in order."""
    return [sign * MONOTONE.get(name, 0) for name in COLUMNS]


def _bytes(booster: Any) -> tuple[bytes, int]:
    return booster.model_to_string().encode(), int(booster.num_trees())


def _base_log_odds(y: NDArray[np.floating]) -> float:
    rate = (float((y > 0).sum()) + _PRIOR_ROWS * _PRIOR_RATE) / (len(y) + _PRIOR_ROWS)
    return round(float(logit(np.asarray(rate))), 10)
