"""The proof as a table for people."""

from __future__ import annotations

from rich.table import Table

from evaluation.proof.lines import Line
from evaluation.proof.run import Report


def table(report: Report) -> Table:
    """One row a line: whether it is true, what it says, how long it took, what was measured."""
    out = Table(box=None, pad_edge=False, header_style="bold")
    out.add_column("line")
    out.add_column("true")
    out.add_column("claim")
    out.add_column("after, s", justify="right")
    out.add_column("measured")
    for line in report.lines:
        out.add_row(
            line.name,
            "[green]yes[/green]" if line.holds else "[bold red]NO[/bold red]",
            line.claim,
            "" if line.delay_s is None else f"{line.delay_s:.3f}",
            measured(line),
        )
    return out


def measured(line: Line) -> str:
    """The figures of a line in one text."""
    return ", ".join(f"{name} {value:.4g}" for name, value in line.figures.items())
