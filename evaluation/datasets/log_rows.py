"""Rows of somebody's own log as events and items in the contract's words and units."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from evaluation.datasets.columns import Columns, times_ms
from liverank.calls import event_type
from liverank.contract import MAX_VALUE, validate_event, validate_item
from liverank.errors import ContractError
from liverank.v1.event_pb2 import Event
from liverank.v1.item_pb2 import Item, ItemChange

__all__ = ["catalogue_of", "log_events"]

_SPLIT: Final = re.compile(r"[|;,>]")
_SCALES: Final = ((1.0, 10.0), (5.0, 2.0), (10.0, 1.0), (100.0, 0.1))
"""Usual scales of ratings: largest value, and what brings it to 0 to 10."""


def _text(value: Any) -> str:
    """An id as text; 17850.0 is 17850, null is empty."""
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def log_events(frame: pd.DataFrame, columns: Columns, stem: str, left_out: Counter[str]) -> Iterator[Event]:
    """Events of a log's rows that keep the contract; the others are counted in `left_out`, by reason.

    Parameters
    ----------
    stem : str
        Beginning of the ids of events that have none: the same log gives the same ids.
    """
    roles = columns.roles
    times = times_ms(frame[roles["event_ts_ms"]])
    ids = {
        role: frame[roles[role]].map(_text).tolist()
        for role in ("user_id", "session_id", "item_id", "event_id", "request_id", "surface")
        if role in roles
    }
    position = pd.to_numeric(frame[roles["position"]], errors="coerce").tolist() if "position" in roles else None
    rows = zip(*(kinds.tolist() for kinds in _kinds(frame, columns)), strict=True)
    for at, (ts_ms, found) in enumerate(zip(times, rows, strict=True)):
        own = {role: values[at] for role, values in ids.items()}
        event_id = own.pop("event_id", "")
        kinds = [(kind, value) for kind, value in found if kind]
        if ts_ms is pd.NA:
            left_out["no time"] += 1
            continue
        if not kinds:
            left_out["no event (an unknown type, or a cancellation)"] += 1
            continue
        for n, (kind, value) in enumerate(kinds):
            event = Event(
                event_id=f"{event_id or f'{stem}-{at}'}{f'-{kind}' if n else ''}",
                type=event_type(kind),  # type: ignore[arg-type]
                event_ts_ms=int(ts_ms),
                value=min(max(value, -float(MAX_VALUE)), float(MAX_VALUE)),
                **own,
            )
            if position is not None and position[at] > 0:
                event.position = int(position[at])
            try:
                validate_event(event, now_ms=event.event_ts_ms)
            except ContractError as error:
                left_out[error.reason] += 1
                continue
            yield event


def _kinds(frame: pd.DataFrame, columns: Columns) -> list[pd.Series[Any]]:
    """Columns of (event type, value); ("", 0) where a row has none."""
    roles, n = columns.roles, len(frame)

    def series(kinds: Any, values: Any = 0.0) -> pd.Series[Any]:
        given = np.broadcast_to(np.asarray(values, dtype=np.float64), (n,))
        return pd.Series(list(zip(np.broadcast_to(kinds, (n,)).tolist(), np.nan_to_num(given).tolist(), strict=True)))

    def numbers(role: str) -> Any:
        return pd.to_numeric(frame[roles[role]], errors="coerce").to_numpy(dtype=np.float64)

    if columns.shape == "typed":
        kinds = frame[roles["type"]].astype(str).map(dict(columns.types)).fillna("")
        values = np.zeros(n)
        for role, only in (("value", None), ("price", "purchase"), ("rating", "rating"), ("dwell", "dwell")):
            if role in roles:
                mask = np.ones(n, bool) if only is None else (kinds == only).to_numpy()
                values = np.where(mask, _scaled(role, roles[role], numbers(role)), values)
        return [series(kinds.tolist(), values)]
    if columns.shape == "ratings":
        return [series("rating", _scaled("rating", roles["rating"], numbers("rating")))]
    if columns.shape == "purchases":
        count = numbers("quantity") if "quantity" in roles else np.ones(n)
        price = numbers("price") if "price" in roles else np.ones(n)
        return [series(np.where((count > 0) & (price >= 0), "purchase", ""), count * price)]
    if columns.shape == "exposures":
        found = [series("impression")]
        for kind, column in columns.outcomes.items():
            happened = pd.to_numeric(frame[column], errors="coerce").fillna(0).to_numpy() == 1
            found.append(series(np.where(happened, kind, "")))
        if "dwell" in roles:
            clicked = (
                pd.to_numeric(frame[columns.outcomes["click"]]).eq(1).to_numpy()
                if "click" in columns.outcomes
                else True
            )
            seconds = _scaled("dwell", roles["dwell"], numbers("dwell"))
            found.append(series(np.where(clicked & (seconds >= 0), "dwell", ""), seconds))
        return found
    return [series("click")]


def _scaled(role: str, column: str, values: Any) -> Any:
    """Values in the contract's units: ratings 0 to 10, dwell in seconds."""
    if role == "rating":
        most = float(np.nanmax(values)) if len(values) else 0.0
        return values * next((factor for largest, factor in _SCALES if most <= largest), 10.0 / max(most, 1.0))
    if role == "dwell":
        return values / 1000 if column.lower().endswith("ms") or np.nanmedian(values) > 10_000 else values
    return values


def catalogue_of(
    source: pd.DataFrame, key: str, fields: Mapping[str, str], events: list[Event], left_out: Counter[str]
) -> list[ItemChange]:
    """Items that rows describe, the first row of each; and those that only events name.

    Parameters
    ----------
    key : str
        Column of the item's id.
    fields : mapping of str to str
        Field of an item -> column.
    """
    source = source.assign(__item=source[key].map(_text)).drop_duplicates("__item")
    published = times_ms(source[fields["published_ts_ms"]]) if "published_ts_ms" in fields else None
    found: dict[str, ItemChange] = {}
    for at, row in enumerate(source.to_dict("records")):
        item_id = row["__item"]
        item = Item(item_id=item_id, available=True)
        for name in ("title", "text", "creator"):
            if name in fields:
                setattr(item, name, _text(row[fields[name]])[: 120 if name == "creator" else 250])
        if "price" in fields and (price := pd.to_numeric(row[fields["price"]], errors="coerce")) > 0:
            item.price = min(float(price), float(MAX_VALUE))
        if "categories" in fields:
            item.categories.extend(_categories(row[fields["categories"]]))
        if published is not None and published.iloc[at] is not pd.NA:
            item.published_ts_ms = max(0, int(published.iloc[at]))
        change = ItemChange(item_id=item_id, upsert=item)
        try:
            validate_item(change)
        except ContractError as error:
            left_out[f"item: {error.reason}"] += 1
            continue
        found[item_id] = change
    for item_id in dict.fromkeys(event.item_id for event in events):
        if item_id and item_id not in found:
            found[item_id] = ItemChange(item_id=item_id, upsert=Item(item_id=item_id, available=True))
    return list(found.values())


def _categories(value: Any) -> list[str]:
    if isinstance(value, list | tuple | np.ndarray):
        words = [_text(each) for each in value]
    else:
        words = _SPLIT.split(_text(value))
    words = [word.strip()[:30] for word in words]
    return [word for word in dict.fromkeys(words) if word and not word.startswith("(no ")][:16]
