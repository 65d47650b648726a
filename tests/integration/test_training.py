"""`liverank train` on the real stack: archive -> dataset -> manifest -> active model; twice the same id."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from features.apply import apply
from features.archive import part_dir, write_part
from features.llm import job
from features.redis import connect
from liverank.contract import event_key
from liverank.kafka import Producer, Record
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event
from liverank.v1.item_pb2 import ItemChange
from ranker.columns import COLUMNS
from ranker.models import MismatchError, RateModel, Serving, ensure_base_model, load_active_model
from ranker.phi import SCHEMA
from ranker.training.errors import NotSetUpError, TooLittleDataError
from ranker.training.heads import BoosterParameters
from ranker.training.history import Sampling
from ranker.training.run import REPORT_FILE, train
from tests.unit.test_training_history import ITEMS, choices, log

QUICK = BoosterParameters(n_trees=15, n_leaves=7, light_trees=5, min_leaf_rows=20)
ALL = Sampling(warm_up=0.0, slates=10_000, candidates=40, retrieved=60)


def archive(settings: Settings, events: Sequence[Event]) -> None:
    records = [
        Record("events", 0, at, event_key(event), event.SerializeToString(), (), event.event_ts_ms)
        for at, event in enumerate(events)
    ]
    write_part(part_dir(settings, "events", 0, 0), records)


def send_catalogue(settings: Settings) -> None:
    producer = Producer(settings.kafka.bootstrap)
    for item_id, item in ITEMS.items():
        change = ItemChange(item_id=item_id, upsert=item)
        producer.produce(settings.topic("items"), key=item_id.encode(), value=change.SerializeToString())
    assert producer.flush(10) == 0


@pytest.mark.parametrize("kind", ["exposures", "positives"])
def test_TRN_1_a_log_becomes_the_active_model_twice_with_the_same_id(namespace: Settings, kind: str) -> None:
    apply(namespace)
    client = connect(namespace)
    base = ensure_base_model(namespace)
    assert base == ensure_base_model(namespace)
    assert isinstance(load_active_model(client, namespace), RateModel)
    with pytest.raises(TooLittleDataError, match="liverank import"):
        train(namespace)

    send_catalogue(namespace)
    archive(namespace, log(400) if kind == "exposures" else choices(300))
    space = job.enrich(namespace, job.catalogue(namespace, None)).space
    notes: list[str] = []
    first = train(namespace, sampling=ALL, parameters=QUICK, force=True, note=notes.append)
    second = train(namespace, sampling=ALL, parameters=QUICK, force=True)
    assert first.model_id == second.model_id != base
    assert first.kind == kind
    assert notes[0] == "served rows"

    model = load_active_model(client, namespace)
    assert model.model_id == first.model_id
    assert model.heads == ("click", "dismiss")
    model.manifest.check(Serving(feature_service="ranker_v1", columns=COLUMNS, schema=SCHEMA, space=space))
    with pytest.raises(MismatchError, match="vector space"):
        model.manifest.check(Serving(feature_service="ranker_v1", columns=COLUMNS, schema=SCHEMA, space="other/64/t1"))
    p = model.predict(np.zeros((3, len(COLUMNS)), dtype=np.float32), np.array([1, 2, 3], dtype=np.int32))
    assert ((p > 0) & (p < 1)).all()
    figures = json.loads((first.path / REPORT_FILE).read_text())
    assert figures["heads"]["click"]["auc"] > 0.55
    assert ensure_base_model(namespace) == first.model_id  # a trained model is never replaced by the base


def test_training_needs_a_feature_program(namespace: Settings) -> None:
    archive(namespace, log(100))
    with pytest.raises(NotSetUpError, match="liverank up"):
        train(namespace)
