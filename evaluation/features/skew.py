"""Skew: values as they were served against values rebuilt from the log, row by row.

The live folds run over archive and log in memory; at each decision the windows of its user, of its items and of the
user in the items' categories are computed at the decision's own instant, by the functions that serving uses. An event
that was appended less than `slack_ms` before a decision may or may not have been readable: then the served value must
lie between the two rebuilt ones; otherwise it must equal them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features import tiles
from features.archive import partitions_of
from features.columns import text_hash
from features.errors import DriftError
from features.program import FeatureProgram
from features.user_row import UserRow, UserSchema
from liverank.kafka import Tp, end_offsets, partition_counts
from liverank.settings import Settings
from liverank.v1.decision_pb2 import Decision
from streams.asof import Past
from streams.catalogue import Catalogue
from streams.past import imported_records, live_records, newest_imported_ms

__all__ = ["Skew", "SkewReport", "skew"]

Values = dict[str, NDArray[np.float64]]


class Skew(NamedTuple):
    """The first row in which a feature's served value is not the rebuilt one.

    Attributes
    ----------
    rows : int
        Rows in which it differs.
    request_id, item_id : str
        The first of them.
    decided_ts_ms : int
    served, rebuilt : float
    """

    feature: str
    rows: int
    request_id: str
    item_id: str
    decided_ts_ms: int
    served: float
    rebuilt: float


class SkewReport(NamedTuple):
    """What was compared."""

    decisions: int
    rows: int
    values: int
    found: list[Skew]


class _Rebuilt:
    """Windows of decisions' rows as of the records that were fed."""

    def __init__(self, past: Past, program: FeatureProgram, table: Catalogue) -> None:
        self._past, self._table = past, table
        self._schema = UserSchema(program)
        self._names: dict[float, str] = {}
        self._item_views = [view for view in program.of_entity("item") if view.aggregates]

    def values(self, made: Decision) -> Values:
        """Every window of the decision's rows, shape (n_slots,) each."""
        as_of_ms, n = made.as_of_ms, len(made.slots)
        categories = [self._category(slot.item_id, made.decided_ts_ms) for slot in made.slots]
        self._names.update({text_hash(name): name for name in categories if name})
        user = UserRow.from_fields(self._schema, self._past.user(made.user_id), category_of_hash=self._names)
        out: Values = {}
        for name, value in zip(user.window_names, user.windows(as_of_ms), strict=True):
            out[f"user_windows:{name}"] = np.full(n, value)
        index, per_category = user.category_windows(as_of_ms)
        for at, name in enumerate(user.category_window_names):
            column = [per_category[index[c], at] if c in index else 0.0 for c in categories]
            out[f"user_category_windows:{name}"] = np.array(column)
        names = [name for view in self._item_views for name in view.names]
        rows = [self._item(slot.item_id, as_of_ms) for slot in made.slots]
        for at, name in enumerate(names):
            out[f"item_windows:{name}"] = np.array([row[at] for row in rows])
        return out

    def _item(self, item_id: str, as_of_ms: int) -> NDArray[np.float64]:
        stored = self._past.item(item_id)
        parts = [tiles.windows(view, stored, as_of_ms) for view in self._item_views]
        return np.concatenate(parts) if parts else np.empty(0)

    def _category(self, item_id: str, at_ms: int) -> str:
        item = self._table.at(item_id, at_ms)
        return item.category if item is not None else ""


