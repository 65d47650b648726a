"""``liverank bandit off | on | policy | report | arms | verify``: exploration, for operators."""

from __future__ import annotations

import json as _json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from liverank.cli.config import Open, Who, Why, opened

if TYPE_CHECKING:
    from rich.console import Console

    from liverank.hot import HotSettings

bandit = typer.Typer(no_args_is_help=True, help="Exploration: policies, kill switch, report, verification of the log.")
policy = typer.Typer(no_args_is_help=True, help="Which policy acts where.")
bandit.add_typer(policy, name="policy")

Surface = Annotated[str, typer.Option(help="Surface; `*` = every one.")]
ArmName = Annotated[str, typer.Option("--arm", help="Experiment arm; `*` = every one.")]

Days = Annotated[float, typer.Option("--days", min=0.0, help="Only decisions of the last so many days; 0 = all.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the result as JSON to this file.")]


class By(StrEnum):
    """What counts as an arm."""

    item = "item"
    position = "position"
    policy = "policy"
    variant = "variant"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(bandit, name="bandit")


@bandit.command("off")
def off(who: Who = "", why: Why = "") -> None:
    """The kill switch: every ranker stops exploring within a second. Learning goes on."""
    opened().change(lambda hot: hot.model_copy(update={"exploration": False}), who, why)


@bandit.command("on")
def on(who: Who = "", why: Why = "") -> None:
    """Explore again."""
    opened().change(lambda hot: hot.model_copy(update={"exploration": True}), who, why)


@policy.command("set")
def policy_set(
    specification: Annotated[
        str, typer.Argument(help="E.g. thompson, 'linucb(alpha=2)', greedy; `default` takes an entry back.")
    ],
    surface: Surface = "*",
    arm: ArmName = "*",
    force: Annotated[bool, typer.Option("--force", help="Past the gate; the audit log says so.")] = False,
    days: Annotated[float, typer.Option("--days", min=0.0, help="Of the decision log, for the gate; 0 = all.")] = 7.0,
    slack: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="Share of the present reward that the lower bound may lose.")
    ] = 0.0,
    who: Who = "",
    why: Why = "",
) -> None:
    """Set the policy of a surface and an experiment arm; the most exact entry counts, the surface before the arm.

    The gate: what the policy would have earned on the decisions logged there. It is refused where the lower bound lies
    below what was earned, or where the log cannot tell; greedy and default always pass.
    """
    from liverank.hot import policy_key

    key = policy_key(surface, arm)

    def edit(hot: HotSettings) -> HotSettings:
        policies = {name: one for name, one in hot.policies.items() if name != key}
        if specification != "default":
            policies[key] = specification
        return hot.model_copy(update={"policies": policies})

    here = opened()
    if force:
        why = f"{why} (forced past the gate)".strip()
    else:
        _gate(here, edit, specification, key, days, slack)
    here.change(edit, who, why)


def _gate(
    here: Open, edit: Callable[[HotSettings], HotSettings], specification: str, key: str, days: float, slack: float
) -> None:
    """Refuse a policy that the log does not speak for.

    Raises
    ------
    PolicyHeldError
        Nothing was changed.
    ConfigError
        There is no such policy.
    """
    from evaluation.errors import PolicyHeldError
    from evaluation.exploration import LogReader, admit
    from ranker.serving import rulebook

    _, before = here.store.read()
    rulebook(here.settings.ranker, edit(before))  # a slip of the pen needs no log
    if before.policies.get(key) == specification:
        return
    surface, _, arm = key.partition("/")
    said = admit(LogReader(here.settings), specification, surface=surface, arm=arm, days=days, slack=slack)
    if not said.passed:
        raise PolicyHeldError(
            f"{specification} on {key} {said}; nothing was changed. Look with `liverank evaluate policy "
            f"'{specification}'`, try it on a small experiment arm first, allow a loss with --slack, or use --force"
        )
    if said.verdict is not None:
        typer.echo(f"{specification} {said}")


