"""One partition of a fold in memory: records in, closed calls out. No I/O but through the loader that it is given."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from features import native
from features.item_version import CatalogueItem
from features.redis import format_version
from liverank.errors import ContractError
from liverank.kafka import Record
from liverank.partition import partition as partition_of
from liverank.v1.stream_pb2 import ItemEffect
from streams.cached import CacheEntry, entry_of
from streams.calls import LIMITS, Call, Limits, Position, SourceMark
from streams.catalogue import Catalogue, History
from streams.dues import HORIZON_MS, DueIndex
from streams.errors import FoldBugError
from streams.fold import Fold, KeyState, Number, Parsed
from streams.outbox import Output
from streams.outgoing import FORWARDED, Outgoing
from streams.reading import ItemVersions, Scanned, StateReader
from streams.seal import seal_of

__all__ = ["PartitionFold"]

#: Up to this many due keys ride in a call with other records; more are worked through in calls of their own.
_DUE_INLINE = 16
#: So many closed calls of one record are written before the next are made.
_SPILL_CALLS = 32
_FIRST = Number(-1, -1, 0, 0)


class PartitionFold(Outgoing):
    """Folds the records of one partition into calls; it is also the `Context` that the fold sees.

    Parameters
    ----------
    fold : Fold
    partition, n_partitions : int
    generation : int
        Generation that numbers and versions carry (0 while history is imported).
    position : Position
        Where the store stands.
    clock_ms : int
        The stored clock.
    sources : mapping
        Stored marks of the source partitions (item fold only).
    clock : {"wall", "data"}
        ``wall``: every record moves the clock to its append time; ``data``: only ticks do.
    numbered_input : bool
        The input is another fold's output: the clock is the smallest one of its sources, whatever `clock` says.
    cache_states : int
        States kept in memory between polls.
    limits : Limits
        Of the calls of one record that takes several.
    poll_limits : Limits, optional
        Of a call of whole records; default `limits`. How a poll is cut changes no number.
    horizon_ms : int
        How far ahead of the clock due keys are held in memory.
    silent : bool
        Nobody takes label rows and changes of users: those that native code makes are numbered, not kept.
    spill : callable
        Called in the middle of a record when many closed calls wait; must write them and empty `calls`.

    Notes
    -----
    Not thread safe. After an error the object must be dropped: its states may be half-changed.
    """

    def __init__(
        self,
        fold: Fold,
        *,
        partition: int,
        n_partitions: int,
        generation: int,
        position: Position,
        clock_ms: int,
        sources: Mapping[int, SourceMark],
        reader: StateReader,
        items: ItemVersions | None,
        clock: Literal["wall", "data"],
        numbered_input: bool,
        spill: Callable[[], None],
        cache_states: int,
        limits: Limits = LIMITS,
        poll_limits: Limits | None = None,
        horizon_ms: int = HORIZON_MS,
        silent: bool = False,
    ) -> None:
        call = Call(partition=partition, start=position, end=position, clock_ms=clock_ms)
        super().__init__(
            call, partition=partition, n_partitions=n_partitions, generation=generation, step=position.step
        )
        self.position = position
        self.clock_ms = clock_ms
        self.calls: list[Call] = []
        self._fold = fold
        self._sources = dict(sources)
        self._reader = reader
        self._items = items
        if isinstance(items, Catalogue | History):
            self.sink.use_items(items.versions, isinstance(items, History))
        self._wall = clock == "wall"
        self._numbered_input = numbered_input
        self._spill = spill
        self._limits = limits
        self._poll_limits = poll_limits or limits
        self._cache_states = cache_states
        self._cache: OrderedDict[str, CacheEntry] = OrderedDict()
        self._due = DueIndex()
        self._due.horizon_ms = -1
        self._horizon_ms = horizon_ms
        self._unsettled: dict[str, CacheEntry] = {}
        self._touched: dict[str, CacheEntry] = {}
        self._bytes_per_key = 4096.0
        self._version_step = position.step
        self._lane: Any = None
        if native.core is not None and not numbered_input:
            self._lane = native.core.UserLane(
                self._cache, self._due, self.sink, Output, generation, partition, self._wall, silent
            )

    # -- what the engine calls

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Return those keys whose state is not in memory."""
        cache = self._cache
        return [key for key in keys if key not in cache]

    def is_stray(self, parsed: Parsed) -> bool:
        """Whether the record's key belongs to another partition."""
        if parsed.route is None or (parsed.keys and parsed.keys[0] in self._cache):
            return False
        return partition_of(parsed.route, self.n_partitions) != self.partition

    def adopt(self, key: str, fields: Mapping[bytes, bytes]) -> None:
        """Take the stored fields of a key into memory."""
        if key in self._cache:
            return
        state = self._fold.load(key, fields) if fields else self._fold.new(key)
        self._cache[key] = entry_of(state, state.due_ms() if fields else None)

    def take_in(self, key: str) -> None:
        """Load the state of a user's key, if it belongs here."""
        if partition_of(key.encode(), self.n_partitions) == self.partition:
            self.adopt(key, self._reader.load(self.partition, [key])[0])

    def feed(self, record: Record, parsed: Parsed | ContractError) -> None:
        """Fold one record; closed calls are appended to `calls`."""
        self._record = record
        self.sink.offset = record.offset
        self.sink.place = 0
        if isinstance(parsed, Parsed) and (parsed.alone or self._n_keys() + len(parsed.keys) > self._poll_limits.keys):
            self.close()
        if isinstance(parsed, ContractError):
            self._advance(record, tick=False)
            self.dead_letter(parsed.reason, parsed.detail)
        elif self.is_stray(parsed):
            self._advance(record, tick=False)
            if record.header(FORWARDED[0]) is not None:
                self.dead_letter("stray", f"forwarded once and still not of partition {self.partition}; check its key")
            else:
                self.forward(record, route=parsed.route)
        else:
            if parsed.tick and record.headers and (seal := seal_of(record)) is not None:
                record = record._replace(append_ts_ms=max(record.append_ts_ms, seal.clock_ms))
            self._advance(record, tick=parsed.tick)
            if parsed.tick:
                self._pass_clock_on()
            else:
                try:
                    self._fold.apply(record, parsed.body, self)
                except ContractError as error:
                    self.dead_letter(error.reason, error.detail)
        self._finish(record)

    def scan(self, records: list[Record], *, every: int, ahead_ms: int) -> Scanned | None:
        """Look at records that `feed_usual` gets next; None = it will not fold any.

        Parameters
        ----------
        every, ahead_ms : int
            Which of them are to be watched, see `Scanned`.
        """
        if self._lane is None or self._fold.usual(self) is None:
            return None
        missing, left, watched = self._lane.scan(records, every, ahead_ms)
        belonging = [key for key in missing if partition_of(key.encode(), self.n_partitions) == self.partition]
        return Scanned(belonging, left, watched)

    def feed_usual(self, records: list[Record], first: int) -> int:
        """Fold records from `first` on as long as native code can; return the index of the next one.

        The same as `feed` for each of them, for folds that allow it (`Fold.usual`).
        """
        if self._lane is None or (emit := self._fold.usual(self)) is None:
            return first
        self.sink.step = 0
        following: int
        following, self.clock_ms, counts = self._lane.run(
            self, emit, records, first, self.clock_ms, self._unsettled, self._call, self._most_unsettled()
        )
        self._record = None
        for name, n in counts.items():
            emit.count(name, n)
        if following > first:
            self._call.n_records += following - first - 1
            self._finish(records[following - 1])
        return following

    def _most_unsettled(self) -> int:
        """So many touched states fill the open call, as far as one can tell before they are asked for their fields."""
        keys, size_bytes = self._poll_limits
        room = (size_bytes - self._call.size_bytes) / self._bytes_per_key
        return max(1, min(keys - len(self._call.states), int(min(room, keys))))

    def close(self) -> None:
        """Close the open call, if it holds anything."""
        call = self._call
        if call.n_records == 0:
            return
        self._settle()
        call.version = format_version(call.end.generation, call.end.offset, self._version_step)
        self._append(call)

    def take_effects(self) -> dict[int, list[bytes]]:
        """Take the effects on items so far; only where calls are not fenced."""
        taken: dict[int, list[bytes]] = {}
        for call in (*self.calls, self._call):
            for target, entries in call.effects.items():
                taken.setdefault(target, []).extend(entries)
            call.effects = {}
        self.sink.effects = self._call.effects
        return taken

    def shrink(self) -> None:
        """Drop the states used longest ago above the bound. Only while no call is open: what is dropped is read
        again.
        """
        if self._unsettled or self._touched:
            return
        while len(self._cache) > self._cache_states:
            self._cache.popitem(last=False)

    def resume(self, clock_ms: int, sources: Mapping[int, SourceMark]) -> None:
        """Go on with a stored clock and stored marks; only before the first record."""
        self.clock_ms = clock_ms
        self._sources = dict(sources)
        self._call.clock_ms = clock_ms

    @property
    def sources(self) -> dict[int, SourceMark]:
        """The newest of what each source partition sent."""
        return dict(self._sources)

    @property
    def n_cached(self) -> int:
        """States in memory."""
        return len(self._cache)

    # -- Context: what the fold calls

    def state(self, key: str) -> KeyState:
        """See `Context.state`."""
        entry = self._touched.get(key)
        if entry is None:
            entry = self._cache.get(key)
            if entry is None:
                self.adopt(key, self._reader.load(self.partition, [key])[0])
                entry = self._cache[key]
            self._cache.move_to_end(key)
            self._touched[key] = entry
        return entry.state

    def item(self, item_id: str, append_ts_ms: int) -> CatalogueItem | None:
        """See `Context.item`."""
        return self._items.at(item_id, append_ts_ms) if self._items is not None else None

    def reload(self) -> None:
        """See `Context.reload`."""
        self.write_now()
        self._cache.clear()

    def write_now(self) -> None:
        """See `Context.write_now`."""
        self._finish_touched()
        self._settle()
        if self._call.holds_anything:
            self._close_step()
        self._spill()

    def drop(self, key: str, then: KeyState | None = None) -> None:
        """See `Context.drop`."""
        self._finish_touched()
        self._settle()
        fields = set(self._reader.load(self.partition, [key])[0])
        for call in (*self.calls, self._call):  # not in the store yet
            fields.update(call.pages.get(key, ()))
        state = self._fold.new(key) if then is None else then
        self._cache[key] = entry_of(state, None)
        if fields:
            self._call.pages[key] = dict.fromkeys(fields, b"")
            self._call.states[key] = state
            self._due.put(key, None)

    def prefetch(self, keys: Sequence[str]) -> None:
        """See `Context.prefetch`."""
        self._prefetch(keys)

    def split(self) -> None:
        """See `Context.split`."""
        self._finish_touched()
        if self._n_keys() >= self._limits.keys or self._call.size_bytes >= self._limits.size_bytes:
            self._settle()
            self._close_step()
        elif len(self._unsettled) * self._bytes_per_key > self._limits.size_bytes / 8:
            self._settle()

    def erase(self, key: str, fields: Sequence[bytes]) -> None:
        """See `Context.erase`."""
        self.state(key)
        self._call.pages.setdefault(key, {}).update(dict.fromkeys(fields, b""))

    def take(self, source: int, number: Number) -> bool:
        """See `Context.take`."""
        mark = self._sources.get(source)
        if mark is not None and number <= mark.number:
            return False
        self._mark(source, SourceMark(number, mark.clock_ms if mark else 0))
        return True

    def taken(self, source: int) -> Number | None:
        """See `Context.taken`."""
        mark = self._sources.get(source)
        return None if mark is None else mark.number

    def source_clock(self, source: int, clock_ms: int) -> None:
        """See `Context.source_clock`."""
        mark = self._sources.get(source) or SourceMark(_FIRST, 0)
        if clock_ms > mark.clock_ms:
            self._mark(source, SourceMark(mark.number, clock_ms))

    # -- inside

    def _mark(self, source: int, mark: SourceMark) -> None:
        self._sources[source] = self._call.sources[source] = mark

    def _pass_clock_on(self) -> None:
        if not self._numbered_input:
            self.broadcast(lambda: ItemEffect(clock_ms=self.clock_ms))

    def _advance(self, record: Record, *, tick: bool) -> None:
        """Move the clock to this record and do everything that is due by then."""
        if self._numbered_input:
            if len(self._sources) == self.n_partitions:
                self.clock_ms = max(self.clock_ms, min(mark.clock_ms for mark in self._sources.values()))
        elif (self._wall or tick) and record.append_ts_ms > self.clock_ms:
            self.clock_ms = record.append_ts_ms
        if self.clock_ms > self._due.horizon_ms:
            self._extend_horizon()
        if self._due.any_due(self.clock_ms):
            self._do_due(self._due.pop_due(self.clock_ms))

    def _extend_horizon(self) -> None:
        """Read the due keys of the next while; what is not written yet must be written first."""
        if self._call.n_records or self.calls:
            self.close()
            self._spill()
        until_ms = self.clock_ms + self._horizon_ms
        self._due.extend(self._reader.due_between(self.partition, self._due.horizon_ms, until_ms), until_ms)

    def _do_due(self, found: list[tuple[int, str]]) -> None:
        """Run due keys in order. Many of them take calls of their own, each removing what it did.

        Those are cut by their exact size, so that the numbers of what they send are a function of the log alone.
        """
        alone = len(found) > _DUE_INLINE or self.sink.step > 0
        if alone or self._n_keys() + len(found) > self._limits.keys:
            self.close()
        if alone:
            self._prefetch([key for _, key in found[: LIMITS.keys]])
        done = 0
        for index, (due_ms, key) in enumerate(found):
            self._run_due(key, due_ms)
            self._finish_touched()
            if not alone:
                continue
            done += 1
            self._settle()
            if (done == LIMITS.keys or self._call.size_bytes >= LIMITS.size_bytes) and index + 1 < len(found):
                self._close_step()
                self._prefetch([key_ for _, key_ in found[index + 1 : index + 1 + LIMITS.keys]])
                done = 0

    def _prefetch(self, keys: Sequence[str]) -> None:
        missing = self.missing(keys)
        if missing:
            for key, fields in zip(missing, self._reader.load(self.partition, missing), strict=True):
                self.adopt(key, fields)

    def _run_due(self, key: str, due_ms: int) -> None:
        state = self.state(key)
        now: int | None = state.due_ms()
        if now != due_ms:
            # A timeout in the settings was changed since the index was written: the state is right.
            self._due.put(key, now)
        while now is not None and now <= self.clock_ms:
            self._fold.on_due(key, now, self)
            after = state.due_ms()
            if after == now:
                raise FoldBugError(f"{self._fold.name} {key!r} is still due at {now} after on_due")
            now = after

    def _finish_touched(self) -> None:
        """Note new due times of the states that were touched, and that they want to be asked for changed fields."""
        for key, entry in self._touched.items():
            due_ms = entry.state.due_ms()
            if due_ms != entry.due_ms:
                self._due.put(key, due_ms)
                entry.due_ms = due_ms
            self._unsettled[key] = entry
        self._touched.clear()

    def _finish(self, record: Record) -> None:
        self._finish_touched()
        call = self._call
        call.n_records += 1
        call.end = self.position = Position(self.generation, record.offset, 0)
        self._version_step = self.sink.step
        self.sink.step = 0
        self._record = None
        limits = self._poll_limits
        if self._n_keys() >= limits.keys:
            self.close()
            return
        waiting = len(self._unsettled) * self._bytes_per_key
        if call.size_bytes + waiting > limits.size_bytes or waiting > limits.size_bytes / 8:
            self._settle()
            if call.size_bytes > 0.75 * limits.size_bytes:
                self.close()

    def _n_keys(self) -> int:
        """Keys that the open call touches, at most."""
        return len(self._call.states) + len(self._unsettled)

    def _settle(self) -> None:
        """Collect changed fields of the touched states, so that the call's size is known exactly."""
        call = self._call
        if self._unsettled:
            added = 0
            for key, entry in self._unsettled.items():
                if key in self._cache:
                    self._cache.move_to_end(key)
                fields = entry.state.dirty()
                call.states[key] = entry.state
                if not fields:
                    continue
                pages = call.pages.get(key)
                if pages is None:
                    call.pages[key] = fields
                else:
                    added -= sum(len(pages[name]) for name in fields if name in pages)
                    pages.update(fields)
                added += sum(map(len, fields.values()))
            call.size_bytes += added
            self._bytes_per_key += 0.5 * (added / len(self._unsettled) - self._bytes_per_key)
            self._unsettled = {}
        call.due.update(self._due.take_changes())

    def _close_step(self) -> None:
        """Close a call in the middle of a record: the offset stays, the step moves."""
        call = self._call
        offset = self._record.offset if self._record else 0
        call.version = format_version(self.generation, offset, self.sink.step)
        self.sink.step += 1
        self.sink.place = 0
        call.end = self.position = Position(self.generation, call.start.offset, self.sink.step)
        self._append(call)
        if len(self.calls) >= _SPILL_CALLS:
            self._spill()
            self.shrink()

    def _append(self, call: Call) -> None:
        call.clock_ms = self.clock_ms
        self.calls.append(call)
        self._call = self._open()
        self.sink.effects = self._call.effects

    def _open(self) -> Call:
        return Call(partition=self.partition, start=self.position, end=self.position, clock_ms=self.clock_ms)
