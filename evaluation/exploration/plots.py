"""The report as pictures: PNG or SVG, drawn by matplotlib, which is imported only here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from evaluation.exploration.report import ExplorationReport
from liverank.errors import ConfigError

FORMATS = ("png", "svg")


def draw_plots(report: ExplorationReport, folder: Path, kind: Literal["png", "svg"] | str = "png") -> list[Path]:
    """Reward per arm, explored share and weights per arm, share and reward over time; the files written.

    Raises
    ------
    ConfigError
        No such format, or matplotlib is not installed.
    """
    if kind not in FORMATS:
        raise ConfigError(f"plots are {' or '.join(FORMATS)}, got {kind!r}")
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise ConfigError(
            "plots need matplotlib: pip install 'liverank[server]', or make setup in the checkout"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Callable[[Any, ExplorationReport], None]] = {
        "rewards": _rewards,
        "exploration": _exploration,
        "time": _time,
    }
    written = []
    for name, draw in parts.items():
        figure, axes = pyplot.subplots(figsize=(8, 0.5 * len(report.groups) + 3 if name != "time" else 4))
        draw(axes, report)
        figure.tight_layout()
        path = folder / f"{name}.{kind}"
        figure.savefig(path, metadata={"Date": None} if kind == "svg" else None)
        pyplot.close(figure)
        written.append(path)
    return written


def _labels(report: ExplorationReport) -> list[str]:
    return [f"{one.surface} / {one.arm}\n{one.policy}" for one in report.groups]


def _rewards(axes: Any, report: ExplorationReport) -> None:
    rows = list(range(len(report.groups)))
    values = [one.reward.value for one in report.groups]
    low = [max(0.0, one.reward.value - one.reward.low) for one in report.groups]
    high = [max(0.0, one.reward.high - one.reward.value) for one in report.groups]
    axes.errorbar(values, rows, xerr=[low, high], fmt="o", capsize=3)
    axes.set_yticks(rows, _labels(report))
    axes.set_xlabel("reward per slate, clicks, 95 % interval")


def _exploration(axes: Any, report: ExplorationReport) -> None:
    rows = list(range(len(report.groups)))
    axes.barh(rows, [one.explored_share for one in report.groups])
    axes.set_yticks(rows, _labels(report))
    axes.set_xlabel("explored share of drawn slots")
    for row, one in zip(rows, report.groups, strict=True):
        axes.text(one.explored_share, row, f" near greed {one.weights.near_greed:.3f}", va="center", fontsize=8)


def _time(axes: Any, report: ExplorationReport) -> None:
    minutes = [-point[0] for point in report.points]
    axes.plot(minutes, [point[1] for point in report.points], label="explored share of drawn slots")
    axes.plot(minutes, [point[2] for point in report.points], label="reward per closed slot, clicks")
    axes.set_xlabel("minutes before now")
    axes.legend()
