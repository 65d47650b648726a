"""``liverank bandit off | on | policy``: exploration, for operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from liverank.cli.config import Who, Why, opened

if TYPE_CHECKING:
    from rich.console import Console

    from liverank.hot import HotSettings

bandit = typer.Typer(no_args_is_help=True, help="Exploration: policies, kill switch, report, verification of the log.")
policy = typer.Typer(no_args_is_help=True, help="Which policy acts where.")
bandit.add_typer(policy, name="policy")

Surface = Annotated[str, typer.Option(help="Surface; `*` = every one.")]
ArmName = Annotated[str, typer.Option("--arm", help="Experiment arm; `*` = every one.")]


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
    who: Who = "",
    why: Why = "",
) -> None:
    """Set the policy of a surface and an experiment arm; the most exact entry counts, the surface before the arm."""
    from liverank.hot import policy_key

    key = policy_key(surface, arm)

    def edit(hot: HotSettings) -> HotSettings:
        policies = {name: one for name, one in hot.policies.items() if name != key}
        if specification != "default":
            policies[key] = specification
        return hot.model_copy(update={"policies": policies})

    opened().change(edit, who, why)


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
    console = _console()
    console.print(table)
    console.print("exploration is [bold]on[/]" if hot.exploration else "exploration is [bold red]off[/] (kill switch)")
    if book.exploring.excluded:
        console.print(f"never on the surfaces {', '.join(sorted(book.exploring.excluded))}")
    console.print(f"policies: {', '.join(sorted({*registered(), 'vowpal'}))}")


def _console() -> Console:
    from rich.console import Console

    return Console()
