"""Windows of stored tiles at any instant: the one function behind serving, training and Feast's on-demand views.

This module imports numpy only and takes plain tuples, because its source is copied into the on-demand views, which must
run in Feast clients that do not have liverank. Layout of a page: docs/specs/tiles.md.

At time t a window W with slide s covers `[floor(t/s)*s - W, t]`: whole tiles plus the open one. Values are exact for
`as_of_ms` at or after the newest event; for an earlier instant they are exact to the tile, as far back as the ring
goes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# One ring: (slide_ms, first_page, n_pages, width, window lengths in tiles).
# One output: (kind, ring, cell, second cell, window): 0 = sum or count, 1 = mean, 2 = min, 3 = max, 4 = distinct.
# A plan: (rings, distinct rings, outputs).

N_KEYS = 8  # rings of a (user, category) view are numbered below this


def ring_windows(plan: Any, pages: Any, as_of_ms: int) -> Any:
    """Values of the plan's aggregates.

    Parameters
    ----------
    plan : tuple
        `Layout.plan`.
    pages : sequence of bytes or None
        The view's pages, by number; None or empty where nothing was counted.
    as_of_ms : int
        Instant, ms since the UTC epoch.

    Returns
    -------
    ndarray of float64, shape (n_aggregates,)
        Sums and counts are 0, means, minima and maxima NaN where the window is empty.
    """
    rings, distincts, outputs = plan
    cells = []
    for slide_ms, first_page, n_pages, width, lengths in rings:
        raw = b"".join([page[1:] for page in pages[first_page : first_page + n_pages] if page])
        rows = np.frombuffer(raw, dtype="<f8").reshape(-1, width)
        opened = as_of_ms // slide_ms
        tiles = rows[:, 0]
        first = np.array([opened - n for n in lengths], dtype=np.float64)
        inside = (tiles >= first[:, None]) & (tiles <= opened)
        cells.append((rows, inside, inside.astype(np.float64) @ np.nan_to_num(rows)))
    counts: list[list[float]] = []
    for slide_ms, first_page, n_pages, lengths in distincts:
        raw = b"".join([page[1:] for page in pages[first_page : first_page + n_pages] if page])
        entries = np.frombuffer(raw, dtype="<f8").reshape(-1, 2)
        opened = as_of_ms // slide_ms
        tiles = entries[entries[:, 1] >= 0.0, 0]
        counts.append([float(np.count_nonzero((tiles >= opened - n) & (tiles <= opened))) for n in lengths])
    out = np.empty(len(outputs), dtype=np.float64)
    for at, (kind, ring, cell, second, window) in enumerate(outputs):
        if kind == 4:
            out[at] = counts[ring][window]
            continue
        rows, inside, sums = cells[ring]
        if kind == 0:
            out[at] = sums[window, cell]
        elif kind == 1:
            n = sums[window, second]
            out[at] = sums[window, cell] / n if n else np.nan
        else:
            values = rows[inside[window], cell]
            values = values[~np.isnan(values)]
            out[at] = np.nan if not values.size else values.min() if kind == 2 else values.max()
    return out


def category_rows(pages: Any, width: int) -> Any:
    """Rows of the pages of a (user, category) view, as docs/specs/tiles.md packs them.

    Parameters
    ----------
    pages : sequence of bytes or None
        Version 2; None or empty where nothing was counted.
    width : int
        Numbers of a row: stamp, hash of the category, cells.

    Returns
    -------
    ndarray of float64, shape (n_rows, width)
        In the order of the pages, each in its own order. About 10 us a page.

    Raises
    ------
    ValueError
        A page is cut short.
    """
    found = [_category_page(page, width) for page in pages if page]
    return np.concatenate(found) if found else np.zeros((0, width))


def _category_page(page: bytes, width: int) -> Any:
    try:
        n, n_stamps, n_hashes = np.frombuffer(page, "<u2", 3, 1).tolist()
        rows = np.zeros((n, width))
        at = 7
        stamps = np.frombuffer(page, "<f8", n_stamps, at)
        at += 8 * n_stamps
        hashes = np.frombuffer(page, "<f8", n_hashes, at)
        at += 8 * n_hashes
        rows[:, 0] = np.repeat(stamps, np.frombuffer(page, "u1", n_stamps, at))
        at += n_stamps
        index = np.frombuffer(page, "<u2" if n_hashes > 256 else "u1", n, at)
        rows[:, 1] = hashes[index]
        at += index.nbytes
        for column in range(2, width):
            size = page[at]
            at += 1
            if size:
                rows[:, column] = np.frombuffer(page, {1: "u1", 2: "<i2", 4: "<i4", 8: "<f8"}[size], n, at)
                at += size * n
    except (IndexError, KeyError) as error:
        raise ValueError("a page of categories is cut short") from error
    return rows


def category_windows(plan: Any, pages: Any, as_of_ms: int) -> Any:
    """Values of the plan's aggregates for every category of a (user, category) view.

    Parameters
    ----------
    plan, pages, as_of_ms
        As in `ring_windows`; all rings share their pages.

    Returns
    -------
    categories : ndarray of float64, shape (n,)
        Hashes of the categories (`features.columns.text_hash`), ascending.
    values : ndarray of float64, shape (n, n_aggregates)
        As in `ring_windows`.
    """
    rings, _, outputs = plan
    width = rings[0][3]
    rows = category_rows(pages, width)
    rows = rows[rows[:, 1] >= 0.0]
    categories, group = np.unique(rows[:, 1], return_inverse=True)
    group = group.reshape(-1)
    n = len(categories)
    out = np.zeros((n, len(outputs)), dtype=np.float64)
    number = rows[:, 0] % N_KEYS
    tiles = (rows[:, 0] - number) / N_KEYS
    for at, (slide_ms, _first, _n, _width, lengths) in enumerate(rings):
        opened = as_of_ms // slide_ms
        for window, length in enumerate(lengths):
            wanted = [(column, o) for column, o in enumerate(outputs) if o[1] == at and o[4] == window]
            if not wanted:
                continue
            inside = (number == at) & (tiles >= opened - length) & (tiles <= opened)
            groups, picked = group[inside], rows[inside]
            for column, (kind, _ring, cell, second, _window) in wanted:
                values = picked[:, cell]
                if kind <= 1:
                    out[:, column] = np.bincount(groups, np.nan_to_num(values), n)
                    if kind == 1:
                        count = np.bincount(groups, picked[:, second], n)
                        out[:, column] = np.divide(out[:, column], count, out=np.full(n, np.nan), where=count != 0)
                else:
                    out[:, column] = np.inf if kind == 2 else -np.inf
                    known = ~np.isnan(values)
                    (np.minimum if kind == 2 else np.maximum).at(out[:, column], groups[known], values[known])
                    out[np.isinf(out[:, column]), column] = np.nan
    return categories, out
