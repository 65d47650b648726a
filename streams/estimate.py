"""What N users and M items will need: bytes of state part by part, of Redis, and of the log (`liverank estimate`).

Nothing is guessed of the state: users and items with 1, 2, 4, ... 4,096 events are folded in memory with the real folds
and the namespace's own views, and a Zipf population is laid over what they hold.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from features.item_version import CatalogueItem
from features.program import FeatureProgram
from liverank.kafka import Record
from liverank.settings import Settings
from liverank.v1.event_pb2 import Event, EventType, Exposure, ExposureSlot
from streams.calls import Limits, Position
from streams.fold import Fold
from streams.items import ItemFold
from streams.outbox import Output
from streams.partition_fold import PartitionFold
from streams.reading import ItemVersions
from streams.users import UserFold

__all__ = ["Estimate", "Memory", "estimate", "events_of_user", "feast_row", "part_of", "redis_bytes", "sizes"]

GRID: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Numbers of events that are folded for real; between them sizes are interpolated, above them they are the last."""

_T = EventType
_MIX: Final = [_T.EVENT_TYPE_IMPRESSION] * 8 + [_T.EVENT_TYPE_CLICK] * 5 + [_T.EVENT_TYPE_DWELL] * 3 + [
    _T.EVENT_TYPE_LIKE, _T.EVENT_TYPE_SAVE, _T.EVENT_TYPE_PURCHASE, _T.EVENT_TYPE_SKIP, _T.EVENT_TYPE_DISMISS,
]  # fmt: skip
_DAY_MS: Final = 86_400_000
_SPAN_MS: Final = 30 * _DAY_MS
_START_MS: Final = 1_700_000_000_000
_UNLIMITED: Final = Limits(keys=1 << 62, size_bytes=1 << 62)
_KAFKA_RECORD: Final = 30
"""Bytes of a record around its key and value, batch header included."""
_REPLY: Final = 1_200
"""Bytes in Redis of a reply of ten slots that is kept for retries, its key included."""
_DECISION: Final = 7_500
"""Bytes of a decision record, its 1 % share of fully logged ones (138 KB) included (architecture 4.7)."""

_CATALOGUE_ROW: Final = (40, 9, 2, 12, 30, 8, 5)
"""Bytes of an item's title, price, availability, creator, categories, publication and version."""

_PARTS: Final = (
    (b"_d", "event ids"),
    (b"user_history", "history"),
    (b"user_session", "sessions"),
    (b"_s", "sessions"),
    (b"user_seen", "seen"),
    (b"_x", "open exposures"),
    (b"_j", "open exposures"),
    (b"_o", "open exposures"),
    (b"_p", "good news"),
    (b"_u", "core"),
    (b"_i", "core"),
    (b"item_trend", "trend"),
    (b"item_surfaces", "counts per surface"),
    (b"item_neighbours", "neighbours"),
    (b"item_variants", "variants"),
)


def part_of(field: bytes) -> str:
    """Part that a stored field belongs to; counters by the name of their view."""
    for prefix, name in _PARTS:
        if field.startswith(prefix):
            return name
    return f"counters {field.partition(b':')[0].decode()}"


