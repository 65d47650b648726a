"""`liverank train`: archive and examples -> dataset -> model -> report -> active manifest."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from features.archive import generations_of, read_archive
from features.item_vectors import Space, active_space, read_vectors
from features.llm.catalogue import items_of_topic
from features.program import FeatureProgram
from features.redis import Redis, connect, translated
from features.state.params import state_params
from liverank.contract import decode_event
from liverank.errors import ContractError
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType
from liverank.v1.item_pb2 import Item
from liverank.v1.stream_pb2 import Example
from ranker.models import load_model, models_dir, write_model
from ranker.models.compiled import compile_boosters
from ranker.models.store import START_FILES, activate_model
from ranker.retrieval import IndexSettings, VectorIndex, standard_sources
from ranker.serving import rulebook
from ranker.training.dataset import Dataset, joined
from ranker.training.errors import NotBetterError, NotSetUpError, TooLittleDataError
from ranker.training.heads import LEAST_POSITIVES, BoosterParameters
from ranker.training.history import Progress, Sampling, choice_dataset, exposure_dataset, in_order
from ranker.training.memory import Memory
from ranker.training.package import HEADS, build
from ranker.training.report import report
from ranker.training.served import served_dataset
from ranker.training.start import with_start

SourceName = Literal["auto", "served", "history"]
ENOUGH_SERVED: Final = 50_000
"""Served rows from which imported history is no longer walked."""
REPORT_FILE: Final = "report.json"
_INTERNAL: Final = (EventType.EVENT_TYPE_TICK, EventType.EVENT_TYPE_CONTROL)


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """What a run did; `figures` is `ranker.training.report.report`, `steps` seconds by step."""

    model_id: str
    engine: str
    path: Path
    published: bool
    kind: str
    rows: int
    counts: Mapping[str, int]
    seconds: float
    steps: Mapping[str, float]
    figures: Mapping[str, Any]


@dataclass
class _Run:
    note: Callable[[str], None]
    steps: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.note(name)
        start_s = time.monotonic()
        try:
            yield
        finally:
            self.steps[name] = round(self.steps.get(name, 0.0) + time.monotonic() - start_s, 3)

    def progress(self, name: str) -> Progress:
        return lambda done, total: self.note(f"{name}: {done:,} of {total:,} events")


def train(
    settings: Settings,
    *,
    source: SourceName = "auto",
    since_ms: int = 0,
    until_ms: int = 1 << 62,
    sampling: Sampling | None = None,
    parameters: BoosterParameters | None = None,
    publish: bool = True,
    force: bool = False,
    choices: bool = False,
    note: Callable[[str], None] = lambda _: None,
) -> TrainReport:
    """Train on what a namespace knows and make the model active.

    `auto` takes served rows; with fewer than 50,000 of them the imported history's slates are added, or, where neither
    holds a slate, the choices of the log.

    Parameters
    ----------
    settings : Settings
        Resolved.
    since_ms, until_ms : int
        Times of slates and events, half-open. The same range of a closed past gives the same model id.
    publish : bool
        Make it active; False: only write it.
    force : bool
        Also where it is no better than a coin.
    choices : bool
        Learn what users choose out of the catalogue, from history alone, even where it holds slates: replays ask that.
    note : callable
        Given the current step, and how far it is.

    Raises
    ------
    TooLittleDataError, JoinError
        See `ranker.training`.
    NotBetterError
        AUC of the first head on the newest block is not above 0.5.
    UnavailableError
        Kafka or Redis is away.
    """
    start_s = time.monotonic()
    run = _Run(note)
    client = connect(settings)
    space = active_space(client, settings)
    sampling = sampling or Sampling()
    dataset, created_from = _dataset(settings, client, space, source, since_ms, until_ms, sampling, run, choices)
    with run.step("train"):
        package = build(
            dataset,
            weights=settings.ranker.head_weights,
            space=str(space) if space else "",
            parameters=parameters,
            created_from={**created_from, "space": str(space) if space else ""},
        )
    with run.step("start of the bandit"):
        package = with_start(settings, package)
    with run.step("write and compile"):
        path = write_model(models_dir(settings), package.manifest, package.files)
        compile_boosters(path, sorted(name for name in package.files if name not in START_FILES))
        model = load_model(path)
    with run.step("report"):
        figures = report(model, package.test, package.gains)
        figures["trees"] = dict(package.trees)
        (path / REPORT_FILE).write_text(json.dumps(figures, indent=1) + "\n")
    first = figures["heads"][package.manifest.heads[0]]
    if not force and not (first["auc"] or 0.0) > 0.5:
        raise NotBetterError(
            f"model {model.model_id[:12]} has AUC {first['auc']} on the newest {figures['rows']} rows, needed is more "
            "than 0.5: look at its report.json, or publish it all the same with --force"
        )
    if publish:
        activate_model(settings, model.model_id)
    return TrainReport(
        model_id=model.model_id,
        engine=model.engine,
        path=path,
        published=publish,
        kind=dataset.kind,
        rows=len(dataset),
        counts=dict(dataset.counts),
        seconds=time.monotonic() - start_s,
        steps=run.steps,
        figures=figures,
    )


def _dataset(
    settings: Settings,
    client: Redis,
    space: Space | None,
    source: SourceName,
    since_ms: int,
    until_ms: int,
    sampling: Sampling,
    run: _Run,
    choices: bool,
) -> tuple[Dataset, dict[str, str]]:
    served: Dataset | None = None
    if source != "history" and not choices:
        with run.step("served rows"):
            try:
                served = served_dataset(settings, HEADS, since_ms=since_ms, until_ms=until_ms)
            except TooLittleDataError:
                if source == "served":
                    raise
    if served is not None and (source == "served" or len(served) >= ENOUGH_SERVED):
        return served, {"source": "served"}
    with run.step("read the archive"):
        generations = [0] if served is not None else generations_of(settings, "events")
        events = [
            event
            for generation in generations
            for event in _events(settings, generation)
            if event.event_ts_ms < until_ms
        ]
        events = in_order(events)
    if not events:
        if served is not None:
            return served, {"source": "served"}
        raise TooLittleDataError(
            f"namespace {settings.namespace!r} has neither label rows nor archived events: "
            "let traffic run, or `liverank import` history"
        )
    program = _program(client, settings)
    with run.step("catalogue"):
        items = items_of_topic(settings)
        vectors = read_vectors(client, settings, sorted(items), space) if space else {}
    created_from = {"program": program.hash, "sampling": repr(sampling)}
    with run.step("walk the log"):
        on_progress = run.progress("walk the log")
        walked = _walk(settings, program, items, vectors, space, events, sampling, on_progress, choices)
    if served is not None and walked.kind == served.kind:
        return joined(walked, served), {**created_from, "source": "history and served"}
    if served is not None and served.labels[HEADS[0]].sum() >= 2 * LEAST_POSITIVES:
        return served, {"source": "served"}  # real exposures are worth more than choices
    return walked, {**created_from, "source": f"history, {walked.kind}"}


def _walk(
    settings: Settings,
    program: FeatureProgram,
    items: Mapping[str, Item],
    vectors: Mapping[str, NDArray[np.float32]],
    space: Space | None,
    events: list[Event],
    sampling: Sampling,
    on_progress: Progress,
    choices: bool,
) -> Dataset:
    params = state_params(settings)
    name = str(space) if space else ""

    def memory_of(on_example: Callable[[Example], None]) -> Memory:
        return Memory(program=program, params=params, items=items, vectors=vectors, space=name, on_example=on_example)

    if not choices and any(e.type == EventType.EVENT_TYPE_EXPOSURE and e.exposure.drawn for e in events):
        return exposure_dataset(memory_of, events, HEADS, sampling, on_progress)
    index = VectorIndex(IndexSettings(exact_below=1 << 31))  # exact: the same candidates on every run
    return choice_dataset(
        memory_of(lambda _: None),
        events,
        HEADS[0],
        sampling,
        standard_sources(index, keep=False),
        seen_policy=settings.ranker.seen_policy,
        states=rulebook(settings.ranker).states,
        on_progress=on_progress,
    )


def _events(settings: Settings, generation: int) -> Iterator[Event]:
    for record in read_archive(settings, "events", generation=generation):
        try:
            event = decode_event(record.value, record.headers)
        except ContractError:  # it is a dead letter already
            continue
        if event.type not in _INTERNAL:
            yield event


def _program(client: Redis, settings: Settings) -> FeatureProgram:
    with translated("reading the feature program"):
        # What the workers serve; before they ran, what counts from the first record.
        names = (f"{settings.namespace}:program{suffix}" for suffix in (":served", ":pinned", ""))
        text = next((found for found in map(client.get, names) if found), None)
    if not isinstance(text, bytes):
        raise NotSetUpError(f"namespace {settings.namespace!r} has no feature program: run `liverank up` first")
    return FeatureProgram.from_json(text)
