"""Alert rules: every metric that a rule names exists, and each rule rings on its fault and falls silent without it."""

from __future__ import annotations

import operator
import re
import time
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import yaml

import ranker.metrics
import ranker.watch
import streams.agents.dead_letters
import streams.metrics

CHECKOUT = Path(__file__).parents[2]
FILE = CHECKOUT / "infra" / "prometheus" / "rules.yml"
RULES: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in yaml.safe_load(FILE.read_text())["groups"] for rule in group["rules"]
}
MODULES = (ranker.metrics, ranker.watch, streams.agents.dead_letters, streams.metrics)
METRIC = re.compile(r"\bliverank_[a-z0-9_]+")
COMPARE = {">": operator.gt, "<": operator.lt, "==": operator.eq, "!=": operator.ne}

FAULTS: dict[str, tuple[list[float], list[float]]] = {
    "LiverankPropensitiesWrong": ([0, 1], [0, 0]),
    "LiverankExplorationBreach": ([3], [0]),
    "LiverankNewItemOverspent": ([1], [0]),
    "LiverankHotSettingsRefused": ([1, 0], [0, 0]),
    "LiverankRankersDisagree": ([11, 12, 11], [11, 11, 11]),
    "LiverankPosteriorOld": ([-900], [-20, -900]),
    "LiverankExplorationOff": ([0, 1], [1, 1]),
    "LiverankExploresTooMuch": ([0.3], [0.08]),
    "LiverankStreamStandsStill": ([1, 90], [1, 2]),
    "LiverankRepliesLost": ([2], [0]),
    "LiverankDeliveryFails": ([0, 4], [0, 0]),
    "LiverankIndexRecallLow": ([0.99, 0.6], [0.97, 0.93]),
    "LiverankProgramInvalid": ([1], [0]),
    "LiverankDeadLetters": ([60, 70], [40, 3]),
}
"""Per rule: values of its metric over series (of an increase: the increase; of a timestamp: seconds from now) with the
fault, and without.
"""


def existing() -> set[str]:
    """Names as Prometheus scrapes them."""
    names: set[str] = set()
    for family in prometheus_client.REGISTRY.collect():
        names.add(family.name)
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "summary": ("_count", "_sum")}
        names |= {family.name + suffix for suffix in suffixes.get(family.type, ())}
        if family.type == "counter":
            names.discard(family.name)
    return names


def rings(expression: str, values: list[float]) -> bool:
    """Evaluate the few shapes of expression that the rules have."""
    left, relation, limit = re.fullmatch(r"(.+) (>|<|==|!=) ([\d.]+)", expression).groups()  # type: ignore[union-attr]
    now = time.time()
    if left.startswith("time() - "):
        left, values = left.removeprefix("time() - "), [now + value for value in values]
        found = now - max(values)
    elif left.startswith("max(") and " - min(" in left:
        found = max(values) - min(values)
    else:
        how = left.partition("(")[0].split()[0]
        found = {"max": max, "min": min, "sum": sum, "increase": max}[how](values)
    return bool(COMPARE[relation](found, float(limit)))


def test_OPS_2_every_metric_of_a_rule_exists() -> None:
    known = existing()
    for name, rule in RULES.items():
        named = METRIC.findall(rule["expr"])
        assert named, name
        for metric in named:
            assert metric in known, f"{name} asks for {metric}"


@pytest.mark.parametrize("name", sorted(RULES))
def test_OPS_2_a_rule_rings_on_its_fault_and_falls_silent(name: str) -> None:
    broken, sound = FAULTS[name]
    assert rings(RULES[name]["expr"], broken)
    assert not rings(RULES[name]["expr"], sound)


def test_OPS_2_rules_say_what_happened_and_what_to_do() -> None:
    assert set(FAULTS) == set(RULES)
    for name, rule in RULES.items():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, name
        assert rule["labels"]["severity"] in ("page", "warn"), name
        assert set(rule["annotations"]) == {"summary", "description"}, name


def test_BAN_10_every_alarm_of_the_guide_has_a_rule() -> None:
    guide = (CHECKOUT / "docs" / "exploration.md").read_text()
    alarms = {
        name for row in re.findall(r"^\| \*\*(.+?)\*\* \|", guide, flags=re.MULTILINE) for name in METRIC.findall(row)
    }
    asked = {metric for rule in RULES.values() for metric in METRIC.findall(rule["expr"])}
    assert alarms
    assert alarms <= asked
