"""Brings running partitions to the program that the registry holds: the steward.

One worker at a time holds the lease and is the steward; any other takes over. It compares the published program with
what every partition counts, and writes control records until they agree: `activate` for new tiles, then backfill and
`merge`, and once everything declared is served, `remove` and `sweep` for what is not declared any more. So a changed
view is served from its old tiles until the new ones hold its past. Every step looks at what is, not at what was done
before; each record may be sent twice.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from features.deployment import CHECKOUT
from features.errors import ProgramError
from features.program import FeatureProgram, ViewProgram
from features.redis import Redis, Script, translated
from features.wire import entity_key, feature_field, timestamp_field, version_field
from liverank import log
from liverank.contract import INTERNAL_HEADER
from liverank.errors import LiverankError, UnavailableError
from liverank.kafka import Producer
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType
from liverank.v1.stream_pb2 import ItemEffects
from streams.backfill import run_backfill
from streams.control import Activate, Command, Merge, Remove, Sweep, control, staged, write_staged
from streams.metrics import PROGRAM_INVALID, PROGRAM_PENDING
from streams.program import PROGRAM_KEY, ProgramState, published_program
from streams.rows import SESSION, plain_key
from streams.staging import Job, Manifest, manifest_of

__all__ = ["Partitions", "Steward", "read_partitions", "served_key"]

_log = log.get(__name__)

_LEASE_S: Final = 15
_AGAIN_S: Final = 10.0
"""A control record that had no effect yet is sent again after this."""

_FEW: Final = 5_000
"""A log of fewer records is backfilled without a process of its own."""

_RENEW: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('EXPIRE', KEYS[1], ARGV[2]) end
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[2]) then return 1 end
return 0
"""


def served_key(namespace: str) -> str:
    """Redis key of the program that every partition serves in full: what rankers read by."""
    return f"{namespace}:program:served"


@dataclass(frozen=True, kw_only=True)
class Partitions:
    """What the partitions of both folds count."""

    users: Sequence[ProgramState]
    items: Sequence[ProgramState]

    @property
    def all(self) -> list[ProgramState]:
        """Those of both folds."""
        return [*self.users, *self.items]

    def of(self, view: ViewProgram) -> Sequence[ProgramState]:
        """The partitions that hold the tiles of a view."""
        return self.items if view.entity == "item" else self.users

    def counted(self, view: ViewProgram) -> bool:
        """Whether every partition counts these tiles."""
        told = all(state.of_tiles(view.tiles_id) is not None for state in self.users)
        found = [state.of_tiles(view.tiles_id) for state in self.of(view)]
        return told and all(each is not None and each.sources is None for each in found)

    def served(self, view: ViewProgram) -> bool:
        """Whether every partition counts these tiles and has merged their past."""
        if not view.aggregates:
            return True
        found = [state.of_tiles(view.tiles_id) for state in self.of(view)]
        return self.counted(view) and all(each is not None and each.merged for each in found)


def read_partitions(
    client: Redis, settings: Settings, base: FeatureProgram, *, generation: int, n_partitions: int
) -> Partitions:
    """Read what every partition counts.

    Raises
    ------
    RedisUnavailableError
        Redis is away.
    CorruptError
        Stored bytes cannot be read.
    """
    ns = settings.namespace
    with translated("reading the partitions' programs"):
        pipe = client.pipeline(transaction=False)
        for kind in ("u", "i"):
            for partition in range(n_partitions):
                pipe.hgetall(f"{ns}:{{{ns}.{generation}.{partition}}}:{kind}:{PROGRAM_KEY}")
        found = [ProgramState(base, fields) for fields in pipe.execute()]
    return Partitions(users=found[:n_partitions], items=found[n_partitions:])


