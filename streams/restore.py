"""State from recorded events: import, rebuild and repartition fold the past, a partition at a time, on all cores.

First every partition of `events` is folded by the user fold, then every partition of items takes what those did to it
(`streams.restore_parts`), each writing what readers see of it. A partition that is done leaves a mark in Redis beside
its state: the same call, interrupted and made again, goes on with the partitions that have none. The mark names the
job, a hash of the records, the feature program and the catalogue; another job begins anew. Only `Restore.finish` writes
positions, and a worker takes nothing while one is missing.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence

from features.redis import format_version, translated
from streams.calls import Position, SourceMark
from streams.catalogue import Catalogue
from streams.fence import Meta
from streams.restore_helpers import Helpers, Task
from streams.restore_tools import Folded, Job, Tools

__all__ = ["Restore"]


class Restore:
    """One run of a job. The namespace must be kept from workers meanwhile (`streams.history.maintenance`).

    Parameters
    ----------
    job : Job
    table : Catalogue
        All versions of all items.
    on_progress : callable, optional
        Called with (step, records or partitions done): `events`, `items`; `rows` of what did not fit in memory.
    helpers : Helpers, optional
        Processes that fold together with this one.

    Raises
    ------
    ConfigError, CorruptError, UnavailableError
        From every method; run the same once more, it goes on.
    """

    def __init__(
        self,
        job: Job,
        table: Catalogue,
        *,
        on_progress: Callable[[str, int], None] | None = None,
        helpers: Helpers | None = None,
    ) -> None:
        self._job = job
        self._tell = on_progress or (lambda _step, _done: None)
        self._told: Counter[str] = Counter()
        self._helpers = helpers or Helpers(1)
        name = job.name(table)
        self._helpers.begin(job, name, table)
        self._here = Tools(job, name, self._helpers.n, table, self._count)
        self.users: list[Folded] = []
        self.items: list[Folded] = []

    def run(self, n_effects: Sequence[int] = ()) -> None:
        """Fold everything that is not done.

        Parameters
        ----------
        n_effects : sequence of int, optional
            Records that `item-effects` holds, by partition; see `Tools.fold`.
        """
        job, here = self._job, self._here
        # Large ones first: at the end nobody waits long for another one.
        largest = sorted(range(job.n_partitions), key=lambda p: -sum(stage.size_bytes(p) for stage in job.stages))
        places = [(kind, partition) for kind in ("u", "i") for partition in largest]
        found = {place: here.found(*place) for place in places}
        if not any(found.values()):
            self._begin()
        for kind, partition in places:
            here.stores[kind].forget_meta(partition)

        def task(kind: str, partition: int, rows: bool) -> Task:
            return Task(rows, kind, partition, n_effects[partition] if n_effects and kind == "i" else -1)

        for wanted in ("u", "i"):
            missing = [task(*place, False) for place, done in found.items() if place[0] == wanted and done is None]
            for done in self._helpers.run(missing, here, self._said):
                found[done.kind, done.partition] = done
        everyone = {place: done for place, done in found.items() if done is not None}
        if job.rows:
            unseen = [task(*place, True) for place, done in everyone.items() if not done.seen]
            for done in self._helpers.run(unseen, here, self._said):
                everyone[done.kind, done.partition] = done
                self._said("rows", 1)
        self.users, self.items = ([everyone[kind, p] for p in range(job.n_partitions)] for kind in ("u", "i"))

    def finish(self, *, live: bool) -> None:
        """Say where each partition stands; the store may be taken over now.

        Parameters
        ----------
        live : bool
            The last stage is the live log: go on after its last offset. Otherwise at the log's beginning.
        """
        job, here = self._job, self._here
        # Users last: a worker takes nothing while one of their positions is missing (takeover.py).
        for done in (*self.items, *self.users):
            position = Position(job.store_generation, -1, 0)
            if live and done.kind == "u":
                position = Position(done.generation, done.offset, 0)
            sources = {source: SourceMark.of(text.encode()) for source, text in done.sources.items()}
            version = format_version(done.generation, max(0, done.offset), 0)
            meta = Meta(epoch=0, position=position, clock_ms=done.clock_ms, version=version, sources=sources)
            here.stores[done.kind].restore_meta(done.partition, meta)
        for done in (*self.items, *self.users):
            here.stores[done.kind].set_mark(done.partition, "")
        shutil.rmtree(job.spool, ignore_errors=True)

    def _begin(self) -> None:
        """Nothing of this job is there: what is there is another's."""
        job, client = self._job, self._here.client
        shutil.rmtree(job.spool, ignore_errors=True)
        if job.anew:
            with translated("deleting statistics"):
                partials = list(client.scan_iter(match=f"{job.settings.namespace}:bandit:*", count=5000))
                for start in range(0, len(partials), 1000):
                    client.unlink(*partials[start : start + 1000])

    def _count(self, what: str, n: int) -> None:
        """This process has done more."""
        self._said(what, n)
        self._helpers.listen(self._said)

    def _said(self, what: str, n: int) -> None:
        self._told[what] += n
        self._tell(what, self._told[what])
