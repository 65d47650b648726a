"""The largest user that events can make: every bound of docs/specs/state.md pressed at once, folded for real.

Half a year of signals, and a month in which the user meets 16 categories of every page of the counters in every tile,
with the longest ids; sessions that show something and end without good news; waiting outcomes and exposures; then,
within 15 minutes, as many events as a user may send without being a bot, at event times above the dedup bound.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from features.columns import text_hash
from features.item_version import CatalogueItem
from features.program import FeatureProgram
from features.state.dedup import MAX_RECENT, NEWEST
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType, Exposure, ExposureSlot
from streams.estimate import Memory, sizes
from streams.users import UserFold

__all__ = ["Largest", "largest_user"]

_T = EventType
_MINUTE_MS: Final = 60_000
_HOUR_MS: Final = 60 * _MINUTE_MS
_DAY_MS: Final = 24 * _HOUR_MS
_START_MS: Final = 1_700_000_000_000
_PAGES: Final = 8
_A_PAGE: Final = 16
_KINDS: Final = (_T.EVENT_TYPE_CLICK, _T.EVENT_TYPE_IMPRESSION, _T.EVENT_TYPE_DISMISS)
_LOOK_EVERY: Final = 64
_SESSIONS: Final = 50
_USER: Final = "u" * 128


def _categories() -> list[str]:
    """As many categories as every page of the counters keeps in one tile."""
    left = dict.fromkeys(range(_PAGES), _A_PAGE)
    found = []
    for number in range(100_000):
        name = f"category-{number}"
        page = int(text_hash(name)) % _PAGES
        if left[page]:
            left[page] -= 1
            found.append(name)
        if not any(left.values()):
            break
    return found


_CATEGORIES: Final = _categories()


class _Items:
    """Items whose id names their category."""

    def at(self, item_id: str, append_ts_ms: int) -> CatalogueItem | None:
        category = _CATEGORIES[int(item_id[:3])]
        return CatalogueItem(item_id, 1, 0, (category,), "", 0.0, True, 0)


@dataclass(frozen=True, kw_only=True)
class Largest:
    """The user at its largest.

    Attributes
    ----------
    parts : dict
        Bytes of each part then, field names included.
    size_bytes : int
        Their sum.
    events : int
        Folded in all.
    """

    parts: dict[str, int]
    size_bytes: int
    events: int


class _Making:
    """Events of the user, each with an id of its own and an item that was not there before."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.n = 0

    def item(self, category: int) -> str:
        return f"{category:03d}-{self._rng.getrandbits(64):020d}".ljust(128, "i")

    def event(self, kind: int, ts_ms: int, category: int, request_id: str = "") -> Event:
        self.n += 1
        return Event(
            event_id=f"{self.n:08d}".ljust(64, "e"), type=kind, user_id=_USER, event_ts_ms=ts_ms,  # type: ignore[arg-type]
            item_id=self.item(category), surface="home", request_id=request_id,
        )  # fmt: skip

    def exposure(self, ts_ms: int) -> Event:
        """About 1.8 KB: 5 slots with the longest ids, 32 features and 4 heads."""
        self.n += 1
        rng, name = self._rng, f"{self.n:08d}".ljust(64, "x")
        slots = [
            ExposureSlot(
                item_id=self.item(rng.randrange(len(_CATEGORIES))), catalogue_version=1, propensity=rng.random(),
                p_shown=[rng.random() for _ in range(4)], p_first=[rng.random() for _ in range(4)],
                phi=[rng.random() for _ in range(32)],
            )
            for _ in range(5)
        ]  # fmt: skip
        exposure = Exposure(
            policy="thompson", arm="a", base_model="m" * 64, schema="s1", drawn=True,
            heads=["click", "dismiss", "dwell", "purchase"], slots=slots,
        )  # fmt: skip
        return Event(
            event_id=name, request_id=name, type=_T.EVENT_TYPE_EXPOSURE, user_id=_USER, event_ts_ms=ts_ms,
            surface="home", exposure=exposure,
        )  # fmt: skip


def _half_year(make: _Making, end_ms: int) -> Iterator[tuple[Event, int]]:
    """More signals in each week than the history samples of it."""
    for week in range(31, 4, -1):
        for number in range(31):
            at_ms = end_ms - week * 7 * _DAY_MS + number * _HOUR_MS
            yield make.event(_T.EVENT_TYPE_DISMISS, at_ms, number), at_ms


