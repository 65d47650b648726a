"""The parts of `bench.system_loop`: liverank's own code on a simulated clock, in one process, without Kafka and Redis.

Real are: the ranker's pipeline (retrieval, feature rows, heads, value, soft and hard rules, the draw, exposure and
decision records), both folds (`UserFold` and `ItemFold` in their `PartitionFold`s: join, item and user state, bandit
statistics, label rows; one partition), user vectors, the item table, the archive's and the label rows' files, training
(`served_dataset`, `exposure_dataset`, `build`, `with_start`), and the posterior. Records go from one to the next in
order of time and encoded as they would be in Kafka; what folds publish to Redis is read from memory. Boosters are
smaller than by default and not compiled (LightGBM gives the same bits, slower).
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandits import Partial
from bandits.policy import ITEMS
from bench.context import program
from evaluation.simulator import User, World, history
from evaluation.simulator.catalogue import NEVER_MS
from features.archive import part_dir, write_part
from features.examples import examples_dir, write_examples
from features.item_table import ItemTable
from features.item_version import CatalogueItem
from features.llm.local import LocalProvider
from features.llm.text import item_text
from features.state.params import state_params
from features.user_row import UserRow, UserSchema
from features.vectors import user_vectors
from liverank.hot import HotSettings
from liverank.kafka import Record
from liverank.settings import RankerSettings, Settings
from liverank.v1 import personalization_pb2 as pb
from liverank.v1.decision_pb2 import MODE_SERVE, Decision
from liverank.v1.event_pb2 import Event
from liverank.v1.item_pb2 import Item, ItemChange
from liverank.v1.stream_pb2 import Example
from ranker.catalogue import Catalogue
from ranker.decisions import DecisionLog
from ranker.learned import LearnedBelief, Read, learned_belief, summed
from ranker.models import load_model, models_dir, write_model
from ranker.models.booster import BoosterModel
from ranker.models.store import START_FILE, START_ITEMS_FILE
from ranker.pipeline import Pipeline
from ranker.posterior import believe, partial_key
from ranker.replies import ReplyStore
from ranker.retrieval import Explore, VectorIndex, standard_sources
from ranker.serving import Serving, rulebook
from ranker.training.dataset import Dataset, joined
from ranker.training.errors import TooLittleDataError
from ranker.training.heads import BoosterParameters
from ranker.training.history import Sampling, exposure_dataset, in_order
from ranker.training.memory import Memory
from ranker.training.package import HEADS, build
from ranker.training.served import served_dataset
from ranker.training.start import with_start
from ranker.users import Users
from streams.rows import state_key
from tests.recount.world import World as Folds

SPACE = "local/64/t1"
SURFACE = "home"
NO_DEADLINE_MS = 1e9
FAR_AHEAD_MS = 1 << 60
BOOSTERS = BoosterParameters(n_trees=60, learning_rate=0.15, light_trees=10, patience=10)
"""Smaller than by default: some thousand slates do not fill more, and twenty trainings an arm are most of its time."""


@dataclass(frozen=True)
class Past:
    """What all arms of one world share: the catalogue's vectors, the imported history and its dataset."""

    world: World
    vectors: NDArray[np.float32]
    events: Sequence[Event]
    dataset: Dataset

    @classmethod
    def of(cls, world: World, days: float, slates: int) -> Past:
        """Import `days` of a world's history; the dataset is made of at most `slates` of its slates."""
        items = {item.item_id: item for item in world.catalogue.items}
        found = LocalProvider(64).embed([item_text(item) for item in items.values()]).vectors
        events = in_order(history(world, days=days))
        vectors = dict(zip(items, found, strict=True))
        params = state_params(Settings())

        def memory_of(on_example: Any) -> Memory:
            return Memory(
                program=program(), params=params, items=items, vectors=vectors, space=SPACE, on_example=on_example
            )

        return cls(world, found, events, exposure_dataset(memory_of, events, HEADS, Sampling(slates=slates)))


def _calendar(world: World) -> list[tuple[int, int, bool]]:
    """(when, row, offered from then on) of all publications and withdrawals, latest first."""
    catalogue = world.catalogue
    published = [(int(at), row, True) for row, at in enumerate(catalogue.published_ms)]
    withdrawn = [(int(at), row, False) for row, at in enumerate(catalogue.withdrawn_ms) if at < NEVER_MS]
    return sorted(published + withdrawn, reverse=True)