def redis_bytes(key_bytes: int, fields: Mapping[bytes, bytes]) -> int:
    """About what Redis takes for a hash: entries, strings and the allocator's size classes."""

    def allocated(size: int) -> int:
        if size <= 128:
            return -(-size // 16) * 16
        step = 1 << max(4, (size - 1).bit_length() - 3)
        return -(-size // step) * step

    total = allocated(key_bytes + 9) + 96
    for name, data in fields.items():
        total += 32 + allocated(len(name) + 3) + allocated(len(data) + 5)
    return total


def feast_row(stored: Mapping[bytes, bytes], written: Mapping[str, Sequence[int]]) -> dict[bytes, bytes]:
    """A row as Feast keeps it: values under 4-byte names with a few bytes around, and of each view time and version.

    Parameters
    ----------
    stored : mapping of bytes to bytes
        State fields; the private ones are left out.
    written : mapping of str to sequence of int
        Views that others than the folds write: bytes of their values.
    """
    values = [data + b"...." for field, data in stored.items() if not field.startswith(b"_")]
    views = {field.partition(b":")[0] for field in stored if not field.startswith(b"_")}
    values += [bytes(size) for sizes in written.values() for size in sizes]
    views |= {view.encode() for view in written}
    row = {b"%04d" % at: data for at, data in enumerate(values)}
    for view in views:
        row[b"_ts:" + view], row[b"_lr:" + view] = bytes(12), bytes(28)
    return row


class _Nothing:
    """A store that holds nothing, and a catalogue of 40 categories."""

    def load(self, partition: int, keys: Sequence[str]) -> list[Mapping[bytes, bytes]]:
        return [{} for _ in keys]

    def due_between(self, partition: int, after_ms: int, until_ms: int) -> list[tuple[str, int]]:
        return []

    def at(self, item_id: str, append_ts_ms: int) -> CatalogueItem | None:
        return CatalogueItem(item_id, 1, 0, (f"category-{hash_of(item_id) % 40}",), "", 0.0, True, 0)


def hash_of(text: str) -> int:
    """A small stable hash."""
    return zlib.crc32(text.encode())


class Memory:
    """One partition of one fold in memory."""

    def __init__(self, fold: Fold, *, numbered: bool, items: ItemVersions | None = None) -> None:
        self.fields: dict[str, dict[bytes, bytes]] = defaultdict(dict)
        self.outputs: list[Output] = []
        self._offset = 0
        nothing = _Nothing()
        self._part = PartitionFold(
            fold, partition=0, n_partitions=1, generation=1, position=Position(1, -1, 0), clock_ms=0, sources={},
            reader=nothing, items=items or nothing, clock="wall", numbered_input=numbered, spill=self.write,
            cache_states=1 << 40, limits=_UNLIMITED, horizon_ms=1 << 60,
        )  # fmt: skip
        self._fold = fold

    def feed(self, value: bytes, ts_ms: int, *, key: bytes | None = None) -> None:
        record = Record("t", 0, self._offset, key, value, (), ts_ms)
        self._offset += 1
        self._part.feed(record, self._fold.parse(record))

    def write(self) -> None:
        self._part.close()
        for call in self._part.calls:
            for key, fields in call.pages.items():
                stored = self.fields[key]
                for name, data in fields.items():
                    if data:
                        stored[name] = data
                    else:
                        stored.pop(name, None)
            call.seal()
            self.outputs += call.outputs
        self._part.calls.clear()


def events_of_user(
    rng: random.Random, user: str, n: int, item: Callable[[], str], *, start_ms: int = _START_MS, span_ms: int
) -> Iterator[Event]:
    """`n` events of a user over a span, a tenth of them exposures of 10 slots, in sessions."""
    at_ms = start_ms
    for number in range(n):
        at_ms += int(rng.expovariate(1.0) * span_ms / n)
        name = f"{user}-{number:08d}-0123456789abcdef"
        if rng.random() < 0.1:
            slots = [
                ExposureSlot(
                    item_id=item(), catalogue_version=1, propensity=0.5, p_shown=[0.2, 0.02], p_first=[0.3, 0.02],
                    phi=[rng.random() for _ in range(16)],
                )
                for _ in range(10)
            ]  # fmt: skip
            exposure = Exposure(
                policy="thompson", arm="a", base_model="0123456789abcdef", schema="s1", drawn=True,
                heads=["click", "dismiss"], slots=slots,
            )  # fmt: skip
            yield Event(
                event_id=name, request_id=name, type=_T.EVENT_TYPE_EXPOSURE, user_id=user, event_ts_ms=at_ms,
                surface="home", exposure=exposure,
            )  # fmt: skip
        else:
            yield Event(
                event_id=name, type=rng.choice(_MIX), user_id=user, item_id=item(), event_ts_ms=at_ms, surface="home",
                value=rng.choice((3.0, 20.0, 60.0)) % 10.1, position=rng.randrange(1, 11),
            )  # fmt: skip


def sizes(fields: Mapping[bytes, bytes]) -> Counter[str]:
    """Bytes of each part, field names included."""
    found: Counter[str] = Counter()
    for name, data in fields.items():
        found[part_of(name)] += len(name) + len(data)
    return found


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a population needs.

    Attributes
    ----------
    user_parts, item_parts : dict
        Mean bytes of each part of a user and of an item, field names included.
    user_bytes, item_bytes : float
        Their sums.
    user_most, item_most : int
        Parts of the busiest user and item of the grid.
    user_redis, item_redis : float
        Mean bytes in Redis: state and Feast row, with Redis' own.
    redis_bytes : float
        Of the whole population.
    replies_bytes : float
        Of the replies that are kept for retries, in Redis beside it.
    log_bytes_an_event : dict
        Topic -> bytes, uncompressed, for one event.
    log_bytes : dict
        Topic -> bytes on disk at `compression`, over the topic's retention.
    compression : float
        Compressed / plain of a batch of events, by zlib (lz4 is within a fifth of it).
    """

    user_parts: dict[str, float]
    item_parts: dict[str, float]
    user_bytes: float
    item_bytes: float
    user_most: int
    item_most: int
    user_redis: float
    item_redis: float
    redis_bytes: float
    replies_bytes: float
    log_bytes_an_event: dict[str, float]
    log_bytes: dict[str, float]
    compression: float


def estimate(
    settings: Settings,
    program: FeatureProgram,
    *,
    users: int,
    items: int,
    events_a_user: float = 40.0,
    events_a_day: float = 0.0,
    requests_a_second: float = 0.0,
    exponent: float = 1.0,
    seed: int = 1,
) -> Estimate:
    """Estimate a Zipf population.

    Parameters
    ----------
    users, items : int
    events_a_user : float
        Mean events of a user in 30 days; user number r has events in proportion to r ** -exponent, at least one.
    events_a_day : float
        For the log; 0 = `users * events_a_user / 30`.
    requests_a_second : float
        Rank requests; each reply is kept for `ranker.reply_ttl_s`.

    Returns
    -------
    Estimate
        Takes about 5 s.
    """
    rng = random.Random(seed)

    def item() -> str:
        return f"item-{int(items * rng.random() ** 3):08d}"

    user_curve: list[Counter[str]] = []
    user_redis: list[float] = []
    logged: Counter[str] = Counter()
    n_events = 0
    sample: list[bytes] = []
    fold = UserFold(settings, program, token=b"")
    vector = 4 * settings.llm.dimensions + 6
    for n in GRID:
        memory = Memory(fold, numbered=False)
        name = f"user-{n:012d}"
        for event in events_of_user(rng, name, n, item, span_ms=_SPAN_MS):
            value = event.SerializeToString()
            memory.feed(value, event.event_ts_ms, key=name.encode())
            logged["events"] += len(value) + len(name) + _KAFKA_RECORD
            n_events += 1
            if len(sample) < 1000:
                sample.append(value)
            if n_events % 4 == 0:
                memory.write()  # what is sent for an event depends little on how many share a call
        # Three hours later: most users are away, their windows are closed.
        end_ms = event.event_ts_ms + 3 * 3_600_000
        end = Event(event_id="end", type=_T.EVENT_TYPE_SEARCH, user_id="another", event_ts_ms=end_ms)
        memory.feed(end.SerializeToString(), end_ms)
        memory.write()
        stored = memory.fields[name]
        user_curve.append(sizes(stored))
        row = feast_row(stored, {"user_vectors": (vector, vector, vector, 25, 8)})
        user_redis.append(redis_bytes(len(name) + 40, stored) + redis_bytes(len(name) + 40, row))
        for output in memory.outputs:
            logged[output.topic] += len(output.value) + len(output.key or b"") + _KAFKA_RECORD
    item_curve, item_redis, row_bytes = _items(settings, program, fold, rng)
    logged["item-rows"] += int(row_bytes * n_events)

    user_parts, user_total, user_mean_redis = _over(users, events_a_user, exponent, user_curve, user_redis)
    events_an_item = users * events_a_user * 2.0 / max(1, items)
    item_parts, item_total, item_mean_redis = _over(items, events_an_item, exponent, item_curve, item_redis)
    a_day = events_a_day or users * events_a_user / 30
    plain = b"".join(sample)
    compression = len(zlib.compress(plain, 1)) / len(plain)
    per_event = {topic: n / n_events for topic, n in sorted(logged.items()) if topic != "dead-letter"}
    per_event["decisions"] = 0.1 * _DECISION
    days = {"user-changes": 1, "item-rows": 1}
    return Estimate(
        user_parts=user_parts,
        item_parts=item_parts,
        user_bytes=user_total,
        item_bytes=item_total,
        user_most=max(sum(each.values()) for each in user_curve),
        item_most=max(sum(each.values()) for each in item_curve),
        user_redis=user_mean_redis,
        item_redis=item_mean_redis,
        redis_bytes=users * user_mean_redis + items * item_mean_redis,
        replies_bytes=requests_a_second * settings.ranker.reply_ttl_s * _REPLY,
        log_bytes_an_event=per_event,
        log_bytes={topic: n * a_day * days.get(topic, 7) * compression for topic, n in per_event.items()},
        compression=compression,
    )


def _items(
    settings: Settings, program: FeatureProgram, fold: UserFold, rng: random.Random
) -> tuple[list[Counter[str]], list[float], float]:
    """Sizes of an item after each number of events of the grid, and bytes of item rows that an event causes."""
    users, items = Memory(fold, numbered=False), Memory(ItemFold(settings, program), numbered=True)
    others = iter(range(1 << 40))
    name = "item-00000000"
    vector = 4 * settings.llm.dimensions + 6
    curve: list[Counter[str]] = []
    redis: list[float] = []
    at_ms, row_bytes, n = _START_MS, 0.0, 0
    for goal in GRID:
        while n < goal:
            user = f"user-{next(others):012d}"
            for number in range(3):
                n += number == 1
                at_ms += _SPAN_MS // (3 * GRID[-1])
                shown = name if number == 1 else f"item-{int(4000 * rng.random() ** 2):08d}"
                event = Event(
                    event_id=f"{user}-{number}", type=rng.choice(_MIX), user_id=user, item_id=shown, event_ts_ms=at_ms,
                    surface="home", value=8.0,
                )  # fmt: skip
                users.feed(event.SerializeToString(), at_ms, key=user.encode())
        users.write()
        for output in users.outputs:
            if output.topic == "item-effects":
                items.feed(output.value, at_ms)
        users.outputs.clear()
        items.write()
        stored = items.fields[name]
        curve.append(sizes(stored))
        row = feast_row(stored, {"item_catalogue": _CATALOGUE_ROW, "item_semantic": (vector, 25, 2)})
        redis.append(redis_bytes(len(name) + 40, stored) + redis_bytes(len(name) + 40, row))
    # An event changes a tile page a slide, the trend and a page of neighbours; a poll of 1,000 events shares rows of
    # items that are in many, so half of it is what is sent.
    pages = [len(data) for field, data in items.fields[name].items() if not field.startswith(b"_")]
    row_bytes = 0.5 * (4 * float(np.mean(pages)) + len(name) + _KAFKA_RECORD)
    return curve, redis, row_bytes


def _over(
    n: int, mean: float, exponent: float, curve: Sequence[Counter[str]], redis: Sequence[float]
) -> tuple[dict[str, float], float, float]:
    """Means over a Zipf population of `n` with `mean` events each."""
    ranks = np.arange(1, n + 1, dtype=np.float64)
    weights = ranks**-exponent
    events = np.maximum(1.0, weights * (mean * n / weights.sum()))
    at = np.log2(np.clip(events, GRID[0], GRID[-1]))
    knots = np.log2(GRID)
    names = sorted({name for sizes in curve for name in sizes})
    parts = {name: float(np.interp(at, knots, [sizes[name] for sizes in curve]).mean()) for name in names}
    return parts, sum(parts.values()), float(np.interp(at, knots, redis).mean())


def as_json(found: Estimate) -> dict[str, Any]:
    """Plain form, whole bytes."""
    body: dict[str, Any] = {}
    for name, value in vars(found).items():
        if isinstance(value, dict):
            body[name] = {key: round(each, 1) for key, each in value.items()}
        else:
            body[name] = round(value, 3) if name == "compression" else round(value)
    return body
