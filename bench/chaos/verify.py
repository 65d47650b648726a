"""What is left after the attack, read as a fresh reader reads it, against the recount of the log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from bench.chaos.traffic import MOVERS
from features.apply import open_store
from features.archive import part_dir, read_part
from features.examples import examples_dir, read_examples
from features.hashing import item_hash
from features.item_load import load_from_feast, parity
from features.item_table import ItemTable
from features.item_vectors import active_space, read_vectors
from features.program import FeatureProgram
from features.redis import connect
from features.state.params import state_params
from features.user_row import UserRowReader, UserSchema
from features.vectors import NEGATIVE_SHARE, WINDOWS_MS
from liverank.kafka import Record, Tp, end_offsets
from liverank.settings import Settings
from liverank.v1.event_pb2 import DeadLetter
from tests.recount.expected import Recount, WindowSums, stands_for
from tests.recount.live import Log, live_differences, logged, recount_of
from tests.recount.namespace import (
    Found,
    accepted,
    catalogue_of,
    folded,
    found,
    partials_of,
    read_topic,
    recount,
    same_item,
    state_keys,
)

__all__ = ["Report", "settle_agents", "verify"]

AGENTS = {"vectors": "user-changes", "catalogue": "items", "examples": "examples", "dead-letters": "dead-letter"}


@dataclass
class Report:
    """What was compared, and every difference.

    Attributes
    ----------
    checked : Counter
        How many of each.
    differences : list of str
    """

    checked: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)

    def same(self, what: str, got: object, wanted: object) -> None:
        """Note a difference."""
        if got != wanted:
            self.differences.append(f"{what}: got {str(got)[:200]}, wanted {str(wanted)[:200]}")


def settle_agents(settings: Settings, timeout_s: float = 180.0) -> None:
    """Wait until the agents have handled everything, as they say in Redis.

    Raises
    ------
    RuntimeError
        An agent stays behind.
    """
    deadline_s = time.monotonic() + timeout_s
    ns = settings.namespace
    while True:
        behind = []
        with connect(settings) as client:
            for agent, short in AGENTS.items():
                topic = settings.topic(short)
                tps = [Tp(topic, p) for p in range(settings.stack.partitions)]
                for tp, end in end_offsets(settings.kafka.bootstrap, tps).items():
                    have = int(client.hget(f"{ns}:position:{agent}:{tp.partition}", topic) or 0)
                    if have < end:
                        behind.append((agent, tp.partition, have, end))
        if not behind:
            return
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"agents stay behind (agent, partition, position, end): {behind[:8]}")
        time.sleep(0.5)


def verify(settings: Settings, program: FeatureProgram, sent_ids: Iterable[str]) -> Report:
    """Compare everything; nothing may run any more.

    Parameters
    ----------
    program : FeatureProgram
        What the workers ran.
    sent_ids : iterable of str
        Event ids that producers were told to have been delivered.
    """
    report = Report()
    records = folded(settings)
    log = logged(records, settings.stack.partitions)
    catalogue = catalogue_of(settings)
    counted = recount_of(log, catalogue, state_params(settings))
    have = found(settings)
    rows = accepted(settings)
    report.checked["records"] = len(records)
    report.checked["events sent"] = len(set(sent_ids))
    report.checked["repeats dropped"] = counted.repeats
    report.checked["lost"] = len(set(sent_ids) - set(log.ids.values()))
    report.same("events lost", report.checked["lost"], 0)
    as_of_ms = int(time.time() * 1000) + 60_000

    _refolded(report, settings, program, have, rows)
    report.differences += live_differences(
        counted, program=program, states=state_keys(have), partials=partials_of(have), examples=rows,
        as_of_ms=as_of_ms,
    )  # fmt: skip
    users, items = sorted(counted.users), sorted(counted.items)
    store = open_store(settings, timeout_s=10.0)
    read = _feast_rows(store, program, users, items)
    report.differences += [
        f"through Feast: {each}"
        for each in live_differences(
            counted, program=program, states=read, partials=partials_of(have), examples=rows, as_of_ms=as_of_ms
        )
    ]
    report.checked.update(users=len(users), items=len(items), examples=len(rows), statistics=len(have.partials))
    _windows(report, store, program, counted, users[:: max(1, len(users) // 100)], as_of_ms)
    _item_table(report, settings, program, store, items, as_of_ms)
    _vectors(report, settings, counted, UserRowReader(store))
    _example_files(report, settings, counted)
    _dead_letters(report, settings, log, counted)
    _archive(report, settings, records)
    return report


def _refolded(report: Report, settings: Settings, program: FeatureProgram, have: Found, rows: Sequence[Any]) -> None:
    """The log folded once more in memory: users to the byte, items to 1e-9."""
    expected, examples = recount(settings, program)
    report.same("states", set(have.states) ^ set(expected.states), set())
    for name, fields in expected.states.items():
        mine = have.states.get(name, {})
        if ":i:" in name:
            try:
                same_item(name, mine, fields)
            except (AssertionError, KeyError) as error:
                report.differences.append(f"item state {name}: {str(error)[:300]}")
        elif mine != fields:
            wrong = sorted(f for f in set(mine) | set(fields) if mine.get(f) != fields.get(f))
            report.differences.append(f"state {name}: fields {wrong} differ from the log folded again")
    for (kind, key), row in expected.rows.items():
        mine = have.rows.get((kind, key), {})
        if kind == "u":
            wrong = sorted(f for f in row if mine.get(f) != row[f])
            if wrong:
                report.differences.append(f"row {kind} {key}: {len(wrong)} features differ from the log folded again")
    report.same("partials", have.partials, expected.partials)
    report.same(
        "label rows",
        sorted(row.SerializeToString(deterministic=True) for row in rows),
        sorted(row.SerializeToString(deterministic=True) for row in examples),
    )
    report.checked["states to the byte"] = len(expected.states)


def _feast_rows(
    store: Any, program: FeatureProgram, users: Sequence[str], items: Sequence[str]
) -> dict[tuple[str, str], Mapping[bytes, bytes]]:
    """Public fields of all users and items, as `get_online_features` returns them."""
    schema = UserSchema(program)
    item_features = [
        f"{view.name}:{feature}"
        for view in program.of_entity("item")
        if view.name != "item_catalogue"
        for feature in (*view.page_names, *view.fields)
    ]
    user_features = [name for name in schema.features if not name.startswith("user_vectors:")]
    read: dict[tuple[str, str], Mapping[bytes, bytes]] = {}
    for kind, join, features, keys in (("u", "user_id", user_features, users), ("i", "item_id", item_features, items)):
        for start in range(0, len(keys), 200):
            some = keys[start : start + 200]
            answer = store.get_online_features(
                features, [{join: key} for key in some], full_feature_names=True
            ).to_dict()
            for at, key in enumerate(some):
                fields = {
                    name.encode(): answer[name.replace(":", "__", 1)][at]
                    for name in features
                    if answer[name.replace(":", "__", 1)][at]
                }
                if fields:
                    read[kind, key] = fields
    return read


def _windows(
    report: Report, store: Any, program: FeatureProgram, counted: Recount, users: Sequence[str], as_of_ms: int
) -> None:
    """Feast's on-demand windows of some users against the recount, 1e-6."""
    sums_of = {user: WindowSums(counted.users[user].facts) for user in users}
    for view in program.of_entity("user"):
        sums = [aggregate for aggregate in view.aggregates if aggregate.function == "sum"]
        if not sums:
            continue
        answer = store.get_online_features(
            [f"user_windows:{aggregate.name}" for aggregate in sums],
            [{"user_id": user, "as_of_ms": as_of_ms} for user in users],
        ).to_dict()
        for aggregate in sums:
            for at, user in enumerate(users):
                wanted = sums_of[user](aggregate.column, aggregate.window_ms, aggregate.slide_ms, as_of_ms)
                got = answer[aggregate.name][at]
                report.checked["windows through Feast"] += 1
                if got != pytest.approx(wanted, rel=1e-6, abs=1e-6):
                    report.differences.append(f"user {user}: Feast's {aggregate.name} is {got}, wanted {wanted}")