class Versions:
    """The catalogue as the folds see it: an item is known from its publication on."""

    def __init__(self, world: World) -> None:
        self._items = {
            item.item_id: CatalogueItem(
                item.item_id, row, 0, tuple(item.categories), item.creator, item.price, True, item.published_ts_ms
            )
            for row, item in enumerate(world.catalogue.items)
        }

    def at(self, item_id: str, append_ts_ms: int) -> CatalogueItem | None:
        """See `streams.reading.ItemVersions`."""
        found = self._items.get(item_id)
        return found if found is not None and found.published_ts_ms <= append_ts_ms else None


@dataclass
class Produced:
    """Takes what the decision log produces."""

    records: list[tuple[str, bytes | None, bytes]] = field(default_factory=list)
    last_failure_s: float = float("-inf")
    queue_fill: float = 0.0

    def produce(
        self, topic: str, *, key: bytes | None, value: bytes, timestamp_ms: int | None = None, block_s: float = 10.0
    ) -> None:
        """See `ranker.decisions.RecordProducer`."""
        self.records.append((topic.split(".")[2], key, value))

    def poll(self, timeout_s: float = 0.0) -> int:
        """Nothing waits."""
        return 0


class Nowhere:
    """Redis of replies: nothing asks for a retry."""

    def get(self, key: str) -> None:
        """Nothing is kept."""


