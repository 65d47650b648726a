"""What changes beneath requests, each in a thread of its own: catalogue, vectors, model and posterior, index.

A feed never dies of an absent dependency: it says so once, waits and goes on. `start` waits until the first full load.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from google.protobuf.message import DecodeError

from bandits import Partial
from features.item_vectors import active_space, read_vectors
from features.redis import translated
from liverank.contract import read_item
from liverank.errors import ContractError, LiverankError
from liverank.kafka import BEGINNING, LogReader, Record, Tp, begin_offsets, end_offsets, partition_counts
from liverank.log import get
from liverank.settings import Settings
from liverank.v1 import stream_pb2
from ranker import metrics
from ranker.catalogue import Catalogue
from ranker.columns import COLUMNS, FEATURE_SERVICE
from ranker.learned import LearnedBelief, LearnedReader
from ranker.models import Model, active_model_id, load_model, models_dir
from ranker.models import Serving as ModelNeeds
from ranker.models.store import START_FILE, start_of
from ranker.phi import SCHEMA
from ranker.posterior import Belief, BeliefReader
from ranker.serving import Rulebook, Serving

if TYPE_CHECKING:
    from features.redis import Redis

_log = get(__name__)
_PAUSE_S: Final = 0.5


class Feed(ABC):
    """A thread that repeats `step` until stopped.

    Parameters
    ----------
    name
        Of the thread and in logs.
    every_s
        Pause between steps.
    """

    def __init__(self, name: str, every_s: float) -> None:
        self.name, self._every_s = name, every_s
        self.loaded = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.trouble = ""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end and wait for it."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)
        self.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.step()
                if self.trouble:
                    _log.info("feed works again", feed=self.name)
                self.trouble = ""
            except LiverankError as error:
                if str(error) != self.trouble:
                    _log.warning("feed is waiting", feed=self.name, error=str(error))
                self.trouble = str(error)
                self._stop.wait(_PAUSE_S)
            self._stop.wait(self._every_s)

    @abstractmethod
    def step(self) -> None:
        """Do what is due; set `loaded` once everything was read for the first time."""

    def close(self) -> None:  # noqa: B027 - most feeds hold nothing
        """Free what the feed holds."""


class CatalogueFeed(Feed):
    """Reads `items` from the start and `item-rows` from where Feast's rows were loaded.

    Parameters
    ----------
    load_rows
        Loads item rows from Feast into the table; called once, when the catalogue has been read to its end.
    """

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        redis: Redis,
        reader_name: str,
        load_rows: Callable[[], None],
    ) -> None:
        super().__init__("catalogue", 0.0)
        self._settings, self._catalogue, self._redis = settings, catalogue, redis
        self._load_rows = load_rows
        self._items, self._rows = settings.topic("items"), settings.topic("item-rows")
        self._reader_name = reader_name
        self._reader: LogReader | None = None
        self._until: dict[Tp, int] = {}
        self._rows_from: dict[Tp, int] = {}
        self.positions: dict[Tp, int] = {}
        self._published: dict[Tp, int] = {}
        self._published_s = 0.0
        # Replay waits for positions between any two events; live they are looked at by people.
        self._publish_s = 0.02 if settings.clock == "data" else 0.1
        self.rejected = 0

    def step(self) -> None:
        """Take one batch of each topic."""
        if self._reader is None:
            self._open()
        assert self._reader is not None
        records = self._reader.poll_batch(500, self._publish_s)
        if records:
            self._take(records)
        if not self.loaded.is_set() and all(self.positions.get(tp, 0) >= end for tp, end in self._until.items()):
            self._load_rows()
            if self._rows_from:
                self._reader.close()
                self._reader = LogReader(
                    self._settings.kafka.bootstrap, {**self.positions, **self._rows_from}, name=self._reader_name
                )
                self.positions.update(self._rows_from)
                self._rows_from = {}
            metrics.ITEMS.set(len(self._catalogue.table))
            self._catalogue.live = True
            self.loaded.set()
        self._publish()

    def _open(self) -> None:
        bootstrap = self._settings.kafka.bootstrap
        counts = partition_counts(bootstrap, [self._items, self._rows])
        missing = {self._items, self._rows} - set(counts)
        if missing:
            from liverank.kafka import KafkaConfigError

            raise KafkaConfigError(f"topics {sorted(missing)} do not exist: run `liverank up` or create the topics")
        items = [Tp(self._items, p) for p in range(counts[self._items])]
        rows = [Tp(self._rows, p) for p in range(counts[self._rows])]
        # Rows produced from here on are read after the rows in Feast were loaded: none is missed.
        self._rows_from = end_offsets(bootstrap, rows)
        ends, begins = end_offsets(bootstrap, items), begin_offsets(bootstrap, items)
        self._until = {tp: end for tp, end in ends.items() if end > begins[tp]}
        self.positions = dict(begins)
        self._reader = LogReader(bootstrap, dict.fromkeys(items, BEGINNING), name=self._reader_name)

    def _take(self, records: list[Record]) -> None:
        changes, rows = [], []
        for record in records:
            self.positions[Tp(record.topic, record.partition)] = record.offset + 1
            if record.topic == self._rows:
                try:
                    rows.append(stream_pb2.ItemRow.FromString(record.value or b""))
                except DecodeError as error:
                    self.rejected += 1
                    _log.error(
                        "item row cannot be read", partition=record.partition, offset=record.offset, error=str(error)
                    )
                continue
            try:
                changes.append((read_item(record.value, record.headers, key=record.key), record.offset))
            except ContractError:
                self.rejected += 1  # the catalogue agent writes it to the dead letters
        if changes:
            self._catalogue.change(changes)
            metrics.FEED_RECORDS.labels("items").inc(len(changes))
            metrics.ITEMS.set(len(self._catalogue.table))
        if rows:
            self._catalogue.update_rows(rows)
            metrics.FEED_RECORDS.labels("item-rows").inc(len(rows))

    def _publish(self) -> None:
        """Positions for replay's waiting: `<ns>:position:<reader>:<partition>`, topic -> next offset."""
        now_s = time.monotonic()
        if self.positions == self._published or now_s - self._published_s < self._publish_s or not self.loaded.is_set():
            return
        with translated("publishing the ranker's position"):
            pipe: Any = self._redis.pipeline(transaction=False)
            for tp, offset in self.positions.items():
                key = f"{self._settings.namespace}:position:{self._reader_name}:{tp.partition}"
                pipe.hset(key, tp.topic, offset)
                pipe.expire(key, 86_400)
            pipe.execute()
        self._published, self._published_s = dict(self.positions), now_s

    def close(self) -> None:
        """Free the reader."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class VectorFeed(Feed):
    """Item vectors of the active space: all at a switch, then what is missing or was changed.

    Parameters
    ----------
    table_loaded
        Set when the catalogue is there.
    """

    def __init__(self, settings: Settings, catalogue: Catalogue, redis: Redis, table_loaded: threading.Event) -> None:
        super().__init__("vectors", 1.0)
        self._settings, self._catalogue, self._redis = settings, catalogue, redis
        self._table_loaded = table_loaded
        self._space = ""
        self._asked: dict[str, float] = {}

    def step(self) -> None:
        """Read what is missing."""
        if not self._table_loaded.is_set():
            return
        space = active_space(self._redis, self._settings)
        if space is None:
            self.loaded.set()
            return
        if str(space) != self._space:
            with self._catalogue.lock:
                wanted = list(self._catalogue.table.ids)
            self._asked.clear()
        else:
            now_s = time.monotonic()
            wanted = [item for item in self._catalogue.without_vector() if now_s - self._asked.get(item, -60.0) > 5.0]
            # A changed item is embedded anew within seconds of its record.
            wanted = [*wanted[:5_000], *self._catalogue.changed_within(15.0)]
            if len(self._asked) > 100_000:
                self._asked.clear()
            self._asked.update(dict.fromkeys(wanted, now_s))
        if wanted:
            found = read_vectors(self._redis, self._settings, wanted, space)
            if found:
                ids = list(found)
                matrix = np.stack([found[item_id] for item_id in ids]).astype(np.float32)
                self._catalogue.set_vectors(ids, matrix, str(space))
                metrics.VECTORS.set(int(self._catalogue.table.has_vector.sum()))
        self._space = str(space)
        self.loaded.set()


class ServingFeed(Feed):
    """The active model and the belief about its residuals, swapped as one. Thread-safe to read.

    Parameters
    ----------
    book
        Weights of heads.
    beliefs
        Reads partials.
    generation
        Gives the active generation.
    space
        Gives the active vector space; None while vectors are being read: a model waits for them.
    learned
        Reads what policies beyond the shared linear ones act on; None = nothing.
    rules
        Rules of this instant: which policies there are; None = `book` for ever.
    """

    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        book: Rulebook,
        beliefs: BeliefReader,
        generation: Callable[[], int],
        space: Callable[[], str | None],
        *,
        learned: LearnedReader | None = None,
        rules: Callable[[], Rulebook] | None = None,
    ) -> None:
        super().__init__("serving", 0.25)
        self._learned, self._rules = learned, rules or (lambda: book)
        self._settings, self._redis, self._book, self._beliefs = settings, redis, book, beliefs
        self._generation, self._space = generation, space
        self._serving: Serving | None = None
        self._start: tuple[str, Partial | None] = ("", None)
        self._refused = ("", "", "")
        self.read_s = float("-inf")

    def current(self) -> Serving | None:
        """Model and belief of this instant; None where no model could be loaded yet."""
        return self._serving

    def step(self) -> None:
        """Take another model or newer statistics, if there are any."""
        serving = self._serving
        wanted = active_model_id(self._redis, self._settings)
        model = serving.model if serving is not None else None
        space = self._space()
        if space is None:
            return
        is_new = wanted is not None and (model is None or model.model_id != wanted)
        # A refused model is tried again only when the space has changed.
        if wanted is not None and is_new and self._refused[:2] != (wanted, space):
            model = self._load(wanted, space) or model
        self.loaded.set()
        if model is None:
            return
        before: Belief | None = serving.belief if serving is not None else None
        belief = self._beliefs.read(
            model.model_id,
            self._generation(),
            self._book.weights.of(model.heads).tolist(),
            before,
            start=self._start_of(model),
        )
        self.read_s = time.monotonic()
        metrics.POSTERIOR_READ_S.set_to_current_time()
        metrics.POSTERIOR_SHOWN.set(belief.posterior.n_shown)
        metrics.POSTERIOR_HASH.set(int(belief.snapshot_id[:13], 16))
        learned = self._learn(model, belief, serving)
        before_learned = serving.learned if serving is not None else None
        if serving is None or serving.model is not model or serving.belief is not belief or learned != before_learned:
            self._serving = Serving(model=model, belief=belief, learned=learned)

    def _learn(self, model: Model, belief: Belief, serving: Serving | None) -> Mapping[str, LearnedBelief]:
        """What the policies of this instant act on beyond `belief`."""
        priors = self._rules().priors
        if not priors or self._learned is None:
            return {}
        same = serving is not None and serving.model is model
        found = self._learned.read(
            model.model_id,
            self._generation(),
            belief.posterior.head_weights.tolist(),
            priors,
            serving.learned if same and serving is not None else {},
            start=lambda name: self._file_of(model, name),
        )
        for name, one in found.items():
            metrics.LEARNED_SHOWN.labels(name).set(one.n_shown)
            metrics.LEARNED_HASH.labels(name).set(int(one.snapshot_id[:13], 16))
        return found

    def _file_of(self, model: Model, name: str) -> bytes | None:
        return start_of(models_dir(self._settings) / model.model_id, name) if name in model.manifest.files else None

    def _start_of(self, model: Model) -> Partial | None:
        """Statistics that a model starts from; read once."""
        if self._start[0] != model.model_id:
            data = self._file_of(model, START_FILE)
            self._start = (model.model_id, Partial.from_bytes(data) if data else None)
        return self._start[1]

    def _load(self, model_id: str, space: str) -> Model | None:
        """Load a model aside; one that does not fit is refused once, with the reason, and the old one stays."""
        try:
            model = load_model(models_dir(self._settings) / model_id)
            model.manifest.check(
                ModelNeeds(feature_service=FEATURE_SERVICE, columns=COLUMNS, schema=SCHEMA, space=space)
            )
        except LiverankError as error:
            if not getattr(error, "retryable", False):
                self._refused = (model_id, space, str(error))
            _log.error("model refused", model=model_id, error=str(error))
            return None
        _log.info("model loaded", model=model_id, engine=model.engine)
        return model

    @property
    def refused(self) -> tuple[str, str]:
        """Id and reason of the model that was refused last; empty = none."""
        return self._refused[0], self._refused[2]


class IndexFeed(Feed):
    """Rebuilds the vector graph when it is due and probes its recall every 30 s."""

    PROBE_S: Final = 30.0

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__("index", 2.0)
        self._catalogue = catalogue
        self._probed_s = 0.0
        self._rng = np.random.default_rng(7)

    def step(self) -> None:
        """Rebuild or probe."""
        rebuilt = self._catalogue.rebuild_if_due()
        now_s = time.monotonic()
        if rebuilt or now_s - self._probed_s > self.PROBE_S:
            self._probed_s = now_s
            recall = self._catalogue.probe(self._rng)
            if not np.isnan(recall):
                metrics.RECALL.set(recall)
                metrics.INDEX_EXACT.set(float(self._catalogue.index.exact))
        self.loaded.set()
