"""Why a slate looked as it did, from its logged decision alone: nothing is read again, nothing is estimated.

Contributions are TreeSHAP of the model's first head at the slot's logged feature row; with the bias they sum to the
raw score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from liverank.v1 import decision_pb2
from liverank.v1 import personalization_pb2 as pb
from ranker.models import Model


def explain_decision(made: decision_pb2.Decision, model: Model | None) -> list[pb.ItemExplanation]:
    """One explanation a slot, in slot order.

    Parameters
    ----------
    made
        The decision, as logged.
    model
        Its base model; None where it is not here any more: then there are no contributions. One thread at a time.

    Returns
    -------
    list of ItemExplanation
        Contributions that are not 0, largest first. About 10 ms for 20 slots of a booster.
    """
    explained = [
        pb.ItemExplanation(
            item_id=slot.item_id,
            position=at,
            sources=slot.sources,
            score=slot.score,
            heads=dict(zip(made.heads, slot.p_first, strict=False)),
            propensity=slot.propensity,
            explored=slot.explored,
            pinned=slot.pinned,
            posterior_mean=slot.posterior_mean,
            posterior_sd=slot.posterior_sd,
            not_used=[
                pb.FeatureValue(feature=name, value=value)
                for name, value in zip(made.registered_names, slot.registered, strict=False)
            ],
        )
        for at, slot in enumerate(made.slots, start=1)
    ]
    if model is not None and explained and len(made.slots[0].features) > 0:
        _add_contributions(explained, made, model)
    return explained


def _add_contributions(explained: Sequence[pb.ItemExplanation], made: decision_pb2.Decision, model: Model) -> None:
    x = np.array([slot.features for slot in made.slots], dtype=np.float32)
    slot = np.ones(len(x), dtype=np.int32)
    contributions = model.contributions(x, slot)
    raw = model.raw(x, slot)[:, 0]
    names = made.feature_names
    for at, explanation in enumerate(explained):
        row = contributions[at]
        explanation.bias = float(row[-1])
        explanation.raw_score = float(raw[at])
        for column in np.argsort(-np.abs(row[:-1]), kind="stable").tolist():
            if row[column] == 0:
                break
            explanation.contributions.add(
                feature=names[column], value=float(x[at, column]), contribution=float(row[column])
            )
