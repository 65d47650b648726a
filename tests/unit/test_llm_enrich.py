"""Enrichment: no call twice, cap, quarantine, estimate; the view's source file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from features.item_vectors import Space
from features.llm import CostCapError, LocalProvider, ProviderConfigError, ProviderUnavailableError, StubProvider
from features.llm.cache import AnswerCache, CacheCorruptError
from features.llm.cost import Ledger, Prices
from features.llm.enrich import Enriched, Enrichment, space_of
from features.llm.text import ATTRIBUTES, attribute_faults, item_text
from features.semantic import write_parquet
from liverank.v1.event_pb2 import Attribute
from liverank.v1.item_pb2 import Item


def items(n: int = 300) -> list[Item]:
    return [
        Item(item_id=f"i{i}", title=f"title number {i}", text=f"words about thing{i % 7}", categories=[f"c{i % 3}"])
        for i in range(n)
    ]


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[AnswerCache]:
    made = AnswerCache(tmp_path / "cache.sqlite")
    yield made
    made.close()


def run(
    provider: Any, cache: AnswerCache, what: list[Item], ledger: Ledger | None = None
) -> tuple[list[Enriched], Enrichment]:
    job = Enrichment(provider, cache, ledger or Ledger(Prices()))
    return list(job.run(what)), job


def test_LLM_2_a_second_run_makes_no_call_and_gives_the_same(cache: AnswerCache) -> None:
    provider = StubProvider()
    first, job = run(provider, cache, items())
    calls = (provider.embed_calls, provider.describe_calls)
    assert calls == (2, 300)
    assert (job.tally.items, job.tally.embedded, job.tally.described) == (300, 300, 300)
    second, again = run(provider, cache, items())
    assert (provider.embed_calls, provider.describe_calls) == calls
    assert again.tally.from_cache == again.tally.described_from_cache == 300
    for one, two in zip(first, second, strict=True):
        assert (one.item_id, one.attributes) == (two.item_id, two.attributes)
        np.testing.assert_array_equal(one.vector, two.vector)


def test_LLM_2_a_killed_run_resumes_without_a_repeated_call(tmp_path: Path) -> None:
    seen: list[str] = []

    def answer(text: str, call: int) -> dict[str, Any]:
        if call == 120:
            raise ProviderUnavailableError("away")
        seen.append(text)
        return {"summary": "s", "topics": ["t"], "mood": "m", "audience": "a"}

    cache = AnswerCache(tmp_path / "cache.sqlite")
    with pytest.raises(ProviderUnavailableError):
        run(StubProvider(answer=answer), cache, items())
    cache.close()
    assert len(seen) == 120
    cache = AnswerCache(tmp_path / "cache.sqlite")
    out, _ = run(StubProvider(answer=lambda text, _: answer(text, -1)), cache, items())
    cache.close()
    assert len(out) == 300
    assert len(seen) == len(set(seen)) == 300


def test_LLM_2_malformed_answers_are_retried_then_quarantined(cache: AnswerCache) -> None:
    def answer(text: str, call: int) -> dict[str, Any]:
        if "number 3." in text or ("number 5." in text and call % 3):
            return {"summary": "", "topics": "no list", "extra": 1}
        return {"summary": "s", "topics": ["t"], "mood": "m", "audience": "a"}

    provider = StubProvider(answer=answer)
    out, job = run(provider, cache, items(10))
    by_id = {row.item_id: row for row in out}
    assert job.tally.quarantined == ["i3"]
    assert by_id["i3"].attributes == {}
    assert by_id["i3"].vector.any()
    assert by_id["i5"].attributes["summary"] == "s"
    calls = provider.describe_calls
    run(provider, cache, items(10))
    assert provider.describe_calls == calls
    assert cache.clear_quarantine() == 1
    run(provider, cache, items(10))
    assert provider.describe_calls == calls + 3


def test_LLM_6_the_job_stops_before_the_cap_and_goes_on_above_it(cache: AnswerCache) -> None:
    prices = Prices(input=100.0, output=300.0)
    full = Enrichment(StubProvider(), cache, Ledger(prices, cap=1.0)).estimate(items(), prices)
    cap = full.cost / 2
    ledger = Ledger(prices, cap=cap)
    with pytest.raises(CostCapError, match=r"raise llm\.max_cost"):
        run(StubProvider(), cache, items(), ledger)
    assert 0 < ledger.spent <= cap
    out, _ = run(StubProvider(), cache, items(), Ledger(prices, cap=10 * full.cost))
    assert len(out) == 300
    with pytest.raises(ProviderConfigError, match="max_cost"):
        Ledger(prices)


def test_LLM_6_the_estimate_is_within_10_percent(cache: AnswerCache) -> None:
    prices = Prices(input=1.0)
    ledger = Ledger(prices, cap=1e9)
    provider = StubProvider(chat_model="")
    estimate = Enrichment(provider, cache, ledger).estimate(items(), prices)
    run(provider, cache, items(), ledger)
    assert estimate.cost == pytest.approx(ledger.spent, rel=0.10)
    assert estimate.calls == ledger.calls
    assert Enrichment(provider, cache, ledger).estimate(items(), prices).calls == 0


def test_local_vectors_need_no_chat_model_and_leave_out_items_without_text(cache: AnswerCache) -> None:
    out, job = run(LocalProvider(64), cache, [*items(3), Item(item_id="blank")])
    assert [row.item_id for row in out] == ["i0", "i1", "i2"]
    assert job.tally.without_text == 1
    assert str(job.space) == "local/l2_supercat/64/t1"


def test_the_space_names_everything_that_shapes_a_vector() -> None:
    spaces = {
        str(space_of(StubProvider(64, chat_model=""))),
        str(space_of(StubProvider(32, chat_model=""))),
        str(space_of(StubProvider(64))),
        str(space_of(StubProvider(64, chat_model="other/chat"))),
    }
    assert len(spaces) == 4
    for name in spaces:
        assert str(Space.parse(name)) == name


def test_item_text_is_fixed_and_holds_no_user_data() -> None:
    item = Item(
        item_id="x",
        title="Alien",
        text="In space no one can hear you scream.",
        categories=["Horror", "SciFi"],
        creator="Ridley Scott",
        price=3.5,
        attributes={"z": Attribute(text="1979"), "a_b": Attribute(flag=True), "n": Attribute(number=3)},
    )
    assert item_text(item) == "Alien. In space no one can hear you scream.. Horror, SciFi. Ridley Scott. a b. 1979"
    assert item_text(item, structured=False) == "Alien. In space no one can hear you scream."
    assert item_text(item, attributes={"summary": "S", "topics": ["t", "u"]}).endswith("1979. S. t, u")
    assert item_text(Item()) == ""


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({}, "lacks 'summary'"),
        ({"summary": "s", "topics": [], "mood": "", "audience": ""}, "0 entries"),
        ({"summary": "s", "topics": [1], "mood": "", "audience": ""}, r"topics[0] must be a string"),
        ({"summary": "s" * 401, "topics": ["t"], "mood": "", "audience": ""}, "401 characters"),
        ({"summary": "s", "topics": "t", "mood": "", "audience": ""}, "must be a list"),
        ({"summary": "s", "topics": ["t"], "mood": "", "audience": "", "sql": "x"}, "unknown 'sql'"),
    ],
)
def test_attributes_are_checked_against_the_schema(body: dict[str, Any], fault: str) -> None:
    assert any(fault in found for found in attribute_faults(body, ATTRIBUTES.schema))


def test_the_cache_key_holds_content_prompt_and_model() -> None:
    assert AnswerCache.key("a", "bc") != AnswerCache.key("ab", "c")
    assert AnswerCache.key("vector", "m", "64", "t") == AnswerCache.key("vector", "m", "64", "t")


def test_a_file_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no database" * 100)
    with pytest.raises(CacheCorruptError, match="no answer cache"):
        AnswerCache(tmp_path / "x")


def test_LLM_3_the_view_file_is_replaced_whole(tmp_path: Path, cache: AnswerCache) -> None:
    path = tmp_path / "ns" / "item_semantic.parquet"
    rows, job = run(StubProvider(8), cache, items(5))
    assert write_parquet(path, rows, job.space, now_ms=1_700_000_000_000) == 5
    table = pq.read_table(path).to_pylist()
    assert [row["item_id"] for row in table] == ["i0", "i1", "i2", "i3", "i4"]
    assert len(table[0]["vector"]) == 8
    assert table[0]["space"] == str(job.space)
    assert '"topics"' in table[0]["attributes"]

    def broken() -> Any:
        yield rows[0]
        raise ProviderUnavailableError("away")

    with pytest.raises(ProviderUnavailableError):
        write_parquet(path, broken(), job.space, now_ms=1)
    assert pq.read_table(path).num_rows == 5
    assert [found.name for found in path.parent.iterdir()] == ["item_semantic.parquet"]
