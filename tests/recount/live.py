"""The independent recount of what a namespace on the real stack holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bandits.partials import Partial, total
from features.program import FeatureProgram
from features.state.params import StateParams
from liverank.contract import decode_event, event_key, validate_event
from liverank.errors import ContractError
from liverank.kafka import Record
from liverank.partition import partition as partition_of
from liverank.v1.event_pb2 import Event, EventType
from liverank.v1.stream_pb2 import Example
from streams.rows import plain_key
from tests.recount import check
from tests.recount.expected import Logged, Recount, Versions

Fields = Mapping[bytes, bytes]


def logged(records: Iterable[Record], n_partitions: int) -> dict[int, list[Logged]]:
    """The log of every partition as the fold may use it: strays and refused records only move the clock."""
    logs: dict[int, list[Logged]] = {partition: [] for partition in range(n_partitions)}
    for record in sorted(records, key=lambda each: (each.partition, each.offset)):
        event: Event | None
        try:
            event = decode_event(record.value, record.headers)
            validate_event(event, now_ms=record.append_ts_ms, internal=True)
            if event.type == EventType.EVENT_TYPE_TICK or (
                partition_of(event_key(event), n_partitions) != record.partition
            ):
                event = None
        except ContractError:
            event = None
        logs[record.partition].append(Logged(event, record.append_ts_ms))
    return logs


def live_differences(
    records: Iterable[Record],
    *,
    n_partitions: int,
    catalogue: Versions,
    params: StateParams,
    program: FeatureProgram,
    states: Mapping[tuple[str, str], Fields],
    partials: Sequence[tuple[str, str, bytes]],
    examples: Iterable[Example],
    as_of_ms: int,
) -> list[str]:
    """Name every difference between what a namespace holds and the recount of its log.

    Parameters
    ----------
    records : iterable of Record
        `events`, each partition up to where its fold stands; wall clock.
    states : mapping of (kind, key) to fields
        Kind `u` or `i`; statistics' keys are ignored.
    partials : sequence of (base model, schema, bytes)
        Of all partitions.
    examples : iterable of Example
        As a reader takes them: repeats dropped by their numbers.
    """
    recount = Recount(catalogue, params)
    for log in logged(records, n_partitions).values():
        if log:
            recount.add_partition(log)
    found: list[str] = []
    users = {plain_key(key): fields for (kind, key), fields in states.items() if kind == "u" and key[:1] != "#"}
    items = {plain_key(key): fields for (kind, key), fields in states.items() if kind == "i"}
    if set(users) != set(recount.users):
        found.append(f"users: got {len(users)}, wanted {len(recount.users)}")
    for user_id, count in recount.users.items():
        fields = users.get(user_id, {})
        found += check.user_differences(user_id, count, fields, program, as_of_ms, params.session_timeout_ms)
    for item_id in set(recount.items) | set(items):
        count_ = recount.items[item_id]
        found += check.item_differences(item_id, count_, items.get(item_id, {}), program, as_of_ms, params.signals)
    found += check.example_differences(recount, examples)
    grouped: dict[tuple[str, str], list[Partial]] = {}
    for model, schema, data in partials:
        grouped.setdefault((model, schema), []).append(Partial.from_bytes(data))
    found += check.statistics_differences(recount, {key: total(each) for key, each in grouped.items()})
    return found
