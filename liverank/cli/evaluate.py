"""``liverank demo | replay | evaluate``: the whole system at work, on a simulated world or on recorded data."""

from __future__ import annotations

import io
import json as _json
import logging
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from liverank.cli.policy_value import policy

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from evaluation.datasets import Dataset
    from evaluation.demo import DemoPlan
    from evaluation.proof import Report
    from evaluation.replay import ReplayPlan, ReplayReport
    from evaluation.traffic import TrafficReport
    from infra.stack import Stack
    from liverank.cli.progress import Steps
    from liverank.settings import Settings
    from liverank.v1.event_pb2 import Event
    from liverank.v1.item_pb2 import ItemChange

BUDGET_S = 300.0
REPLAY_PARTITIONS = 2
WITHOUT_RULES = {
    "liking": 0.0,
    "aversion": 0.0,
    "nearness": 0.0,
    "diversity": 0.0,
    "creator_share": 1.0,
    "category_share": 1.0,
    "duplicate_cosine": 2.0,
    "disliked_after": 0,
    "dislike_strength": 0.0,
    "exact_below": 1_000_000,
}
"""A replay asks what the model expects next: rules of taste and of business would only stand in the way."""
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the result as JSON to this file.")]


evaluate = typer.Typer(no_args_is_help=True, help="How good is it: policies, off policy.")
evaluate.command("policy")(policy)


