"""Plots of bench results, where matplotlib is installed (extra `bench`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]
Curves: TypeAlias = Mapping[str, Mapping[str, Sequence[float]]]


def draw_curves(
    path: Path,
    points: Ints | Sequence[int],
    lines: Curves,
    errors: Curves,
    x_label: str = "round",
    y_label: str = "cumulative regret, clicks",
) -> bool:
    """One panel per entry of `lines`, one line per name with its band, as SVG.

    Parameters
    ----------
    path : Path
        Where to write.
    points : sequence of int
        x of every line.
    lines, errors : mapping of panel to mapping of name to numbers
        Means, and half-widths of the bands.
    x_label, y_label : str
        Axes.

    Returns
    -------
    bool
        False where matplotlib is not installed and nothing was written.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return False
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "liverank"
    from matplotlib import pyplot

    x = np.asarray(points)
    figure, axes = pyplot.subplots(1, len(lines), figsize=(4.5 * len(lines), 3.6), layout="constrained", squeeze=False)
    for axis, (panel, found) in zip(axes[0], lines.items(), strict=True):
        for name, values in found.items():
            mean, half = np.asarray(values), np.asarray(errors[panel][name])
            (line,) = axis.plot(x, mean, label=name, linewidth=1.2)
            axis.fill_between(x, mean - half, mean + half, color=line.get_color(), alpha=0.15, linewidth=0)
        axis.set(title=panel, xlabel=x_label, ylabel=y_label, ylim=(min(0.0, axis.get_ylim()[0]), None))
        axis.legend(fontsize=6)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return True