def _month(make: _Making, end_ms: int) -> Iterator[tuple[Event, int]]:
    """Events and append times up to two days before the end: every category once a day."""
    for day in range(30, 1, -1):
        for category in range(len(_CATEGORIES)):
            at_ms = end_ms - day * _DAY_MS + category * 10_000
            yield make.event(_KINDS[category % 3], at_ms, category), at_ms


def _session_ms(end_ms: int, session: int) -> int:
    return end_ms - 33 * _HOUR_MS + min(session, _SESSIONS - 1) * 30 * _MINUTE_MS


def _sessions(make: _Making, end_ms: int) -> Iterator[tuple[Event, int]]:
    """Sessions that show something and end without good news: nearly as many as are kept with such ids, and so few that
    their event ids stay too.
    """
    for session in range(_SESSIONS):
        at_ms = _session_ms(end_ms, session)
        yield make.event(_T.EVENT_TYPE_IMPRESSION, at_ms, session % len(_CATEGORIES)), at_ms


def _newest(make: _Making, end_ms: int) -> Iterator[tuple[Event, int]]:
    """The newest by event time: they stay, although they will have arrived more than 15 minutes before."""
    for number in range(NEWEST - 1):
        at_ms = end_ms - 16 * _MINUTE_MS + number
        yield make.event(_T.EVENT_TYPE_IMPRESSION, at_ms + 4 * _MINUTE_MS, number % len(_CATEGORIES)), at_ms


def _burst(make: _Making, rng: random.Random, end_ms: int) -> Iterator[tuple[Event, int]]:
    """As many events as fit into 15 minutes, small exposures among them. Event times lie above the dedup bound: of each
    four, three fall into one hour, where good news is, and one into any tile, without good news.
    """
    n = MAX_RECENT - 8
    tiles = [(back, category) for back in range(13) for category in range(len(_CATEGORIES))]
    rng.shuffle(tiles)
    first = [[at for at, name in enumerate(_CATEGORIES) if int(text_hash(name)) % _PAGES == page] for page in range(8)]
    for number in range(n):
        at_ms = end_ms + number * 14 * _MINUTE_MS // n
        if number % 200 == 0:
            yield make.exposure(end_ms - 14 * _MINUTE_MS), at_ms
        elif number % 4:
            request = f"{number}".ljust(64, "r") if number % 8 == 1 else ""
            kind = _KINDS[number // _PAGES % 3]
            yield make.event(kind, end_ms - 21 * _MINUTE_MS, first[number % _PAGES][0], request_id=request), at_ms
        else:
            back, category = tiles[number // 4 % len(tiles)]
            ts_ms = _session_ms(end_ms, back * 4 + rng.randrange(4))
            kind = (_T.EVENT_TYPE_IMPRESSION, _T.EVENT_TYPE_DISMISS)[number // 4 % 2]
            yield make.event(kind, ts_ms, category), at_ms


def largest_user(settings: Settings, program: FeatureProgram, *, seed: int = 1) -> Largest:
    """Make the user and say how large it became.

    Takes about 1 s. Counters are those of `program`; their bound is 16 categories a page, tile and ring.
    """
    rng = random.Random(seed)
    make = _Making(rng)
    memory = Memory(UserFold(settings, program, token=b""), numbered=False, items=_Items())
    end_ms = _START_MS + 31 * _DAY_MS
    most: Counter[str] = Counter()

    def feed(event: Event, at_ms: int) -> None:
        memory.feed(event.SerializeToString(), at_ms, key=_USER.encode())

    def look() -> None:
        nonlocal most
        memory.write()
        memory.outputs.clear()
        found = sizes(memory.fields[_USER])
        if found.total() > most.total():
            most = found

    for event, at_ms in (
        *_half_year(make, end_ms),
        *_month(make, end_ms),
        *_sessions(make, end_ms),
        *_newest(make, end_ms),
    ):
        feed(event, at_ms)
        if make.n % _LOOK_EVERY == 0:
            look()
    for event, at_ms in _burst(make, rng, end_ms):
        feed(event, at_ms)
        if make.n % _LOOK_EVERY == 0 or event.type == _T.EVENT_TYPE_EXPOSURE:
            look()
    look()
    return Largest(parts=dict(most), size_bytes=most.total(), events=make.n)