def skew(
    settings: Settings,
    decisions: Sequence[Decision],
    program: FeatureProgram,
    *,
    table: Catalogue,
    token: bytes,
    generation: int = 1,
    slack_ms: int = 2_000,
    names: Sequence[str] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> SkewReport:
    """Compare served rows with rebuilt ones.

    Parameters
    ----------
    decisions : sequence of Decision
        By time, as logged; those of anonymous users are compared under their own key.
    program : FeatureProgram
        What was served when they were made.
    table : Catalogue
        All versions of all items.
    slack_ms : int
        Longest time from an event's append to its being readable.
    names : sequence of str
        Compare only these features; empty = every window.

    Returns
    -------
    SkewReport
        Features that differ, the earliest first difference first.

    Raises
    ------
    DriftError
        There is nothing to compare.
    CorruptError
        Archive and log miss records.
    """
    if not decisions:
        raise DriftError("there are no served decisions in this period; widen it")
    topic = settings.topic("events", generation)
    n = partition_counts(settings.kafka.bootstrap, [topic])[topic]
    shown = {slot.item_id for made in decisions for slot in made.slots}
    past = Past(settings, program, token=token, n_partitions=n, table=table, items=shown)
    if newest_ms := newest_imported_ms(settings):
        for partition in partitions_of(settings, "events", 0):
            for record in imported_records(settings, partition):
                past.feed(record)
    past.live(newest_ms, generation)
    rebuilt = _Rebuilt(past, program, table)
    ends = end_offsets(settings.kafka.bootstrap, [Tp(topic, p) for p in range(n)])
    logs = [live_records(settings, generation, p, ends[Tp(topic, p)] - 1) for p in range(n)]
    records = heapq.merge(*logs, key=lambda record: (record.append_ts_ms, record.partition, record.offset))
    # Each decision is looked at twice: without the events of the last while, and with them.
    looks = [(made.decided_ts_ms - slack_ms, 0, at) for at, made in enumerate(decisions)]
    looks += [(made.decided_ts_ms, 1, at) for at, made in enumerate(decisions)]
    looks.sort(reverse=True)
    total = sum(ends.values())
    early: dict[int, Values] = {}
    comparison = _Comparison(names)
    for done, record in enumerate(records):
        while looks and record.append_ts_ms > looks[-1][0]:
            _look(looks.pop(), decisions, rebuilt, early, comparison)
        if not looks:
            break
        past.feed(record)
        if on_progress is not None and done % 1000 == 0:
            on_progress(done, total)
    while looks:
        _look(looks.pop(), decisions, rebuilt, early, comparison)
    return comparison.report(len(decisions))


def _look(
    look: tuple[int, int, int],
    decisions: Sequence[Decision],
    rebuilt: _Rebuilt,
    early: dict[int, Values],
    comparison: _Comparison,
) -> None:
    _, late, at = look
    values = rebuilt.values(decisions[at])
    if late:
        comparison.add(decisions[at], early.pop(at), values)
    else:
        early[at] = values


class _Comparison:
    """Counts rows and remembers the first difference of each feature."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = frozenset(names)
        self._found: dict[str, Skew] = {}
        self._rows = self._values = 0

    def add(self, made: Decision, low: Values, high: Values) -> None:
        """Compare one decision."""
        served = np.array([slot.features for slot in made.slots], dtype=np.float64)
        self._rows += len(served)
        for column, name in enumerate(made.feature_names):
            if name not in high or (self._names and name not in self._names):
                continue
            self._values += len(served)
            least = np.fmin(low[name], high[name])
            most = np.fmax(low[name], high[name])
            given = served[:, column]
            slack = 1e-5 * np.maximum(1.0, np.abs(most))
            fits = ((given >= least - slack) & (given <= most + slack)) | (np.isnan(given) & np.isnan(high[name]))
            if fits.all():
                continue
            wrong = np.flatnonzero(~fits)
            first = int(wrong[0])
            known = self._found.get(name)
            if known is not None:
                self._found[name] = known._replace(rows=known.rows + len(wrong))
                continue
            self._found[name] = Skew(
                name, len(wrong), made.request_id, made.slots[first].item_id, made.decided_ts_ms,
                float(given[first]), float(high[name][first]),
            )  # fmt: skip

    def report(self, decisions: int) -> SkewReport:
        """What was found."""
        found = sorted(self._found.values(), key=lambda each: (each.decided_ts_ms, each.feature))
        return SkewReport(decisions, self._rows, self._values, found)
