"""Compare what the folds stored and sent with the recount; every difference is named."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from bandits.items import ItemSum
from bandits.logistic import LogisticPartial
from bandits.partials import Partial
from features.hashing import id_hash
from features.program import FeatureProgram
from features.state.trend import CHOICES, HALF_LIVES_MS
from liverank.v1.stream_pb2 import Example
from tests.recount import decoded
from tests.recount.expected import CLICK, IMPRESSION, ItemCount, Recount, UserCount, WindowSums, value_of

Fields = Mapping[bytes, bytes]
Sums = tuple[NDArray[np.float64], NDArray[np.float64], int]
RELATIVE = 1e-9


def close(a: float, b: float, relative: float = RELATIVE) -> bool:
    """Equal up to rounding."""
    return math.isclose(a, b, rel_tol=relative, abs_tol=1e-9)


def user_differences(
    user_id: str, count: UserCount, fields: Fields, program: FeatureProgram, as_of_ms: int, timeout_ms: int
) -> list[str]:
    """Name every difference between a user's stored fields and the recount."""
    found: list[str] = []

    def same(name: str, got: object, wanted: object) -> None:
        if got != wanted:
            found.append(f"user {user_id}: {name}: got {got!r}, wanted {wanted!r}")

    same("history", decoded.history_entries(fields), count.history)
    same("older", decoded.older_weeks(fields), count.older)
    same("abandonments", decoded.abandonments(fields), count.abandoned)
    same("seen", decoded.seen_items(fields), count.seen)
    session = decoded.last_session(fields)
    if session is None or not count.sessions:
        same("session", session is None, not count.sessions)
    else:
        last = count.sessions[-1]
        for name in ("start_ms", "last_ms", "events", "clicks", "positives", "negatives", "shown"):
            same(f"session.{name}", getattr(session, name), last[name])
        same("session.closes_ms", session.closes_ms(), last["closes_ms"])
        same("session.intent_category", session.intent_category, _intent(count, last["start_ms"]))
        same("session.sessions", session.sessions, len(count.sessions))
        same("session.abandonments", session.abandonments, sum(each["abandoned"] for each in count.sessions))
    values = decoded.counters(program, "user", fields, as_of_ms)
    window_sum = WindowSums(count.facts)
    for view in program.of_entity("user"):
        for aggregate in view.aggregates:
            wanted = window_sum(aggregate.column, aggregate.window_ms, aggregate.slide_ms, as_of_ms)
            if not close(values[aggregate.name], wanted):
                same(aggregate.name, values[aggregate.name], wanted)
    for view in program.of_entity("user_category"):
        by_category = decoded.category_counters(program, fields, as_of_ms)
        for category in {fact.category for fact in count.facts if fact.category}:
            own = WindowSums([fact for fact in count.facts if fact.category == category])
            counts = by_category.get(decoded.category_key(category), {})
            for aggregate in view.aggregates:
                wanted = own(aggregate.column, aggregate.window_ms, aggregate.slide_ms, as_of_ms)
                if not close(counts.get(aggregate.name, 0.0), wanted):
                    same(f"{category}: {aggregate.name}", counts.get(aggregate.name, 0.0), wanted)
    return found


def _intent(count: UserCount, start_ms: int) -> int:
    weights: dict[int, int] = {}
    for (ts_ms, _, _, sixteenths, _, category), n in count.history.items():
        if ts_ms >= start_ms and sixteenths > 0 and category:
            weights[category] = weights.get(category, 0) + n * sixteenths
    return max(weights, key=lambda each: (weights[each], each), default=0)


def item_differences(
    item_id: str, count: ItemCount, fields: Fields, program: FeatureProgram, as_of_ms: int, signals: object
) -> list[str]:
    """Name every difference between an item's stored fields and the recount."""
    found: list[str] = []

    def compare(name: str, got: float, wanted: float) -> None:
        if not close(got, wanted):
            found.append(f"item {item_id}: {name}: got {got!r}, wanted {wanted!r}")

    values = decoded.counters(program, "item", fields, as_of_ms)
    window_sum = WindowSums(count.facts)
    for view in program.of_entity("item"):
        for aggregate in view.aggregates:
            wanted = window_sum(aggregate.column, aggregate.window_ms, aggregate.slide_ms, as_of_ms)
            compare(aggregate.name, values[aggregate.name], wanted)
    weights = decoded.neighbour_weights(fields, as_of_ms)
    expected: dict[int, float] = {}
    for ts_ms, partner, weight in count.pairs:
        expected[partner] = expected.get(partner, 0.0) + weight * 0.5 ** ((as_of_ms - ts_ms) / (20 * 86_400_000))
    if set(weights) != set(expected):
        found.append(f"item {item_id}: neighbours: got {sorted(weights)}, wanted {sorted(expected)}")
    for partner in set(weights) & set(expected):
        compare(f"neighbour {partner}", weights[partner], expected[partner])
    trends = decoded.trend_values(fields, as_of_ms)
    for at, half_life_ms in enumerate(HALF_LIVES_MS):

        def decayed(terms: Iterable[tuple[int, float]], half_life_ms: int = half_life_ms) -> float:
            return math.fsum(value * 0.5 ** ((as_of_ms - ts_ms) / half_life_ms) for ts_ms, value in terms)

        good = decayed((f.ts_ms, max(0.0, signals.of(f.kind, f.value))) for f in count.facts)  # type: ignore[attr-defined]
        clicks = decayed((f.ts_ms, 1.0) for f in count.facts if f.kind == CLICK)
        expect = decayed((f.ts_ms, f.expected or 0.0) for f in count.facts if f.kind == IMPRESSION)
        compare(f"popularity_{at}", trends[f"popularity_{at}"], good)
        chosen = decayed((f.ts_ms, 1.0) for f in count.facts if f.kind in CHOICES)
        compare(f"demand_{at}", trends[f"demand_{at}"], chosen)
        compare(f"response_{at}", trends[f"response_{at}"], (clicks + 5) / (expect + 5))
    counted = decoded.surface_counts(fields, as_of_ms)
    told = [f for f in count.facts if f.surface and (f.kind == CLICK or f.expected)]
    by_hash = {id_hash(surface): surface for surface in {f.surface for f in told}}
    for hashed in sorted(by_hash)[:16]:
        own = [f for f in told if f.surface == by_hash[hashed]]
        shown, clicked = counted.get(hashed, (0.0, 0.0))
        factors = [0.5 ** ((as_of_ms - f.ts_ms) / (30 * 86_400_000)) for f in own]
        likely = math.fsum(x * (f.expected or 0.0) for x, f in zip(factors, own, strict=True))
        compare(f"shown on {by_hash[hashed]}", shown, likely)
        clicks = math.fsum(x for x, f in zip(factors, own, strict=True) if f.kind == CLICK)
        compare(f"clicked on {by_hash[hashed]}", clicked, clicks)
    return found


