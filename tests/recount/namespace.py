"""What a namespace on the real stack holds, and its comparison with two recounts of its log.

One recount folds the log again in memory with the same functions (to the byte), the other is `tests.recount.expected`,
which shares no code with the folds.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from features.archive import part_dir, write_part
from features.program import FeatureProgram
from features.redis import connect, namespace_token
from features.state.neighbours import FIELDS as NEIGHBOURS
from features.state.neighbours import decode as decode_neighbours
from features.state.params import state_params
from features.wire import entity_key, feature_field, pack_bytes
from liverank.errors import ContractError
from liverank.kafka import BEGINNING, LogReader, Record, Tp, end_offsets
from liverank.settings import Settings
from liverank.v1.stream_pb2 import Example
from streams.catalogue import Catalogue
from streams.outbox import Output
from streams.program import PROGRAM_KEY
from streams.restore import Restore
from streams.restore_parts import Stage
from streams.restore_tools import Job
from tests.recount.live import live_differences, logged, recount_of
from tests.recount.program import PROGRAM

NOW_MS = int(time.time() * 1000)


def read_topic(settings: Settings, topic: str) -> list[Record]:
    """Everything in a topic, in order per partition."""
    tps = [Tp(topic, p) for p in range(settings.stack.partitions)]
    ends = end_offsets(settings.kafka.bootstrap, tps)
    left = {tp for tp, end in ends.items() if end > 0}
    reader = LogReader(settings.kafka.bootstrap, dict.fromkeys(tps, BEGINNING))
    records: list[Record] = []
    while left:
        for record in reader.poll_batch(5000, 1.0):
            tp = Tp(record.topic, record.partition)
            if record.offset < ends[tp]:
                records.append(record)
            if record.offset + 1 >= ends[tp]:
                left.discard(tp)
    reader.close()
    return records


def settle(settings: Settings, *, timeout_s: float = 120.0, quiet_s: float = 6.5) -> None:
    """Wait until both folds have passed everything that is no tick, strays and effects included, and statistics are
    out.
    """
    deadline_s = time.monotonic() + timeout_s
    with connect(settings) as client:
        goal: dict[int, int] = {}
        asked_s = time.monotonic()
        tps = [Tp(settings.topic("events", 1), p) for p in range(settings.stack.partitions)]
        goal = {tp.partition: end for tp, end in end_offsets(settings.kafka.bootstrap, tps).items()}
        for kind, topic in (("u", ""), ("u", "again"), ("i", "item-effects")):
            if topic == "again":
                goal = {tp.partition: end for tp, end in end_offsets(settings.kafka.bootstrap, tps).items()}
            if topic == "item-effects":
                effects = [Tp(settings.topic(topic, 1), p) for p in range(settings.stack.partitions)]
                goal = {tp.partition: end for tp, end in end_offsets(settings.kafka.bootstrap, effects).items()}
            while True:
                found = {}
                for p in goal:
                    key = f"{settings.namespace}:{{{settings.namespace}.1.{p}}}:{kind}.meta"
                    position = client.hget(key, "position")
                    found[p] = int(position.split(b":")[1]) + 1 if position else 0
                if all(found[p] >= end for p, end in goal.items()):
                    break
                assert time.monotonic() < deadline_s, f"{kind} folds stand at {found}, wanted {goal}"
                time.sleep(0.1)
        # Statistics come half a second after what moved them, however long the folding took.
        time.sleep(max(min(quiet_s, 1.5), quiet_s - (time.monotonic() - asked_s)))


@dataclass
class Found:
    """What a namespace holds."""

    states: dict[str, dict[bytes, bytes]]
    rows: dict[tuple[str, str], dict[bytes, bytes]]
    partials: dict[str, dict[bytes, bytes]]


def found(settings: Settings) -> Found:
    """Read all states, rows and partials of a namespace."""
    states, rows, partials = {}, {}, {}
    with connect(settings) as client:
        for kind, join in (("u", "user_id"), ("i", "item_id")):
            for raw in client.scan_iter(match=f"{settings.namespace}:{{*:{kind}:*", count=1000):
                place, _, name = raw.decode().partition(f":{kind}:")
                part = place.rpartition(".")[2].rstrip("}")
                states[f"{part}:{kind}:{name}"] = client.hgetall(raw)
                if name == PROGRAM_KEY:
                    del states[f"{part}:{kind}:{name}"]  # how far views are merged: nothing that is counted
                if not name.startswith("#"):
                    row = client.hgetall(entity_key(settings.feast_project, (join,), (name,)))
                    # An empty value is a null, as is one that was never written.
                    rows[kind, name] = {k: v for k, v in row.items() if v and not k.startswith((b"_lr:", b"_ts:"))}
        for raw in client.scan_iter(match=f"{settings.namespace}:bandit:*", count=1000):
            partials[raw.decode().partition(":")[2]] = {k: v for k, v in client.hgetall(raw).items() if k != b"v"}
    return Found(states, rows, partials)


def state_keys(have: Found) -> dict[tuple[str, str], dict[bytes, bytes]]:
    """States by (kind, key)."""
    return {(n.split(":", 2)[1], n.split(":", 2)[2]): fields for n, fields in have.states.items()}


def partials_of(have: Found) -> list[tuple[str, str, dict[str, bytes]]]:
    """Partials as (base model, schema, fields)."""
    return [
        (n.split(":")[2], n.split(":")[3], {name.decode(): data for name, data in fields.items()})
        for n, fields in have.partials.items()
    ]


def folded(settings: Settings) -> list[Record]:
    """`events`, each partition up to where its fold stands."""
    place = f"{settings.namespace}:{{{settings.namespace}.1"
    with connect(settings) as client:
        positions = {
            p: int(client.hget(f"{place}.{p}}}:u.meta", "position").split(b":")[1])
            for p in range(settings.stack.partitions)
        }
    return [r for r in read_topic(settings, settings.topic("events", 1)) if r.offset <= positions[r.partition]]


def catalogue_of(settings: Settings) -> Catalogue:
    """All versions of the items."""
    catalogue = Catalogue()
    for record in read_topic(settings, settings.topic("items")):
        with contextlib.suppress(ContractError):
            catalogue.put_record(record)
    return catalogue


def recounted(
    settings: Settings, have: Found, examples: Sequence[Example], program: FeatureProgram = PROGRAM
) -> list[str]:
    """Differences to the recount that shares no code with the folds (tests/recount/expected.py)."""
    log = logged(folded(settings), settings.stack.partitions)
    return live_differences(
        recount_of(log, catalogue_of(settings), state_params(settings)), program=program, states=state_keys(have),
        partials=partials_of(have), examples=examples, as_of_ms=int(time.time() * 1000) + 60_000,
    )  # fmt: skip


def recount(settings: Settings, program: FeatureProgram = PROGRAM) -> tuple[Found, list[Example]]:
    """Fold the log once more, in memory, into a namespace of its own: what must have come out, and the label rows."""
    other = settings.model_copy(update={"namespace": f"{settings.namespace}x"})
    topic, parts, rows = settings.topic("events", 1), dict[int, list[Record]](), _LabelRows()
    for record in folded(settings):
        parts.setdefault(record.partition, []).append(record)
    for partition, records in parts.items():
        write_part(part_dir(other, "events", 1, partition), sorted(records, key=lambda record: record.offset))
    with connect(settings) as client:
        client.set(f"{other.namespace}:token", namespace_token(client, settings.namespace))
        job = Job(
            settings=other, program=program, n_partitions=settings.stack.partitions, store_generation=1,
            stages=(Stage(generation=1, folder=part_dir(other, "events", 1, 0).parent, topic=topic),), rows=True,
            outputs=lambda _settings: rows,
        )  # fmt: skip
        restore = Restore(job, catalogue_of(settings))
        restore.run()
        restore.finish(live=True)
        result = found(other)
        for key in client.scan_iter(match=f"{other.namespace}:*", count=1000):
            client.unlink(key)
        for kind, name in result.rows:
            join = "user_id" if kind == "u" else "item_id"
            client.unlink(entity_key(other.feast_project, (join,), (name,)))
    return result, rows.taken


class _LabelRows:
    """Keeps the label rows that a restore in this process makes."""

    def __init__(self) -> None:
        self.taken: list[Example] = []

    def begin(self, partition: int) -> None:
        """Nothing is left of an earlier run."""

    def take(self, outputs: Sequence[Output]) -> None:
        """Keep label rows."""
        self.taken.extend(Example.FromString(o.value) for o in outputs if o.topic == "examples")

    def end(self) -> dict[str, int]:
        """Nothing is counted."""
        return {}


def same_item(name: str, mine: Mapping[bytes, bytes], theirs: Mapping[bytes, bytes]) -> None:
    """Assert equality up to the order in which an item's sources were added: float64 sums to 1e-9."""
    for field, page in theirs.items():
        if not field.startswith(b"item_neighbours:"):
            assert same_page(mine[field], page), (name, field)
    ours, others = ({**dict.fromkeys(NEIGHBOURS), **fields} for fields in (mine, theirs))
    a, b = (decode_neighbours([fields[f] for f in NEIGHBOURS], NOW_MS) for fields in (ours, others))
    assert dict(zip(a[0].tolist(), a[1], strict=True)) == pytest.approx(
        dict(zip(b[0].tolist(), b[1], strict=True)), rel=1e-9
    ), name


