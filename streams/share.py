"""One partition's share of a poll: what native code folds as it lies there, and what goes through Python one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from liverank.errors import ContractError
from liverank.kafka import Record
from streams.fold import Parsed
from streams.partition_fold import PartitionFold
from streams.producers import AHEAD_MS, EVERY
from streams.reading import Scanned

__all__ = ["Share"]

Parse = Callable[[Record], Parsed | ContractError]


@dataclass(slots=True)
class Share:
    """Records of one partition, in order.

    Attributes
    ----------
    parsed : dict
        What some records hold, by index: those that Python folds.
    scanned : Scanned, optional
        What native code said of them; None: Python folds them all.
    """

    records: list[Record] = field(default_factory=list)
    parsed: dict[int, Parsed | ContractError] = field(default_factory=dict)
    scanned: Scanned | None = None

    def look(self, fold: PartitionFold, parse: Parse) -> None:
        """Find out which records are whose, and decode those that Python folds."""
        self.scanned = fold.scan(self.records, every=EVERY, ahead_ms=AHEAD_MS)
        left = range(len(self.records)) if self.scanned is None else self.scanned.left
        for at in left:
            if at not in self.parsed:
                self.parsed[at] = parse(self.records[at])

    def watched(self, parse: Parse) -> Iterator[tuple[Record, Parsed | ContractError]]:
        """Yield the records that tell of their producers: of the usual ones only some."""
        for at, what in self.parsed.items():
            yield self.records[at], what
        for at in self.scanned.watched if self.scanned is not None else ():
            yield self.records[at], parse(self.records[at])

    def missing(self, fold: PartitionFold) -> list[str]:
        """Keys that the records ask for and that are not in memory."""
        keys = dict.fromkeys(self.scanned.missing if self.scanned is not None else ())
        for what in self.parsed.values():
            if isinstance(what, Parsed):
                wanted = [key for key in fold.missing(what.keys) if key not in keys]
                if wanted and not fold.is_stray(what):
                    keys.update(dict.fromkeys(wanted))
        return list(keys)

    def feed(self, fold: PartitionFold, parse: Parse) -> None:
        """Fold the records."""
        at = 0
        while at < len(self.records):
            what = self.parsed.get(at)
            if what is None:
                following = fold.feed_usual(self.records, at)
                if following > at:
                    at = following
                    continue
                what = parse(self.records[at])
            fold.feed(self.records[at], what)
            at += 1
