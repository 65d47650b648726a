"""Outcomes of one user that may still join or move, in pages of at most 16.

A new one goes to the first page with room. One that goes is taken out of its page, and the others stay where they are,
so that little is written; into the place of a page that is empty comes the last one. The order in memory is that of the
pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from features.state.exposure import Exposure, Outcome, pack_outcome, unpack_outcomes
from features.state.pages import HEAD, body

__all__ = ["MAX_OUTCOMES", "MAX_OUTCOME_BYTES", "Outcomes"]

PER_PAGE: Final = 16
MAX_OUTCOMES: Final = 256
MAX_OUTCOME_BYTES: Final = 12 * 1024


class Outcomes:
    """See the module.

    Parameters
    ----------
    fields : mapping of bytes to bytes
        Stored fields of the user.
    exposures : mapping of int to Exposure
        Those kept, by place.
    """

    __slots__ = ("_dirty", "_pages")

    def __init__(self, fields: Mapping[bytes, bytes], exposures: Mapping[int, Exposure]) -> None:
        self._pages: list[list[Outcome]] = []
        while page := fields.get(b"_o%d" % len(self._pages)):
            self._pages.append(list(unpack_outcomes(body(b"_o", page), exposures)))
        self._dirty: set[int] = set()

    def __iter__(self) -> Iterator[Outcome]:
        return (outcome for page in self._pages for outcome in page)

    def has_room(self, outcome: Outcome) -> bool:
        """Whether one more may be kept."""
        sizes = [len(pack_outcome(each)) for each in self]
        return len(sizes) < MAX_OUTCOMES and sum(sizes) + len(pack_outcome(outcome)) <= MAX_OUTCOME_BYTES

    def add(self, outcome: Outcome) -> None:
        """Keep one more."""
        at = next((at for at, page in enumerate(self._pages) if len(page) < PER_PAGE), len(self._pages))
        if at == len(self._pages):
            self._pages.append([])
        self._pages[at].append(outcome)
        self._dirty.add(at)

    def drop_oldest(self) -> None:
        """Drop the one with the smallest (event time, item, request, position)."""
        oldest = min(self, key=lambda each: (each.event_ts_ms, each.item_id, each.request_id, each.position))
        self.drop_if(lambda each: each is oldest)

    def drop_if(self, gone: Callable[[Outcome], bool]) -> bool:
        """Drop those that are `gone`; return whether there were any."""
        dropped = False
        for at, page in enumerate(self._pages):
            kept = [each for each in page if not gone(each)]
            if len(kept) < len(page):
                self._pages[at] = kept
                self._dirty.add(at)
                dropped = True
        at = 0
        while dropped and at < len(self._pages):
            if self._pages[at]:
                at += 1
                continue
            last = self._pages.pop()
            self._dirty.add(len(self._pages))
            if at < len(self._pages):
                self._pages[at] = last
        return dropped

    def changed(self, outcome: Outcome) -> None:
        """Note that an outcome is to be written anew."""
        self._dirty.update(at for at, page in enumerate(self._pages) if any(each is outcome for each in page))

    def dirty(self) -> dict[bytes, bytes]:
        """Pages changed since the last call."""
        changed = {}
        for at in sorted(self._dirty):
            page = self._pages[at] if at < len(self._pages) else ()
            changed[b"_o%d" % at] = HEAD + b"".join(map(pack_outcome, page)) if page else b""
        self._dirty.clear()
        return changed
