"""Somebody's own log as a folder that liverank starts from: events, catalogue, feature repo and settings."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from evaluation.datasets.columns import Columns, guess, guess_items
from evaluation.datasets.log_rows import catalogue_of, log_events
from liverank.contract import validate_event
from liverank.errors import ConfigError, ContractError
from liverank.files import scan_events, write_events, write_items
from liverank.v1.event_pb2 import Event, EventType

__all__ = ["Adopted", "adopt", "read_frame"]

EVENTS: Final = "events.parquet"
ITEMS: Final = "items.parquet"
SETTINGS: Final = "liverank.toml"
REPO: Final = "features"

_OWN: Final = '''\
"""Views of this log, beside the standard ones: change them, and `feast apply` (or the next import) takes them."""

from datetime import timedelta

from entities import item, user
from feast import Aggregation, Field, StreamFeatureView
from feast.types import Float64
from sources import events

MONTH, DAY = timedelta(days=30), timedelta(days=1)
'''
_VIEW: Final = """
{name} = StreamFeatureView(
    name="{name}",
    entities=[{entity}],
    source=events,
    timestamp_field="event_timestamp",
    schema=[Field(name="{feature}", dtype=Float64)],
    aggregations=[
        Aggregation(column="{column}", function="{function}", name="{feature}", time_window=MONTH, slide_interval=DAY)
    ],
)
"""
_SETTINGS: Final = """\
# Written by `liverank init --from {source}`. Environment variables (LIVERANK_*) win over it; docs/settings.md.
namespace = "{namespace}"
home = "{home}"

[feast]
repo = "{repo}"
"""


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """What was made of a log.

    Attributes
    ----------
    events, items : int
        Written.
    kinds : mapping of str to int
        Events by type.
    left_out : mapping of str to int
        Rows without an event, by reason.
    ignored : tuple of str
        Columns without a meaning here.
    """

    folder: Path
    columns: Columns
    events: int
    items: int
    kinds: Mapping[str, int]
    left_out: Mapping[str, int]
    ignored: tuple[str, ...]


def read_frame(path: Path) -> pd.DataFrame:
    """A table of any columns: .parquet, .jsonl (.gz, .zst), .csv (.gz, .zst).

    Raises
    ------
    ConfigError
        The file is of another kind, or cannot be read.
    """
    stem = path.name.removesuffix(".gz").removesuffix(".zst")
    try:
        if stem.endswith(".parquet"):
            found = pd.read_parquet(path)
        elif stem.endswith(".jsonl"):
            found = pd.read_json(path, lines=True, convert_dates=False, dtype=False)
        elif stem.endswith(".csv"):
            found = pd.read_csv(path, low_memory=False)
        else:
            raise ConfigError(f"a log is a .jsonl, .parquet or .csv file (also .gz, .zst), got {path.name}")
    except (ValueError, OSError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} cannot be read: {error}. `liverank validate` names its lines") from error
    if found.empty:
        raise ConfigError(f"{path} holds no rows")
    return found


def adopt(
    path: Path,
    folder: Path,
    *,
    home: Path,
    repo: Path,
    namespace: str,
    items: Path | None = None,
    given: Mapping[str, str] | None = None,
) -> Adopted:
    """Write the folder.

    Parameters
    ----------
    path, items : Path
        The log, and a catalogue of its items.
    folder : Path
        Where to write; files of an earlier run are replaced.
    home : Path
        Home of the namespace's stack.
    repo : Path
        Feature repo that is copied.
    given : mapping of str to str
        Roles of columns that a person has set.

    Raises
    ------
    ConfigError
        The columns cannot be told, or no row is an event.
    """
    frame = read_frame(path)
    columns = guess(frame, given)
    left_out: Counter[str] = Counter()
    stem = hashlib.blake2b(path.name.encode(), digest_size=5).hexdigest()
    read = _contract_events(path, left_out) if _in_contract(columns) else log_events(frame, columns, stem, left_out)
    events = sorted(read, key=lambda event: event.event_ts_ms)
    if not events:
        raise ConfigError(f"no row of {path} is an event: {dict(left_out)}")
    source, key, fields = frame, columns.roles["item_id"], columns.items
    if items is not None:
        source = read_frame(items)
        key, fields = guess_items(source)
    catalogue = catalogue_of(source, key, fields, events, left_out)
    folder.mkdir(parents=True, exist_ok=True)
    write_events(folder / EVENTS, events)
    write_items(folder / ITEMS, catalogue)
    kinds = Counter(EventType.Name(event.type).removeprefix("EVENT_TYPE_").lower() for event in events)
    _write_repo(repo, folder / REPO, kinds)
    text = _SETTINGS.format(source=path.name, namespace=namespace, home=home.resolve(), repo=(folder / REPO).resolve())
    (folder / SETTINGS).write_text(text)
    used = {*columns.roles.values(), *columns.outcomes.values(), *columns.items.values()}
    return Adopted(
        folder=folder,
        columns=columns,
        events=len(events),
        items=len(catalogue),
        kinds=dict(kinds),
        left_out=dict(left_out),
        ignored=tuple(str(name) for name in frame.columns if name not in used),
    )


def _in_contract(columns: Columns) -> bool:
    """Whether the file is written in the documented format already: then slates and contexts are kept too."""
    names = {role: name.lower().replace("_", "") for role, name in columns.roles.items()}
    return columns.shape == "typed" and names.get("event_ts_ms") == "eventtsms" and names.get("event_id") == "eventid"


def _contract_events(path: Path, left_out: Counter[str]) -> Iterator[Event]:
    for _, event in scan_events(path):
        try:
            if isinstance(event, ContractError):
                raise event
            validate_event(event, now_ms=event.event_ts_ms)
        except ContractError as error:
            left_out[error.reason] += 1
            continue
        yield event


def _write_repo(source: Path, target: Path, kinds: Mapping[str, int]) -> None:
    """A copy of the standard feature repo, and views of this log's own kinds of events."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    views = []
    for kind, column, function, feature in (
        ("rating", "rating", "mean", "rating_mean_30d"),
        ("purchase", "value", "sum", "spent_30d"),
        ("dwell", "dwell_s", "mean", "dwell_mean_30d"),
    ):
        if kind in kinds:
            for entity in ("user", "item"):
                views.append(
                    _VIEW.format(
                        name=f"{entity}_own_{kind}",
                        entity=entity,
                        feature=f"own_{feature}",
                        column=column,
                        function=function,
                    )
                )
    if views:
        (target / "own.py").write_text(_OWN + "".join(views))