class Stack:
    """Folds, ranker and trainer of one arm of the experiment.

    Parameters
    ----------
    past : Past
    home : Path
        Empty folder for archive, label rows and models.
    ranker : RankerSettings
        What differs between arms.
    hot : HotSettings
        The same, and the kill switch; `change` sets others.
    seed : int
        Of request ids, and so of draws.
    """

    def __init__(self, past: Past, home: Path, ranker: RankerSettings, hot: HotSettings, seed: int) -> None:
        self.past, self.now_ms = past, past.world.start_ms
        self.settings = Settings(namespace="loop", home=home, ranker=ranker)
        self.ids = random.Random(seed + 1)
        self._calendar = _calendar(past.world)
        versions: Any = Versions(past.world)
        self.folds = Folds(
            self.settings, program=program(), catalogue=versions, write_rate=0.0, horizon_ms=FAR_AHEAD_MS
        )
        self._schema = UserSchema(program())
        self.table = ItemTable(program(), capacity=max(1024, len(past.world.catalogue.items)))
        self.catalogue = Catalogue(self.table, VectorIndex())
        self._waiting: list[tuple[int, int, Event]] = []
        self._n_events = self._n_decisions = self._n_examples = 0
        self._decided: set[str] = set()
        self._examples: list[Example] = []
        self._decisions: list[Record] = []
        self._produced = Produced()
        self.serving: Serving | None = None
        self._start: Partial | None = None
        self._starts: dict[str, bytes] = {}
        self.change(hot)
        *sources, last = standard_sources(self.catalogue.index, keep=False)
        self.pipeline = Pipeline(
            settings=self.settings,
            book=self.book,
            catalogue=self.catalogue,
            users=Users(self._user),
            sources=[*sources, Explore(0.0), last],
            serving=lambda: self.serving,
            log=DecisionLog(self._produced, self.settings, 1),
            replies=ReplyStore(Nowhere(), self.settings.namespace, 1800),
            clock_ms=lambda: self.now_ms,
            rng=random.Random(seed),
            rules=lambda: self.book,
        )
        for event in past.events:
            self._take(event)
        self.train()

    def change(self, hot: HotSettings) -> None:
        """Set other hot settings."""
        self.book = rulebook(self.settings.ranker, hot)

    # -- the stream

    def send(self, events: Sequence[Event]) -> None:
        """Producers' events; each is folded when the clock passes it."""
        for event in events:
            self._n_events += 1
            heapq.heappush(self._waiting, (event.event_ts_ms, self._n_events, event))

    def advance(self, at_ms: int) -> None:
        """Move the clock: fold everything sent before, publish items, read rows and statistics."""
        while self._waiting and self._waiting[0][0] < at_ms:
            self._take(heapq.heappop(self._waiting)[2])
        self.now_ms = at_ms
        self.folds.tick(at_ms)
        self.folds.flush()
        while self._calendar and self._calendar[-1][0] <= at_ms:
            _, row, offered = self._calendar.pop()
            items = self.past.world.catalogue.items
            item = Item()
            item.CopyFrom(items[row])
            item.available = offered
            self.catalogue.change(
                [(ItemChange(item_id=item.item_id, upsert=item), row if offered else len(items) + row)]
            )
            if offered:
                self.catalogue.set_vectors([item.item_id], self.past.vectors[row : row + 1], SPACE)
        self.catalogue.update_rows(self.folds.items.take_feeds())
        for output in self.folds.take_outputs():
            if output.topic == "examples":
                example = Example.FromString(output.value)
                if example.request_id in self._decided:
                    self._examples.append(example)

    def _take(self, event: Event) -> None:
        self.folds.send(event)
        self.now_ms = event.event_ts_ms

    def _user(self, user_id: str) -> UserRow:
        fields = self.folds.fields(state_key(user_id))
        row = UserRow.from_fields(self._schema, fields, user_id=user_id, category_of_hash=self.table.category_of_hash)
        row.vectors, row.space = user_vectors(row.history, self._lookup, self.now_ms), self.table.space
        return row

    def _lookup(self, hashes: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        rows = self.table.rows_of_hashes(hashes)
        found = rows >= 0
        vectors = np.zeros((len(hashes), self.table.vectors.shape[1]), dtype=np.float32)
        vectors[found] = self.table.vectors[rows[found]]
        return vectors, found

    # -- the ranker

    def rank(self, user: User, context: Any, k: int, at_ms: int) -> Decision:
        """Answer a request at a time; its exposure is folded next, its decision archived at the next training."""
        self.advance(at_ms)
        self._believe()
        request = pb.RankRequest(user_id=user.user_id, k=k, surface=SURFACE, context=context, mode=MODE_SERVE)
        self.pipeline.rank(request, remaining_ms=NO_DEADLINE_MS)
        records, self._produced.records = self._produced.records, []
        made = Decision()
        for topic, key, value in records:
            if topic == "events":
                self.send([Event.FromString(value)])
            elif topic == "decisions":
                made = Decision.FromString(value)
                self._decisions.append(Record("decisions", 0, self._n_decisions, key, value, (), at_ms))
                self._n_decisions += 1
        self._decided.add(made.request_id)
        return made

    def _believe(self) -> None:
        """The posterior of what the fold has counted for the served model, and what the model starts from."""
        assert self.serving is not None
        model = self.serving.model
        key = partial_key(self.settings.namespace, 1, model.model_id, 0)
        stored: Mapping[str, Any] = self.folds.users.rows.get(key, {})
        partials = [Partial.from_bytes(stored["d"])] if "d" in stored else []
        if self._start is not None:
            partials.append(self._start)
        weights = self.book.weights.of(model.heads).tolist()
        belief = believe(model.model_id, partials, generation=1, head_weights=weights, prior=self.book.prior)
        learned = {ITEMS: self._items(model.model_id, stored, weights)} if ITEMS in self.book.priors else {}
        self.serving = Serving(model=model, belief=belief, learned=learned)

    def _items(self, model_id: str, stored: Mapping[str, Any], weights: Sequence[float]) -> LearnedBelief:
        """What the fold has counted per item, and what the model starts from."""
        read = [Read.of({name.encode(): data for name, data in stored.items()})]
        sums = summed(ITEMS, len(weights), read, self._starts.get)
        return learned_belief(model_id, ITEMS, sums, generation=1, prior=self.book.priors[ITEMS], head_weights=weights)

    # -- the trainer

    def train(self) -> None:
        """What `liverank train` does: history and served slates, heads, start of the bandit; then the model serves."""
        if self._decisions:
            write_part(part_dir(self.settings, "decisions", 0, 0), self._decisions)
            self._decisions = []
        if self._examples:
            first = self._n_examples
            self._n_examples += len(self._examples)
            write_examples(examples_dir(self.settings), 0, first, self._n_examples - 1, self._examples)
            self._examples = []
        data = self.past.dataset
        try:
            data = joined(data, served_dataset(self.settings, HEADS))
        except TooLittleDataError:
            assert not self._n_examples  # before the first round
        weights = self.settings.ranker.head_weights
        package = with_start(self.settings, build(data, weights=weights, space=SPACE, parameters=BOOSTERS))
        path = write_model(models_dir(self.settings), package.manifest, package.files)
        model = load_model(path)
        assert isinstance(model, BoosterModel)
        model.engine = "tl2cgen"  # the same bits; a name of "lightgbm" would serve fewer candidates
        self._starts = {name: package.files[name] for name in (START_FILE, START_ITEMS_FILE) if name in package.files}
        start = self._starts.get(START_FILE)
        self._start = Partial.from_bytes(start) if start else None
        belief = believe(model.model_id, [], generation=1, head_weights=[0.0] * len(HEADS), prior=self.book.prior)
        self.serving = Serving(model=model, belief=belief)
