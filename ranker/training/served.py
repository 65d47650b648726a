"""The dataset of live traffic: label rows joined with the archived decisions that they came from.

The features are those that were served, float32 as logged, so nothing can leak: they were written before the outcome.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from features.archive import read_archive
from features.examples import examples_dir, read_examples
from liverank.kafka import Record
from liverank.settings import Settings
from liverank.v1.decision_pb2 import Decision, Mode
from liverank.v1.event_pb2 import Event, EventType
from ranker.columns import COLUMNS
from ranker.training.dataset import Dataset, with_shown
from ranker.training.errors import JoinError, TooLittleDataError

if TYPE_CHECKING:
    import pyarrow as pa

MAX_MISSING: Final = 0.001
"""Share of label rows without a decision above which training refuses (fold.md 18: lost records would bias it)."""


def served_dataset(
    settings: Settings, heads: tuple[str, ...], *, since_ms: int = 0, until_ms: int = 1 << 62
) -> Dataset:
    """Label rows of a time range with their served features.

    Raises
    ------
    JoinError
        More than 0.1 % of the label rows have no decision in the archive.
    TooLittleDataError
        There are none.
    """
    import pyarrow.compute as pc

    labels = read_examples(examples_dir(settings), since_ms=since_ms, until_ms=until_ms)
    labels = labels.filter(pc.greater(labels["n_generation"], 0))  # imported slates have no decision
    labels = without_imported(labels, read_archive(settings, "events", generation=0))
    decisions = (Decision.FromString(record.value) for record in read_archive(settings, "decisions"))
    return join(labels, decisions, heads)


def without_imported(labels: pa.Table, events: Iterable[Record]) -> pa.Table:
    """Leave out label rows of imported exposures: those still open when the import ended are closed by live traffic.

    Parameters
    ----------
    labels : pyarrow.Table
        Label rows.
    events : iterable of Record
        The imported events; read until every doubtful row is explained.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if labels.num_rows == 0:
        return labels
    wanted = set(labels["request_id"].to_pylist())
    first_ms = int(pc.min(labels["exposure_ts_ms"]).as_py())
    imported = set()
    for record in events:
        if record.append_ts_ms < first_ms:
            continue
        event = Event.FromString(record.value)
        if event.type == EventType.EVENT_TYPE_EXPOSURE and event.event_id in wanted:
            imported.add(event.event_id)
    if not imported:
        return labels
    return labels.filter(pc.invert(pc.is_in(labels["request_id"], pa.array(sorted(imported)))))


def join(labels: pa.Table, decisions: Iterable[Decision], heads: tuple[str, ...]) -> Dataset:
    """Join label rows with decisions by (request_id, position).

    Left out and counted: slates that no policy drew, degraded and shadow decisions, rows of another set of columns.

    Parameters
    ----------
    labels : pyarrow.Table
        `features.examples.read_examples`: ordered by (exposure time, request_id, position).
    decisions : iterable of Decision
        In any order; repeats are harmless.
    heads : tuple of str
        Outcomes to learn.
    """
    n = labels.num_rows
    if n == 0:
        raise TooLittleDataError(
            "there are no label rows yet: they are written when an exposure's window closes (30 min)"
        )
    wanted: dict[str, list[tuple[int, int]]] = {}
    for row, (request, position) in enumerate(
        zip(labels["request_id"].to_pylist(), labels["position"].to_pylist(), strict=True)
    ):
        wanted.setdefault(request, []).append((position, row))
    X = np.zeros((n, len(COLUMNS)), dtype=np.float32)
    state = np.zeros(n, dtype=np.int8)
    for decision in decisions:
        rows = wanted.get(decision.request_id)
        if rows is not None:
            _fill(X, state, decision, rows)
    drawn = np.asarray(labels["drawn"].to_pylist(), dtype=bool)
    missing = int(((state == _MISSING) & drawn).sum())
    if missing > MAX_MISSING * drawn.sum():
        raise JoinError(
            f"{missing} of {int(drawn.sum())} label rows have no archived decision, allowed are {MAX_MISSING:.1%}: "
            "is the archive service running, and was its folder kept? Rebuild it, or train on a range with --since"
        )
    keep = (state == _SERVED) & drawn
    counts = {
        "rows": n,
        "not_drawn": int((~drawn).sum()),
        "without_decision": missing,
        "degraded_or_shadow": int(((state == _DEGRADED) & drawn).sum()),
        "other_columns": int(((state == _OTHER) & drawn).sum()),
    }
    if not keep.any():
        raise TooLittleDataError(f"no label row can be learned from: {counts}")
    slot = np.asarray(labels["position"].to_pylist(), dtype=np.int32)[keep]
    ts_ms = np.asarray(labels["exposure_ts_ms"].to_pylist(), dtype=np.int64)[keep]
    requests = np.asarray(labels["request_id"].to_pylist(), dtype=object)[keep]
    group = np.cumsum(np.r_[False, requests[1:] != requests[:-1]]).astype(np.int64)
    return Dataset(
        kind="exposures",
        X=with_shown(X[keep], slot, ts_ms, int(ts_ms.max())),
        labels={head: _outcome(labels, head)[keep] for head in heads},
        group=group,
        ts_ms=ts_ms,
        counts=counts,
    )


_MISSING, _SERVED, _DEGRADED, _OTHER = range(4)


def _fill(X: NDArray[np.float32], state: NDArray[np.int8], decision: Decision, rows: list[tuple[int, int]]) -> None:
    if decision.mode == Mode.MODE_SHADOW or decision.rungs:
        verdict = _DEGRADED
    elif tuple(decision.feature_names) != COLUMNS:
        verdict = _OTHER
    else:
        verdict = _SERVED
    for position, row in rows:
        if not 1 <= position <= len(decision.slots):
            continue
        features = decision.slots[position - 1].features
        if verdict == _SERVED and len(features) == len(COLUMNS):
            X[row] = features
            state[row] = _SERVED
        else:
            state[row] = _OTHER if verdict == _SERVED else verdict


def _outcome(labels: pa.Table, head: str) -> NDArray[np.float32]:
    import pyarrow.compute as pc

    return np.asarray(pc.fill_null(labels[f"outcome_{head}"], 0.0), dtype=np.float32)
