"""A worker with the real folds and nothing else: ``python folds.py SETTINGS_JSON MEMBER``; it ends on SIGTERM."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from features.generation import active_generation
from features.redis import connect, namespace_token
from liverank import log
from liverank.kafka import partition_counts
from liverank.settings import Settings
from streams.archive import archive_holds
from streams.catalogue import CatalogueReader
from streams.engine import FoldEngine
from streams.items import ItemFold
from streams.seal import Seals
from streams.takeover import FoldSetup
from streams.users import UserFold
from streams.watch import GenerationWatch
from tests.recount.program import PROGRAM


def main() -> None:
    settings, member = Settings.model_validate_json(sys.argv[1]), sys.argv[2]
    log.configure(f"folds-{member}")
    with connect(settings) as client:
        token = namespace_token(client, settings.namespace)
        generation = active_generation(client, settings)
        seals = Seals(connect(settings), settings, generation)
        watch = GenerationWatch(connect(settings), settings, generation)
    topic = settings.topic("events", generation)
    n = partition_counts(settings.kafka.bootstrap, [topic])[topic]
    catalogue = CatalogueReader(settings.kafka.bootstrap, settings.topic("items"), settings.stack.partitions)
    catalogue.start()
    users = FoldSetup(
        fold=UserFold(settings, PROGRAM, token=token), topic=topic, n_partitions=n, generation=generation,
        member=member, ticks=settings.clock == "wall", token=token, seals=seals,
        archive_holds=lambda topic, partition: archive_holds(settings, topic, partition),
    )  # fmt: skip
    items = FoldSetup(
        fold=ItemFold(settings, PROGRAM), topic=settings.topic("item-effects", generation), n_partitions=n,
        generation=generation, member=member, numbered_input=True,
    )  # fmt: skip
    engines = [FoldEngine(users, settings, catalogue), FoldEngine(items, settings)]
    failed = threading.Event()

    def guarded(engine: FoldEngine) -> None:
        try:
            engine.run()
        except BaseException:
            failed.set()
            raise

    def watched() -> None:
        try:
            watch.run()
        except BaseException:
            failed.set()
            raise

    threads = [threading.Thread(target=guarded, args=(engine,)) for engine in engines]
    threading.Thread(target=watched, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: [engine.stop() for engine in engines])
    for thread in threads:
        thread.start()
    for engine in engines:
        while not engine.ready.wait(0.1) and not failed.is_set():
            pass
    print("ready", flush=True)
    while any(thread.is_alive() for thread in threads):
        for thread in threads:
            thread.join(0.1)
        if failed.is_set():
            for engine in engines:
                engine.stop()
    catalogue.stop()
    sys.exit(1 if failed.is_set() else 0)


if __name__ == "__main__":
    main()