def same_page(mine: bytes, theirs: bytes) -> bool:
    """Equal bytes, or equal float64s to 1e-9 after a common head of up to 7 bytes."""
    if mine == theirs:
        return True
    if len(mine) != len(theirs):
        return False
    for skip in range(8):
        body_a, body_b = mine[skip:], theirs[skip:]
        if mine[:skip] != theirs[:skip] or len(body_a) < 8:
            continue
        cut = len(body_a) // 8 * 8
        a, b = np.frombuffer(body_a[:cut], "<f8"), np.frombuffer(body_b[:cut], "<f8")
        if np.allclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True) and body_a[cut:] == body_b[cut:]:
            return True
    return False


def check_same(have: Found, expected: Found) -> None:
    """Assert that two namespaces, or one at two times, hold the same: users to the byte, items to 1e-9."""
    assert set(have.states) == set(expected.states)
    for name, fields in expected.states.items():
        assert set(have.states[name]) == set(fields), name
        if ":i:" in name:
            same_item(name, have.states[name], fields)
        else:
            differing = {f: (have.states[name][f], p) for f, p in fields.items() if have.states[name][f] != p}
            assert not differing, (name, differing)
    assert set(have.rows) == set(expected.rows)
    for (kind, name), row in expected.rows.items():
        assert set(have.rows[kind, name]) == set(row), name
        if kind == "u":
            assert have.rows[kind, name] == row, name
    for name, fields in have.states.items():
        _, kind, key = name.split(":", 2)
        if kind == "i":  # what a reader sees of an item is the state that was just compared
            for field, page in fields.items():
                view, _, feature = field.decode().partition(":")
                if not field.startswith(b"_"):
                    assert have.rows["i", key][feature_field(view, feature)] == pack_bytes(page), (name, field)
    assert have.partials == expected.partials


def check(settings: Settings, program: FeatureProgram = PROGRAM) -> dict[str, int]:
    """Assert that rows, label rows and statistics equal the recount; return how many of each were compared."""
    expected, examples = recount(settings, program)
    have = found(settings)
    check_same(have, expected)
    taken = accepted(settings)
    assert sorted(e.SerializeToString(deterministic=True) for e in taken) == sorted(
        e.SerializeToString(deterministic=True) for e in examples
    )
    different = recounted(settings, have, taken, program)
    assert not different, different[:5]
    return {"states": len(have.states), "rows": len(have.rows), "partials": len(have.partials), "examples": len(taken)}


def accepted(settings: Settings) -> list[Any]:
    """Label rows as a reader takes them: the highest number per (generation, source partition, own partition)."""
    highest: dict[tuple[int, int], tuple[int, int, int]] = {}
    taken = []
    for record in read_topic(settings, settings.topic("examples")):
        example = Example.FromString(record.value)
        number = example.number
        place = (number.offset, number.step, number.index)
        source = (record.partition, number.partition)
        if place > highest.get(source, (-1, 0, 0)):
            highest[source] = place
            taken.append(example)
    return taken
