"""The ranker as a process: ``python -m ranker.server --id N``.

Loads the catalogue, item rows, vectors, model and statistics, then serves gRPC and HTTP until SIGTERM, which lets
running calls end and flushes what is still to be produced. Any number of processes may share one address.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from types import FrameType

from features.apply import open_store
from features.generation import active_generation
from features.hot_settings import HotStore
from features.item_load import load_from_feast
from features.item_table import ItemTable
from features.policy_models import PolicyModels
from features.redis import connect
from features.user_row import UserRowReader
from liverank import metrics as exporter
from liverank.errors import ConfigError, LiverankError
from liverank.kafka import Producer, partition_counts
from liverank.log import configure, get
from liverank.settings import Settings, resolve
from liverank.v1 import personalization_pb2 as pb
from ranker import metrics
from ranker.budget import NewItemBudget
from ranker.catalogue import Catalogue
from ranker.decisions import DecisionLog
from ranker.feeds import CatalogueFeed, Feed, IndexFeed, ServingFeed, VectorFeed
from ranker.generation import GenerationFeed
from ranker.grpc_server import FifoPool, GrpcServer
from ranker.hot import HotFeed
from ranker.http import HttpServer, application
from ranker.learned import READ_EVERY_S, LearnedReader
from ranker.models import load_model, models_dir
from ranker.pipeline import Pipeline
from ranker.posterior import BeliefReader
from ranker.registry import RegistryFeed
from ranker.replies import ReplyStore
from ranker.retrieval import IndexSettings, VectorIndex, standard_sources
from ranker.service import Service
from ranker.serving import rulebook
from ranker.staleness import StalenessFeed
from ranker.trace import DecisionFinder
from ranker.tracking import Tracker
from ranker.users import Users
from ranker.vowpal import VowpalFeed

_log = get(__name__)
GRACE_S = 5.0
FLUSH_S = 10.0


def now_ms() -> int:
    """Wall clock, ms since the UTC epoch."""
    return time.time_ns() // 1_000_000


class RankerProcess:
    """Everything that one process holds.

    Parameters
    ----------
    settings
        Resolved.
    ident
        Number of the process: names its feeds and positions.

    Raises
    ------
    ConfigError
        Settings that cannot work: a table of states, an address, a topic that does not exist.
    """

    def __init__(self, settings: Settings, ident: int) -> None:
        self.settings = settings
        book = rulebook(settings.ranker)
        redis = connect(settings, timeout_s=min(1.0, settings.redis.socket_timeout_s))
        generation = active_generation(redis, settings)  # and as the generation feed says from then on
        counts = self._partitions(settings, generation)
        self.table = ItemTable()
        self.catalogue = Catalogue(self.table, VectorIndex(IndexSettings(exact_below=settings.ranker.exact_below)))
        self.producer = Producer(
            settings.kafka.bootstrap,
            linger_ms=2.0,
            compression=settings.kafka.compression,
            on_error=lambda error: metrics.DELIVERY_FAILED.labels(type(error).__name__).inc(),
        )
        store = open_store(settings, frozen=True)
        # Feast resets the filter when it is imported; its notice would come at every refresh of the registry.
        warnings.filterwarnings("ignore", message="Stream feature views are experimental", category=RuntimeWarning)
        reader = self._reader = UserRowReader(store, category_of_hash=self.table.category_of_hash)
        self.table.set_program(reader.schema.program)
        replies = ReplyStore(redis, settings.namespace, settings.ranker.reply_ttl_s)
        log = DecisionLog(self.producer, settings, generation)
        catalogue_feed = CatalogueFeed(
            settings, self.catalogue, redis, f"ranker-{ident}", lambda: self._load_rows(settings)
        )
        vector_feed = VectorFeed(settings, self.catalogue, redis, catalogue_feed.loaded)
        beliefs = BeliefReader(redis, settings.namespace, counts["events"], book.prior)
        learned = LearnedReader(
            redis, settings.namespace, counts["events"], every_s=0.0 if settings.clock == "data" else READ_EVERY_S
        )
        self.serving = ServingFeed(
            settings,
            redis,
            book,
            beliefs,
            lambda: life.generation,
            lambda: self.catalogue.table.space if vector_feed.loaded.is_set() else None,
            learned=learned,
            rules=lambda: self.hot.current(),
        )
        self.hot = HotFeed(HotStore(redis, settings.namespace), settings.ranker)
        budget = NewItemBudget(redis, settings.namespace, lambda: self.hot.current().exploring)
        vowpal = VowpalFeed(PolicyModels(redis, settings.namespace), self.hot.current)
        staleness = StalenessFeed(settings, redis, lambda: life.generation, counts["events"])
        tracker = Tracker(self.producer, replies, settings, generation, now_ms)
        life = GenerationFeed(
            settings,
            redis,
            generation,
            partitions=lambda number: self._partitions(settings, number)["events"],
            followers=[beliefs, learned, staleness, log, tracker],
            takers=[log, tracker],
        )
        self.feeds: list[Feed] = [
            life,
            staleness,
            self.hot,
            budget,
            vowpal,
            catalogue_feed,
            vector_feed,
            self.serving,
            IndexFeed(self.catalogue),
            RegistryFeed(
                settings,
                redis,
                self.catalogue,
                self.table,
                reader,
                lambda program: reader.reading(open_store(settings, frozen=True), program),
                catalogue_feed.loaded.is_set,
            ),
        ]
        pipeline = Pipeline(
            settings=settings,
            book=book,
            catalogue=self.catalogue,
            users=Users(reader.read),
            sources=standard_sources(self.catalogue.index, keep=settings.clock != "data"),
            serving=self.serving.current,
            log=log,
            replies=replies,
            clock_ms=now_ms,
            rng=random.SystemRandom(),
            rules=self.hot.current,
            budget=budget,
            vowpal=vowpal.current,
            behind=staleness.behind,
        )
        self.service = Service(
            pipeline=pipeline,
            catalogue=self.catalogue,
            tracker=tracker,
            finder=DecisionFinder(settings, counts["decisions"]),
            load_model=lambda model_id: load_model(models_dir(settings) / model_id),
            not_ready=self.not_ready,
        )
        pool = FifoPool()
        self.grpc = GrpcServer(
            self.service, settings.ranker.grpc or "127.0.0.1:0", settings.ranker.deadline_ms, pool=pool
        )
        app = application(self.service, pool, settings.ranker.deadline_ms)
        self.http = HttpServer(app, settings.ranker.http or "127.0.0.1:0")
        self._stop = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="deliveries", daemon=True)

    @staticmethod
    def _partitions(settings: Settings, generation: int) -> dict[str, int]:
        names = {"events": settings.topic("events", generation), "decisions": settings.topic("decisions")}
        counts = partition_counts(settings.kafka.bootstrap, list(names.values()))
        missing = sorted(topic for topic in names.values() if topic not in counts)
        if missing:
            raise ConfigError(f"topics {missing} do not exist: run `liverank up`, or create the topics of docs/specs")
        return {name: counts[topic] for name, topic in names.items()}

    def _load_rows(self, settings: Settings) -> None:
        with self.catalogue.lock:
            load_from_feast(
                self.table, connect(settings), settings.feast_project, list(self.table.ids), catalogue=False
            )

    def not_ready(self) -> str:
        """What the process still waits for; empty when it can answer."""
        waiting = [feed.name for feed in self.feeds if not feed.loaded.is_set()]
        return f"loading {', '.join(waiting)}" if waiting else ""

    def start(self) -> None:
        """Start feeds and listen; health says NOT_SERVING until everything was loaded once."""
        self._poller.start()
        for feed in self.feeds:
            feed.start()
        self.grpc.start()
        self.http.start()

    def wait_until_ready(self, stop: threading.Event) -> None:
        """Return when everything was loaded once, or when `stop` is set."""
        while self.not_ready() and not stop.wait(0.05):
            pass
        if not stop.is_set():
            self._warm_up()
            self.grpc.serving(True)
            _log.info("ready", grpc=self.grpc.port, http=self.http.port, items=len(self.catalogue.table))

    def _warm_up(self) -> None:
        """Pay for first uses (Feast's caches, compiled code) before the first caller does; leaves nothing anywhere."""
        self._reader.read("")
        nobody = pb.RankRequest(anonymous_id="warm-up", k=20, consent=pb.CONSENT_DENIED)
        for _ in range(3):
            self.service.pipeline.rank(nobody, remaining_ms=60_000)

    def stop(self) -> None:
        """Let running calls end, then flush what is still to be produced."""
        self.http.stop(GRACE_S)
        self.grpc.stop(GRACE_S)
        for feed in self.feeds:
            feed.stop()
        self._stop.set()
        left = self.producer.flush(FLUSH_S)
        if left:
            _log.error("records were not delivered", records=left)

    def _poll(self) -> None:
        """Serve delivery callbacks."""
        while not self._stop.is_set():
            self.producer.poll(0.05)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ranker.server", description="Serve personalised slates.")
    parser.add_argument("--id", type=int, default=0, help="number of this process")
    given = parser.parse_args(arguments)
    settings = resolve(Settings())
    configure(f"{settings.namespace}-ranker-{given.id}")
    stop = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    bugs: list[str] = []

    def bug(hooked: threading.ExceptHookArgs) -> None:
        """A thread that dies would leave its part stale for ever: end, and let the supervisor start anew."""
        name = hooked.thread.name if hooked.thread is not None else "?"
        bugs.append(name)
        _log.error("thread died", thread=name, exc_info=(hooked.exc_type, hooked.exc_value, hooked.exc_traceback))
        stop.set()

    threading.excepthook = bug
    process = _patiently(lambda: RankerProcess(settings, given.id), stop)
    if process is None:
        return 0 if stop.is_set() else 1
    scrape = exporter.serve(process.not_ready)
    process.start()
    process.wait_until_ready(stop)
    stop.wait()
    process.stop()
    if scrape is not None:
        scrape.close()
    return 1 if bugs else 0


def _patiently(make: Callable[[], RankerProcess], stop: threading.Event) -> RankerProcess | None:
    """Make the process; wait while a dependency is away, give up on what waiting does not mend."""
    said = ""
    while not stop.is_set():
        try:
            return make()
        except LiverankError as error:
            if str(error) != said:
                said = str(error)
                _log.error("cannot start", error=said, retried=error.retryable)
            if not error.retryable:
                return None
            stop.wait(1.0)
    return None


if __name__ == "__main__":
    sys.exit(main())
