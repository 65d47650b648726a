"""A real log with repeated rows as events: KuaiRand-Pure, exposures of 25 to 30 April 2022 (Gao et al. 2022)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from liverank.v1.event_pb2 import Event, EventType, ExposureSlot

_T = EventType
#: Column -> event type; a row is one exposure of one video with what the user did.
_ACTS = {
    "is_click": _T.EVENT_TYPE_CLICK,
    "is_like": _T.EVENT_TYPE_LIKE,
    "is_forward": _T.EVENT_TYPE_SAVE,
    "is_hate": _T.EVENT_TYPE_NOT_INTERESTED,
}
_AFTER_MS = 2_000


def rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of the log in the order of the file (by time)."""
    import pyarrow.parquet as pq

    columns = ["user_id", "video_id", "time_ms", "play_time_ms", "tab", "tag", *_ACTS]
    found: list[dict[str, Any]] = pq.read_table(folder / "val.parquet", columns=columns).to_pylist()
    return found


def key(row: dict[str, Any]) -> tuple[object, ...]:
    """What tells rows apart: everything. Four times a user has one video in one millisecond with two outcomes."""
    return tuple(row[name] for name in sorted(row))


def events(row: dict[str, Any]) -> list[Event]:
    """The exposure of a row and what the user did; ids are made of what tells rows apart, so a repeat repeats them."""
    name = f"k{row['user_id']}-{row['video_id']}-{row['time_ms']}-{row['play_time_ms']}"
    user, item, surface = f"u{row['user_id']}", f"v{row['video_id']}", f"tab{row['tab']}"
    exposure = Event(
        event_id=name, request_id=name, type=_T.EVENT_TYPE_EXPOSURE, user_id=user, event_ts_ms=row["time_ms"],
        surface=surface,
    )  # fmt: skip
    exposure.exposure.policy = "kuaishou"
    exposure.exposure.slots.append(ExposureSlot(item_id=item, propensity=1.0, pinned=True))
    found = [exposure]
    acts = {kind: 0.0 for column, kind in _ACTS.items() if row[column]}
    if row["play_time_ms"] > 0:
        acts[_T.EVENT_TYPE_DWELL] = row["play_time_ms"] / 1000
    for kind, value in acts.items():
        found.append(
            Event(
                event_id=f"{name}-{kind}", type=kind, user_id=user, item_id=item, request_id=name, value=value,
                event_ts_ms=row["time_ms"] + _AFTER_MS, surface=surface, position=1,
            )
        )  # fmt: skip
    return found
