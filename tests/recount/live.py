"""The independent recount of what a namespace on the real stack holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from features.program import FeatureProgram
from features.state.params import StateParams
from liverank.contract import INTERNAL_HEADER, decode_event, event_key, validate_event
from liverank.errors import ContractError
from liverank.kafka import Record
from liverank.partition import partition as partition_of
from liverank.v1.event_pb2 import Event, EventType
from liverank.v1.stream_pb2 import Example
from streams.rows import plain_key
from tests.recount import check
from tests.recount.expected import Logged, Recount, Versions

Fields = Mapping[bytes, bytes]


class Log(NamedTuple):
    """The log of every partition as the fold may use it.

    Attributes
    ----------
    partitions : dict of int to list of Logged
        Strays, refused and internal records only move the clock: their event is None.
    refused : dict of (partition, offset) to str
        Reason of each record that the contract refuses.
    ids : dict of (partition, offset) to str
        Event id of each record that can be read.
    """

    partitions: dict[int, list[Logged]]
    refused: dict[tuple[int, int], str]
    ids: dict[tuple[int, int], str]


def logged(records: Iterable[Record], n_partitions: int) -> Log:
    """Read the log."""
    log = Log({partition: [] for partition in range(n_partitions)}, {}, {})
    for record in sorted(records, key=lambda each: (each.partition, each.offset)):
        event: Event | None = None
        place = (record.partition, record.offset)
        try:
            event = decode_event(record.value, record.headers)
            log.ids[place] = event.event_id
            validate_event(event, now_ms=record.append_ts_ms, internal=record.header(INTERNAL_HEADER) is not None)
            if event.type in (EventType.EVENT_TYPE_TICK, EventType.EVENT_TYPE_CONTROL) or (
                partition_of(event_key(event), n_partitions) != record.partition
            ):
                event = None
        except ContractError as error:
            event = None
            log.refused[place] = error.reason
        log.partitions[record.partition].append(Logged(event, record.append_ts_ms))
    return log


def recount_of(log: Log, catalogue: Versions, params: StateParams) -> Recount:
    """Count a log."""
    recount = Recount(catalogue, params)
    for partition in log.partitions.values():
        if partition:
            recount.add_partition(partition)
    return recount


def live_differences(
    recount: Recount,
    *,
    program: FeatureProgram,
    states: Mapping[tuple[str, str], Fields],
    partials: Sequence[tuple[str, str, Mapping[str, bytes]]],
    examples: Iterable[Example],
    as_of_ms: int,
) -> list[str]:
    """Name every difference between what a namespace holds and the recount of its log.

    Parameters
    ----------
    recount : Recount
        Of `events`, each partition up to where its fold stands; wall clock.
    states : mapping of (kind, key) to fields
        Kind `u` or `i`; statistics' keys are ignored. Private fields are not needed: what Feast returns will do.
    partials : sequence of (base model, schema, fields)
        Of all partitions.
    examples : iterable of Example
        As a reader takes them: repeats dropped by their numbers.
    """
    params = recount.params
    found: list[str] = []
    users = {plain_key(key): fields for (kind, key), fields in states.items() if kind == "u" and key[:1] != "#"}
    items = {plain_key(key): fields for (kind, key), fields in states.items() if kind == "i"}
    if set(users) != set(recount.users):
        lost, more = sorted(set(recount.users) - set(users)), sorted(set(users) - set(recount.users))
        found.append(f"users: got {len(users)}, wanted {len(recount.users)}; lost {lost[:5]}, spurious {more[:5]}")
    for user_id, count in recount.users.items():
        fields = users.get(user_id, {})
        found += check.user_differences(user_id, count, fields, program, as_of_ms, params.session_timeout_ms)
    for item_id in set(recount.items) | set(items):
        count_ = recount.items[item_id]
        found += check.item_differences(item_id, count_, items.get(item_id, {}), program, as_of_ms, params.signals)
    found += check.example_differences(recount, examples)
    kept = [check.kept_sums(model, schema, fields) for model, schema, fields in partials]
    found += check.statistics_differences(recount, check.added(kept))
    return found
