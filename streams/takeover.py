"""Taking a partition over: fence the owner before, publish what it still owed, start where the store stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from liverank.errors import UnavailableError
from liverank.kafka import OffsetClient, Tp
from streams.calls import Position
from streams.errors import StateLostError
from streams.fence import FencedStore, Meta
from streams.fold import Fold
from streams.outbox import Output, decode_outbox, public_fields
from streams.publisher import Pending, RowSink, Sink, announced
from streams.seal import Seals

__all__ = ["FoldSetup", "Takeover"]


@dataclass(frozen=True, kw_only=True)
class FoldSetup:
    """What makes an engine the users fold or the items fold.

    Attributes
    ----------
    topic : str
        Full name of the input topic.
    member : str
        Static member id of this worker, stable over restarts.
    numbered_input : bool
        The input is another fold's output.
    ticks : bool
        This engine produces a tick a second into each partition that it owns.
    archive_holds : callable
        Whether the archive holds records of (topic, partition): then an empty store is a lost store.
    seals : Seals, optional
        Knows where partitions of the input end; None = nowhere.
    """

    fold: Fold
    topic: str
    n_partitions: int
    generation: int
    member: str
    numbered_input: bool = False
    ticks: bool = False
    token: bytes = b""
    archive_holds: Callable[[str, int], bool] = lambda _topic, _partition: False
    seals: Seals | None = None


class Takeover:
    """Makes this process the owner of partitions.

    Every method raises `UnavailableError` where a store is away; all may be repeated.
    """

    def __init__(self, setup: FoldSetup, store: FencedStore, rows: RowSink, sink: Sink, offsets: OffsetClient) -> None:
        self._setup = setup
        self._store = store
        self._rows = rows
        self._sink = sink
        self._offsets = offsets

    def acquire(self, partition: int, *, least_epoch: int) -> Meta:
        """Raise the partition's epoch and return where it stands.

        Raises
        ------
        StateLostError
            The partition has a past but no state.
        """
        start = None
        if self._store.meta(partition) is None:
            self.require_new(partition)
            start = Position(self._setup.generation, -1, 0)
        meta = self._store.acquire(partition, start=start, least_epoch=least_epoch)
        if meta is None:
            raise UnavailableError(f"the position of partition {partition} went away while it was taken over")
        return meta

    def require_new(self, partition: int) -> None:
        """Refuse to start from nothing where there was something (fold.md point 16)."""
        tp = Tp(self._setup.topic, partition)
        first = self._offsets.begins([tp])[tp]
        if first > 0 or self._setup.archive_holds(self._setup.topic, partition):
            raise StateLostError(
                f"partition {partition} of {self._setup.topic} has no state in Redis, but "
                f"{f'its log begins at {first}' if first > 0 else 'the archive holds its records'}: "
                "the state was lost; run `liverank rebuild`"
            )

    def drain(self, partition: int, meta: Meta) -> None:
        """Publish what the owner before still owed, with the bytes and the version of the store.

        The caller waits until Kafka confirmed it, before its first fence deletes the outbox.
        """
        dirty: dict[str, set[bytes]] = {}
        whole: set[str] = set()
        outputs: list[Output] = []
        for blob in self._store.outbox(partition):
            names, owed = decode_outbox(blob)
            for key, fields in names.items():
                dirty.setdefault(key, set()).update(fields)
                if not fields:
                    whole.add(key)
            outputs += owed
        pending: dict[tuple[int, str], Pending] = {}
        for (key, wanted), stored in zip(dirty.items(), self._store.load(partition, list(dirty)), strict=True):
            if not stored and (key.startswith("#") or self._setup.fold.kind != "u"):
                continue  # a user or session without state was erased: its row goes too
            public = public_fields(key, dict(stored)) if key in whole else {}
            public |= {name: stored.get(name, b"") for name in wanted}
            pending[partition, key] = Pending(self._setup.fold.load(key, stored), public, meta.version)
        visible = self._rows.build(pending)
        early, late = announced(outputs)
        self._sink.send([*early, *visible.feed])
        self._rows.write(visible)
        self._sink.send(late)