class Steward:
    """Compares and acts every `every_s` seconds, while it holds the lease.

    Parameters
    ----------
    base : FeatureProgram
        The pinned program.
    token : bytes
        The namespace's token.
    """

    def __init__(
        self,
        client: Redis,
        settings: Settings,
        base: FeatureProgram,
        *,
        generation: int,
        n_partitions: int,
        token: bytes,
        every_s: float = 1.0,
    ) -> None:
        self._client = client
        self._settings = settings
        self._base = base
        self._generation = generation
        self._n = n_partitions
        self._headers = ((INTERNAL_HEADER, token),)
        self._every_s = every_s
        self._stop = threading.Event()
        self._name = secrets.token_hex(8)
        self._lease = Script(client, _RENEW)
        self._sent_s: dict[tuple[str, int, str], float] = {}
        self._producer: Producer | None = None
        self._running: subprocess.Popen[bytes] | None = None
        self._alarm = ""

    # -- life

    def run(self) -> None:
        """Act until `stop`."""
        while not self._stop.wait(self._every_s):
            try:
                if self._holds_lease():
                    self.step()
            except LiverankError as error:
                self._say("the feature program cannot be followed now", error)
            except OSError as error:
                self._say("staging files cannot be written now", error)
        if self._running is not None:
            self._running.terminate()
            self._running.wait(10)
        if self._producer is not None:
            self._producer.flush(5.0)

    def stop(self) -> None:
        """End `run`."""
        self._stop.set()

    def _say(self, what: str, error: Exception) -> None:
        if str(error) != self._alarm:
            self._alarm = str(error)
            _log.error(what, error=str(error))

    def _holds_lease(self) -> bool:
        key = f"{self._settings.namespace}:program:steward"
        return bool(self._lease.run_many([(1, [key, self._name, _LEASE_S])], "asking for the steward's lease")[0])

    # -- one comparison

    def step(self) -> None:
        """Compare once and do what is next."""
        try:
            declared = published_program(self._client, self._settings.namespace)
        except ProgramError as error:
            PROGRAM_INVALID.set(1)
            self._say("the published feature program is invalid and ignored; workers go on with theirs", error)
            return
        PROGRAM_INVALID.set(0)
        if declared is None:
            return
        partitions = read_partitions(
            self._client, self._settings, self._base, generation=self._generation, n_partitions=self._n
        )
        wanted = [view for view in declared.views if view.aggregates]
        pending = [view for view in wanted if not partitions.served(view)]
        PROGRAM_PENDING.set(len(pending))
        if pending:
            self._activate(pending, partitions)
            self._backfill([view for view in pending if partitions.counted(view)], declared.project, partitions)
            return
        self._serve(declared)
        self._remove({view.tiles_id for view in wanted}, partitions)
        self._sweep(partitions)

    # -- activation

    def _activate(self, views: Iterable[ViewProgram], partitions: Partitions) -> None:
        views = [view for view in views if not self._is_left(view, partitions)]
        missing = [[view for view in views if state.of_tiles(view.tiles_id) is None] for state in partitions.users]
        # All names first: a Redis that goes away between two partitions and comes back older would name it twice.
        names = {view.tiles_id: self._activation(view) for some in missing for view in some}
        for partition, some in enumerate(missing):
            if some:
                self._send("u", partition, Activate(views=tuple((names[view.tiles_id], view) for view in some)))

    def _is_left(self, view: ViewProgram, partitions: Partitions) -> bool:
        """Whether tiles of an earlier life lie about; then they go first."""
        own = {field.decode() for field in view.page_fields}
        if not any(own.intersection(fields) for state in partitions.all for fields in state.leaving.values()):
            return False
        self._sweep(partitions)
        return True

    def _activation(self, view: ViewProgram) -> str:
        """Name of this life of a view's tiles; all stewards agree on it."""
        key = self._key("activations")
        with translated("naming an activation"):
            self._client.hsetnx(key, view.tiles_id, f"{view.tiles_id}.{secrets.token_hex(4)}")
            return bytes(self._client.hget(key, view.tiles_id)).decode()

    # -- backfill and merge

    def _backfill(self, views: Sequence[ViewProgram], project: str, partitions: Partitions) -> None:
        """Stage the past of views that were activated together, then merge it; one job at a time."""
        job = self._job({view.tiles_id for view in views}, project, partitions)
        if job is None:
            return
        manifest = manifest_of(self._settings, job)
        if manifest is None:
            self._stage(job)
        else:
            self._merge(job, manifest, partitions)

    def _job(self, wanted: Collection[str], project: str, partitions: Partitions) -> Job | None:
        """The oldest job that holds one of these. Its views are all that were activated by the same records, wanted or
        not, so that it stays the same job whatever the registry says meanwhile.
        """
        groups: dict[tuple[int, ...], list[tuple[str, ViewProgram]]] = {}
        for first in partitions.users[0].views:
            if not first.activation or not first.view.aggregates:
                continue
            found = [state.running(first.activation) for state in partitions.users]
            offsets = tuple(each.offset for each in found if each is not None)
            if len(offsets) == len(partitions.users):
                groups.setdefault(offsets, []).append((first.activation, first.view))
        for offsets, views in sorted(groups.items()):
            if any(view.tiles_id in wanted for _, view in views):
                return Job(
                    generation=self._generation,
                    project=project,
                    views=tuple(sorted(views, key=lambda each: each[0])),
                    offsets=dict(enumerate(offsets)),
                )
        return None

    def _stage(self, job: Job) -> None:
        """Run the job in a process of its own; a small one here, at once."""
        if self._running is not None:
            process = self._running
            status = process.poll()
            if status is None:
                return
            self._running = None
            if status:
                raise UnavailableError(
                    f"the backfill ended with status {status}; its log says why, it is tried again every {_AGAIN_S:g} s"
                )
        if not self._due(("job", 0, job.job_id)):
            return
        if sum(job.offsets.values()) < _FEW:
            run_backfill(self._settings, job)
            return
        path = self._settings.home / job.folder(self._settings) / "job.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(job.to_json())
        _log.info("backfill begins", job=job.job_id, views=[view.name for _, view in job.views])
        self._running = subprocess.Popen(
            [sys.executable, "-m", "streams.backfill", str(path.resolve())],
            cwd=CHECKOUT,
            env={**os.environ, **self._settings.environment(), "LIVERANK_HOME": str(self._settings.home.resolve())},
        )

    def _merge(self, job: Job, manifest: Manifest, partitions: Partitions) -> None:
        for kind, states in (("u", partitions.users), ("i", partitions.items)):
            own = tuple(name for name, view in job.views if (view.entity == "item") == (kind == "i"))
            if not own:
                continue
            for partition, state in enumerate(states):
                found = [state.running(name) for name in own]
                # Items: only once all sources count; until then the mark of a source could be newer than its view.
                if any(each is None or each.sources is not None for each in found):
                    continue
                if all(each is not None and each.merged for each in found):
                    continue
                file = manifest.files[kind, partition]
                self._send(kind, partition, Merge(activations=own, path=file.path, sha256=file.sha256))

    # -- what is served, what goes

    def _serve(self, declared: FeatureProgram) -> None:
        """Tell rankers, once, that everything declared is served."""
        key, text = served_key(self._settings.namespace), declared.to_json()
        with translated("publishing the served program"):
            if self._client.get(key) != text.encode():
                self._client.set(key, text)
                _log.info("feature program served", program=declared.hash, views=len(declared.views))

    def _remove(self, wanted: Collection[str], partitions: Partitions) -> None:
        for partition, state in enumerate(partitions.users):
            for each in state.views:
                if each.view.aggregates and each.view.tiles_id not in wanted:
                    self._send("u", partition, Remove(activation=each.activation, tiles_id=each.view.tiles_id))

    def _sweep(self, partitions: Partitions) -> None:
        """Delete what removed views left: from the state by control records, then from Feast's rows."""
        left = sorted({tiles_id for state in partitions.all for tiles_id in state.leaving})
        if left:
            self._sweep_state(left[0], partitions)
            return
        running = {each.view.tiles_id for state in partitions.all for each in state.views}
        views = {each.view.name for state in partitions.all for each in state.views}
        folder = self._settings.home / self._sweeps()
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name not in running:
                self._sweep_rows(path, views)

    def _sweeps(self) -> Path:
        return Path("archive") / self._settings.namespace / "sweep"

    def _sweep_state(self, tiles_id: str, partitions: Partitions) -> None:
        for kind, states in (("u", partitions.users), ("i", partitions.items)):
            for partition, state in enumerate(states):
                fields = state.leaving.get(tiles_id)
                if not fields or not self._due(("sweep", partition, f"{kind}{tiles_id}")):
                    continue
                path = self._sweeps() / tiles_id / f"{kind}-{partition}.parquet"
                whole = self._settings.home / path
                if whole.exists():  # once begun it must stay the same
                    digest = sha256(whole.read_bytes()).hexdigest()
                else:
                    digest = write_staged(whole, self._holders(kind, partition, fields))
                self._send(kind, partition, Sweep(tiles_id=tiles_id, path=str(path), sha256=digest))

    def _holders(self, kind: str, partition: int, fields: Sequence[str]) -> list[tuple[str, dict[bytes, bytes]]]:
        """Keys of a partition that hold any of these fields, and which."""
        ns = self._settings.namespace
        prefix = f"{ns}:{{{ns}.{self._generation}.{partition}}}:{kind}:"
        rows: list[tuple[str, dict[bytes, bytes]]] = []
        names = [field.encode() for field in fields]
        with translated("looking for fields of removed views"):
            keys = list(self._client.scan_iter(match=f"{prefix}*", count=5000))
            for start in range(0, len(keys), 500):
                pipe = self._client.pipeline(transaction=False)
                for key in keys[start : start + 500]:
                    pipe.hmget(key, names)
                for key, values in zip(keys[start : start + 500], pipe.execute(), strict=True):
                    held = {name: b"" for name, value in zip(names, values, strict=True) if value}
                    if held:
                        rows.append((key.decode().removeprefix(prefix), held))
        return rows

    def _sweep_rows(self, folder: Path, views: Collection[str]) -> None:
        """Delete the swept fields from Feast's rows, then everything that was kept for these tiles."""
        view = folder.name.rpartition("_")[0]
        for path in folder.glob("*.parquet"):
            join_key = "item_id" if path.name.startswith("i") else "user_id"
            rows = staged(path, sha256(path.read_bytes()).hexdigest())
            with translated("deleting features of removed views"):
                for start in range(0, len(rows), 500):
                    pipe = self._client.pipeline(transaction=False)
                    for key, fields in rows[start : start + 500]:
                        names = [feature_field(*field.decode().split(":", 1)) for field in fields]
                        if view not in views:
                            names += [timestamp_field(view), version_field(view)]
                        join = ("session_id",) if key.startswith(SESSION) else (join_key,)
                        pipe.hdel(entity_key(self._settings.feast_project, join, (plain_key(key),)), *names)
                    pipe.execute()
        with translated("forgetting an activation"):
            self._client.hdel(self._key("activations"), folder.name)
        shutil.rmtree(folder)
        _log.info("a removed view's state is freed", tiles=folder.name)

    # -- sending

    def _key(self, name: str) -> str:
        return f"{self._settings.namespace}:program:{name}"

    def _due(self, what: tuple[str, int, str]) -> bool:
        """Whether something may be done (again) now; remembers that it was."""
        now_s = time.monotonic()
        if now_s - self._sent_s.get(what, float("-inf")) < _AGAIN_S:
            return False
        self._sent_s = {key: at_s for key, at_s in self._sent_s.items() if now_s - at_s < 2 * _AGAIN_S}
        self._sent_s[what] = now_s
        return True

    def _send(self, kind: str, partition: int, command: Command) -> None:
        """Write a control record into one partition, unless it was sent a moment ago."""
        body = control(command)
        if not self._due((kind, partition, sha256(body.SerializeToString()).hexdigest())):
            return
        if kind == "u":
            topic = self._settings.topic("events", self._generation)
            value = Event(type=EventType.EVENT_TYPE_CONTROL, control=body).SerializeToString()
        else:
            topic = self._settings.topic("item-effects", self._generation)
            value = ItemEffects(control=body).SerializeToString()
        if self._producer is None:
            self._producer = Producer(self._settings.kafka.bootstrap, linger_ms=0)
        self._producer.produce(topic, key=None, value=value, partition=partition, headers=self._headers)
        if self._producer.flush(10.0):
            raise UnavailableError(f"{topic} did not take a control record within 10 s; it is sent again")
        _log.info("control record", kind=body.kind, topic=topic, partition=partition)