def _item_table(
    report: Report, settings: Settings, program: FeatureProgram, store: Any, items: Sequence[str], as_of_ms: int
) -> None:
    """The columns that a fresh ranker loads, against Feast's windows."""
    table = ItemTable()
    table.set_program(program)
    with connect(settings) as client:
        load_from_feast(table, client, settings.feast_project)
    known = [item for item in items if item in table.rows]
    report.same("items in the ranker's table", len(known), len(items))
    for each in parity(table, store, known, as_of_ms):
        report.differences.append(f"item table: {each}")
    report.checked["items in a fresh ranker's table"] = len(known)


def _vectors(report: Report, settings: Settings, counted: Recount, reader: UserRowReader) -> None:
    """User vectors against the histories of the recount, 1e-6 of their length.

    Left out, and counted: users who met an item whose text (and so vector) changed during the run, and those whose
    history is empty.
    """
    with connect(settings) as client:
        space = active_space(client, settings)
        if space is None:
            report.differences.append("there is no vector space")
            return
        names: dict[int, str] = {}
        for item in counted.items:
            names[item_hash(item)] = item
        vectors = read_vectors(client, settings, sorted(counted.items), space)
    moving = {item_hash(f"i{number}") for number in range(MOVERS)}
    for user, count in counted.users.items():
        entries = [(entry[:4], 1.0) for entry in (*count.history.elements(), *count.abandoned.elements())]
        entries += [entry for week in count.older.values() for entry in stands_for(week)]
        if not entries:
            continue
        if any(entry[1] in moving or not _settled(names.get(entry[1], "")) for entry, _ in entries):
            report.checked["vectors of changing items, left out"] += 1
            continue
        row = reader.read(user)
        wanted = np.zeros((3, space.dim))
        for (ts_ms, hashed, _, sixteenths), share in entries:
            vector = vectors.get(names.get(hashed, ""))
            if vector is None:
                continue
            for at, window_ms in enumerate(WINDOWS_MS):
                if 0 <= row.computed_ms - ts_ms < window_ms:
                    weight = share * sixteenths / 16 * (NEGATIVE_SHARE if sixteenths < 0 else 1.0)
                    wanted[at] += weight * vector.astype(np.float64)
        length = np.linalg.norm(wanted, axis=1, keepdims=True)
        wanted = np.where(length < 1e-9, 0.0, wanted / (length + 1.0))
        report.checked["vectors"] += 1
        got = row.vectors
        if got.shape != wanted.shape or not np.allclose(got, wanted, rtol=1e-5, atol=1e-6):
            off = abs(got - wanted).max() if got.shape == wanted.shape else got.shape
            report.differences.append(f"user {user}: vectors off by {off}")


