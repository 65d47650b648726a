"""What every bench ends with: one JSON object on the last line, and an exit code that follows it."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

Figure: TypeAlias = float | int | str | bool | Mapping[str, "Figure"] | Sequence["Figure"] | None


@dataclass(frozen=True)
class Bound:
    """What a figure must satisfy.

    Attributes
    ----------
    figure : str
        Key of the figure; dots go into nested mappings: ``thompson.p50_us``.
    relation : {"<=", ">=", "=="}
        How it must lie to `limit`.
    limit : float or bool
        The bound.
    """

    figure: str
    relation: Literal["<=", ">=", "=="]
    limit: float | bool

    def holds(self, figures: Mapping[str, Figure]) -> bool:
        """Whether the figure is there, finite and within the bound."""
        value: Figure = figures
        for part in self.figure.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return False
            value = value[part]
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            return False
        if self.relation == "==":
            return value == self.limit
        return value <= self.limit if self.relation == "<=" else value >= self.limit


@cache
def machine() -> dict[str, Figure]:
    """The machine that a figure was measured on: processor, cores, memory, Python."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load_1m = round(os.getloadavg()[0], 2)
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gb": round(memory_gb, 1),
        "python": platform.python_version(),
        "load_1m_at_start": load_1m,
    }


def finish(
    bench: str, figures: Mapping[str, Figure], bounds: Sequence[Bound] | Mapping[str, tuple[str, float | bool]]
) -> int:
    """Print the result as the last line and return the exit code.

    Parameters
    ----------
    bench : str
        Name of the bench, as in ``python -m bench.NAME``.
    figures : mapping
        What was measured; units in the names.
    bounds : sequence of Bound, or mapping of figure to (relation, limit)
        What must hold. Empty: report only, always passes.

    Returns
    -------
    int
        0 where all bounds hold, else 1. The caller does ``sys.exit(finish(...))``.

    Examples
    --------
    >>> finish("demo", {"p50_us": 250.0}, {"p50_us": ("<=", 300.0)})  # doctest: +ELLIPSIS
    {"bench": "demo", ..."pass": true}
    0
    """
    wanted = (
        [Bound(figure, relation, limit) for figure, (relation, limit) in bounds.items()]  # type: ignore[arg-type]
        if isinstance(bounds, Mapping)
        else list(bounds)
    )
    checked = [
        {"figure": bound.figure, "relation": bound.relation, "limit": bound.limit, "holds": bound.holds(figures)}
        for bound in wanted
    ]
    passed = all(entry["holds"] for entry in checked)
    result = {"bench": bench, "machine": machine(), "figures": _finite(figures), "bounds": checked, "pass": passed}
    sys.stdout.write(json.dumps(result, allow_nan=False, default=float) + "\n")
    sys.stdout.flush()
    return 0 if passed else 1


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A plain table, columns aligned: first left, others right; floats with four significant digits."""
    text = [[_cell(value) for value in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in text) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in text
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _finite(figure: Figure) -> Figure:
    """The figure with NaN and infinities as null, which JSON can say."""
    if isinstance(figure, Mapping):
        return {key: _finite(value) for key, value in figure.items()}
    if isinstance(figure, Sequence) and not isinstance(figure, str):
        return [_finite(value) for value in figure]
    return None if isinstance(figure, float) and not math.isfinite(figure) else figure


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


machine()  # the load before the bench makes its own
