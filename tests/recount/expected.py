"""What the folds must hold, counted from the log alone: sort, group, add up. Slow and plain on purpose.

Written from the words of docs/specs/state.md, and from none of the code that it checks; shared are the contract's
`polarity`, the hashes, the parameters, and the grid to which bandit features are rounded.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from bandits.partials import on_phi_grid
from features.hashing import category_hash, item_hash
from features.item_version import CatalogueItem
from features.state.params import StateParams
from liverank.contract import polarity
from liverank.v1.event_pb2 import Event, EventType
from tests.recount.joins import Joined, Slate

IMPRESSION, CLICK, DWELL, LIKE, SAVE, RATING, PURCHASE = 1, 2, 3, 4, 5, 6, 7
SEARCH, SKIP, DISMISS, THUMBS_DOWN, NOT_INTERESTED, SESSION_END, SURVEY = 8, 9, 10, 11, 12, 13, 14
EXPOSURE, ABANDON = 50, 53
DAY_MS = 86_400_000


class Versions(Protocol):
    """The catalogue."""

    def at(self, item_id: str, append_ts_ms: int) -> CatalogueItem | None:
        """Return the newest version appended at or before `append_ts_ms`."""
        ...


class Logged(NamedTuple):
    """A record of one partition: its event (None = a tick), and its append time."""

    event: Event | None
    append_ts_ms: int


class Arrived(NamedTuple):
    """An accepted event with its place and the partition clock on arrival."""

    event: Event
    append_ts_ms: int
    clock_ms: int
    index: int
    bot: bool
    n_ids: int


class Fact(NamedTuple):
    """Something counted: a row of the user's and the item's counters."""

    ts_ms: int
    kind: int
    value: float
    item_id: str
    category: str
    expected: float | None = None
    surface: str = ""


@dataclass
class UserCount:
    """What is known of one user."""

    facts: list[Fact] = field(default_factory=list)
    history: Counter[tuple[int, ...]] = field(default_factory=Counter)
    older: dict[int, Counter[tuple[int, ...]]] = field(default_factory=dict)
    abandoned: Counter[tuple[int, ...]] = field(default_factory=Counter)
    sessions: list[dict[str, Any]] = field(default_factory=list)
    seen: dict[int, tuple[int, bool, bool, bool]] = field(default_factory=dict)
    newest_ms: int = 0
    bound_ms: int | None = None
    ids: set[str] = field(default_factory=set)


@dataclass
class ItemCount:
    """What is known of one item: facts, and (time, partner, weight) of pairs."""

    facts: list[Fact] = field(default_factory=list)
    pairs: list[tuple[int, int, float]] = field(default_factory=list)


class Row(NamedTuple):
    """A label row."""

    labels: tuple[str, ...]
    seen: bool
    corrected: bool


ARMS, LOGISTIC, ITEMS = 1, 2, 3


@dataclass
class Recount:
    """Everything, over all partitions that were added."""

    catalogue: Versions
    params: StateParams
    users: dict[str, UserCount] = field(default_factory=lambda: defaultdict(UserCount))
    items: dict[str, ItemCount] = field(default_factory=lambda: defaultdict(ItemCount))
    rows: dict[tuple[str, int], Row] = field(default_factory=dict)
    sums: dict[tuple[str, ...], tuple[Any, Any, int]] = field(default_factory=dict)
    repeats: int = 0
    beyond: list[str] = field(default_factory=list)

    def add_partition(self, log: Sequence[Logged], clock: str = "wall") -> None:
        """Count one partition's log, in the order of its offsets; ticks included."""
        clocks: list[int] = []
        now = 0
        by_user: dict[str, list[Arrived]] = defaultdict(list)
        dedups: dict[str, _Dedup] = defaultdict(_Dedup)
        for index, (event, append_ts_ms) in enumerate(log):
            if clock == "wall" or event is None:
                now = max(now, append_ts_ms)
            clocks.append(now)
            if event is None:
                continue
            user_id = event.user_id or event.session_id
            verdict = dedups[user_id].take(event.event_id, event.event_ts_ms, now)
            if verdict == "new":
                bot = dedups[user_id].bot_until_ms > now
                n_ids = len(dedups[user_id].kept)
                by_user[user_id].append(Arrived(event, append_ts_ms, now, index, bot, n_ids))
            elif verdict == "repeat":
                self.repeats += 1
            else:
                self.beyond.append(event.event_id)
        for user_id, arrived in by_user.items():
            self._count_user(user_id, arrived, clocks, dedups[user_id].bot_until_ms)
            self.users[user_id].bound_ms = dedups[user_id].bound_ms
            self.users[user_id].ids = {entry[0] for entry in dedups[user_id].kept}

    # -- one user

    def _category(self, item_id: str, append_ts_ms: int) -> str:
        item = self.catalogue.at(item_id, append_ts_ms) if item_id else None
        return item.category if item else ""

    def _entry(self, ts_ms: int, item_id: str, kind: int, weight: float, append_ts_ms: int) -> tuple[int, ...]:
        item = self.catalogue.at(item_id, append_ts_ms)
        version = item.version if item else -1
        category = category_hash(item.category) if item else 0
        return (ts_ms, item_hash(item_id), kind, round(weight * 16), version, category)

    def _count_user(self, user_id: str, arrived: list[Arrived], clocks: list[int], bot_until_ms: int) -> None:
        user = self.users[user_id]
        user.newest_ms = max(each.event.event_ts_ms for each in arrived)
        marks: Counter[tuple[int, int]] = Counter()
        acts: dict[tuple[int, str], int] = {}
        entries: list[tuple[int, ...]] = []
        for event, append_ts_ms, _, _, bot, _ in arrived:
            if event.type == EXPOSURE:
                continue
            item_id, kind, ts_ms, value = event.item_id, int(event.type), event.event_ts_ms, event.value
            category = self._category(item_id, append_ts_ms)
            user.facts.append(Fact(ts_ms, kind, value, item_id, category))
            if not item_id:
                continue
            if not bot:
                expected = 1 / math.log2(1 + max(event.position, 1)) if kind == IMPRESSION else None
                self.items[item_id].facts.append(Fact(ts_ms, kind, value, item_id, category, expected, event.surface))
            weight = self.params.signals.of(kind, value)
            if round(weight * 16):
                entries.append(self._entry(ts_ms, item_id, kind, weight, append_ts_ms))
            if kind == IMPRESSION:
                marks[item_hash(item_id), ts_ms // 1000] += 1
            act = _act(kind, value)
            if act:
                key = (item_hash(item_id), act)
                acts[key] = max(acts.get(key, 0), ts_ms // 1000)
        entries.sort()
        user.history = Counter(entries[-128:])
        user.older = _by_week(entries[:-128])
        self._count_sessions(user_id, user, arrived, clocks[-1])
        self._count_exposures(user, arrived, clocks[-1], marks, bot_until_ms)
        for hashed in {each for each, _ in marks} | {each for each, _ in acts}:
            clicked_s = acts.get((hashed, "clicked"))
            shown = sum(n for (each, ts_s), n in marks.items() if each == hashed and ts_s > (clicked_s or 0))
            user.seen[hashed] = (
                shown,
                clicked_s is not None,
                (hashed, "consumed") in acts,
                (hashed, "dismissed") in acts,
            )
        self._count_pairs([each for each in arrived if not each.bot])

    def _count_sessions(self, user_id: str, user: UserCount, arrived: list[Arrived], clock_ms: int) -> None:
        timeout_ms = self.params.session_timeout_ms
        groups: list[list[Arrived]] = []
        for each in sorted(arrived, key=lambda one: one.event.event_ts_ms):
            if groups and each.event.event_ts_ms - groups[-1][-1].event.event_ts_ms < timeout_ms:
                groups[-1].append(each)
            else:
                groups.append([each])
        for group in groups:
            last_ms = group[-1].event.event_ts_ms
            ends = [each.event.event_ts_ms for each in group if each.event.type == SESSION_END]
            closes_ms = last_ms if ends and max(ends) == last_ms else last_ms + timeout_ms
            signs = [polarity(each.event.type, each.event.value) for each in group]
            shown = [
                (each.event.event_ts_ms, _shown_item(each.event), each.append_ts_ms)
                for each in group
                if each.event.type in (IMPRESSION, EXPOSURE)
            ]
            abandoned = bool(shown) and 1 not in signs and closes_ms <= clock_ms
            user.sessions.append(
                {
                    "start_ms": group[0].event.event_ts_ms,
                    "last_ms": last_ms,
                    "events": len(group),
                    "clicks": sum(each.event.type == CLICK for each in group),
                    "positives": signs.count(1),
                    "negatives": signs.count(-1),
                    "shown": len(shown),
                    "closes_ms": closes_ms,
                    "abandoned": abandoned,
                }
            )
            if abandoned:
                _, item_id, append_ts_ms = max(shown)
                fact = Fact(closes_ms, ABANDON, 0.0, item_id, self._category(item_id, append_ts_ms))
                user.facts.append(fact)
                if not group[-1].bot:
                    self.items[item_id].facts.append(fact)
                user.abandoned[self._entry(closes_ms, item_id, ABANDON, self.params.signals.abandon, append_ts_ms)] += 1

    def _count_exposures(
        self, user: UserCount, arrived: list[Arrived], end_ms: int, marks: Counter[tuple[int, int]], bot_until_ms: int
    ) -> None:
        slates = Joined(self.params, _labels).play(arrived, end_ms, lambda due_ms: due_ms < bot_until_ms)
        for slate in slates:
            shown = slate.arrival
            event = slate.event
            for at, was_seen in enumerate(slate.inferred):
                if was_seen:
                    item_id = slate.items[at]
                    category = self._category(item_id, shown.append_ts_ms)
                    fact = Fact(event.event_ts_ms, IMPRESSION, 0.0, item_id, category)
                    user.facts.append(fact)
                    marks[item_hash(item_id), event.event_ts_ms // 1000] += 1
                    if not shown.bot:
                        there = fact._replace(expected=1 / math.log2(2 + at), surface=event.surface)
                        self.items[item_id].facts.append(there)
            for at, (labels, seen, corrected) in slate.told.items():
                self.rows[event.event_id, at + 1] = Row(tuple(sorted(labels)), seen, corrected)
            if event.exposure.drawn and event.exposure.heads and event.exposure.slots[0].phi and not shown.bot:
                self._count_sums(slate)

    def _count_sums(self, slate: Slate) -> None:
        exposure = slate.event.exposure
        phi = on_phi_grid([slot.phi for slot in exposure.slots])
        key = (exposure.base_model, exposure.schema)
        n_heads, dim, n = len(exposure.heads), phi.shape[1], len(exposure.slots)
        left = np.zeros((n_heads, n))
        for head, name in enumerate(exposure.heads):
            label = {"long_dwell": "dwell", "like_save": "like", "save": "like"}.get(name, name)
            if label not in ("click", "dismiss", "dwell", "like", "purchase"):
                continue
            fast = label in ("click", "dismiss")
            if fast or (slate.closed and not slate.closed_as_bot):
                left[head] -= [slot.p_shown[head] for slot in exposure.slots]
            for slot, moved, sign, bot, closed in slate.moves:
                if slot < 0 and not fast and not bot:
                    for early, other, way, _, late in slate.moves:
                        left[head, early] += way * (other == label and not late) if early >= 0 else 0
                elif moved == label and not bot and (fast or closed):
                    left[head, slot] += sign

        def count(name: tuple[str, ...], x: Any, e: Any, features: Any, more: int) -> None:
            a, b, known = self.sums.get(name, (np.zeros((dim, dim)), np.zeros((len(e), dim)), 0))
            self.sums[name] = (a + x.T @ x, b + e @ features, known + more)

        count(key, phi, left, phi, n)
        if ARMS in exposure.statistics:
            for at, slot in enumerate(exposure.slots):
                count((*key, slot.category), phi[at : at + 1], left[:, at : at + 1], phi[at : at + 1], 1)
        if ITEMS in exposure.statistics:
            x = np.concatenate([phi, on_phi_grid([[4 * slot.p_shown[0]] for slot in exposure.slots])], axis=1)
            a, b, known = self.sums.get(
                (*key, "items"), (np.zeros((dim + 1, dim + 1)), np.zeros((n_heads, dim + 1)), 0)
            )
            self.sums[*key, "items"] = (a + x.T @ x, b + left @ x, known + n)
            for at, slot in enumerate(exposure.slots):
                looks = on_phi_grid(1 / np.log2(at + 2))
                a, b, known = self.sums.get((*key, "item", slot.item_id), (np.zeros(dim + 2), np.zeros(n_heads), 0))
                own = looks * np.concatenate([[looks], x[at]])
                self.sums[*key, "item", slot.item_id] = (a + own, b + looks * left[:, at], known + 1)
        if LOGISTIC in exposure.statistics:
            raw = np.array([slot.phi for slot in exposure.slots], dtype=np.float64)
            for head in range(n_heads):
                p = np.array([slot.p_shown[head] for slot in exposure.slots])
                bent = on_phi_grid(raw * np.sqrt(p * (1 - p))[:, None])
                count((*key, "logistic", str(head)), bent, left[head : head + 1], phi, n)

    def _count_pairs(self, arrived: list[Arrived]) -> None:
        good = sorted(
            (each.event.event_ts_ms, each.event.item_id)
            for each in arrived
            if each.event.type in (CLICK, LIKE, SAVE, PURCHASE, RATING)
            and polarity(each.event.type, each.event.value) > 0
        )
        half_life_ms = self.params.pair_gap_half_life_ms
        for at, (ts_ms, item_id) in enumerate(good):
            for other_ms, other_id in good[max(0, at - self.params.pair_partners) : at]:
                if other_id != item_id:
                    weight = 0.5 ** ((ts_ms - other_ms) / half_life_ms)
                    self.items[item_id].pairs.append((ts_ms, item_hash(other_id), weight))
                    self.items[other_id].pairs.append((ts_ms, item_hash(item_id), weight))


class _Dedup:
    """Point 7 of the fold's rules, in its own words."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, int, int]] = []
        self.bound_ms: int | None = None
        self.bot_until_ms = 0

    def take(self, event_id: str, ts_ms: int, clock_ms: int) -> str:
        if any(each[0] == event_id for each in self.kept):
            return "repeat"
        if ts_ms < clock_ms - 7 * DAY_MS or (self.bound_ms is not None and ts_ms <= self.bound_ms):
            return "beyond"
        now_s = clock_ms // 1000
        self.kept.append((event_id, ts_ms, now_s))
        if len([1 for _, _, arrival_s in self.kept if now_s - arrival_s <= 900]) > 8192:
            self.bot_until_ms = clock_ms + DAY_MS
        while len(self.kept) > 576:
            recent = {each[0] for each in self.kept[-8192:] if now_s - each[2] <= 900}
            by_time = sorted(self.kept, key=lambda each: (each[1], item_hash(each[0])))
            free = [each for each in by_time[:-512] if each[0] not in recent]
            if len(free) < 64:
                break
            gone = {each[0] for each in free[:64]}
            self.bound_ms = max(
                [each[1] for each in free[:64]] + ([self.bound_ms] if self.bound_ms is not None else [])
            )
            self.kept = [each for each in self.kept if each[0] not in gone]
        return "new"


def _act(kind: int, value: float) -> str:
    if kind == CLICK:
        return "clicked"
    if kind in (LIKE, SAVE, PURCHASE, RATING) or (kind == DWELL and polarity(kind, value) > 0):
        return "consumed"
    return "dismissed" if kind in (DISMISS, THUMBS_DOWN, NOT_INTERESTED) else ""


def _labels(event: Event) -> set[str] | None:
    """Labels that an event gives to its slot; None = it says nothing about a slot."""
    kind = int(event.type)
    if not event.item_id or kind in (SEARCH, SESSION_END):
        return None
    if kind == CLICK:
        return {"click"}
    if kind in (LIKE, SAVE) or (kind == RATING and polarity(kind, event.value) > 0):
        return {"like"}
    if kind == DWELL and polarity(kind, event.value) > 0:
        return {"dwell"}
    if kind == PURCHASE:
        return {"purchase"}
    return {"dismiss"} if kind in (DISMISS, THUMBS_DOWN, NOT_INTERESTED) else set()


def _shown_item(event: Event) -> str:
    return event.exposure.slots[0].item_id if event.type == EXPOSURE else event.item_id


class WindowSums:
    """Sums of columns over ``[floor(t / slide) * slide - window, t]``; each value is looked up once."""

    def __init__(self, facts: Sequence[Fact]) -> None:
        self._facts = facts
        self._times = np.array([fact.ts_ms for fact in facts], dtype=np.int64)
        self._columns: dict[str, Any] = {}

    def __call__(self, column: str, window_ms: int, slide_ms: int, as_of_ms: int) -> float:
        """Sum of one column over one window at `as_of_ms`."""
        values = self._columns.get(column)
        if values is None:
            values = self._columns[column] = np.array([value_of(fact, column) for fact in self._facts])
        first_ms = as_of_ms // slide_ms * slide_ms - window_ms
        return math.fsum(values[(first_ms <= self._times) & (self._times <= as_of_ms)]) if len(values) else 0.0


def value_of(fact: Fact, column: str) -> float:
    """Value of a column for one fact; nulls count as 0."""
    sign = -1 if fact.kind == ABANDON else polarity(fact.kind, fact.value)
    match column:
        case "positive":
            return float(sign > 0)
        case "negative":
            return float(sign < 0)
        case "dwell_s":
            return round(fact.value * 2**20) / 2**20 if fact.kind == DWELL else 0.0
        case "short_dwell":
            return float(fact.kind == DWELL and sign < 0)
        case "expected":
            return round((fact.expected or 0.0) * 2**20) / 2**20
        case _:
            name = {"abandonment": "ABANDON"}.get(column, column.upper())
            return float(EventType.Name(fact.kind) == f"EVENT_TYPE_{name}")


def priority_of(entry: tuple[int, ...]) -> float:
    """Of a signal (time, item, kind, sixteenths): magnitude over SplitMix64 of item and time, in (0, 1]."""
    x = (entry[1] * 0x9E3779B97F4A7C15 + entry[0]) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    x ^= x >> 31
    return (entry[3] * 4 if entry[3] > 0 else -entry[3]) / (((x >> 11) + 1) / 2**53)


def stands_for(week: Counter[tuple[int, ...]]) -> list[tuple[tuple[int, ...], float]]:
    """Kept entries of a week, and how much of themselves they weigh: all, or what a priority sample says."""
    kept = sorted(week.elements(), key=lambda entry: (priority_of(entry), entry))
    if len(kept) < 25:
        return [(entry, 1.0) for entry in kept]
    threshold = priority_of(kept[0])
    sizes = [abs(entry[3]) * (4 if entry[3] > 0 else 1) for entry in kept]
    return [(entry, max(size, threshold) / size) for entry, size in zip(kept[1:], sizes[1:], strict=True)]


def _by_week(entries: list[tuple[int, ...]]) -> dict[int, Counter[tuple[int, ...]]]:
    """Signals before the newest, of each of the newest 27 weeks the 25 of the largest priority, as (time, item, kind,
    sixteenths).
    """
    weeks: dict[int, list[tuple[int, ...]]] = {}
    for entry in entries:
        weeks.setdefault(entry[0] // 604_800_000, []).append(entry[:4])
    newest = sorted(weeks)[-27:]
    return {week: Counter(sorted(weeks[week], key=lambda entry: (priority_of(entry), entry))[-25:]) for week in newest}
