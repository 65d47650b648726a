"""`liverank estimate`: bytes of a Zipf population, folded for real."""

from __future__ import annotations

import pytest

from liverank.settings import Settings
from streams.estimate import GRID, as_json, estimate, part_of, redis_bytes
from streams.worst_case import largest_user
from tests.recount.program import PROGRAM

KIB = 1024


@pytest.fixture(scope="module")
def found() -> object:
    return estimate(Settings(), PROGRAM, users=100_000, items=20_000)


def test_USE_3_mean_of_a_zipf_population_is_at_most_6_kib(found) -> None:  # type: ignore[no-untyped-def]
    assert found.user_bytes == pytest.approx(sum(found.user_parts.values()))
    assert 1 * KIB < found.user_bytes <= 6 * KIB
    assert found.user_bytes < found.user_redis < 16 * KIB


def test_the_busiest_user_of_a_month_stays_below_the_worst_case(found) -> None:  # type: ignore[no-untyped-def]
    assert GRID[-1] == 4096
    assert found.user_most <= 256 * KIB
    assert found.item_most <= 64 * KIB


def test_the_largest_user_that_events_can_make_takes_at_most_256_kib() -> None:
    largest = largest_user(Settings(), PROGRAM)
    # Every bound is pressed, not only some of them.
    least = {
        "event ids": 105, "seen": 50, "counters user_category_activity": 42, "open exposures": 13, "sessions": 9,
        "good news": 8, "counters user_activity": 4, "history": 14,
    }  # fmt: skip
    for part, size in least.items():
        assert largest.parts[part] >= size * KIB, part
    assert largest.size_bytes <= 256 * KIB


def test_every_topic_of_the_log_is_counted(found) -> None:  # type: ignore[no-untyped-def]
    wanted = {"events", "item-effects", "examples", "user-changes", "item-rows", "decisions"}
    assert wanted <= set(found.log_bytes)
    assert all(size > 0 for size in found.log_bytes.values())
    assert 0.05 < found.compression < 0.9
    body = as_json(found)
    assert body["user_bytes"] == round(found.user_bytes)


def test_replies_kept_for_retries_are_counted() -> None:
    settings = Settings(ranker={"reply_ttl_s": 600})  # type: ignore[arg-type]
    found = estimate(settings, PROGRAM, users=10, items=10, requests_a_second=5.0)
    assert 5 * 600 * 1_000 < found.replies_bytes < 5 * 600 * 2_000


def test_every_field_belongs_to_a_part() -> None:
    assert part_of(b"_d17") == "event ids"
    assert part_of(b"user_session:state") == "sessions"
    assert part_of(b"user_activity:user_activity_ab12_p00") == "counters user_activity"


def test_bytes_in_redis_are_more_than_what_is_stored() -> None:
    fields = {b"_d0": b"x" * 600, b"user_history:page_0": b"y" * 1000}
    assert sum(map(len, fields.values())) < redis_bytes(40, fields) < 2 * 1600