def example_differences(recount: Recount, examples: Iterable[Example]) -> list[str]:
    """Name every difference between the label rows that were sent and the recount: exactly one row a slot, at most one
    correction.
    """
    found: list[str] = []
    first: dict[tuple[str, int], Example] = {}
    last: dict[tuple[str, int], Example] = {}
    for row in examples:
        key = (row.request_id, row.position)
        if row.correction:
            if key not in first or last[key].correction:
                found.append(f"row {key}: a correction without a row, or a second one")
        elif key in first:
            found.append(f"row {key}: written twice")
        first.setdefault(key, row)
        last[key] = row
    if set(last) != set(recount.rows):
        found.append(f"rows: got {sorted(last)}, wanted {sorted(recount.rows)}")
    for key in set(last) & set(recount.rows):
        row, wanted = last[key], recount.rows[key]
        labels = tuple(sorted(name for name, value in row.outcomes.items() if value))
        rewards = recount.params.rewards
        reward = sum(getattr(rewards, name) for name in wanted.labels)
        if (labels, row.seen, row.correction) != wanted or row.reward != reward:
            found.append(
                f"row {key}: got {labels}, seen {row.seen}, {row.correction}, {row.reward}; wanted {wanted}, {reward}"
            )
    return found


def kept_sums(model: str, schema: str, fields: Mapping[str, bytes]) -> dict[tuple[str, ...], Sums]:
    """What a partial's fields hold, by the recount's names: shared, per category, per item, logistic per head."""
    found: dict[tuple[str, ...], Sums] = {}
    for field, data in fields.items():
        if field.startswith("i:") and data:
            item = ItemSum.from_bytes(data)
            own = item.values
            found[model, schema, "item", field[2:]] = (own[: 1 + item.dim], own[1 + item.dim :], item.n_shown)
        elif field == "i":
            beside = Partial.from_bytes(data)
            found[model, schema, "items"] = (beside.statistics().a, beside.statistics().b, beside.n_shown)
        elif field == "d" or (field.startswith("a:") and data):
            partial = Partial.from_bytes(data)
            sums = partial.statistics()
            found[(model, schema, *([field[2:]] if field != "d" else []))] = (sums.a, sums.b, partial.n_shown)
        elif field == "l":
            logistic = LogisticPartial.from_bytes(data)
            bent, slope = logistic.curvature(), logistic.slope()
            for at in range(logistic.n_heads):
                found[model, schema, "logistic", str(at)] = (bent[at], slope[at : at + 1], logistic.n_shown)
    return found


def added(tables: Iterable[Mapping[tuple[str, ...], Sums]]) -> dict[tuple[str, ...], Sums]:
    """The sums of all partitions."""
    found: dict[tuple[str, ...], Sums] = {}
    for table in tables:
        for key, (a, b, n) in table.items():
            if key in found:
                found[key] = (found[key][0] + a, found[key][1] + b, found[key][2] + n)
            else:
                found[key] = (a, b, n)
    return found


def statistics_differences(recount: Recount, partials: Mapping[tuple[str, ...], Sums]) -> list[str]:
    """Name every difference between the bandit's sums and the recount.

    Residuals enter the sums rounded to multiples of 2**-18, so b has the tolerance of that; beside items a feature is
    up to 4.
    """
    found: list[str] = []
    if set(partials) != set(recount.sums):
        found.append(f"statistics: got {sorted(partials)}, wanted {sorted(recount.sums)}")
    for key in set(partials) & set(recount.sums):
        a, b, n = recount.sums[key]
        have_a, have_b, have_n = partials[key]
        if have_n != n:
            found.append(f"statistics {key}: n_shown {have_n}, wanted {n}")
        grid = (1e-5 if key[-1] == "items" else 4e-6) * n
        if not np.allclose(have_a, a, rtol=1e-9, atol=1e-9) or not np.allclose(have_b, b, rtol=1e-9, atol=grid):
            found.append(f"statistics {key}: A off by {abs(have_a - a).max()}, b off by {abs(have_b - b).max()}")
    return found


__all__ = [
    "added",
    "example_differences",
    "item_differences",
    "kept_sums",
    "statistics_differences",
    "user_differences",
    "value_of",
]
