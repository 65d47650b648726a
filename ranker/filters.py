"""Which items may be returned: availability, region, the caller's filter and exclusions, the seen policy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from liverank.v1 import event_pb2
from liverank.v1 import personalization_pb2 as pb
from ranker.inputs import ItemsView, Rows

Mask = NDArray[np.bool_]


class Filters:
    """Masks over a table. Columns of attributes are made when first asked for and kept until the catalogue changes.

    Not thread-safe; cost 60 us without attributes at 100k items, 25 ms once a catalogue change for each attribute.
    """

    def __init__(self) -> None:
        self._columns: dict[str, tuple[NDArray[Any], NDArray[np.float64]]] = {}
        self._key: tuple[int, int, int] = (0, 0, -1)

    def allowed(self, table: ItemsView, wanted: pb.Filter, region: str, revision: int) -> Mask:
        """Available items of the region that pass the filter, shape ``(len(table),)``; the caller's own copy.

        Parameters
        ----------
        table
            The catalogue.
        wanted
            A filter that passed `ranker.request.check_filter`.
        region
            The request's region; empty = items of every region.
        revision
            Number that grows with every change of the catalogue.
        """
        mask = table.available[: len(table)].copy()
        if region:
            mask &= in_region(table, region)
        for condition in wanted.conditions:
            mask &= self.condition(table, condition, revision)
        return mask

    def having(self, table: ItemsView, field: str, values: Sequence[str], rows: Rows, revision: int) -> Mask:
        """Which of the rows hold one of the values, shape ``(len(rows),)``: `condition` for few rows."""
        if field == "category":
            codes = [code for code in map(table.category_code, values) if code > 0]
            return np.asarray(np.isin(table.categories[rows], codes).any(axis=1))
        if field == "creator":
            return np.isin(table.creator[rows], [code for code in map(table.creator_code, values) if code > 0])
        texts, _ = self._column(table, field.removeprefix("attributes."), revision)
        return np.isin(texts[rows], [value for value in values if value])

    def condition(self, table: ItemsView, condition: pb.Condition, revision: int) -> Mask:
        """Items that pass one condition. An item without the field passes NOT_IN only."""
        n, name = len(table), condition.field
        if name == "category":
            codes = [code for code in map(table.category_code, condition.values) if code > 0]
            hit = np.asarray(np.isin(table.categories[:n], codes).any(axis=1))
        elif name == "creator":
            codes = [code for code in map(table.creator_code, condition.values) if code > 0]
            hit = np.isin(table.creator[:n], codes)
        elif name in ("price", "published_ts_ms"):
            numbers = (table.price if name == "price" else table.published_ms)[:n].astype(np.float64)
            return _compare(numbers, condition, numbers > 0)
        else:
            texts, numbers = self._column(table, name.removeprefix("attributes."), revision)
            if condition.operator in (pb.Condition.OPERATOR_AT_MOST, pb.Condition.OPERATOR_AT_LEAST):
                return _compare(numbers, condition, np.isfinite(numbers))
            hit = np.isin(texts, [value for value in condition.values if value])
        return ~hit if condition.operator == pb.Condition.OPERATOR_NOT_IN else hit

    def _column(self, table: ItemsView, name: str, revision: int) -> tuple[NDArray[Any], NDArray[np.float64]]:
        key = (id(table), len(table), revision)
        if key != self._key:
            self._columns, self._key = {}, key
        found = self._columns.get(name)
        if found is None:
            found = self._columns[name] = _attribute_column(table.attributes[: len(table)], name)
        return found


def _compare(numbers: NDArray[np.float64], condition: pb.Condition, have: Mask) -> Mask:
    if condition.operator == pb.Condition.OPERATOR_AT_MOST:
        return (numbers <= condition.number) & have
    return (numbers >= condition.number) & have


def _attribute_column(
    attributes: Iterable[Mapping[str, event_pb2.Attribute] | None], name: str
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Texts (flags as ``true`` and ``false``, absent as empty) and numbers (absent as NaN)."""
    texts: list[str] = []
    numbers: list[float] = []
    for values in attributes:
        value = values.get(name) if values else None
        kind = value.WhichOneof("value") if value is not None else None
        texts.append(
            value.text if kind == "text" and value else str(value.flag).lower() if kind == "flag" and value else ""
        )
        numbers.append(value.number if kind == "number" and value else np.nan)
    return np.array(texts, dtype=object), np.array(numbers, dtype=np.float64)


def in_region(table: ItemsView, region: str) -> Mask:
    """Items that may be shown in a region: those that name it, and those that name none."""
    n = len(table)
    everywhere = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
    regions = table.regions[:n]
    bit = np.uint64(table.region_bit(region))
    return np.asarray((regions == everywhere) | ((regions & bit) != 0))