@policy.command("list")
def policy_list() -> None:
    """What is set, the experiment arms below it, and every policy there is."""
    from rich.table import Table

    from bandits import registered
    from ranker.serving import rulebook

    here = opened()
    version, hot = here.store.read()
    book = rulebook(here.settings.ranker, hot, version=version)
    table = Table("surface", "arm", "policy", "share of users", title=f"hot settings version {version}")
    for key, specification in sorted(hot.policies.items()):
        table.add_row(*key.split("/"), specification, "")
    for arm in book.experiment.arms:
        table.add_row("*", arm.name, arm.policy, f"{arm.share:.0%}")
    for surface, experiment in sorted(book.on_surfaces.items()):
        for arm in experiment.arms:
            table.add_row(surface, arm.name, arm.policy, f"{arm.share:.0%}")
    console = _console()
    console.print(table)
    console.print("exploration is [bold]on[/]" if hot.exploration else "exploration is [bold red]off[/] (kill switch)")
    if book.exploring.excluded:
        console.print(f"never on the surfaces {', '.join(sorted(book.exploring.excluded))}")
    console.print(f"policies: {', '.join(sorted({*registered(), 'vowpal'}))}")


@bandit.command("report")
def report(
    days: Days = 7.0,
    plots: Annotated[Path | None, typer.Option(help="Also draw plots into this folder.")] = None,
    svg: Annotated[bool, typer.Option("--svg", help="Plots as SVG instead of PNG.")] = False,
    json: JsonFile = None,
) -> None:
    """Per surface, arm and policy: pulls, reward, what exploring cost, weights; the age of the posterior."""
    from evaluation.exploration import LogReader, draw_plots, exploration_report, report_tables
    from liverank.settings import Settings, resolve

    settings = resolve(Settings())
    made = exploration_report(LogReader(settings), days=days)
    console = _console()
    console.print(
        f"{made.n_seen:,} drawn decisions" + (f", an even {made.share:.1%} of them" if made.share < 1 else "")
    )
    for table in report_tables(made):
        console.print(table)
    if plots is not None:
        for path in draw_plots(made, plots, "svg" if svg else "png"):
            console.print(f"plot {path}", soft_wrap=True)
    if json is not None:
        json.write_text(_json.dumps(made.to_json(), indent=2) + "\n")


@bandit.command("arms")
def arms(
    by: Annotated[By, typer.Option(help="What counts as an arm.")] = By.item,
    top: Annotated[int, typer.Option(min=1, help="How many, most pulled first.")] = 30,
    days: Days = 7.0,
    json: JsonFile = None,
) -> None:
    """What was pulled: shown, explored, reward with its interval, mean belief."""
    from evaluation.exploration import LogReader, arm_table, arms_of
    from liverank.settings import Settings, resolve

    found = arms_of(LogReader(resolve(Settings())), by=by.value, days=days)[:top]
    _console().print(arm_table(found, by.value))
    if json is not None:
        json.write_text(_json.dumps([vars(one) for one in found], indent=2) + "\n")


@bandit.command("verify")
def verify(
    sample: Annotated[int, typer.Option(min=1, help="Fully logged decisions to recompute, newest first.")] = 200,
    days: Days = 7.0,
    min_rows: Annotated[
        int, typer.Option(min=100, help="Decisions that a mean weight is judged by; days are pooled up to it.")
    ] = 1_000,
    json: JsonFile = None,
) -> None:
    """Recompute logged draws bit by bit, and check that the mean weight of a known policy is 1; exits 1 on a fault."""
    from evaluation.exploration import LogReader, verify_log
    from liverank.settings import Settings, resolve

    found = verify_log(LogReader(resolve(Settings())), sample=sample, days=days, min_rows=min_rows)
    console = _console()
    for line in found.lines():
        console.print(line, soft_wrap=True, highlight=False)
    if json is not None:
        json.write_text(_json.dumps(found.to_json(), indent=2) + "\n")
    if found.faults:
        raise typer.Exit(1)


def _console() -> Console:
    from rich.console import Console

    return Console()