def _settled(item_id: str) -> bool:
    """Whether an item was there from the start: a new one gets its vector some time after its first events."""
    from bench.chaos.traffic import N_ITEMS

    return not item_id.startswith("i") or int(item_id[1:]) < N_ITEMS


def _example_files(report: Report, settings: Settings, counted: Recount) -> None:
    """Label rows in Parquet, as training reads them."""
    table = read_examples(examples_dir(settings)).to_pylist()
    report.checked["label rows in files"] = len(table)
    mine = {}
    for row in table:
        labels = tuple(sorted(n.removeprefix("outcome_") for n, v in row.items() if n.startswith("outcome_") and v))
        mine[row["request_id"], row["position"]] = (labels, row["seen"], row["correction"])
    wanted = {key: tuple(row) for key, row in counted.rows.items()}
    report.same("slots in files", len(mine), len(wanted))
    wrong = [key for key in wanted if mine.get(key) != wanted[key]]
    if wrong:
        report.differences.append(f"{len(wrong)} label rows in files differ, e.g. {wrong[0]}: {mine.get(wrong[0])}")


def _archive(report: Report, settings: Settings, records: Sequence[Record]) -> None:
    """The archive holds every record once, to the byte, but for the last that came while the workers ended."""
    for partition in range(settings.stack.partitions):
        folder = part_dir(settings, "events", 1, partition)
        archived = {each.offset: each.value for each in read_part(folder, "events", partition)}
        report.checked["records in the archive"] += len(archived)
        end = max(archived, default=-1)
        log = {each.offset: each.value for each in records if each.partition == partition}
        report.checked["records after the archive's end"] += sum(offset > end for offset in log)
        wrong = [offset for offset, value in log.items() if offset <= end and archived.get(offset) != value]
        report.same(f"archive of partition {partition}: wrong or missing", len(wrong), 0)


def _dead_letters(report: Report, settings: Settings, log: Log, counted: Recount) -> None:
    """Every refused record is a dead letter with its reason, and nothing else is."""
    letters: dict[tuple[int, int], set[str]] = {}
    topic = settings.topic("events", 1)
    for record in read_topic(settings, settings.topic("dead-letter")):
        letter = DeadLetter.FromString(record.value)
        if letter.topic == topic:
            letters.setdefault((letter.partition, letter.offset), set()).add(letter.reason)
    beyond = set(counted.beyond)
    wanted = {place: {reason} for place, reason in log.refused.items()}
    got_beyond = {place for place, reasons in letters.items() if "beyond_dedup_horizon" in reasons}
    refused = {place: reasons for place, reasons in letters.items() if place not in got_beyond}
    report.same("refused records", refused, wanted)
    report.same("ids beyond the horizon", {log.ids.get(place, "") for place in got_beyond}, beyond)
    report.checked["dead letters"] = len(letters)