class Note(Protocol):
    """What a step says when it is done."""

    def note(self, text: str) -> None:
        """Say it."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(demo)
    app.command()(replay)
    app.add_typer(evaluate, name="evaluate")


def demo(
    data: Annotated[
        Path | None, typer.Option(help="Recorded data instead of a simulated world (as `liverank replay`).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the simulated world.")] = 7,
    requests: Annotated[int, typer.Option(min=1, help="Live slates before the proof.")] = 600,
    json: JsonFile = None,
    keep: Annotated[bool, typer.Option(help="Leave the stack up afterwards.")] = True,
) -> None:
    """Stack, catalogue, 60 simulated days, training, live traffic, and the proof that every layer learns."""
    if data is not None:
        replay(data, json=json)
        return
    from evaluation.demo import DemoPlan
    from evaluation.proof.table import table
    from evaluation.simulator import WorldParams
    from infra.stack import Stack
    from liverank.cli.progress import Steps
    from liverank.settings import Settings

    plan = DemoPlan(params=WorldParams(seed=seed), requests=requests)
    given = Settings()
    # People of this world seldom open a thing twice, and do not tire of a kind.
    world = {"seen_policy": "consumed", "category_share": 1.0}
    settings = given.model_copy(update={"ranker": given.ranker.model_copy(update=world)})
    budget = _Budget(Steps())
    stack = Stack(settings, budget.steps)
    cold = not stack.layout.cache.exists()
    try:
        report, traffic = _demo(stack, settings, plan, budget)
    finally:
        if not keep:
            stack.down()
    console = _console()
    console.print(table(report))
    console.print(budget.table())
    total_s = budget.total_s
    start = "cold start: packages of the stack were fetched" if cold else "warm package cache"
    console.print(f"{total_s:.0f} s of at most {BUDGET_S:.0f} s ({start})")
    result = {
        **report.to_json(),
        "seconds": round(total_s, 1),
        "cold": cold,
        "steps": budget.seconds,
        "traffic": traffic.summary(),
    }
    if json is not None:
        json.write_text(_json.dumps(result, indent=2) + "\n")
    console.print("[bold green]PROOF: every line is true[/]" if report.holds else "[bold red]PROOF: a line is false[/]")
    if keep:
        console.print("The stack is up: try `liverank rank --user user-7 --explain`; `liverank down` ends it.")
    if not report.holds:
        raise typer.Exit(1)


def replay(
    file: Annotated[Path, typer.Argument(help="Events in the documented format, or MovieTweetings' folder.")],
    items: Annotated[Path | None, typer.Option(help="The catalogue; items.* beside the file where not given.")] = None,
    imported: Annotated[float, typer.Option(help="Share of the events that is imported as history.")] = 0.8,
    sampled: Annotated[int, typer.Option(min=1, help="Events before which a slate is asked for.")] = 2_000,
    k: Annotated[int, typer.Option(min=1, max=200, help="Length of the lists.")] = 10,
    json: JsonFile = None,
    keep: Annotated[bool, typer.Option(help="Leave the namespace and the stack as they are afterwards.")] = False,
) -> None:
    """Replay recorded data on its own clock; say whether the slates beat popularity."""
    from evaluation.datasets import load
    from evaluation.replay import REPEATS_FROM, ReplayPlan, repeat_share
    from infra.stack import Stack
    from liverank.cli.progress import Steps
    from liverank.settings import Endpoints, Settings

    plan = ReplayPlan(imported=imported, n_sampled=sampled, k=k)
    budget = _Budget(Steps())
    with budget.step("read the data") as step:
        data = load(file, items)
        step.note(f"{data.name}: {len(data.events):,} events, {len(data.items):,} items")
    past, _ = data.split(imported)
    share = repeat_share(past)
    plan = replace(plan, repeats=share >= REPEATS_FROM)
    seen_policy = "none" if plan.repeats else "consumed"
    given = Settings()
    settings = given.model_copy(
        update={
            "namespace": f"replay-{time.time_ns() // 1_000_000 % 10**10:x}",
            "clock": "data",
            "stack": given.stack.model_copy(update={"partitions": REPLAY_PARTITIONS, "workers": 1, "rankers": 1}),
            "ranker": given.ranker.model_copy(update={**WITHOUT_RULES, "seen_policy": seen_policy}),
        }
    )
    stack = Stack(settings, budget.steps)
    was_up = Endpoints.read(stack.layout.home) is not None
    try:
        report = _replay(stack, settings, data, plan, budget)
    finally:
        if not keep:
            _clean(stack, settings, was_up=was_up)
    console = _console()
    for note in data.notes:
        console.print(note, soft_wrap=True)
    console.print(
        f"{share:.1%} of the history is a user's repeat of an item: own items "
        f"{'stay in' if plan.repeats else 'are left out of'} all lists.",
        soft_wrap=True,
    )
    console.print(report.table())
    console.print(report.verdict(), soft_wrap=True)
    if json is not None:
        json.write_text(_json.dumps(report.to_json(), indent=2) + "\n")


def _demo(stack: Stack, settings: Settings, plan: DemoPlan, budget: _Budget) -> tuple[Report, TrafficReport]:
    """The steps of the demo, in order."""
    from evaluation import demo as parts
    from liverank.calls import now_ms
    from liverank.files import read_events, read_items

    with budget.step("world"):
        world = parts.build_world(plan, now_ms())
    settings = _fresh_namespace(stack, settings, budget)
    with budget.step("60 simulated days") as step:
        files = parts.write_history(world, plan, settings.home / settings.namespace / "history")
        step.note(f"{files.n_events:,} events, {files.n_items:,} items")
    _import(settings, read_events(files.events), read_items(files.items), budget)
    _enrich(settings, budget)
    _train(settings, budget)
    settings = _start(stack, settings, budget)
    with budget.step("live traffic") as step:
        traffic = parts.live_traffic(settings, world, files, plan)
        step.note(traffic.summary())
    with budget.step("proof") as step:
        report = parts.run_proof(settings, world, files, plan)
        step.note(f"{sum(line.holds for line in report.lines)} of {len(report.lines)} lines true")
    return report, traffic


def _replay(stack: Stack, settings: Settings, data: Dataset, plan: ReplayPlan, budget: _Budget) -> ReplayReport:
    """The steps of a replay, in order."""
    from evaluation.demo import generation_of
    from evaluation.progress import Progress
    from evaluation.replay import Replayer, judge, sample
    from features.redis import connect, namespace_token
    from liverank.client import Client
    from liverank.kafka import Producer

    past, rest = data.split(plan.imported)
    item_ids = [change.item_id for change in data.items]
    asked = sample(rest, frozenset(item_ids), plan)
    settings = _fresh_namespace(stack, settings, budget)
    _import(settings, past, data.items, budget)
    _enrich(settings, budget)
    _train(settings, budget, choices=True)
    settings = _start(stack, settings, budget)
    with budget.step("replay") as step, connect(settings) as redis, Client(settings.ranker.grpc) as client:
        generation = generation_of(settings, redis)
        replayer = Replayer(
            plan,
            client=client,
            producer=Producer(settings.kafka.bootstrap, linger_ms=1.0, compression=settings.kafka.compression),
            progress=Progress(settings, redis, generation=generation),
            topic=settings.topic("events", generation),
            n_partitions=settings.stack.partitions,
            token=namespace_token(redis, settings.namespace),
            item_ids=item_ids,
        )
        for event in past:
            replayer.learn(event)
        sampled = replayer.run(rest, asked, on_progress=lambda n, _: step.note(f"{n:,} of {len(asked):,} slates"))
        step.note(f"{len(rest):,} events told, {len(sampled):,} slates asked for")
    return judge(sampled, plan.k)


def _fresh_namespace(stack: Stack, settings: Settings, budget: _Budget) -> Settings:
    """Kafka, Redis, and an empty namespace with features and a base model.

    Raises
    ------
    ConfigError
        The namespace holds data that no demo made.
    """
    from features.redis import connect, translated
    from infra.stack import namespace
    from liverank.errors import ConfigError
    from liverank.settings import resolve

    with budget.step("Kafka and Redis"):
        stack.up(("kafka", "redis"))
    found = resolve(settings.model_copy(update={"home": stack.layout.home}))
    marker = f"{found.namespace}:demo"
    with connect(found) as redis, translated("looking at the namespace"):
        mine, used = redis.get(marker), redis.get(f"{found.namespace}:active")
    if used and not mine:
        raise ConfigError(
            f"namespace {found.namespace} is in use and no demo made it; "
            "choose another one: LIVERANK_NAMESPACE=demo liverank demo"
        )
    if used:
        with budget.step("remove the last demo"):
            stack.stop_namespace()
            namespace.remove(found)
    with connect(found) as redis, translated("marking the namespace"):
        redis.set(marker, "1")
    with budget.step("namespace, features"):
        stack.up(("namespace", "features", "model"))
    return resolve(settings.model_copy(update={"home": stack.layout.home}))


def _import(settings: Settings, events: Iterable[Event], items: Iterable[ItemChange], budget: _Budget) -> None:
    from streams.history import import_history

    with budget.step("import") as step:
        report = import_history(settings, events, items=items)
        dead = sum(report.dead_letters.values())
        step.note(
            f"{report.events:,} events of {report.users:,} users, {report.items:,} items, {report.examples:,} examples"
            + (f", {dead:,} dead letters" if dead else "")
        )


def _enrich(settings: Settings, budget: _Budget) -> None:
    from features.llm import job

    with budget.step("enrich") as step:
        report = job.enrich(settings, job.catalogue(settings, None))
        step.note(f"{report.rows:,} vectors in space {report.space}, {report.calls:,} calls")


def _train(settings: Settings, budget: _Budget, *, choices: bool = False) -> None:
    """Train; on `choices` for a replay, where a past that holds too little leaves the day-one model in place."""
    from ranker.training.errors import NotBetterError, TooLittleDataError
    from ranker.training.run import train

    with budget.step("train") as step:
        try:
            report = train(settings, choices=choices)
        except (TooLittleDataError, NotBetterError) as error:
            if not choices:
                raise
            step.note(f"day-one model stays: {error}")
            return
        step.note(f"{report.rows:,} rows, model {report.model_id[:12]} ({report.kind})")


def _start(stack: Stack, settings: Settings, budget: _Budget) -> Settings:
    from liverank.settings import resolve

    with budget.step("workers and ranker") as step:
        stack.up(("workers", "rankers"))
        step.note(f"{settings.stack.workers} workers, {settings.stack.rankers} ranker")
    return resolve(settings)


def _clean(stack: Stack, settings: Settings, *, was_up: bool) -> None:
    """Stop the replay's namespace; what was up before stays up."""
    from infra.stack import namespace
    from liverank.settings import Endpoints, resolve

    if Endpoints.read(stack.layout.home) is None:
        return
    stack.stop_namespace()
    namespace.remove(resolve(settings.model_copy(update={"home": stack.layout.home})))
    if not was_up:
        stack.down()


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


@dataclass
class _Budget:
    """Seconds a step, added up."""

    steps: Steps
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[Note]:
        """A step of its own in the table. What libraries print meanwhile does not mix with the result."""
        start_s = time.monotonic()
        try:
            with self.steps.step(name) as step, redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                logging.getLogger("feast").setLevel(logging.WARNING)
                yield step
        finally:
            self.seconds[name] = round(time.monotonic() - start_s, 2)

    @property
    def total_s(self) -> float:
        """All steps together."""
        return sum(self.seconds.values())

    def table(self) -> Table:
        """One line a step."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("step")
        table.add_column("seconds", justify="right")
        for name, seconds in self.seconds.items():
            table.add_row(name, f"{seconds:.1f}")
        return table
