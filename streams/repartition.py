"""`liverank repartition`: the same namespace with another number of partitions, nothing lost and nothing doubled.

Step by step: `seal` (producers fall silent, every partition ends with a seal), `fold` (folds and archive reach it),
`build` (the archive is written anew for the new partitions and folded into the keys of the next generation, then both
states are compared), `switch` (archive, program and the live generation), `tidy` (what arrived behind the seals goes
on; the old state goes). The note in Redis says which step is next: the same command goes on where one was killed.
Until `switch` everything that readers see is of the old generation, and `abort` goes back to it.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from features.archive import rewriting
from features.generation import PHASES, Note, note_key, read_note, set_active, write_note
from features.program import FeatureProgram
from features.redis import Redis, connect, namespace_token, translated
from liverank.errors import ConfigError, CorruptError, UnavailableError
from liverank.kafka import Tp, create_topics, delete_topics, end_offsets
from liverank.settings import Settings
from streams.activation import read_partitions
from streams.compare import Comparison, Side, compare
from streams.erase_files import live_generation, only_writer
from streams.failpoints import Failpoints
from streams.fence import FencedStore
from streams.history import maintenance, require_whole_import
from streams.outbox import Output
from streams.past import read_catalogue
from streams.program import pinned_program, published_program
from streams.rekey import Counts, commit, deal, discard
from streams.restore import Restore
from streams.restore_helpers import Helpers, n_processes
from streams.restore_tools import Job
from streams.sealing import KEEP_S, await_archive, await_folds, await_silence, forward_late, seal
from streams.users import UserFold

__all__ = ["Repartition", "RepartitionReport"]

Tell = Callable[[str, str], None]
_BUSY: Final = "repartition"
#: Readers of the old generation's statistics are gone after this, s.
_PARTIALS_S: Final = 3600


@dataclass(kw_only=True)
class RepartitionReport:
    """What a repartition did.

    Attributes
    ----------
    generation, partitions : int
        Live now.
    counts : Counts
        Records of the archive. Zero where the build was done by an earlier run.
    comparison : Comparison
        Of both states.
    late : int
        Records that arrived behind the seals and were sent on.
    producers : dict of str to int
        Whose they were.
    """

    generation: int
    partitions: int
    counts: Counts = field(default_factory=Counts)
    comparison: Comparison = field(default_factory=Comparison)
    late: int = 0
    producers: dict[str, int] = field(default_factory=dict)


class Repartition:
    """Runs, resumes or aborts the repartition of a namespace. One process at a time.

    Parameters
    ----------
    settings : Settings
        Resolved.
    tell : callable, optional
        Called with (step, what it does now).
    announce : callable, optional
        Called with the new generation at the switch; may be called again.
    """

    def __init__(
        self, settings: Settings, *, tell: Tell | None = None, announce: Callable[[int], None] | None = None
    ) -> None:
        self._settings = settings
        self._client: Redis = connect(settings, retries=3)
        self._tell = tell or (lambda _step, _what: None)
        self._announce = announce or (lambda _generation: None)
        self._failpoints = Failpoints.of_environment("repartition")

    def run(self, partitions: int, *, tolerate: int = 0) -> RepartitionReport:
        """Begin, or go on with what was begun.

        Parameters
        ----------
        partitions : int
            Partitions of the next generation.
        tolerate : int
            Keys that may differ between the generations.

        Raises
        ------
        ConfigError
            It cannot be done now, or another one is under way; nothing was changed.
        CorruptError
            The states differ: nothing was switched.
        UnavailableError
            A store is away; run it again.
        """
        with self._alone():
            note = read_note(self._client, self._settings.namespace)
            if note is None:
                note = self._begin(partitions)
            elif note.n_new != partitions:
                raise ConfigError(
                    f"a repartition to {note.n_new} partitions is under way (step {note.phase!r}): end it with "
                    f"--partitions {note.n_new}, or go back with --abort"
                )
            report = RepartitionReport(generation=note.new, partitions=note.n_new)
            while note is not None:
                note = self._step(note, report, tolerate)
            return report

    def abort(self) -> bool:
        """Go back to the old generation; return whether there was anything to go back from.

        Raises
        ------
        ConfigError
            It has switched: only forward is left.
        """
        with self._alone():
            note = read_note(self._client, self._settings.namespace)
            if note is None:
                return False
            if PHASES.index(note.phase) >= PHASES.index("switch"):
                raise ConfigError(
                    f"the switch to generation {note.new} has begun: run `liverank repartition --partitions "
                    f"{note.n_new}` to its end"
                )
            self._forget_build(note)
            with translated("lifting the seal"):
                self._client.delete(self._program_key(note), note_key(self._settings.namespace))
            topics = [self._settings.topic(name, note.new) for name in ("events", "item-effects")]
            delete_topics(self._settings.kafka.bootstrap, topics)
            return True

    def forward(self) -> tuple[int, Counter[str]]:
        """Send on what arrived in the generation before after the end of its repartition.

        Raises
        ------
        ConfigError
            There is nothing known of a generation before.
        """
        with self._alone():
            with translated("reading the last repartition"):
                text = self._client.get(self._last_key)
            if not text or read_note(self._client, self._settings.namespace) is not None:
                raise ConfigError("there is no repartition that has ended in the last 8 days")
            note = Note.from_json(text)
            return forward_late(self._settings, self._client, note, self._token(), self._decoder())

    # -- before

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with only_writer(self._settings):
            key = f"{self._settings.namespace}:maintenance"
            with translated("looking for an interrupted repartition"):
                if self._client.get(key) == _BUSY.encode():
                    self._client.delete(key)  # of one that was killed: this process holds the lock
            yield

    def _begin(self, partitions: int) -> Note:
        settings, client = self._settings, self._client
        generation, n = live_generation(settings, client)
        if partitions == n:
            raise ConfigError(f"generation {generation} has {n} partitions already")
        with translated("asking whether the namespace is free"):
            if busy := client.get(f"{settings.namespace}:maintenance"):
                raise ConfigError(f"namespace {settings.namespace} is busy with `{busy.decode()}`; try again later")
        if rewriting(settings).exists():
            raise ConfigError(
                "files are half rewritten after an erase: run `liverank erase --rewrite` to its end first"
            )
        require_whole_import(settings)
        self._require_settled(generation, n)
        topic = settings.topic("events", generation + 1)
        self._tell("seal", f"topics of generation {generation + 1}, {partitions} partitions")
        create_topics(
            settings.kafka.bootstrap, settings, generation + 1, replication=settings.kafka.replication,
            n_folds=partitions,
        )  # fmt: skip
        if any(end_offsets(settings.kafka.bootstrap, [Tp(topic, p) for p in range(partitions)]).values()):
            raise ConfigError(
                f"{topic} holds records although generation {generation} is live: delete that topic first"
            )
        tps = [Tp(settings.topic("events", generation), p) for p in range(n)]
        ends = end_offsets(settings.kafka.bootstrap, tps)
        note = Note(
            ident=secrets.token_hex(6), old=generation, new=generation + 1, n_old=n, n_new=partitions,
            since_ms=int(time.time() * 1000), begins=tuple(ends[tp] for tp in tps),
        )  # fmt: skip
        write_note(client, settings.namespace, note)
        return note

    def _require_settled(self, generation: int, n: int) -> None:
        """Every view counts everything: then the next generation, which counts from the first record, is the same."""
        settings, client = self._settings, self._client
        declared = published_program(client, settings.namespace)
        if declared is None:
            raise ConfigError(f"namespace {settings.namespace} has no feature program: run `liverank up` first")
        base = pinned_program(client, settings.namespace)
        found = read_partitions(client, settings, base, generation=generation, n_partitions=n)
        late = sorted(view.name for view in declared.views if not found.served(view))
        wanted = {view.tiles_id for view in declared.views}
        going = {each.view.name for state in found.all for each in state.views if each.view.aggregates}
        going -= {view.name for view in declared.views if view.tiles_id in wanted}
        if late or going or any(state.leaving for state in found.all):
            names = ", ".join(late or sorted(going) or ["what a removed view left"])
            raise UnavailableError(f"{names}: still changing; repartition when `liverank features list` is settled")

    # -- steps: each returns the note of the next one

    def _step(self, note: Note, report: RepartitionReport, tolerate: int) -> Note | None:
        match note.phase:
            case "seal":
                return self._seal(note)
            case "fold":
                return self._fold(note)
            case "build":
                return self._build(note, report, tolerate)
            case "switch":
                return self._switch(note)
            case "tidy":
                self._tidy(note, report)
                return None
        raise CorruptError(f"the note of the repartition names an unknown step {note.phase!r}")

    def _next(self, note: Note, phase: str) -> Note:
        note = replace(note, phase=phase)
        write_note(self._client, self._settings.namespace, note)
        self._failpoints.hit(f"before_{phase}")
        return note

    def _seal(self, note: Note) -> Note:
        if not note.ends:
            quiet_s = self._settings.streams.seal_quiet_s
            newest_ms = await_silence(self._settings, note, quiet_s, lambda what: self._tell("seal", what))
            note = seal(self._settings, self._client, note, self._token(), newest_ms)
        return self._next(note, "fold")

    def _fold(self, note: Note) -> Note:
        await_folds(self._settings, self._client, note, lambda what: self._tell("fold", what))
        await_archive(self._settings, note, lambda what: self._tell("fold", what))
        return self._next(note, "build")

    def _build(self, note: Note, report: RepartitionReport, tolerate: int) -> Note:
        settings, client = self._settings, self._client
        with maintenance(client, settings, _BUSY):
            program = published_program(client, settings.namespace)
            if program is None:
                raise ConfigError(f"the feature program of namespace {settings.namespace} went away; `feast apply`")
            with translated("keeping the program of the next generation"):
                client.set(self._program_key(note), program.to_json())
            report.counts = self._replay(note, program)
            self._compare(note, report.comparison)
            found = report.comparison
            if found.differing > tolerate:
                raise CorruptError(
                    f"{found.differing:,} of {sum(found.keys.values()) + found.statistics:,} states and sums differ "
                    f"between the generations: {'; '.join(found.named)}. Nothing was switched: run `liverank "
                    "repartition --abort` and report it, or accept them with --tolerate"
                )
            return self._next(note, "switch")

    def _replay(self, note: Note, program: FeatureProgram) -> Counts:
        """Write the archive for the new partitions, and fold it into the keys of the new generation; go on with both
        where they were interrupted.
        """
        settings = self._settings

        def tell(counts: Counts) -> None:
            self._tell("build", f"{counts.read:,} records read, {counts.kept:,} in their new partitions")

        def fold(step: str, done: int) -> None:
            self._tell("build", f"{done:,} {step} folded")
            if step == "items":
                self._failpoints.hit("in_build")

        dealt = deal(settings, note, self._decoder(), self._token(), tell)
        if not dealt.again:
            self._forget_state(note)
        table, _ = read_catalogue(settings, note.n_old)
        job = Job(
            settings=settings, program=program, n_partitions=note.n_new, store_generation=note.new,
            stages=dealt.stages(settings, note),
        )  # fmt: skip
        n_records = sum(stage.n_records(job.n_partitions) for stage in job.stages)
        with Helpers(n_processes(n_records, job.n_partitions)) as helpers:
            restore = Restore(job, table, on_progress=fold, helpers=helpers)
            restore.run()
            restore.finish(live=False)
        return dealt.counts

    def _compare(self, note: Note, into: Comparison) -> None:
        for kind, what in (("u", "users and sessions"), ("i", "items")):

            def tell(n: int, what: str = what) -> None:
                self._tell("build", f"comparing both generations: {n:,} {what}")

            sides = [
                Side(FencedStore(self._client, namespace=self._settings.namespace, generation=g, kind=kind), n)
                for g, n in ((note.old, note.n_old), (note.new, note.n_new))
            ]
            compare(kind, sides[0], sides[1], into, tell=tell)

    def _switch(self, note: Note) -> Note:
        settings, client = self._settings, self._client
        self._tell("switch", f"generation {note.new} becomes the live one")
        with maintenance(client, settings, _BUSY):
            commit(settings, note)
            self._failpoints.hit("in_switch")
            with translated("pinning the program"):
                program = client.get(self._program_key(note))
                if program:
                    client.set(f"{settings.namespace}:program:pinned", program)
            set_active(client, settings, note.new)
            self._announce(note.new)
            return self._next(note, "tidy")

    def _tidy(self, note: Note, report: RepartitionReport) -> None:
        settings, client = self._settings, self._client
        self._announce(note.new)
        self._tell("tidy", "sending on what arrived behind the seals")
        report.late, names = forward_late(settings, client, note, self._token(), self._decoder())
        report.producers = dict(names)
        self._tell("tidy", f"deleting the state of generation {note.old}")
        for kind in ("u", "i"):
            FencedStore(client, namespace=settings.namespace, generation=note.old, kind=kind).wipe(range(note.n_old))
        with translated("forgetting the old generation"):
            for key in client.scan_iter(match=f"{settings.namespace}:bandit:{note.old}:*", count=1000):
                client.expire(key, _PARTIALS_S)
            client.set(self._last_key, note.to_json(), ex=KEEP_S)
            client.delete(self._program_key(note), note_key(settings.namespace))

    # -- parts

    def _forget_build(self, note: Note) -> None:
        """Delete what was built."""
        discard(self._settings, note)
        self._forget_state(note)

    def _forget_state(self, note: Note) -> None:
        """Delete what was folded into the keys of the new generation."""
        settings = self._settings
        for kind in ("u", "i"):
            FencedStore(self._client, namespace=settings.namespace, generation=note.new, kind=kind).wipe(
                range(note.n_new)
            )
        with translated("deleting statistics"):
            for key in self._client.scan_iter(match=f"{settings.namespace}:bandit:{note.new}:*", count=1000):
                self._client.delete(key)

    def _token(self) -> bytes:
        return namespace_token(self._client, self._settings.namespace)

    def _decoder(self) -> UserFold:
        program = FeatureProgram(project=self._settings.feast_project, views=())
        return UserFold(self._settings, program, token=self._token(), follow=False)

    def _program_key(self, note: Note) -> str:
        return f"{self._settings.namespace}:program:pinned:{note.new}"

    @property
    def _last_key(self) -> str:
        return f"{self._settings.namespace}:repartition:last"


def _nowhere(_outputs: Sequence[Output]) -> None:
    """Label rows, dead letters and changes are there already."""
