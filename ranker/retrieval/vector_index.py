"""Nearest items to a vector: HNSW over most of the catalogue, exact over what came since, exact where that is cheap.

A built graph is never changed (an update in place costs 0.75-0.97 ms an item): `rebuild` makes another aside and swaps
it in. Items that come or change in between are searched exactly, so that a new item is found at once.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ranker.inputs import Floats, ItemsView, Rows

EF_LIMIT: Final = 1_200


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """How to search.

    Attributes
    ----------
    exact_below
        Catalogues of fewer vectors are searched exactly: as fast, and the same on every run.
    m, ef_construction
        Of the HNSW graph.
    ef
        Breadth of a search at first; `judge` raises it.
    recall_floor
        Least recall of the probe, in (0, 1]; below it `ef` grows, and past `EF_LIMIT` the search is exact.
    pending_share
        A rebuild is due when more than this share (and 256) of the vectors is not in the graph.
    """

    exact_below: int = 20_000
    m: int = 16
    ef_construction: int = 120
    ef: int = 300
    recall_floor: float = 0.9
    pending_share: float = 0.02


@dataclass(frozen=True)
class _Built:
    """One immutable generation of the index."""

    space: str
    graph: Any | None
    covered: NDArray[np.bool_]


_NOTHING = _Built("", None, np.zeros(0, dtype=np.bool_))


class VectorIndex:
    """Maximum cosine search over the vectors of an item table.

    Thread-safe: `search` from one thread while `rebuild`, `touch` and `measure` run in another. Vectors themselves are
    read from the table, which the caller guards.

    Parameters
    ----------
    settings
        See `IndexSettings`.
    """

    def __init__(self, settings: IndexSettings | None = None) -> None:
        self.settings = settings or IndexSettings()
        self.ef = self.settings.ef
        self.exact = False
        self.recall = float("nan")
        self.broken_searches = 0
        self._built = _NOTHING
        self._pending: set[int] = set()
        self._lock = threading.Lock()

    @property
    def n_indexed(self) -> int:
        """Vectors in the graph."""
        return int(self._built.covered.sum())

    def touch(self, rows: Rows) -> None:
        """Vectors of these rows came, changed or went: search them exactly until the next rebuild."""
        with self._lock:
            self._pending.update(int(row) for row in rows)

    def due(self, table: ItemsView) -> bool:
        """Whether the graph should be built again."""
        n_vectors = int(table.has_vector[: len(table)].sum())
        if n_vectors < self.settings.exact_below:
            return False
        built = self._built
        if built.space != table.space or built.graph is None:
            return True
        outside = n_vectors - self.n_indexed + len(self._pending)
        return outside > max(256, self.settings.pending_share * n_vectors)

    def rebuild(self, vectors: Floats, rows: Rows, space: str) -> None:
        """Build a graph aside and swap it in; about 0.25 ms an item, in the caller's thread, without the GIL.

        Parameters
        ----------
        vectors
            Unit vectors, a copy that nobody changes, shape ``(n, d)``.
        rows
            Their rows in the table, shape ``(n,)``.
        space
            Their vector space.
        """
        import hnswlib

        # For unit vectors the order is that of cosines, and unlike "ip" it is a metric: graphs hold together better.
        graph = hnswlib.Index(space="l2", dim=vectors.shape[1])
        graph.init_index(len(rows), ef_construction=self.settings.ef_construction, M=self.settings.m, random_seed=7)
        with self._lock:
            pending, self._pending = self._pending, set()
        try:
            graph.add_items(vectors, rows, num_threads=1)
        except BaseException:
            self.touch(np.fromiter(pending, dtype=np.int32, count=len(pending)))
            raise
        covered = np.zeros(int(rows.max()) + 1 if len(rows) else 0, dtype=np.bool_)
        covered[rows] = True
        self._built = _Built(space, graph, covered)

    def search(
        self, table: ItemsView, queries: Floats, k: int, *, exact: bool | None = None, ef: int | None = None
    ) -> tuple[Rows, Floats]:
        """Nearest rows of each query.

        Parameters
        ----------
        table
            The catalogue whose vectors are searched.
        queries
            Unit vectors of the table's space, shape ``(q, d)``.
        k
            How many a query.
        exact
            True: search everything; False: use the graph; None: as the last probe decided.

        ef
            Breadth of the graph search; None = as the last probe decided.

        Returns
        -------
        rows, cosines
            Shape ``(q, <= k)`` each, best first; a row may come in several queries, not twice in one.
        """
        built, n = self._built, len(table)
        graph = built.graph if built.space == table.space else None
        if graph is None or (self.exact if exact is None else exact):
            rows = np.flatnonzero(table.has_vector[:n]).astype(np.int32)
            return _nearest(table.vectors[:n], rows, queries, k)
        with self._lock:
            pending = np.fromiter(self._pending, dtype=np.int32, count=len(self._pending))
        outside = table.has_vector[:n].copy()
        reach = min(n, len(built.covered))
        outside[:reach] &= ~built.covered[:reach]
        outside[pending[pending < n]] = table.has_vector[pending[pending < n]]
        try:
            near, cosines = self._graph_search(graph, queries, k + len(pending), self.ef if ef is None else ef)
        except RuntimeError:  # the graph is in pieces: fewer than k can be reached from where the search begins
            self.broken_searches += 1
            return self.search(table, queries, k, exact=True)
        stale = ~table.has_vector[near] | np.isin(near, pending)
        cosines = np.where(stale, -np.inf, cosines)
        extra = np.flatnonzero(outside).astype(np.int32)
        if len(extra):
            more, more_cosines = _nearest(table.vectors, extra, queries, k)
            near, cosines = np.hstack([near, more]), np.hstack([cosines, more_cosines])
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(near, order, 1), np.take_along_axis(cosines, order, 1)

    @staticmethod
    def _graph_search(graph: Any, queries: Floats, k: int, ef: int) -> tuple[Rows, Floats]:
        k = min(k, graph.get_current_count())
        graph.set_ef(max(ef, k))
        labels, distances = graph.knn_query(queries, k=k, num_threads=1)
        return labels.astype(np.int32), (1.0 - distances / 2.0).astype(np.float32)

    def measure(self, table: ItemsView, queries: Floats, k: int = 100) -> float:
        """Recall of the graph on queries, against the exact search; NaN where there is no graph."""
        if self._built.graph is None or not len(queries):
            return float("nan")
        truth, _ = self.search(table, queries, k, exact=True)
        broken = self.broken_searches
        found, _ = self.search(table, queries, k, exact=False)
        if self.broken_searches > broken:
            return 0.0
        hits = [len(np.intersect1d(a, b)) / max(len(a), 1) for a, b in zip(truth, found, strict=True)]
        return float(np.mean(hits))

    def judge(self, recall: float) -> None:
        """Act on a measured recall (NaN: nothing is done).

        Below the floor `ef` is raised by half; past `EF_LIMIT` the index answers exactly until a probe is good again.
        """
        if np.isnan(recall):
            return
        self.recall = recall
        if recall >= self.settings.recall_floor:
            self.exact = False
        elif self.ef < EF_LIMIT:
            self.ef = min(EF_LIMIT, int(self.ef * 1.5))
        else:
            self.exact = True


def _nearest(vectors: Floats, rows: Rows, queries: Floats, k: int) -> tuple[Rows, Floats]:
    """Exact search over some rows."""
    if not len(rows):
        return np.empty((len(queries), 0), dtype=np.int32), np.empty((len(queries), 0), dtype=np.float32)
    if 2 * len(rows) > len(vectors):  # gathering most rows costs more than multiplying all
        cosines = (queries @ vectors.T)[:, rows] if len(rows) < len(vectors) else queries @ vectors.T
    else:
        cosines = queries @ vectors[rows].T
    k = min(k, len(rows))
    near = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
    near.sort(axis=1)  # equal cosines come in the order of their rows
    order = np.argsort(-np.take_along_axis(cosines, near, 1), axis=1, kind="stable")
    near = np.take_along_axis(near, order, 1)
    return rows[near], np.take_along_axis(cosines, near, 1).astype(np.float32)
